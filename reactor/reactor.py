"""`Reactor`: an event loop for TCP, UDP and Unix sockets. It has a loop, and the open sockets on it."""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from selectors import BaseSelector
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, TypeVarTuple

from reactor.address import Address, AddressLike
from reactor.connecting.connector import Connector, FailureHandler, begin_connecting
from reactor.connection.connection import Connection, flush_connections, open_connection
from reactor.connection.debug import DebugConnection
from reactor.connection.handshake import pending_handshake_of
from reactor.connection.interface import make_protocol
from reactor.connection.settings import Settings
from reactor.errors import AddressError, ConnectionAborted, UsageError
from reactor.listening.binding import SocketOption, UnixPath, adopt_listening_socket, bind
from reactor.listening.drain import Drained
from reactor.listening.listener import AcceptErrorHandler, Listener, TLSErrorHandler, set_no_delay
from reactor.loop.background import Background
from reactor.loop.context import ContextExit
from reactor.loop.log import caller
from reactor.loop.loop import ErrorHandler, Loop
from reactor.loop.registry import FileDescriptorLike
from reactor.loop.stats import Stats
from reactor.loop.system import KERNEL, System
from reactor.loop.timers import Handle, TimerHandle
from reactor.open_sockets import OpenSockets
from reactor.options import (
    Limits,
    ProxyProtocol,
    Reconnect,
    Timeouts,
    check_callable,
    check_type,
    seconds,
)
from reactor.protocol import Factory

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    import ssl
    from concurrent.futures import Executor

    from reactor.datagrams.endpoint import Endpoint
    from reactor.datagrams.limits import DatagramLimits
    from reactor.datagrams.lookup import FailureHandler as DatagramFailureHandler
    from reactor.datagrams.opening import Opened, SocketSettings
    from reactor.datagrams.protocol import DatagramFactory
    from reactor.framing.proxy_header import ProxyHeader
    from reactor.loop.futures import AwaitableFuture
    from reactor.tls.secure_socket import Bios, Tls

__all__ = ["Reactor", "loop_of", "stats_in_parts"]

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

# The `slow_callback` of debug mode, seconds: asyncio's threshold.
_SLOW = 0.1


class Reactor(ContextExit):
    """An event loop for TCP, UDP and Unix sockets that the host program drives; any number in a process.

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

    # Subclasses for tests and for the workers of `reactor.deploy` have others.
    _system: System = KERNEL
    _connection_types: tuple[type[Connection], type[Connection]] = (Connection, DebugConnection)
    _shares_sockets = False  # whether other processes accept on the listening sockets too

    def __init__(
        self,
        *,
        selector: BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_error: ErrorHandler | None = None,
        slow_callback: float | None = None,
        debug: bool = False,
    ) -> None:
        self._loop = Loop(
            selector=selector,
            clock=clock,
            on_error=on_error,
            slow_callback=_SLOW if debug and slow_callback is None else slow_callback,
            debug=debug,
            system=self._system,
            flush=flush_connections,
        )
        self._scheduler = self._loop.scheduler
        self._debug = debug
        self._sockets = OpenSockets(self._loop, debug=debug)
        self._connection_type = self._connection_types[debug]
        self._bios: Bios | None = None  # of all connections over TLS
        self._datagram_buffer: bytearray | None = None  # of all endpoints that need one

    def __repr__(self) -> str:
        listeners = ", ".join(str(a) for listener in self.listeners() for a in listener.addresses)
        return f"<Reactor {'closed' if self.is_closed() else listeners or 'without listeners'}>"

    def __enter__(self) -> Self:
        self._loop.lifetime.check_open()
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        self.close()

    # Driving

    def run(self, *, signals: Collection[int] = (), drain_timeout: float = 30.0) -> None:
        """Drive the reactor on this thread until `stop` or `close`, or until a `drain` is done.

        signals: while it runs, the first of these starts a drain, a second one stops at once; the previous
            handlers are restored afterwards. No other signal is touched. On the main thread only.
        drain_timeout: of that drain, in seconds.
        Raises UsageError if the reactor is closed or being driven already, ValueError for a timeout below 0
        or NaN, TypeError for one that is no number. KeyboardInterrupt and SystemExit pass through, and the
        reactor can be run again after them.
        """
        drain_timeout = seconds("drain_timeout", drain_timeout, zero=True)
        try:
            for signum in signals:
                self.add_signal_handler(signum, self._signalled, drain_timeout)
            self._loop.run()
        finally:
            for signum in signals:
                self.remove_signal_handler(signum)

    def _signalled(self, drain_timeout: float) -> None:
        if self._sockets.is_draining():
            self._sockets.cancel_drain()
        else:
            self._sockets.drain(drain_timeout, None)

    def run_once(self, timeout: float | None = 0, budget: float | None = None) -> int:
        """Run one tick, with `budget` several, on this thread; return how many events and callbacks it ran.

        timeout: seconds to wait for something to do; 0 or less does not wait, None waits for ever.
        budget: seconds of work, from the end of the wait: it runs ticks while there is something to do, and
            returns after the callback that exceeds the budget. The next call does the rest; every call
            handles some of each kind: descriptors, timers and callbacks. None: one tick, which handles a
            bounded number of each.
        Raises UsageError if the reactor is closed, or being driven already; ValueError for NaN, or for a
        budget below 0; TypeError for what is no number.
        """
        return self._loop.run_once(timeout, budget)

    def background(self, *, drain_timeout: float = 30.0, name: str = "reactor") -> Background[Self]:
        """Return a context manager in which a thread drives the reactor: `with reactor.background():`.

        Inside the block call the reactor's methods on that thread, through `submit`, except those that may
        be called on any thread.
        drain_timeout: seconds that connections have to end when the block is left. name: the thread's.
        Raises UsageError if a host drives the reactor, ValueError for a timeout below 0 or NaN, TypeError for
        one that is no number.
        An exception that ends the thread earlier, such as a SystemExit in a callback, closes the reactor, and
        is raised at the end of the block; so is UsageError if the reactor is being driven already.
        """
        drain_timeout = seconds("drain_timeout", drain_timeout, zero=True)
        self._loop.lifetime.check_open()
        self._loop.check_unattached()
        return Background(self, drain_timeout, name)

    def stop(self) -> None:
        """Return from `run` after the tick that it is in. From any thread, callback or signal handler.

        While the reactor is not running, the next `run` returns at once.
        """
        self._loop.stop()

    def drain(self, timeout: float = 30.0, on_done: Callable[[Drained], object] | None = None) -> None:
        """Drain: close connections as they become idle, as `Listener.drain` does; then `run` returns.

        Attempts to connect are ended. timeout: seconds, after which what is still open is aborted
        with `DrainTimeout`; infinity: never. on_done: called with a `Drained`; None logs it. A second call
        during a drain does nothing.
        From any thread, callback or signal handler. Raises UsageError if the reactor is closed, ValueError
        for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        timeout = seconds("timeout", timeout, zero=True)
        check_callable("on_done", on_done, optional=True)
        self._scheduler.post_notice_threadsafe(self._sockets.drain, timeout, on_done)

    def close(self) -> None:
        """Close every descriptor and end every connection; a reactor that is running is stopped first.

        `connection_lost` is called with `ConnectionAborted`. From any thread; more than once does nothing.
        While the reactor is driven, or attached to a host, it is closed on that thread. In a forked child it
        closes the child's descriptors, and calls nothing.
        """
        self._sockets.close_inherited()
        self._loop.close()

    def is_closed(self) -> bool:
        """Return whether `close` has been done. From any thread."""
        return self._loop.lifetime.closed

    # Driving from a host's loop

    def fileno(self) -> int:
        """Return a descriptor for the host's own selector: readable while `run_once(0)` has something to do.

        After the first call this includes callbacks that are scheduled outside of ticks.
        `timers_in_fileno` returns whether it includes timers.
        Raises UsageError where the platform's selector has none.
        """
        return self._loop.fileno()

    def timers_in_fileno(self) -> bool:
        """Return whether `fileno` becomes readable for timers too, by timerfd_create(2).

        If not, the host must call `run_once` after `next_timeout()` seconds, and call `next_timeout` again
        each time the descriptor was readable: it becomes so when a timer is set outside of ticks.
        """
        return self._loop.timers_in_fileno()

    def next_timeout(self) -> float | None:
        """Return the seconds until `run_once` has a timer or callback to run; None if only events can."""
        return self._loop.next_timeout()

    def attach_host(self, on_close: Callable[[], object]) -> None:
        """Give the reactor to a host, whose loop is to call `run_once` on this thread, until `detach_host`.

        For modules like those of `reactor.embed`. Meanwhile another host and `background` are refused, and
        `close` from another thread is done on this one.
        on_close: called when the reactor is closed before `detach_host`, with its descriptors still open.
        Raises UsageError if the reactor is closed, or has a host.
        """
        self._loop.attach_host(on_close)

    def detach_host(self) -> bool:
        """Undo `attach_host`; more than once does nothing.

        Returns whether the host is to stop watching `fileno`. False in a forked child: its copy of the
        host's selector is the parent's too, and must not be changed.
        """
        return self._loop.detach_host()

    # Callbacks and timers

    def time(self) -> float:
        """Return the time that `call_at` counts in, seconds. From any thread."""
        return self._loop.time()

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """Run `callback(*args)` in the next tick, after earlier ones; return a handle with `cancel()`."""
        return self._scheduler.call_soon(callback, *args)

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> TimerHandle:
        """Run `callback(*args)` in `delay` seconds, never earlier; return a handle with `cancel()`.

        A negative delay counts as 0; an infinite one never ends.
        Raises TypeError if `delay` is not a number, ValueError if it is NaN.
        """
        return self._scheduler.call_later(delay, callback, *args)

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> TimerHandle:
        """Run `callback(*args)` when `time()` has reached `when`; return a handle with `cancel()`.

        Raises TypeError if `when` is not a number, ValueError if it is NaN.
        """
        return self._scheduler.call_at(when, callback, *args)

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """As `call_soon`, from any thread or signal handler; ends the reactor's wait.

        A burst of calls costs one system call.
        """
        return self._scheduler.call_soon_threadsafe(callback, *args)

    def call_each_tick(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """Run `callback(*args)` at the end of every tick; return a handle with `cancel()`.

        It begins no ticks: a reactor without anything to do waits. What it schedules runs in the next tick.
        """
        return self._loop.call_each_tick(callback, *args)

    def call_at_close(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """Run `callback(*args)` when the reactor is closed; return a handle with `cancel()`.

        It runs on the thread that closes the reactor, while the reactor's descriptors are open.
        """
        return self._loop.call_at_close(callback, *args)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AwaitableFuture[T]:
        """Run `fn(*args, **kwargs)` on the thread that drives the reactor; return a future of its result.

        From any thread. The future is cancelled if the reactor is closed before `fn` runs. Waiting for it on
        the thread that drives the reactor never ends. Raises TypeError if `fn` can't be called.
        """
        return self._scheduler.submit(fn, *args, **kwargs)

    def run_in_executor(
        self, executor: Executor | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AwaitableFuture[T]:
        """Run `fn(*args, **kwargs)` on a thread of `executor`; None: on one of up to 32 of the reactor's own.

        The future is completed on the thread that drives the reactor, so that is where its callbacks run.
        From any thread. It is cancelled if the reactor is closed before; cancelling it before `fn` has begun
        withdraws the call. Raises TypeError if `executor` is no executor or `fn` can't be called,
        RuntimeError if the reactor has no thread yet and the system allows none.
        """
        return self._scheduler.run_in_executor(executor, fn, *args, **kwargs)

    def report(self, exc: BaseException, callback: str, connection: Any = None) -> None:
        """Hand an exception that left a callback to `on_error`, or log it with its traceback.

        callback: the callback's name. connection: the connection that it was called for, or None.
        """
        self._scheduler.report(exc, callback, connection)

    # Descriptors and signals

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` whenever `fd`, a descriptor of your own, is readable.

        Another call for the same descriptor replaces the callback.
        Raises UsageError for a descriptor that belongs to a connection or listener, OSError or
        ValueError for one that can't be waited for, TypeError for an object that has no descriptor.
        """
        self._loop.add_reader(fd, callback, *args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """Undo `add_reader`, before the descriptor is closed; return whether there was a callback."""
        return self._loop.remove_reader(fd)

    def add_writer(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` whenever `fd` is writable; else as `add_reader`."""
        self._loop.add_writer(fd, callback, *args)

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """Undo `add_writer`, before the descriptor is closed; return whether there was a callback."""
        return self._loop.remove_writer(fd)

    def add_signal_handler(self, signum: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` in a tick when signal `signum` comes.

        `remove_signal_handler` and `close` restore the previous handler. On the main thread only.
        Raises TypeError for what is no signal's number, UsageError on another thread, ValueError or OSError
        for a signal that can't be handled.
        """
        self._loop.add_signal_handler(signum, callback, *args)

    def remove_signal_handler(self, signum: int) -> bool:
        """Restore the previous handler of `signum`; return whether this reactor had one."""
        return self._loop.remove_signal_handler(signum)

    # Listening and connecting

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
        proxy_protocol: ProxyProtocol | None = None,
    ) -> Listener:
        """Accept connections on `address`, each with a protocol that `factory()` makes.

        address: an `Address`, its text ("127.0.0.1:9092", "[::1]:9092", ":9092", "unix:/path",
            "fd:3"), or a pair of host and port; port 0 lets the kernel pick one. A name is looked up
            at once and may block. Or a listening stream socket, which the reactor then owns.
        limits, timeouts: for all its connections; None for the defaults.
        backlog: connections that the kernel holds until they are accepted; it may hold fewer.
        reuse_port: let other processes listen on the same port beside this one.
        options: (level, option, value) for setsockopt(2), before bind(2).
        on_accept_error: called with the OSError when there is no descriptor or memory for a new connection.
            It may make room, by aborting a connection of its choice, and returns whether it has; then
            accepting goes on at once instead of after the back-off.
        tls: speak TLS with this context (`reactor.tls.server_context`); the protocol is made when the
            handshake is done, within `Timeouts.handshake` seconds. on_tls_error: called with the
            `TLSHandshakeError` of a handshake that failed; None logs it.
        proxy_protocol: the trusted proxies, each of whose connections begins with a PROXY header, before TLS;
            "peername", `max_per_ip` and the log are of the client that it names. None: there are none.
        Raises AddressError for an invalid address, ListenError if it can't be listened on, UsageError for
        a TLS context of the client's side, and TypeError, naming the argument, for one of the wrong type.
        A factory that raises, or makes no protocol, costs its connection alone, and is reported.
        """
        self._loop.lifetime.check_lasting()
        _check_common(factory, limits, timeouts, tls)
        check_callable("on_accept_error", on_accept_error, optional=True)
        check_callable("on_tls_error", on_tls_error, optional=True)
        check_type("proxy_protocol", proxy_protocol, ProxyProtocol, optional=True)
        check_type("backlog", backlog, int)
        if not 0 <= backlog < 1 << 31:
            raise ValueError(f"backlog must be a number of connections, 0 or more, not {backlog}")
        self._loop.system.check(address)
        secured = None if tls is None else self._make_tls(tls, server_side=True)
        if isinstance(address, (Address, str, tuple)) or not hasattr(address, "accept"):
            sockets, path = self._bind(Address.of(address), backlog, reuse_port, options)
        else:
            sockets, path = [adopt_listening_socket(address)], None
        listener = Listener(
            sockets=sockets,
            path=path,
            settings=self._make_settings(limits, timeouts, "", secured),
            factory=factory,
            connection_type=self._connection_type,
            backlog=backlog,
            on_accept_error=on_accept_error,
            on_tls_error=on_tls_error,
            proxy_protocol=proxy_protocol,
            on_open=self._sockets.connection_opened,
            shared=self._shares_sockets,
        )
        self._sockets.add_listener(listener)
        return listener

    def _bind(
        self, address: Address, backlog: int, reuse_port: bool, options: Iterable[SocketOption]
    ) -> tuple[list[socket.socket], UnixPath | None]:
        """Return the listening sockets of `address`, and the file of a Unix socket that is to be removed."""
        system = self._loop.system
        sockets = bind(address, backlog=backlog, reuse_port=reuse_port, options=options, system=system)
        return sockets, UnixPath(address.path) if address.path is not None and system.has_files else None

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
        proxy_protocol: ProxyHeader | Literal["v1", "v2"] | None = None,
    ) -> Connector:
        """Connect to `address` without blocking; the protocol is made once the peer has answered.

        A name's addresses are tried as RFC 8305 says: IPv6 and IPv4 in turn, the next one 250 ms after the
        one before, or when that has failed; the first to answer is taken, the others are closed.
        limits, timeouts: for the connection; `Timeouts.connect` is for all attempts together.
        local_address: what to connect from; numeric.
        on_failure: called once, with a `ConnectError` that names each attempt, if none succeeds; None hands
            it to the reactor's `on_error`.
        reconnect: connect again, with a new protocol, after a failure, and when the connection has ended,
            until the connector is cancelled or the reactor drained. `on_failure` is called for each failure;
            None logs those after which it connects again.
        tls: speak TLS with this context (`reactor.tls.client_context`); the protocol is made when the
            handshake is done. server_hostname: whose certificate is expected; None for the address's host.
        tls_session: a session to resume, with a shorter handshake (RFC 8446, 2.2): that of an earlier
            connection with the same context, `get_extra_info("ssl_object").session` after its first input.
        proxy_protocol: the PROXY header to begin connections with, before TLS: a `ProxyHeader`, or "v1" or
            "v2" for one with the connection's own addresses. The server must expect it.
        Raises AddressError for an invalid address, UsageError if TLS to a Unix socket is to check a host
        name and there is no `server_hostname`, ValueError for another `proxy_protocol`, and TypeError, naming
        the argument, for one of the wrong type.
        """
        self._loop.lifetime.check_lasting()
        _check_common(factory, limits, timeouts, tls)
        check_callable("on_failure", on_failure, optional=True)
        check_type("reconnect", reconnect, Reconnect, optional=True)
        check_type("server_hostname", server_hostname, str, optional=True)
        _check_ssl("tls_session", tls_session, "SSLSession")
        proxy_header = None if proxy_protocol is None else _maker_of_headers(proxy_protocol)
        where = Address.of(address)
        if where.fd is not None:
            raise AddressError(f"{where} can't be connected to: give HOST:PORT or unix:/path")
        source = None if local_address is None else Address.of(local_address)
        if source is not None and source.fd is not None:
            raise AddressError(
                f"{source} can't be connected from: local_address takes HOST:PORT or unix:/path"
            )
        if tls is not None and server_hostname is None:
            server_hostname = where.host
            if server_hostname is None and tls.check_hostname:
                raise UsageError(f"TLS to {where} needs server_hostname: whose certificate is expected?")
        secured = None if tls is None else self._make_tls(tls, False, server_hostname, tls_session)
        settings = self._make_settings(limits, timeouts, f"connected to {where}", secured)
        connector = Connector(
            address=where,
            local_address=source,
            resolver=self._sockets.resolver_threads(),
            factory=factory,
            settings=settings,
            connection_type=self._connection_type,
            on_open=self._sockets.connection_opened,
            proxy_header=proxy_header,
            reconnect=self._loop.system.jitter(reconnect),
            on_failure=on_failure,
        )
        self._sockets.add_connector(connector)
        begin_connecting(connector)
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
        """Make a connection of `sock`, a connected stream socket, which the reactor then owns.

        It is set to not block. tls: speak TLS with this context, as the side that `server_side` says;
            `connection_made` is called when the handshake is done, and the reactor's `on_error` if it
            fails. server_hostname: whose certificate is expected.
        Raises OSError, with `sock` still the caller's, if it is not connected or can't be watched, and
        TypeError, naming the argument, for one of the wrong type, or a factory that makes no protocol; an
        exception of `factory` is passed on.
        """
        self._loop.lifetime.check_lasting()
        if not hasattr(sock, "getpeername"):
            raise TypeError(f"sock must be a connected stream socket, not {sock!r}")
        _check_common(factory, limits, timeouts, tls)
        check_type("server_hostname", server_hostname, str, optional=True)
        self._loop.system.check(sock)
        secured = None if tls is None else self._make_tls(tls, server_side, server_hostname)
        origin = f"adopted at {caller()}" if self._debug else "adopted"
        settings = self._make_settings(limits, timeouts, origin, secured)
        sockaddr = sock.getpeername()
        protocol = make_protocol(factory)
        if tls is not None:
            made = protocol
            protocol = pending_handshake_of(factory)(self, lambda: made, self._tls_failed)
        sock.setblocking(False)
        set_no_delay(sock)
        connection = self._connection_type(settings, sock, protocol, sockaddr)
        self._loop.counters.connected += 1
        self._sockets.connection_opened()
        try:
            open_connection(connection)
        except OSError as exc:
            self._sockets.connection_ended(None, exc)
            raise
        return connection

    def _tls_failed(self, exc: BaseException) -> None:
        if not isinstance(exc, ConnectionAborted):
            self.report(exc, "a TLS handshake")

    def _make_tls(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Tls:
        from reactor.tls.secure_socket import Bios, Tls  # noqa: PLC0415 - imports ssl

        if self._bios is None:
            self._bios = Bios()
        return Tls(context, self._bios, server_side, server_hostname, session)

    def _make_settings(
        self, limits: Limits | None, timeouts: Timeouts | None, origin: str, tls: Tls | None
    ) -> Settings:
        return Settings(
            loop=self._loop,
            reactor=self,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
            deadline_monitor=self._sockets.deadline_monitor,
            origin=origin,
            listener=None,
            on_gone=self._sockets.connection_ended,
            make_tls=self._make_tls,
            tls=tls,
        )

    # Datagrams

    def bind_datagram(
        self,
        address: AddressLike | socket.socket,
        factory: DatagramFactory,
        *,
        limits: DatagramLimits | None = None,
        reuse_port: bool = False,
        broadcast: bool = False,
        ttl: int | None = None,
        info: bool = False,
        gro: bool = False,
        gso: bool = False,
        options: Iterable[SocketOption] = (),
    ) -> Endpoint:
        """Receive and send datagrams on `address`, with the protocol that `factory()` makes.

        `connection_made` is called before this returns.
        address: as for `listen`; "unix:/path" is a Unix datagram socket, whose file is removed with it. A
            name is looked up at once and may block; its first address that can be bound is taken. Or a
            datagram socket, which the reactor then owns.
        limits: of the queue, and by client prefix; None for the defaults.
        reuse_port: let other sockets bind the same port beside this one: for each datagram the kernel takes
            one of them by its sender, and for a group all.
        broadcast: allow sending to broadcast addresses.
        ttl: time to live, or hop limit, of what is sent: 1 to 255; None for the system's.
        info: call `datagram_received` with a `DatagramInfo` as third argument.
        gro: have the kernel hand over several datagrams of one sender at once. gso: send those that go to one
            address within a tick, and have one size, by one call at its end. Both are Linux's, and for UDP.
        options: (level, option, value) for setsockopt(2), before bind(2).
        Raises AddressError for an invalid address, ListenError if it can't be bound, UsageError for an option
        that this platform or kind of socket does not have, TypeError or ValueError, naming the argument, for
        an invalid one, and what the factory raises. A failure closes the socket, but for one that was given.
        """
        from reactor.datagrams.endpoint import open_endpoint  # noqa: PLC0415 - few programs use datagrams
        from reactor.datagrams.opening import SocketSettings, adopt_datagram_socket  # noqa: PLC0415

        settings = SocketSettings(
            reuse_port=reuse_port,
            broadcast=broadcast,
            ttl=ttl,
            info=info,
            gro=gro,
            gso=gso,
            options=tuple(options),
        )
        endpoint = self._make_endpoint(factory, limits, settings, None)
        self._loop.system.check(address)
        if isinstance(address, (Address, str, tuple)):
            opened = self._bind_datagram(Address.of(address), settings)
        else:
            opened = adopt_datagram_socket(address, settings)
        self._sockets.add_endpoint(endpoint)
        open_endpoint(endpoint, opened)
        return endpoint

    def _bind_datagram(self, address: Address, settings: SocketSettings) -> Opened:
        from reactor.datagrams.opening import bind_first  # noqa: PLC0415 - see above

        return bind_first(address, settings, self._loop.system)

    def connect_datagram(
        self,
        address: AddressLike,
        factory: DatagramFactory,
        *,
        limits: DatagramLimits | None = None,
        local_address: AddressLike | None = None,
        on_failure: DatagramFailureHandler | None = None,
        broadcast: bool = False,
        ttl: int | None = None,
        info: bool = False,
        gro: bool = False,
        gso: bool = False,
        options: Iterable[SocketOption] = (),
    ) -> Endpoint:
        """Exchange datagrams with `address` alone, with the protocol that `factory()` makes.

        For a numeric address or a path, `connection_made` is called before this returns. A name is looked up
        without blocking: `connection_made` is called when that is done, and what is sent before is queued.
        The first of its addresses that there is a route to is taken. Nothing is sent to the peer in order to
        connect: whether it is there shows in `error_received`.
        local_address: what to send from; numeric, or the path of a Unix socket, which a peer needs to answer.
        on_failure: called once, with a `ConnectError`, if the name can't be resolved or there is no route;
            `connection_made` is not called then. None: it is raised, or for a name handed to `on_error`.
        The others are those of `bind_datagram`. Raises AddressError for an invalid address, and as that one.
        """
        from reactor.datagrams.endpoint import look_up  # noqa: PLC0415 - few programs use datagrams
        from reactor.datagrams.opening import SocketSettings  # noqa: PLC0415

        settings = SocketSettings(
            broadcast=broadcast, ttl=ttl, info=info, gro=gro, gso=gso, options=tuple(options)
        )
        check_callable("on_failure", on_failure, optional=True)
        where = Address.of(address)
        source = None if local_address is None else Address.of(local_address)
        for each in (where, source):
            if each is not None and each.fd is not None:
                raise AddressError(f"{each} can't be connected: give HOST:PORT or unix:/path, or bind it")
        if where.port == 0:  # connect(2) accepts it, and connects to nobody
            raise AddressError(f"{where} can't be connected: give a port above 0")
        endpoint = self._make_endpoint(factory, limits, settings, where)
        self._sockets.add_endpoint(endpoint)
        look_up(endpoint, self._sockets.resolver_threads(), source, on_failure)
        return endpoint

    def _make_endpoint(
        self, factory: DatagramFactory, limits: DatagramLimits | None, settings: Any, target: Address | None
    ) -> Endpoint:
        from reactor.datagrams.debug import DebugEndpoint  # noqa: PLC0415 - see above
        from reactor.datagrams.endpoint import Endpoint  # noqa: PLC0415
        from reactor.datagrams.limits import DatagramLimits  # noqa: PLC0415

        self._loop.lifetime.check_lasting()
        _check_factory(factory)
        check_type("limits", limits, DatagramLimits, optional=True)
        return (DebugEndpoint if self._debug else Endpoint)(
            loop=self._loop,
            reactor=self,
            limits=limits or DatagramLimits(),
            settings=settings,
            factory=factory,
            shared_buffer=self._shared_datagram_buffer,
            on_end=self._sockets.endpoint_ended,
            target=target,
        )

    def _shared_datagram_buffer(self) -> bytearray:
        if self._datagram_buffer is None:
            from reactor.datagrams.receiving import SHARED_BUFFER  # noqa: PLC0415 - see above

            self._datagram_buffer = bytearray(SHARED_BUFFER)
        return self._datagram_buffer

    # What there is

    def listeners(self) -> list[Listener]:
        """Return the open listeners."""
        return self._sockets.listeners()

    def connections(self) -> list[Connection]:
        """Return the open connections, closing ones included."""
        return self._sockets.connections()

    def endpoints(self) -> list[Endpoint]:
        """Return the open datagram endpoints, closing ones included."""
        return self._sockets.endpoints()

    def stats(self) -> Stats:
        """Return what was counted since the reactor was made, and what it holds now.

        Counting is done as connections come and go, and once a tick; reading looks at every connection.
        """
        return self._sockets.stats()


def _check_common(
    factory: Factory, limits: Limits | None, timeouts: Timeouts | None, tls: ssl.SSLContext | None
) -> None:
    _check_factory(factory)
    check_type("limits", limits, Limits, optional=True)
    check_type("timeouts", timeouts, Timeouts, optional=True)
    _check_ssl("tls", tls, "SSLContext")


def _check_factory(factory: object) -> None:
    check_callable("factory", factory)
    if inspect.iscoroutinefunction(factory):
        name = getattr(factory, "__name__", "fn")
        raise TypeError(f"factory is a coroutine function: give reactor.streams.handler({name})")


def _maker_of_headers(proxy_protocol: object) -> Callable[[Any, Any], ProxyHeader]:
    """Return what makes the PROXY header for the addresses of a connection, ours and the peer's."""
    from reactor.framing.proxy_header import ProxyHeader  # noqa: PLC0415 - few programs need it

    if isinstance(proxy_protocol, ProxyHeader):
        header = proxy_protocol
        return lambda ours, peers: header
    if not isinstance(proxy_protocol, str):
        raise TypeError(f'proxy_protocol must be a ProxyHeader, "v1" or "v2", not {proxy_protocol!r}')
    if proxy_protocol not in {"v1", "v2"}:
        raise ValueError(f'proxy_protocol must be a ProxyHeader, "v1" or "v2", not {proxy_protocol!r}')
    return partial(ProxyHeader.between, version=1 if proxy_protocol == "v1" else 2)


def _check_ssl(name: str, value: object, kind: str) -> None:
    """Raise TypeError, naming the parameter, if `value` is neither None nor of the type `kind` of ssl."""
    if value is not None:
        import ssl  # noqa: PLC0415 - see above

        check_type(name, value, getattr(ssl, kind), optional=True)


# For the status page


def stats_in_parts(reactor: Reactor, on_done: Callable[[Stats], object]) -> None:
    """Call `on_done` with the reactor's `Stats`; see `OpenSockets.stats_in_parts`."""
    reactor._sockets.stats_in_parts(on_done)


# For tests and measurements


def loop_of(reactor: Reactor) -> Loop:
    """Return the loop that the reactor has."""
    return reactor._loop
