"""`Reactor`: the loop with TCP on it. What joins listeners, connections and connectors."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from selectors import BaseSelector

from reactor.address import Address, AddressLike
from reactor.binding import SocketOption, bind, given
from reactor.connection import Connection, connection_of, flush_connections
from reactor.connector import Connector, FailureHandler
from reactor.errors import AddressError, ConnectionAborted
from reactor.listener import Factory, Listener, set_no_delay
from reactor.loop import ErrorHandler, Loop
from reactor.options import Limits, Timeouts
from reactor.terms import IdleWatch, Terms

__all__ = ["Reactor"]

# Names that are looked up at once; more wait for a thread.
_RESOLVER_THREADS = 4


class Reactor(Loop):
    """An event loop for TCP and Unix sockets that the host program drives; any number in a process.

    selector: where descriptors are registered; None takes the platform's `DefaultSelector`. It is
        closed with the reactor.
    clock: seconds that never go back; `time.monotonic` by default.
    on_error: called as `on_error(exception, callback, connection)` for each exception that leaves a
        callback: its name, and its connection or None. None logs it with its traceback.

    As a context manager it is closed at the end. Methods are called on the thread that drives the
    reactor, but for those that say otherwise.
    """

    def __init__(
        self,
        *,
        selector: BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_error: ErrorHandler | None = None,
    ) -> None:
        super().__init__(selector=selector, clock=clock, on_error=on_error, flush=flush_connections)
        self._listeners: list[Listener] = []
        self._connectors: list[Connector] = []
        self._idle_watches: dict[float, IdleWatch] = {}
        self._resolver: ThreadPoolExecutor | None = None
        self._to_drain: int | None = None

    def __repr__(self) -> str:
        listeners = ", ".join(str(a) for listener in self.listeners() for a in listener.addresses)
        return f"<Reactor {'closed' if self.is_closed() else listeners or 'without listeners'}>"

    def run(self, *, signals: Collection[int] = (), drain_timeout: float = 30.0) -> None:
        """Drive the reactor on this thread until `stop` or `close`, or until a `drain` is done.

        signals: while it runs, the first of these starts a drain, a second one stops at once; what
            handled them before is put back. None are touched otherwise. On the main thread only.
        drain_timeout: for that drain, seconds.
        Raises UsageError if the reactor is closed or being driven already.
        """
        try:
            for signum in signals:
                self.add_signal_handler(signum, self._signalled, drain_timeout)
            super().run()
        finally:
            for signum in signals:
                self.remove_signal_handler(signum)

    def _signalled(self, drain_timeout: float) -> None:
        if self._to_drain is None:
            self._drain(drain_timeout)
        else:
            self._to_drain = None
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
    ) -> Listener:
        """Accept connections on `address`, each with a protocol that `factory()` makes.

        address: an `Address`, its text ("127.0.0.1:9092", "[::1]:9092", ":9092", "unix:/path",
            "fd:3"), or a pair of host and port; port 0 lets the kernel pick one. A name is looked up
            at once and may block. Or a listening stream socket, which is then the reactor's.
        limits, timeouts: for all its connections; None for the defaults.
        backlog: connections that the kernel holds until they are accepted; it may hold fewer.
        reuse_port: let other processes listen on the same port beside this one.
        options: (level, option, value) for setsockopt(2), before bind(2).
        Raises AddressError for an address that can't be meant, ListenError if it can't be had.
        """
        self._check_open()
        limits = limits or Limits()
        timeouts = timeouts or Timeouts()
        if isinstance(address, (Address, str, tuple)) or not hasattr(address, "accept"):
            where = Address.of(address)
            sockets = bind(where, backlog=backlog, reuse_port=reuse_port, options=options)
            path = where.path
        else:
            sockets, path = [given(address)], None
        listener = Listener(
            self,
            sockets,
            factory,
            limits=limits,
            timeouts=timeouts,
            idle=self._idle_watch(timeouts),
            on_lost=self._connection_lost,
            path=path,
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
    ) -> Connector:
        """Connect to `address` without blocking; the protocol is made once the peer has answered.

        limits, timeouts: for the connection; `Timeouts.connect` is for all attempts together.
        local_address: what to connect from; numeric.
        on_failure: called once, with a `ConnectError` that tells of each attempt, if none succeeds;
            None hands it to the reactor's `on_error`.
        Raises AddressError for an address that can't be meant.
        """
        self._check_open()
        where = Address.of(address)
        if where.fd is not None:
            raise AddressError(f"{where} can't be connected to: give HOST:PORT or unix:/path, or adopt it")
        timeouts = timeouts or Timeouts()
        terms = Terms(limits or Limits(), timeouts, self._idle_watch(timeouts), self._connection_lost)
        if self._resolver is None:
            self._resolver = ThreadPoolExecutor(_RESOLVER_THREADS, "reactor-resolver")
        connector = Connector(
            self,
            where,
            factory,
            terms=terms,
            timeout=timeouts.connect,
            local_address=None if local_address is None else Address.of(local_address),
            on_failure=on_failure,
            resolver=self._resolver,
        )
        self._connectors = [known for known in self._connectors if not known.is_done()]
        self._connectors.append(connector)
        return connector

    def adopt(
        self,
        sock: socket.socket,
        factory: Factory,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> Connection:
        """Make a connection of `sock`, a connected stream socket, which is then the reactor's.

        It is set to not block. Raises OSError, with `sock` still the caller's, if it is not connected
        or can't be watched; what `factory` raises comes out as it is.
        """
        self._check_open()
        timeouts = timeouts or Timeouts()
        terms = Terms(limits or Limits(), timeouts, self._idle_watch(timeouts), self._connection_lost)
        sockaddr = sock.getpeername()
        protocol = factory()
        sock.setblocking(False)
        set_no_delay(sock)
        connection = Connection(self, sock, protocol, terms, sockaddr)
        connection.open()
        return connection

    def listeners(self) -> list[Listener]:
        """Return the open listeners."""
        return [listener for listener in self._listeners if not listener.is_closed()]

    def connections(self) -> list[Connection]:
        """Return the open connections, closing ones included."""
        found = map(connection_of, self.registry.handlers())
        return [connection for connection in found if connection is not None]

    def drain(self, timeout: float = 30.0) -> None:
        """Accept no more, close each connection when what is queued has gone, then let `run` return.

        timeout: seconds that the peers have; then the rest ends with `CloseTimeout`.
        From any thread, callback or signal handler. Raises UsageError if the reactor is closed.
        """
        self.call_soon_threadsafe(self._drain, timeout)

    def _drain(self, timeout: float) -> None:
        for listener in self.listeners():
            listener.close()
        for connector in self._connectors:
            connector.cancel()
        connections = self.connections()
        self._to_drain = len(connections) + self.notices_due()
        for connection in connections:
            connection.close(timeout)
        self._stop_if_drained()

    def _connection_lost(self, connection: Connection) -> None:
        if self._to_drain is not None:
            self._to_drain -= 1
            self._stop_if_drained()

    def _stop_if_drained(self) -> None:
        if self._to_drain == 0:
            self._to_drain = None
            self.stop()

    def _idle_watch(self, timeouts: Timeouts) -> IdleWatch | None:
        if timeouts.idle is None:
            return None
        watch = self._idle_watches.get(timeouts.idle)
        if watch is None:
            watch = self._idle_watches[timeouts.idle] = IdleWatch(self, timeouts.idle)
        return watch

    def _close(self) -> None:
        for listener in self.listeners():
            listener.close()
        for connector in self._connectors:
            connector.cancel()
        for connection in self.connections():
            connection.abort(ConnectionAborted("the reactor was closed"))
        if self._resolver is not None:
            self._resolver.shutdown(wait=False, cancel_futures=True)
        super()._close()
