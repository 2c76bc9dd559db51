"""The open sockets of a reactor: counted, drained and closed together, and repaired after an interrupt."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs

from reactor.connecting.connector import Connector, cancel_for_drain, detach_connector, recover_connector
from reactor.connection.closing import lingering_of
from reactor.connection.connection import (
    Connection,
    check_deadlines,
    connections_of,
    detach,
    gauges_of,
    prefix_of,
    recover,
    unnotified_of,
)
from reactor.connection.deadlines import DeadlineMonitor
from reactor.errors import ConnectionAborted, DrainTimeout
from reactor.listening.drain import Drain, Drained
from reactor.listening.listener import (
    Listener,
    begin_draining,
    detach_listener,
    has_ended,
    recover_listener,
)
from reactor.loop.log import logger
from reactor.loop.loop import Loop
from reactor.loop.stats import Gauges, Stats

if TYPE_CHECKING:  # few programs use datagrams
    from reactor.datagrams.endpoint import Endpoint
    from reactor.loop.workers import Workers

__all__ = ["DESCRIPTORS_PER_TICK", "OpenSockets"]

#: Descriptors that `stats_in_parts` looks at in one tick: 0.1 to 0.2 ms.
DESCRIPTORS_PER_TICK = 2000

# Names that are looked up at once; more wait for a thread.
_RESOLVER_THREADS = 4


class OpenSockets:
    """The open sockets of a reactor, and what is done to all of them.

    The loop's registry has the connections, and the sockets of closed ones that linger; the others are here.

    loop: drives them; it calls this when it is closed, after an interrupt, and in a forked child.
    debug: log what is open when the loop is closed.
    """

    def __init__(self, loop: Loop, *, debug: bool) -> None:
        self._loop = loop
        self._debug = debug

        # What is open: closed listeners until their connections have ended, connectors until they are done,
        # endpoints until their `connection_lost` was called.
        self._listeners: list[Listener] = []
        self._connectors: list[Connector] = []
        self._endpoints: list[Endpoint] = []
        self._inherited: list[socket.socket] = []  # in a forked child, the parent's

        #: The deadline monitor of all connections.
        self.deadline_monitor = DeadlineMonitor(loop, check_deadlines)
        self._resolver: Workers | None = None

        self._drain: Drain | None = None  # under way
        #: Whether a drain receives what waits on datagram sockets that other processes have too.
        self.drains_shared = True

        loop.on_close = self._end
        loop.on_recover = self._recover
        loop.on_fork = self._detach

    def add_listener(self, listener: Listener) -> None:
        """Add a listener, and remove those that have ended."""
        self._listeners = [*(known for known in self._listeners if not has_ended(known)), listener]

    def add_connector(self, connector: Connector) -> None:
        """Add a connector, and remove those that are done."""
        self._connectors = [*(known for known in self._connectors if not known.is_done()), connector]

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Add a datagram endpoint, until `endpoint_ended`."""
        self._endpoints.append(endpoint)

    def resolver_threads(self) -> Workers:
        """Return the threads that look up names, for connectors and endpoints."""
        if self._resolver is None:
            self._resolver = self._loop.system.workers(_RESOLVER_THREADS, "reactor-resolver")
        return self._resolver

    def listeners(self) -> list[Listener]:
        """As `Reactor.listeners`."""
        return [listener for listener in self._listeners if not listener.is_closed()]

    def connections(self) -> list[Connection]:
        """As `Reactor.connections`."""
        return connections_of(self._loop.registry)

    def endpoints(self) -> list[Endpoint]:
        """As `Reactor.endpoints`."""
        return [endpoint for endpoint in self._endpoints if endpoint.state.value not in {"closed", "lost"}]

    # What the sockets call

    def connection_opened(self) -> None:
        """Count a connection that was accepted or made, for a drain under way."""
        if self._drain is not None:
            self._drain.connection_opened()

    def connection_ended(self, prefix: bytes | None, reason: BaseException | None) -> None:
        """Count a connection that has ended for `reason`, for a drain under way."""
        if self._drain is not None:
            self._drain.connection_ended(reason)

    def endpoint_ended(self, endpoint: Endpoint) -> None:
        """Remove an endpoint whose `connection_lost` was called, and add its counts to the reactor's."""
        if endpoint in self._endpoints:
            self._endpoints.remove(endpoint)
            self._loop.counters.datagrams += endpoint.stats()
        if self._drain is not None:
            self._drain.finish_if_empty()

    # Counting

    def stats(self) -> Stats:
        """As `Reactor.stats`."""
        return self._stats(gauges_of(self._loop.registry.owners))

    def stats_in_parts(self, on_done: Callable[[Stats], object]) -> None:
        """Call `on_done` with the `Stats`, looking at `DESCRIPTORS_PER_TICK` descriptors in each tick.

        It is called before this returns if there are no more of them, else in a later tick; not if the
        reactor is closed before. Counters are of the moment of that call. Gauges are sums over connections,
        each as it was when its descriptor was looked at. That is done once for every descriptor, so that no
        connection is counted twice; those that are opened or closed meanwhile may be in the sums or not.
        """
        self._look_at_part(on_done, 0, Gauges())

    def _look_at_part(self, on_done: Callable[[Stats], object], start: int, found: Gauges) -> None:
        owners = self._loop.registry.owners
        end = start + DESCRIPTORS_PER_TICK
        found += gauges_of(owners[start:end])
        if end < len(owners):
            self._loop.scheduler.call_soon(self._look_at_part, on_done, end, found)
        else:
            on_done(self._stats(found))

    def _stats(self, gauges: Gauges) -> Stats:
        loop, counters = self._loop, self._loop.counters
        drained = counters.drained.copy()
        if self._drain is not None:
            drained.update(attrs.asdict(self._drain.so_far()))
        return Stats(
            accepted=counters.accepted,
            connected=counters.connected,
            taken_over=counters.taken_over,
            refused=dict(counters.refused),
            closed=dict(counters.closed),
            drained=dict(drained),
            draining=self._drain is not None,
            bytes_received=loop.bytes_received,
            bytes_sent=loop.bytes_sent,
            dropped_writes=counters.dropped_writes,
            handler_errors=counters.handler_errors,
            ticks=loop.ticks,
            events=loop.events,
            lag=counters.lag(loop.ticks),
            datagrams=sum((endpoint.stats() for endpoint in self._endpoints), counters.datagrams),
            **attrs.asdict(gauges),
        )

    def _not_ended(self) -> Iterator[tuple[Listener | None, bytes | None]]:
        """Yield the listener and client prefix of each connection whose end has not been counted."""
        for connection in {*self.connections(), *unnotified_of(self._loop)}:
            yield connection.listener, prefix_of(connection)
        for lingering in lingering_of(self._loop.registry):
            yield lingering.listener, lingering.prefix

    # Draining

    def is_draining(self) -> bool:
        """Return whether a drain is under way."""
        return self._drain is not None

    def drain(self, timeout: float, on_done: Callable[[Drained], object] | None) -> None:
        """Drain for `timeout` seconds, and stop the loop, as `Reactor.drain`."""
        if self._drain is not None or self._loop.lifetime.closing:
            return
        for connector in self._connectors:
            cancel_for_drain(connector)
        self._drain = Drain(
            loop=self._loop,
            timeout=timeout,
            connections=self.connections,
            lingering=lambda: lingering_of(self._loop.registry),
            count_connections=lambda: sum(1 for _ in self._not_ended()),
            is_listening=lambda: bool(self.listeners() or self._endpoints),
            stop_listening=self._stop_listening,
            on_done=on_done or _log_drained,
            on_end=self._drained,
        )
        for listener in self.listeners():
            begin_draining(listener, self._drain)
        self._drain_endpoints()

    def cancel_drain(self) -> None:
        """End the drain under way with everything still open, and stop the loop."""
        if self._drain is not None:
            self._drain.cancel()
        self._drained()

    def _drain_endpoints(self) -> None:
        if self._endpoints:
            from reactor.datagrams.endpoint import drain_endpoint  # noqa: PLC0415 - few programs use datagrams

            for endpoint in list(self._endpoints):
                drain_endpoint(endpoint, shared=self.drains_shared)

    def _stop_listening(self) -> None:
        for listener in self.listeners():
            listener.close()
        for endpoint in list(self._endpoints):
            endpoint.abort(DrainTimeout("still open at the end of the drain"))

    def _drained(self) -> None:
        drain, self._drain = self._drain, None
        if drain is not None:
            self._loop.counters.drained.update(attrs.asdict(drain.so_far()))
        self._loop.stop()

    # What the loop calls: at its end, after an interrupt, and after a fork

    def _end(self) -> None:
        for listener in self.listeners():
            listener.close()
        for connector in self._connectors:
            connector.cancel()
        if self._debug:
            self._warn_of_open()
        for connection in self.connections():
            connection.abort(ConnectionAborted("the reactor was closed"))
        for endpoint in list(self._endpoints):
            endpoint.abort(ConnectionAborted("the reactor was closed"))
        for lingering in lingering_of(self._loop.registry):
            lingering.close()
        if self._resolver is not None:
            self._resolver.close(timeout=0)

    def _warn_of_open(self) -> None:
        log = logger()
        for connection in self.connections():
            log.warning("still open at close: %s, %s", connection, connection.get_extra_info("origin"))
        for endpoint in self.endpoints():
            log.warning("still open at close: %s", endpoint)

    def _recover(self) -> None:
        for connection in self.connections():
            recover(connection)
        for lingering in lingering_of(self._loop.registry):
            lingering.recover()
        for connector in self._connectors:
            recover_connector(connector)
        open_ = Counter(self._not_ended())
        for listener in self._listeners:  # closed ones too: their connections are counted, and may be drained
            own = {prefix: n for (owner, prefix), n in open_.items() if owner is listener}
            recover_listener(listener, Counter(own))
        if self._drain is not None:
            for listener in self.listeners():
                begin_draining(listener, self._drain)
            self._drain.recover()
            self._drain_endpoints()
        self.deadline_monitor.recover()
        if self._endpoints:
            from reactor.datagrams.endpoint import recover_endpoint  # noqa: PLC0415 - see above

            for endpoint in list(self._endpoints):
                recover_endpoint(endpoint)

    def _detach(self) -> None:
        sockets = [sock for connector in self._connectors for sock in detach_connector(connector)]
        sockets += [detach(connection) for connection in self.connections()]
        sockets += [lingering.detach() for lingering in lingering_of(self._loop.registry)]
        for listener in self.listeners():
            sockets += detach_listener(listener)
        if self._endpoints:
            from reactor.datagrams.endpoint import detach_endpoint  # noqa: PLC0415 - see above

            for endpoint in self._endpoints:
                sockets += detach_endpoint(endpoint)
        self._inherited = sockets

    def close_inherited(self) -> None:
        """Close a forked child's copies of the sockets; in the process that opened them it does nothing."""
        inherited, self._inherited = self._inherited, []
        for sock in inherited:
            sock.close()


def _log_drained(report: Drained) -> None:
    logger().info("drained: %s", report)
