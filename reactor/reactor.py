"""`Reactor`: the loop with TCP on it. What joins listeners, connections and connectors."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from selectors import BaseSelector
from typing import Self

from reactor.address import Address, AddressLike
from reactor.connecting.connector import Connector, FailureHandler
from reactor.connection.closing import lingering_of
from reactor.connection.connection import (
    Connection,
    check_deadlines,
    connections_of,
    detach,
    flush_connections,
    open_connection,
    prefix_of,
    recover,
    unnotified_of,
)
from reactor.connection.deadlines import DeadlineMonitor
from reactor.connection.debug import DebugConnection
from reactor.connection.handshake import pending_handshake_of
from reactor.connection.interface import make_protocol
from reactor.connection.settings import Settings
from reactor.errors import AddressError, ConnectionAborted, UsageError
from reactor.listening.binding import SocketOption, bind, given
from reactor.listening.drain import Drain, Drained
from reactor.listening.listener import AcceptErrorHandler, Listener, TLSErrorHandler, set_no_delay
from reactor.loop.background import Background
from reactor.loop.log import caller
from reactor.loop.loop import ErrorHandler, Loop
from reactor.loop.stats import Stats
from reactor.loop.workers import Workers
from reactor.options import Limits, Reconnect, Timeouts, check_callable, check_type, seconds
from reactor.protocol import Factory
from reactor.tls.secure_socket import Bios, Tls

__all__ = ["Reactor"]

# What debug mode takes for slow, seconds: asyncio's threshold.
_SLOW = 0.1

# Names that are looked up at once; more wait for a thread.
_RESOLVER_THREADS = 4


class Reactor(Loop):
    """An event loop for TCP and Unix sockets that the host program drives; any number in a process.

    selector: where descriptors are registered; None takes the platform's `DefaultSelector`. It is
        closed with the reactor.
    clock: seconds that never go back; `time.monotonic` by default.
    on_error: called as `on_error(exception, callback, connection)` for each exception that leaves a
        callback: its name, and its connection or None. None logs it with its traceback, and what
        repeats within a second as a count.
    slow_callback: seconds; a callback that takes longer is named in a warning, which costs one reading of
        the clock for each. None: 0.1 in debug mode, else none is timed.
    debug: warn of calls on the wrong thread, of writes after the end, and of connections that are open
        at `close`, each with its cause. It makes calls on connections slower.

    As a context manager it is closed at the end. Methods are called on the thread that drives the
    reactor, but for those that say otherwise.

    >>> from reactor import Protocol
    >>> class Echo(Protocol):
    ...     def connection_made(self, connection):
    ...         self.connection = connection
    ...
    ...     def data_received(self, data):
    ...         self.connection.write(data)
    >>> with Reactor() as reactor:
    ...     listener = reactor.listen("127.0.0.1:0", Echo)
    ...     _ = reactor.call_later(0.01, reactor.stop)
    ...     reactor.run()
    """

    def __init__(
        self,
        *,
        selector: BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_error: ErrorHandler | None = None,
        slow_callback: float | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__(
            selector=selector,
            clock=clock,
            on_error=on_error,
            slow_callback=_SLOW if debug and slow_callback is None else slow_callback,
            debug=debug,
            flush=flush_connections,
        )
        self._connection_type = DebugConnection if debug else Connection
        self._listeners: list[Listener] = []
        self._connectors: list[Connector] = []
        self._monitor = DeadlineMonitor(self, check_deadlines)
        self._bios = Bios()
        self._resolver: Workers | None = None
        self._drain_on: Drain | None = None
        self._gone = 0
        self._inherited: list[socket.socket] = []

    def __repr__(self) -> str:
        listeners = ", ".join(str(a) for listener in self.listeners() for a in listener.addresses)
        return f"<Reactor {'closed' if self.is_closed() else listeners or 'without listeners'}>"

    def run(self, *, signals: Collection[int] = (), drain_timeout: float = 30.0) -> None:
        """Drive the reactor on this thread until `stop` or `close`, or until a `drain` is done.

        signals: while it runs, the first of these starts a drain, a second one stops at once; what
            handled them before is put back. None are touched otherwise. On the main thread only.
        drain_timeout: for that drain, seconds.
        Raises UsageError if the reactor is closed or being driven already, ValueError for a timeout below 0
        or NaN, TypeError for one that is no number.
        """
        drain_timeout = seconds("drain_timeout", drain_timeout, zero=True)
        try:
            for signum in signals:
                self.add_signal_handler(signum, self._signalled, drain_timeout)
            super().run()
        finally:
            for signum in signals:
                self.remove_signal_handler(signum)

    def background(self, *, drain_timeout: float = 30.0, name: str = "reactor") -> Background[Self]:
        """Return a context manager in which a thread drives the reactor: `with reactor.background():`.

        Methods of the reactor are then to be called on that thread, but for those that say otherwise:
        `submit` gets there. drain_timeout: seconds that connections have to come to their end when the
        block is left. name: the thread's. Raises UsageError if a host drives the reactor, ValueError for a
        timeout below 0 or NaN, TypeError for one that is no number.
        What ends the thread before, as a SystemExit in a callback, closes the reactor, and is raised where
        the block is left. Raises UsageError there if the reactor is being driven already.
        """
        drain_timeout = seconds("drain_timeout", drain_timeout, zero=True)
        self._check_open()
        self.check_unattached()
        return Background(self, drain_timeout, name)

    def _signalled(self, drain_timeout: float) -> None:
        if self._drain_on is None:
            self._drain(drain_timeout, None)
        else:
            self._drain_on.cancel()
            self._drain_on = None
            self.stop()

    def listen(
        self,
        address: AddressLike | socket.socket,
        factory: Factory,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        backlog: int = 1024,
        reuse_port: bool = False,
        options: Iterable[SocketOption] = (),
        on_accept_error: AcceptErrorHandler | None = None,
        tls: ssl.SSLContext | None = None,
        on_tls_error: TLSErrorHandler | None = None,
    ) -> Listener:
        """Accept connections on `address`, each with a protocol that `factory()` makes.

        address: an `Address`, its text ("127.0.0.1:9092", "[::1]:9092", ":9092", "unix:/path",
            "fd:3"), or a pair of host and port; port 0 lets the kernel pick one. A name is looked up
            at once and may block. Or a listening stream socket, which is then the reactor's.
        limits, timeouts: for all its connections; None for the defaults.
        backlog: connections that the kernel holds until they are accepted; it may hold fewer.
        reuse_port: let other processes listen on the same port beside this one.
        options: (level, option, value) for setsockopt(2), before bind(2).
        on_accept_error: called with the OSError when there is no descriptor or memory for a newcomer. It
            may make room, by aborting a connection of its choice, and returns whether it has; then
            accepting goes on at once instead of after the back-off.
        tls: speak TLS with this context (`reactor.tls.server_context`); the protocol is made when the
            handshake is done, for which `Timeouts.handshake` is given. on_tls_error: is given the
            `TLSHandshakeError` of one that failed; None logs it.
        Raises AddressError for an address that can't be meant, ListenError if it can't be had, UsageError for
        a TLS context of the client's side, and TypeError, naming the argument, for one of the wrong type.
        A factory that raises, or makes no protocol, costs its connection alone, and is reported.
        """
        self.check_lasting()
        _check_common(factory, limits, timeouts, tls)
        check_callable("on_accept_error", on_accept_error, optional=True)
        check_callable("on_tls_error", on_tls_error, optional=True)
        check_type("backlog", backlog, int)
        if not 0 <= backlog < 1 << 31:
            raise ValueError(f"backlog must be a number of connections, 0 or more, not {backlog}")
        self.system.check(address)
        secured = None if tls is None else Tls(tls, self._bios, server_side=True)
        if isinstance(address, (Address, str, tuple)) or not hasattr(address, "accept"):
            where = Address.of(address)
            sockets = bind(where, backlog=backlog, reuse_port=reuse_port, options=options, system=self.system)
            path = where.path if self.system.has_files else None
        else:
            sockets, path = [given(address)], None
        listener = Listener(
            self,
            sockets,
            factory,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
            monitor=self._monitor,
            connection_type=self._connection_type,
            on_gone=self._count_gone,
            on_accept_error=on_accept_error,
            backlog=backlog,
            path=path,
            bios=self._bios,
            tls=secured,
            on_tls_error=on_tls_error,
        )
        self._listeners = [*self.listeners(), listener]
        return listener

    def connect(
        self,
        address: AddressLike,
        factory: Factory,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        local_address: AddressLike | None = None,
        on_failure: FailureHandler | None = None,
        reconnect: Reconnect | None = None,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        tls_session: ssl.SSLSession | None = None,
    ) -> Connector:
        """Connect to `address` without blocking; the protocol is made once the peer has answered.

        A name's addresses are tried as RFC 8305 says: IPv6 and IPv4 in turn, the next one 250 ms after the
        one before, or when that has failed; the first to answer is taken, the others are closed.
        limits, timeouts: for the connection; `Timeouts.connect` is for all attempts together.
        local_address: what to connect from; numeric.
        on_failure: called once, with a `ConnectError` that tells of each attempt, if none succeeds;
            None hands it to the reactor's `on_error`.
        reconnect: connect again, with a new protocol, when that has failed, or when the connection has ended,
            until the connector is cancelled or the reactor drained. `on_failure` is called each time; None
            logs what is tried again.
        tls: speak TLS with this context (`reactor.tls.client_context`); the protocol is made when the
            handshake is done. server_hostname: whose certificate is expected; None for the address's host.
        tls_session: of a connection before with the same context, `get_extra_info("ssl_object").session`
            when it has received something: if the server knows it, the handshake is shorter (RFC 8446, 2.2).
        Raises AddressError for an address that can't be meant, UsageError if TLS to a Unix socket is to
        check a host name that is not given, and TypeError, naming the argument, for one of the wrong type.
        """
        self.check_lasting()
        _check_common(factory, limits, timeouts, tls)
        check_callable("on_failure", on_failure, optional=True)
        check_type("reconnect", reconnect, Reconnect, optional=True)
        check_type("server_hostname", server_hostname, str, optional=True)
        check_type("tls_session", tls_session, ssl.SSLSession, optional=True)
        where = Address.of(address)
        if where.fd is not None:
            raise AddressError(f"{where} can't be connected to: give HOST:PORT or unix:/path, or adopt it")
        source = None if local_address is None else Address.of(local_address)
        if source is not None and source.fd is not None:
            raise AddressError(
                f"{source} can't be connected from: local_address takes HOST:PORT or unix:/path"
            )
        if tls is not None and server_hostname is None:
            server_hostname = where.host
            if server_hostname is None and tls.check_hostname:
                raise UsageError(f"TLS to {where} needs server_hostname: whose certificate is expected?")
        secured = None if tls is None else Tls(tls, self._bios, False, server_hostname, tls_session)
        settings = self._settings(limits, timeouts, f"connected to {where}", secured)
        if self._resolver is None:
            self._resolver = self.system.workers(_RESOLVER_THREADS, "reactor-resolver")
        connector = Connector(
            self,
            where,
            factory,
            settings=settings,
            connection_type=self._connection_type,
            timeout=settings.timeouts.connect,
            local_address=source,
            on_failure=on_failure,
            resolver=self._resolver,
            reconnect=self.system.jitter(reconnect),
        )
        self._connectors = [known for known in self._connectors if not known.is_done()]
        self._connectors.append(connector)
        connector.begin()
        return connector

    def adopt(
        self,
        sock: socket.socket,
        factory: Factory,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> Connection:
        """Make a connection of `sock`, a connected stream socket, which is then the reactor's.

        It is set to not block. tls: speak TLS with this context, as the side that `server_side` says;
            `connection_made` is called when the handshake is done, and the reactor's `on_error` if it
            fails. server_hostname: whose certificate is expected.
        Raises OSError, with `sock` still the caller's, if it is not connected or can't be watched, and
        TypeError, naming the argument, for one of the wrong type, or a factory that makes no protocol; what
        `factory` raises comes out as it is.
        """
        self.check_lasting()
        _check_common(factory, limits, timeouts, tls)
        check_type("server_hostname", server_hostname, str, optional=True)
        self.system.check(sock)
        secured = None if tls is None else Tls(tls, self._bios, server_side, server_hostname)
        origin = f"adopted at {caller()}" if self._debug else "adopted"
        settings = self._settings(limits, timeouts, origin, secured)
        sockaddr = sock.getpeername()
        protocol = make_protocol(factory)
        if tls is not None:
            made = protocol
            protocol = pending_handshake_of(factory)(self, lambda: made, self._tls_failed)
        sock.setblocking(False)
        set_no_delay(sock)
        connection = self._connection_type(settings, sock, protocol, sockaddr)
        self.counters.connected += 1
        try:
            open_connection(connection)
        except OSError as exc:
            self._count_gone(None, exc)
            raise
        return connection

    def _tls_failed(self, exc: BaseException) -> None:
        if not isinstance(exc, ConnectionAborted):
            self.report(exc, "a TLS handshake")

    def _settings(
        self, limits: Limits | None, timeouts: Timeouts | None, origin: str, tls: Tls | None = None
    ) -> Settings:
        return Settings(
            loop=self,
            reactor=self,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
            monitor=self._monitor,
            origin=origin,
            listener=None,
            on_gone=self._count_gone,
            bios=self._bios,
            tls=tls,
        )

    def listeners(self) -> list[Listener]:
        """Return the open listeners."""
        return [listener for listener in self._listeners if not listener.is_closed()]

    def connections(self) -> list[Connection]:
        """Return the open connections, closing ones included."""
        return connections_of(self.registry)

    def stats(self) -> Stats:
        """Return what was counted since the reactor was made, and what it holds now.

        Counting is done as connections come and go, and once a turn; reading looks at every connection.
        """
        counters, connections = self.counters, self.connections()
        return Stats(
            accepted=counters.accepted,
            connected=counters.connected,
            refused=dict(counters.refused),
            closed=dict(counters.closed),
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            dropped_writes=counters.dropped_writes,
            handler_errors=counters.handler_errors,
            ticks=self.ticks,
            events=self.events,
            lag=counters.lag(self.ticks),
            open=len(connections),
            paused=sum(connection.is_paused() for connection in connections),
            lingering=len(lingering_of(self.registry)),
            queued_bytes=sum(connection.get_write_buffer_size() for connection in connections),
        )

    def drain(self, timeout: float = 30.0, on_done: Callable[[Drained], object] | None = None) -> None:
        """Let all connections come to their end, as `Listener.drain` does, then let `run` return.

        Attempts to connect are given up. timeout: seconds, after which what is still open is aborted
        with `DrainTimeout`; infinity: never. on_done: is given a `Drained`; None logs it. While a drain is
        on, another does nothing.
        From any thread, callback or signal handler. Raises UsageError if the reactor is closed, ValueError
        for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        timeout = seconds("timeout", timeout, zero=True)
        check_callable("on_done", on_done, optional=True)
        self.call_soon_threadsafe(self._drain, timeout, on_done)

    def _drain(self, timeout: float, on_done: Callable[[Drained], object] | None) -> None:
        if self._drain_on is not None:
            return
        for connector in self._connectors:
            if not connector.outlasts_drain:
                connector.cancel()
        self._drain_on = Drain(
            self,
            timeout,
            connections=self.connections,
            lingering=lambda: lingering_of(self.registry),
            held=self._held,
            stop_listening=self._stop_listening,
            on_done=lambda report: self._drained(report, on_done),
        )
        for listener in self.listeners():
            listener.start_drain(self._drain_on.admitted)

    def _held(self) -> int:
        untold = self.counters.accepted + self.counters.connected - self._gone
        return untold + len(self.listeners())

    def _stop_listening(self) -> None:
        for listener in self.listeners():
            listener.close()

    def _drained(self, report: Drained, on_done: Callable[[Drained], object] | None) -> None:
        self._drain_on = None
        self.stop()
        if on_done is None:
            logging.getLogger("reactor").info("drained: %s", report)
        else:
            on_done(report)

    def _recover(self) -> None:
        super()._recover()
        for connection in self.connections():
            recover(connection)
        for lingering in lingering_of(self.registry):
            lingering.recover()
        for connector in self._connectors:
            connector.recover()
        here = Counter(self._open_sockets())
        for listener in self.listeners():
            listener.recover(Counter({site: n for (owner, site), n in here.items() if owner is listener}))
        self._gone = self.counters.accepted + self.counters.connected - here.total()
        if self._drain_on is not None:
            for listener in self.listeners():
                listener.start_drain(self._drain_on.admitted)
            self._drain_on.recover()
        self._monitor.recover()

    def _open_sockets(self) -> Iterator[tuple[Listener | None, bytes | None]]:
        """Yield the listener and client prefix of each socket whose end has not been counted."""
        for connection in {*self.connections(), *unnotified_of(self)}:
            yield connection.listener, prefix_of(connection)
        for lingering in lingering_of(self.registry):
            yield lingering.listener, lingering.prefix

    def _count_gone(self, site: bytes | None, reason: BaseException | None) -> None:
        self._gone += 1
        if self._drain_on is not None:
            self._drain_on.ended(reason)

    def disown(self) -> None:
        """Let go of everything without touching what is shared with the parent process: this is a child."""
        sockets = [sock for connector in self._connectors for sock in connector.disown()]
        sockets += [detach(connection) for connection in self.connections()]
        sockets += [lingering.detach() for lingering in lingering_of(self.registry)]
        for listener in self.listeners():
            sockets += listener.disown()
        self._inherited = sockets
        super().disown()

    def close(self) -> None:
        """Give back every descriptor and end every connection; a loop that is running is stopped first.

        Each connection is told `ConnectionAborted`. From any thread; more than once does nothing. In a
        forked child it closes the child's descriptors, and tells nobody.
        """
        inherited, self._inherited = self._inherited, []
        for sock in inherited:
            sock.close()
        super().close()

    def _warn_of(self, connections: list[Connection]) -> None:
        log = logging.getLogger("reactor")
        for connection in connections:
            log.warning("still open at close: %s, %s", connection, connection.get_extra_info("origin"))

    def _end_all(self) -> None:
        for listener in self.listeners():
            listener.close()
        for connector in self._connectors:
            connector.cancel()
        if self._debug:
            self._warn_of(self.connections())
        for connection in self.connections():
            connection.abort(ConnectionAborted("the reactor was closed"))
        for lingering in lingering_of(self.registry):
            lingering.close()
        if self._resolver is not None:
            self._resolver.close(timeout=0)


def _check_common(
    factory: Factory, limits: Limits | None, timeouts: Timeouts | None, tls: ssl.SSLContext | None
) -> None:
    check_callable("factory", factory)
    check_type("limits", limits, Limits, optional=True)
    check_type("timeouts", timeouts, Timeouts, optional=True)
    check_type("tls", tls, ssl.SSLContext, optional=True)
