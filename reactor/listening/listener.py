"""Listeners: accept, the limits on connections, and the reasons to accept nothing."""

from __future__ import annotations

import errno
import math
import socket
import sys
from collections import Counter
from collections.abc import Callable
from enum import Enum
from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, Any

import attrs

from reactor.address import Address, client_prefix, pack_sockaddr
from reactor.connection.closing import Linger, close_quietly, lingering_of, reset
from reactor.connection.connection import (
    Connection,
    await_header,
    begin,
    connections_of,
    fail,
    identify,
    open_connection,
)
from reactor.connection.handover import Snapshot, revive
from reactor.connection.handshake import pending_handshake_of
from reactor.connection.interface import make_protocol
from reactor.connection.settings import Settings
from reactor.errors import (
    ACCEPT_AGAIN,
    ACCEPT_EXHAUSTED,
    ConnectionAborted,
    ProxyHeaderError,
    TLSHandshakeError,
    UsageError,
)
from reactor.listening.binding import UnixPath
from reactor.listening.drain import Drain, Drained
from reactor.loop.log import logger
from reactor.loop.loop import Loop
from reactor.loop.registry import EVENT_READ, EXCLUSIVE
from reactor.loop.timers import Handle
from reactor.options import ProxyProtocol, check_callable, seconds
from reactor.protocol import Factory

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    import ssl

    from reactor.connection.pending_header import PendingHeader

__all__ = [
    "AcceptErrorHandler", "Listener", "TLSErrorHandler", "admit_taken_over", "begin_draining",
    "detach_listener", "factory_of", "has_ended", "hold_for_handover", "recover_listener", "set_no_delay",
    "settings_of",
]  # fmt: skip

#: Called with the error of a TLS handshake that failed.
TLSErrorHandler = Callable[[TLSHandshakeError], object]

#: Called when there is no descriptor or memory for a new connection; returns whether it has made room.
AcceptErrorHandler = Callable[[OSError], bool]

# The back-off from accepting when descriptors or memory have run out, seconds: doubling up to a second,
# as long as asyncio always waits.
_FIRST_BACKOFF = 0.01
_LAST_BACKOFF = 1.0


class Hold(Enum):
    """A reason to accept nothing: a listener accepts while there is none."""

    PAUSED = "paused"  # from `pause` to `resume`, or to a drain
    FULL = "full"  # from the connection that reaches `Limits.max_connections` to the end of one
    HANDOVER = "handover"  # while connections are handed over to another process, or taken over from one
    BACKING_OFF = "backing off"  # from an error of accept(2) to the retry, or to the end of a connection


# The end of a connection makes room for another one, and gives a descriptor back.
_ENDED_BY_A_CONNECTION_S_END = (Hold.FULL, Hold.BACKING_OFF)


@attrs.define(eq=False, repr=False, kw_only=True)
class Listener:
    """Listening sockets of one address, and the limits of their connections.

    Made by `Reactor.listen`. Called on the thread that drives the reactor.

    addresses: those that it listens on, with the real ports.
    connections: how many of its connections are open, or closed and waiting for their peer's end.

    >>> from reactor import Protocol, Reactor
    >>> with Reactor() as reactor:
    ...     listener = reactor.listen("127.0.0.1:0", Protocol)
    ...     listener.pause()
    ...     listener.addresses[0].host, listener.connections
    ('127.0.0.1', 0)
    """

    addresses: tuple[Address, ...] = attrs.field(default=(), init=False)
    connections: int = attrs.field(default=0, init=False)

    # What it is made of.
    _sockets: list[socket.socket]
    _path: UnixPath | None  # of a Unix socket whose file is to be removed
    _settings: Settings  # of its connections; made with those of the reactor
    _loop: Loop = attrs.field(init=False)

    # How it accepts.
    _factory: Factory
    _connection_type: type[Connection]
    _backlog: int
    _on_accept_error: AcceptErrorHandler | None
    _on_tls_error: TLSErrorHandler | None
    _proxy_protocol: ProxyProtocol | None = None
    _shared: bool = False  # other processes accept on these sockets too
    _interest: int = attrs.field(init=False)

    # Counting: for its limits by client prefix, for the reactor with two callables.
    _by_prefix: Counter[bytes] = attrs.field(factory=Counter, init=False)
    _on_open: Callable[[], object]
    _on_gone: Callable[[bytes | None, BaseException | None], object] = attrs.field(init=False)

    # Accepting nothing.
    _holds: set[Hold] = attrs.field(factory=set, init=False)
    _backoff: float = attrs.field(default=_FIRST_BACKOFF, init=False)
    _retry: Handle = attrs.field(init=False)
    # With `when_full="refuse"`: a descriptor that is closed for a moment when there are none left, so that
    # connections can be accepted and closed.
    _reserve: FileIO | None = attrs.field(default=None, init=False)

    # Draining.
    _drain: Drain | None = attrs.field(default=None, init=False)  # its own
    _drains: list[Drain] = attrs.field(factory=list, init=False)  # and the reactor's
    # What each accept queue may still hold of the connections that came before the drain.
    _left_in_backlog: dict[socket.socket, int] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self._settings
        self._loop = loop = settings.loop
        self._interest = (
            EVENT_READ | EXCLUSIVE if self._shared and loop.registry.reports_errors else EVENT_READ
        )
        self._on_gone = settings.on_gone
        self._retry = Handle(self._release, (Hold.BACKING_OFF,))
        try:
            self.addresses = tuple(Address.from_sockaddr(sock.getsockname()) for sock in self._sockets)
            origin = f"accepted on {', '.join(map(str, self.addresses))}"
            self._settings = attrs.evolve(settings, origin=origin, listener=self, on_gone=self._gone)
            if settings.limits.when_full == "refuse":
                self._reserve = loop.system.reserve()
            for sock in self._sockets:
                acceptor = _Acceptor(self, self._accept, sock)
                loop.registry.register(sock.fileno(), self._interest, _Acceptor.on_event, acceptor)
        except OSError:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Listener {', '.join(map(str, self.addresses)) or 'closed'}>"

    def pause(self) -> None:
        """Accept nothing until `resume`; new connections wait in the kernel's accept queue."""
        self._check_open()
        self._hold(Hold.PAUSED)

    def resume(self) -> None:
        """Undo `pause`."""
        self._check_open()
        self._release(Hold.PAUSED)

    def replace_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS with `context` on connections that come from now on; those that are open go on.

        Raises UsageError for a context of the client's side.
        """
        self._loop.lifetime.check_process()
        self._settings = attrs.evolve(self._settings, tls=self._settings.make_tls(context, True))

    def close(self) -> None:
        """Accept no more, and remove the file of a Unix socket. Open connections go on.

        Connections still in the accept queue are reset; `drain` serves them.
        """
        self._loop.lifetime.check_process()
        for sock in list(self._sockets):
            self._close_socket(sock)

    def is_closed(self) -> bool:
        """Return whether it accepts no more: `close` was called, or `drain` has emptied the accept queue."""
        return not self._sockets

    def drain(self, timeout: float = 30.0, on_done: Callable[[Drained], object] | None = None) -> None:
        """Serve the connections in the accept queue, accept no more, and let all come to their end.

        An idle connection is closed at once: no unread input, nothing queued, no read deadline running, and
        `Protocol.draining`, if there is one, does not return True. The others are checked again.
        on_done: called with a `Drained` when all have ended; None logs it.
        timeout: seconds, after which what is still open is aborted with `DrainTimeout`; infinity: never.
        More than once does nothing. Raises UsageError after `close`, ValueError for a timeout below 0 or NaN,
        TypeError for one that is no number.
        """
        timeout = seconds("timeout", timeout, zero=True)
        check_callable("on_done", on_done, optional=True)
        if self._drain is None:
            self._check_open()
            self._drain = Drain(
                loop=self._loop,
                timeout=timeout,
                connections=self._own_connections,
                lingering=self._own_lingering,
                count_connections=lambda: self.connections,
                is_listening=lambda: bool(self._sockets),
                stop_listening=self.close,
                on_done=on_done or self._log_drained,
            )
            self._begin_draining(self._drain)

    def _begin_draining(self, drain: Drain) -> None:
        """Accept what is in the accept queue, and close each listening socket once that is empty."""
        if drain not in self._drains:
            self._drains.append(drain)
        if not self._left_in_backlog:
            # Linux holds one more than it is asked to: listen(2).
            self._left_in_backlog = dict.fromkeys(self._sockets, self._backlog + 1)
            self._release(Hold.PAUSED, Hold.HANDOVER)
            for sock in self._sockets:
                self._loop.scheduler.call_soon(self._accept, sock)

    def _own_connections(self) -> list[Connection]:
        connections = connections_of(self._loop.registry)
        return [connection for connection in connections if connection.listener is self]

    def _own_lingering(self) -> list[Linger]:
        return [lingering for lingering in lingering_of(self._loop.registry) if lingering.listener is self]

    def _log_drained(self, report: Drained) -> None:
        logger().info("%s drained: %s", self, report)

    def _accept(self, sock: socket.socket) -> None:
        """Accept what waits on a listening socket, up to `Limits.accept_batch` and the end of the budget."""
        loop = self._loop
        limited = loop.slice_end < math.inf
        for _ in range(self._settings.limits.accept_batch):
            if self._holds or sock not in self._sockets:
                return
            try:
                accepted, sockaddr = sock.accept()
            except InterruptedError:
                continue
            except BlockingIOError:
                if sock in self._left_in_backlog:
                    self._close_socket(sock)
                return
            except OSError as exc:
                if exc.errno not in ACCEPT_AGAIN and not self._make_room(exc):
                    self._back_off(exc, sock)
                    return
            else:
                self._backoff = _FIRST_BACKOFF
                self._admit(accepted, sockaddr)
                if self._left_in_backlog:
                    self._count_backlog(sock)
                if limited and loop.time() >= loop.slice_end:
                    break
        self._accept_again(sock)

    def _accept_again(self, sock: socket.socket) -> None:
        # An empty accept queue is no event, and a drain waits to see it empty.
        if sock in self._left_in_backlog and sock in self._sockets:
            self._loop.scheduler.call_soon(self._accept, sock)

    def _count_backlog(self, sock: socket.socket) -> None:
        if sock in self._left_in_backlog and sock in self._sockets:
            self._left_in_backlog[sock] -= 1
            if not self._left_in_backlog[sock]:  # what comes now came after the drain began
                self._close_socket(sock)

    def _admit(self, sock: socket.socket, sockaddr: Any) -> None:
        settings, proxy = self._settings, self._proxy_protocol
        limits, prefix = settings.limits, None
        if limits.max_per_ip is not None and proxy is None:
            prefix = client_prefix(pack_sockaddr(sockaddr))
        if limits.max_connections is not None and self.connections >= limits.max_connections:
            self._refuse(sock, "max_connections")
            return
        if prefix is not None and self._by_prefix[prefix] >= (limits.max_per_ip or 0):
            self._refuse(sock, "max_per_ip")
            return
        if proxy is not None and not proxy.trusts(sockaddr):
            self._refuse_untrusted(sock, sockaddr)
            return
        try:
            protocol: Any
            if proxy is not None:
                protocol = self._pending_header(sock, sockaddr, proxy)
            elif settings.tls is None:
                protocol = make_protocol(self._factory)
            else:
                protocol = self._pending_handshake(sockaddr)
        except Exception as exc:
            reset(sock)
            self._loop.scheduler.report(exc, f"the protocol factory of {self}")
            return
        try:
            self.connections += 1
            if prefix is not None:
                self._by_prefix[prefix] += 1
            self._loop.counters.accepted += 1
            self._opened()
            if self.connections == limits.max_connections and limits.when_full == "hold":
                self._hold(Hold.FULL)
            sock.setblocking(False)
            if sys.platform != "linux":
                set_no_delay(sock)  # inherited from the listening socket on Linux only
            if proxy is None:
                connection = self._connection_type(settings, sock, protocol, sockaddr)
                open_connection(connection)
            else:
                connection = self._connection_type(settings, sock, protocol, None)
                await_header(connection)
        except OSError as exc:
            reset(sock)
            self._gone(prefix, exc)
            self._loop.scheduler.report(exc, f"accepting on {self}")
            return
        for drain in self._drains:
            drain.connection_admitted(connection)

    def _pending_handshake(self, sockaddr: Any) -> Any:
        pending = pending_handshake_of(self._factory)
        return pending(self, self._factory, partial(self._tls_failed, sockaddr))

    def _tls_failed(self, sockaddr: Any, exc: BaseException) -> None:
        if isinstance(exc, ConnectionAborted):
            return  # by this side
        peer = Address.from_sockaddr(sockaddr)
        kind = type(exc) if isinstance(exc, TLSHandshakeError) else TLSHandshakeError
        error = kind(f"no TLS with {peer}: {exc}")
        error.__cause__ = exc
        if self._on_tls_error is None:
            self._loop.scheduler.log.info((self, str(exc)), "%s", error)
        else:
            self._loop.scheduler.call(self._on_tls_error, error)

    # The PROXY protocol

    def _refuse_untrusted(self, sock: socket.socket, sockaddr: Any) -> None:
        message = "%s: %s is refused: it is none of the trusted proxies"
        self._loop.scheduler.log.warning((self, message), message, self, Address.from_sockaddr(sockaddr))
        self._refuse(sock, "proxy_untrusted")

    def _pending_header(self, sock: socket.socket, sockaddr: Any, proxy: ProxyProtocol) -> PendingHeader:
        from reactor.connection.pending_header import PendingHeader  # noqa: PLC0415 - few programs need it

        done, failed = partial(self._header_received, sockaddr), partial(self._header_failed, sockaddr)
        return PendingHeader(self._loop, sock, proxy.timeout, done, failed)

    def _header_received(self, sockaddr: Any, connection: Connection, pending: PendingHeader) -> None:
        """Admit the client that the header of a connection names; without one, the proxy at `sockaddr`."""
        assert pending.header is not None
        client = sockaddr if pending.header.source is None else pending.header.source
        peer, limit = pack_sockaddr(client), self._settings.limits.max_per_ip
        prefix = None if limit is None else client_prefix(peer)
        if prefix is not None:
            if self._by_prefix[prefix] >= (limit or 0):
                self._loop.counters.refused["max_per_ip"] += 1
                fail(connection, ConnectionAborted("the client has max_per_ip connections"))
                return
            self._by_prefix[prefix] += 1
        identify(connection, attrs.evolve(self._settings, proxy_header=pending.encoded), peer)
        try:
            tls = self._settings.tls
            protocol = make_protocol(self._factory) if tls is None else self._pending_handshake(client)
        except Exception as exc:
            connection.abort(exc)
            self._loop.scheduler.report(exc, f"the protocol factory of {self}")
            return
        for drain in self._drains:
            drain.connection_admitted(connection)
        begin(connection, protocol)

    def _header_failed(self, sockaddr: Any, exc: BaseException) -> None:
        if not isinstance(exc, ProxyHeaderError):
            return  # ended by this side
        self._loop.counters.refused["proxy_header"] += 1
        message, peer = "%s: no PROXY header from %s: %s", Address.from_sockaddr(sockaddr)
        self._loop.scheduler.log.warning((self, message), message, self, peer, exc)

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        self._loop.counters.refused[reason] += 1
        close_quietly(sock)

    def _opened(self) -> None:
        self._on_open()
        if self._drain is not None:
            self._drain.connection_opened()

    def _gone(self, prefix: bytes | None, reason: BaseException | None) -> None:
        self.connections -= 1
        if prefix is not None and prefix in self._by_prefix:
            self._by_prefix[prefix] -= 1
            if not self._by_prefix[prefix]:
                del self._by_prefix[prefix]
        if self._holds:
            self._release(*_ENDED_BY_A_CONNECTION_S_END)
        self._on_gone(prefix, reason)
        if self._drain is not None:
            self._drain.connection_ended(reason)

    def _make_room(self, exc: OSError) -> bool:
        if exc.errno not in ACCEPT_EXHAUSTED:
            return False
        delivered = [lingering for lingering in lingering_of(self._loop.registry) if lingering.is_delivered()]
        for lingering in delivered:
            lingering.close()
        if delivered or self._on_accept_error is None:
            return bool(delivered)
        try:
            return bool(self._on_accept_error(exc))
        except Exception as problem:
            self._loop.scheduler.report(problem, f"on_accept_error of {self}")
            return False

    def _back_off(self, exc: OSError, sock: socket.socket) -> None:
        scarce = "out of resources" if exc.errno in ACCEPT_EXHAUSTED else "cannot accept"
        if self._reserve is not None and exc.errno in {errno.EMFILE, errno.ENFILE}:
            self._refuse_batch(sock)
        message = "%s: %s: %s; trying again in %g s"
        self._loop.scheduler.log.error((self, exc.errno), message, self, scarce, exc, self._backoff)
        self._hold(Hold.BACKING_OFF)
        self._retry.cancel()
        self._retry = self._loop.scheduler.call_later(self._backoff, self._release, Hold.BACKING_OFF)
        self._backoff = min(self._backoff * 2, _LAST_BACKOFF)

    def _refuse_batch(self, sock: socket.socket) -> None:
        """Close the reserve descriptor, and accept connections only to close them."""
        assert self._reserve is not None
        self._reserve.close()
        self._reserve = None
        try:
            for _ in range(self._settings.limits.accept_batch):
                self._refuse(sock.accept()[0], "descriptors")
        except OSError:
            pass  # none is left, or even this one descriptor was taken: the back-off goes on with it
        try:
            self._reserve = self._loop.system.reserve()
        except OSError:
            self._loop.scheduler.call_later(_LAST_BACKOFF, self._renew_reserve)

    def _renew_reserve(self) -> None:
        if self._sockets and self._reserve is None:
            try:
                self._reserve = self._loop.system.reserve()
            except OSError:
                self._loop.scheduler.call_later(_LAST_BACKOFF, self._renew_reserve)

    def _hold(self, reason: Hold) -> None:
        if not self._holds:
            self._watch(0)
        self._holds.add(reason)

    def _release(self, *reasons: Hold) -> None:
        """End these reasons to accept nothing, and accept again if there is no other."""
        if self._holds.isdisjoint(reasons):
            return
        self._holds.difference_update(reasons)
        if not self._holds:
            try:
                self._watch(self._interest)
            except OSError as exc:
                self._back_off(exc, self._sockets[0])
            for sock in self._sockets:
                self._accept_again(sock)

    def _watch(self, events: int) -> None:
        for sock in self._sockets:
            self._loop.registry.modify(sock.fileno(), events)

    def _close_socket(self, sock: socket.socket) -> None:
        self._sockets.remove(sock)
        if self._loop.registry.owner_of(sock.fileno()) is not None:
            self._loop.registry.unregister(sock.fileno())
        close_quietly(sock)
        if not self._sockets:
            self._release_files()
        if self._drain is not None:
            self._drain.finish_if_empty()

    def _release_files(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        if self._path is not None:
            self._path.remove()
            self._path = None

    def _check_open(self) -> None:
        self._loop.lifetime.check_process()
        if not self._sockets:
            raise UsageError("the listener is closed: listen again")


class _Acceptor:
    """One listening socket of a listener, for the registry."""

    __slots__ = ("_accept", "_listener", "_sock")

    def __init__(
        self, listener: Listener, accept: Callable[[socket.socket], None], sock: socket.socket
    ) -> None:
        self._listener = listener
        self._accept = accept
        self._sock = sock

    def __repr__(self) -> str:
        return repr(self._listener)

    def on_event(self, events: int) -> None:
        self._accept(self._sock)


def set_no_delay(sock: socket.socket) -> None:
    """Send small pieces at once on a TCP socket; other kinds are left alone."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# For the reactor


def begin_draining(listener: Listener, drain: Drain) -> None:
    """Accept what is in the accept queue for `drain`, and close each listening socket once that is empty."""
    listener._begin_draining(drain)


def has_ended(listener: Listener) -> bool:
    """Return whether it is closed, has no connection left, and is not being drained."""
    drain = listener._drain
    return listener.is_closed() and not listener.connections and (drain is None or drain.is_done())


def recover_listener(listener: Listener, open_: Counter[bytes | None]) -> None:
    """Count again, and accept unless something holds it, after an interrupt anywhere.

    open_: how many sockets of its connections are open, by the client prefix of their peers.
    """
    listener.connections = open_.total()
    limits, holds, drain = listener._settings.limits, listener._holds, listener._drain
    if limits.max_per_ip is not None:
        listener._by_prefix = Counter({prefix: n for prefix, n in open_.items() if prefix is not None})
    if limits.max_connections is None or listener.connections < limits.max_connections:
        holds.discard(Hold.FULL)
    if listener._retry.cancelled():
        holds.discard(Hold.BACKING_OFF)
    listener._watch(0 if holds else listener._interest)
    for sock in listener._sockets:
        listener._accept_again(sock)
    if drain is not None and not drain.is_done():
        listener._begin_draining(drain)
        drain.recover()


def detach_listener(listener: Listener) -> list[socket.socket]:
    """Detach after fork: stop using kernel objects shared with the parent. Returns the sockets."""
    listener._path = None
    listener._release_files()
    return listener._sockets


# For the handover of connections between processes


def factory_of(listener: Listener) -> Factory:
    """Return the factory of its connections' protocols."""
    return listener._factory


def settings_of(listener: Listener) -> Settings:
    """Return the settings that its connections begin with."""
    return listener._settings


def hold_for_handover(listener: Listener, held: bool) -> None:
    """Accept nothing while `held` is True; a drain ends that. Does nothing if the listener is closed."""
    if listener.is_closed():
        return
    if held:
        listener._hold(Hold.HANDOVER)
    else:
        listener._release(Hold.HANDOVER)


def admit_taken_over(listener: Listener, sock: socket.socket, snapshot: Snapshot) -> Connection:
    """Count a connection that another process has handed over, and return it, frozen.

    Raises OSError if the selector refuses the socket, which is then closed.
    """
    limits = listener._settings.limits
    prefix = None if limits.max_per_ip is None else client_prefix(snapshot.peer)
    listener.connections += 1
    if prefix is not None:
        listener._by_prefix[prefix] += 1
    listener._loop.counters.taken_over += 1
    listener._opened()
    full = limits.max_connections is not None and listener.connections >= limits.max_connections
    if full and limits.when_full == "hold":
        listener._hold(Hold.FULL)
    try:
        return revive(listener._connection_type, listener._settings, sock, snapshot)
    except OSError as exc:
        close_quietly(sock)
        listener._gone(prefix, exc)
        raise


# For the status page


def holds_of(listener: Listener) -> list[str]:
    """Return the reasons for which it accepts nothing, of `Hold`'s values; none: it accepts."""
    return sorted(hold.value for hold in listener._holds)
