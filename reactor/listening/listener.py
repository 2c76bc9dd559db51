"""The accepting side: listening sockets, their limits, and when they hold still."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from io import FileIO
from typing import Any

import attrs

from reactor.address import Address, client_prefix, pack_sockaddr
from reactor.connection.closing import Linger, close_quietly, lingering_of, reset
from reactor.connection.connection import Connection, connections_of, open_connection
from reactor.connection.deadlines import DeadlineMonitor
from reactor.connection.handshake import pending_handshake_of
from reactor.connection.interface import make_protocol
from reactor.connection.settings import Settings
from reactor.errors import (
    ACCEPT_AGAIN,
    ACCEPT_EXHAUSTED,
    ConnectionAborted,
    TLSHandshakeError,
    UsageError,
)
from reactor.listening.binding import UnixPath
from reactor.listening.drain import Drain, Drained
from reactor.loop.loop import Loop
from reactor.loop.registry import EVENT_READ
from reactor.loop.timers import Handle
from reactor.options import Limits, Timeouts, check_callable, seconds
from reactor.protocol import Factory
from reactor.tls.secure_socket import Bios, Tls

__all__ = ["AcceptErrorHandler", "Listener", "TLSErrorHandler", "set_no_delay"]

#: Makes the protocol of a new connection.

#: Is told of a TLS handshake that failed.
TLSErrorHandler = Callable[[TLSHandshakeError], object]

#: Is told that there is no descriptor or memory for a newcomer; returns whether it has made room.
AcceptErrorHandler = Callable[[OSError], bool]

# How long accepting stops when descriptors or memory have run out, seconds: doubling up to a second,
# as long as asyncio always waits.
_FIRST_BACKOFF = 0.01
_LAST_BACKOFF = 1.0


class Listener:
    """Accepts connections on one address and gives each a protocol of the factory.

    Made by `Reactor.listen`. Called on the thread that drives the reactor.

    addresses: what is listened on, with the real ports. connections: how many are open, or closed and
    waiting for their peer's end.

    >>> from reactor import Protocol, Reactor
    >>> with Reactor() as reactor:
    ...     listener = reactor.listen("127.0.0.1:0", Protocol)
    ...     listener.pause()
    ...     listener.addresses[0].host, listener.connections
    ('127.0.0.1', 0)
    """

    def __init__(
        self,
        loop: Loop,
        sockets: list[socket.socket],
        factory: Factory,
        *,
        limits: Limits,
        timeouts: Timeouts,
        monitor: DeadlineMonitor,
        connection_type: type[Connection],
        on_gone: Callable[[bytes | None, BaseException | None], object],
        on_accept_error: AcceptErrorHandler | None,
        backlog: int,
        path: str | None,
        bios: Bios,
        tls: Tls | None,
        on_tls_error: TLSErrorHandler | None,
    ) -> None:
        self.connections = 0
        self._loop = loop
        self._factory = factory
        self._limits = limits
        self._on_gone = on_gone
        self._connection_type = connection_type
        self._on_accept_error = on_accept_error
        self._on_tls_error = on_tls_error
        self._sockets = sockets
        self._path = UnixPath(path) if path is not None else None
        self.addresses: tuple[Address, ...] = ()
        self._by_site: Counter[bytes] = Counter()
        self._holds: set[str] = set()
        self._backoff = _FIRST_BACKOFF
        self._retry = Handle(self._release, ("backing off",))
        self._tell_admitted: list[Callable[[Connection], object]] = []
        self._backlog = backlog
        # During a drain: what each socket's accept queue may still hold of those who came before it.
        self._left_in_backlog: dict[socket.socket, int] = {}
        self._drain: Drain | None = None
        # Given up for a moment when there are none left, so that newcomers can be refused.
        self._reserve: FileIO | None = None
        try:
            self.addresses = tuple(Address.from_sockaddr(sock.getsockname()) for sock in sockets)
            origin = f"accepted on {', '.join(map(str, self.addresses))}"
            self._settings = Settings(
                loop=loop,
                reactor=loop,
                limits=limits,
                timeouts=timeouts,
                monitor=monitor,
                origin=origin,
                listener=self,
                on_gone=self._gone,
                bios=bios,
                tls=tls,
            )
            if limits.when_full == "refuse":
                self._reserve = loop.system.reserve()
            for sock in self._sockets:
                loop.registry.register(sock.fileno(), EVENT_READ, _Acceptor.on_event, _Acceptor(self, sock))
        except OSError:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Listener {', '.join(map(str, self.addresses)) or 'closed'}>"

    def pause(self) -> None:
        """Accept nobody until `resume`; the kernel's backlog holds the newcomers."""
        self._check_open()
        self._hold("paused")

    def resume(self) -> None:
        """Undo `pause`."""
        self._check_open()
        self._release("paused")

    def replace_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS with `context` on connections that come from now on; those that are open go on.

        Raises UsageError for a context of the client's side.
        """
        self._loop.check_process()
        self._settings = attrs.evolve(self._settings, tls=Tls(context, self._settings.bios, server_side=True))

    def close(self) -> None:
        """Accept no more, and remove the file of a Unix socket. Open connections go on.

        Who waits in the kernel's backlog is reset by it; `drain` serves them.
        """
        self._loop.check_process()
        for sock in list(self._sockets):
            self._close_socket(sock)

    def disown(self) -> list[socket.socket]:
        """Return the sockets: this is a child process, which may do nothing but close them."""
        self._path = None
        self._give_up()
        return self._sockets

    def is_closed(self) -> bool:
        """Return whether it accepts no more: `close` was called, or `drain` has emptied the backlog."""
        return not self._sockets

    def drain(self, timeout: float = 30.0, on_done: Callable[[Drained], object] | None = None) -> None:
        """Serve who waits in the backlog, accept no more, and let the connections come to their end.

        A connection that has nothing under way is closed at once: no unread input, nothing queued, no
        message owed (`Timeouts.read`), and `Protocol.draining`, where there is one, does not say True.
        The others are asked again. on_done: is given a `Drained` when all have ended.
        timeout: seconds, after which what is still open is aborted with `DrainTimeout`; infinity: never.
        More than once does nothing. Raises UsageError after `close`, ValueError for a timeout below 0 or NaN,
        TypeError for one that is no number.
        """
        timeout = seconds("timeout", timeout, zero=True)
        check_callable("on_done", on_done, optional=True)
        if self._drain is None:
            self._check_open()
            self._drain = Drain(
                self._loop,
                timeout,
                connections=self._own_connections,
                lingering=self._own_lingering,
                held=lambda: self.connections + len(self._sockets),
                stop_listening=self.close,
                on_done=on_done or self._tell_drained,
            )
            self.start_drain(self._drain.admitted)

    def start_drain(self, admitted: Callable[[Connection], object]) -> None:
        """Take in what waits in the backlog, and close each listening socket when there is nobody more.

        admitted: is told of each connection.
        """
        if admitted not in self._tell_admitted:
            self._tell_admitted.append(admitted)
        if not self._left_in_backlog:
            # Linux holds one more than it is told: listen(2).
            self._left_in_backlog = dict.fromkeys(self._sockets, self._backlog + 1)
            self._release("paused")
            for sock in self._sockets:
                self._loop.call_soon(self.accept, sock)

    def _own_connections(self) -> list[Connection]:
        everyone = connections_of(self._loop.registry)
        return [connection for connection in everyone if connection.listener is self]

    def _own_lingering(self) -> list[Linger]:
        return [lingering for lingering in lingering_of(self._loop.registry) if lingering.listener is self]

    def _tell_drained(self, report: Drained) -> None:
        logging.getLogger("reactor").info("%s drained: %s", self, report)

    def accept(self, sock: socket.socket) -> None:
        """Accept what waits on one of the listening sockets, a batch at most. The loop's call."""
        for _ in range(self._limits.accept_batch):
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
                self._count_backlog(sock)
        self._look_again(sock)

    def _look_again(self, sock: socket.socket) -> None:
        # An empty backlog is no event, and a drain waits to see it empty.
        if sock in self._left_in_backlog and sock in self._sockets:
            self._loop.call_soon(self.accept, sock)

    def _count_backlog(self, sock: socket.socket) -> None:
        if sock in self._left_in_backlog and sock in self._sockets:
            self._left_in_backlog[sock] -= 1
            if not self._left_in_backlog[sock]:  # whoever comes now came after the drain began
                self._close_socket(sock)

    def _admit(self, sock: socket.socket, sockaddr: Any) -> None:
        limits = self._limits
        site = None if limits.max_per_ip is None else client_prefix(pack_sockaddr(sockaddr))
        if limits.max_connections is not None and self.connections >= limits.max_connections:
            self._refuse(sock, "max_connections")
            return
        if site is not None and self._by_site[site] >= (limits.max_per_ip or 0):
            self._refuse(sock, "max_per_ip")
            return
        try:
            if self._settings.tls is None:
                protocol = make_protocol(self._factory)
            else:
                pending = pending_handshake_of(self._factory)
                protocol = pending(self, self._factory, partial(self._tls_failed, sockaddr))
        except Exception as exc:
            reset(sock)
            self._loop.report(exc, f"the protocol factory of {self}")
            return
        try:
            self.connections += 1
            if site is not None:
                self._by_site[site] += 1
            self._loop.counters.accepted += 1
            if self.connections == limits.max_connections and limits.when_full == "hold":
                self._hold("full")
            sock.setblocking(False)
            if sys.platform != "linux":
                set_no_delay(sock)  # inherited from the listening socket on Linux only
            connection = self._connection_type(self._settings, sock, protocol, sockaddr)
            open_connection(connection)
        except OSError as exc:
            reset(sock)
            self._gone(site, exc)
            self._loop.report(exc, f"accepting on {self}")
            return
        for admitted in self._tell_admitted:
            admitted(connection)

    def _tls_failed(self, sockaddr: Any, exc: BaseException) -> None:
        if isinstance(exc, ConnectionAborted):
            return  # this side has given it up
        peer = Address.from_sockaddr(sockaddr)
        kind = type(exc) if isinstance(exc, TLSHandshakeError) else TLSHandshakeError
        error = kind(f"no TLS with {peer}: {exc}")
        error.__cause__ = exc
        if self._on_tls_error is None:
            self._loop.log.log(logging.INFO, (self, str(exc)), "%s", error)
        else:
            self._loop.call(self._on_tls_error, error)

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        self._loop.counters.refused[reason] += 1
        close_quietly(sock)

    def _gone(self, site: bytes | None, reason: BaseException | None) -> None:
        self.connections -= 1
        if site is not None and site in self._by_site:
            self._by_site[site] -= 1
            if not self._by_site[site]:
                del self._by_site[site]
        self._release("full")
        self._release("backing off")  # there is a descriptor again
        self._on_gone(site, reason)
        if self._drain is not None:
            self._drain.ended(reason)

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
            self._loop.report(problem, f"on_accept_error of {self}")
            return False

    def _back_off(self, exc: OSError, sock: socket.socket) -> None:
        scarce = "out of resources" if exc.errno in ACCEPT_EXHAUSTED else "cannot accept"
        if self._reserve is not None and exc.errno in {errno.EMFILE, errno.ENFILE}:
            self._refuse_batch(sock)
        told = "%s: %s: %s; trying again in %g s"
        self._loop.log.log(logging.ERROR, (self, exc.errno), told, self, scarce, exc, self._backoff)
        self._hold("backing off")
        self._retry.cancel()
        self._retry = self._loop.call_later(self._backoff, self._release, "backing off")
        self._backoff = min(self._backoff * 2, _LAST_BACKOFF)

    def _refuse_batch(self, sock: socket.socket) -> None:
        """With the reserve descriptor given up, accept newcomers only to close them."""
        assert self._reserve is not None
        self._reserve.close()
        self._reserve = None
        try:
            for _ in range(self._limits.accept_batch):
                self._refuse(sock.accept()[0], "descriptors")
        except OSError:
            pass  # nobody is left, or even this one descriptor was taken: the back-off goes on with it
        try:
            self._reserve = self._loop.system.reserve()
        except OSError:
            self._loop.call_later(_LAST_BACKOFF, self._renew_reserve)

    def _renew_reserve(self) -> None:
        if self._sockets and self._reserve is None:
            try:
                self._reserve = self._loop.system.reserve()
            except OSError:
                self._loop.call_later(_LAST_BACKOFF, self._renew_reserve)

    def recover(self, open_: Counter[bytes | None]) -> None:
        """Count again, and accept where nothing holds it, after an interrupt anywhere.

        open_: how many sockets of its connections are open, by the site of their peers.
        """
        self.connections = open_.total()
        if self._limits.max_per_ip is not None:
            self._by_site = Counter({site: number for site, number in open_.items() if site is not None})
        limit = self._limits.max_connections
        if limit is None or self.connections < limit:
            self._holds.discard("full")
        if self._retry.cancelled():
            self._holds.discard("backing off")
        self._watch(0 if self._holds else EVENT_READ)
        for sock in self._sockets:
            self._look_again(sock)
        if self._drain is not None and not self._drain.is_done():
            self.start_drain(self._drain.admitted)
            self._drain.recover()

    def _hold(self, why: str) -> None:
        if not self._holds:
            self._watch(0)
        self._holds.add(why)

    def _release(self, why: str) -> None:
        if why not in self._holds:
            return
        self._holds.discard(why)
        if not self._holds:
            try:
                self._watch(EVENT_READ)
            except OSError as exc:
                self._back_off(exc, self._sockets[0])
            for sock in self._sockets:
                self._look_again(sock)

    def _watch(self, events: int) -> None:
        for sock in self._sockets:
            self._loop.registry.modify(sock.fileno(), events)

    def _close_socket(self, sock: socket.socket) -> None:
        self._sockets.remove(sock)
        if self._loop.registry.owner_of(sock.fileno()) is not None:
            self._loop.registry.unregister(sock.fileno())
        close_quietly(sock)
        if not self._sockets:
            self._give_up()
        if self._drain is not None:
            self._drain.finish_if_empty()

    def _give_up(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        if self._path is not None:
            self._path.remove()
            self._path = None

    def _check_open(self) -> None:
        self._loop.check_process()
        if not self._sockets:
            raise UsageError("the listener is closed: listen again")


class _Acceptor:
    """One listening socket of a listener, as the loop sees it."""

    __slots__ = ("_listener", "_sock")

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        self._listener = listener
        self._sock = sock

    def __repr__(self) -> str:
        return repr(self._listener)

    def on_event(self, events: int) -> None:
        self._listener.accept(self._sock)


def set_no_delay(sock: socket.socket) -> None:
    """Send small pieces at once on a TCP socket; other kinds are left alone."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
