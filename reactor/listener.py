"""The accepting side: listening sockets, their limits, and when they hold still."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

from reactor.address import Address
from reactor.binding import UnixPath
from reactor.connection import Connection
from reactor.errors import ACCEPT_AGAIN, ACCEPT_EXHAUSTED, UsageError
from reactor.loop import Loop
from reactor.options import Limits, Timeouts
from reactor.registry import EVENT_READ
from reactor.terms import IdleWatch, Terms

__all__ = ["Factory", "Listener", "set_no_delay"]

log = logging.getLogger("reactor")

#: Makes the protocol of a new connection.
Factory = Callable[[], Any]

# How long accepting stops when descriptors or memory have run out, seconds: doubling up to a second,
# as long as asyncio always waits.
_FIRST_BACKOFF = 0.01
_LAST_BACKOFF = 1.0


class Listener:
    """Accepts connections on one address and gives each a protocol of the factory.

    Made by `Reactor.listen`. Called on the thread that drives the reactor.

    addresses: what is listened on, with the real ports. connections: how many are open.
    """

    def __init__(
        self,
        loop: Loop,
        sockets: list[socket.socket],
        factory: Factory,
        *,
        limits: Limits,
        timeouts: Timeouts,
        idle: IdleWatch | None,
        on_lost: Callable[[Connection], object],
        path: str | None,
    ) -> None:
        self.connections = 0
        self._loop = loop
        self._factory = factory
        self._limits = limits
        self._on_lost = on_lost
        self._terms = Terms(limits, timeouts, idle, self._connection_lost)
        self._sockets = sockets
        self._path = UnixPath(path) if path is not None else None
        self.addresses = tuple(Address.from_sockaddr(sock.getsockname()) for sock in self._sockets)
        self._holds: set[str] = set()
        self._backoff = _FIRST_BACKOFF
        self._logged_until = 0.0
        try:
            for sock in self._sockets:
                loop.registry.register(sock.fileno(), EVENT_READ, _Acceptor(self, sock))
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

    def close(self) -> None:
        """Accept no more, and remove the file of a Unix socket. Open connections go on."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            if self._loop.registry.handler_of(sock.fileno()) is not None:
                self._loop.registry.unregister(sock.fileno())
            sock.close()
        if self._path is not None:
            self._path.remove()
            self._path = None

    def is_closed(self) -> bool:
        """Return whether `close` was called."""
        return not self._sockets

    def accept(self, sock: socket.socket) -> None:
        """Accept what waits on one of the listening sockets, a batch at most. The loop's call."""
        for _ in range(self._limits.accept_batch):
            if self._holds or not self._sockets:
                return
            try:
                accepted, sockaddr = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in ACCEPT_AGAIN:
                    continue
                self._back_off(exc)
                return
            self._backoff = _FIRST_BACKOFF
            self._admit(accepted, sockaddr)

    def _admit(self, sock: socket.socket, sockaddr: Any) -> None:
        try:
            protocol = self._factory()
        except Exception as exc:
            sock.close()
            self._loop.report(exc, f"the protocol factory of {self}")
            return
        self.connections += 1
        if self.connections == self._limits.max_connections:
            self._hold("full")
        try:
            sock.setblocking(False)
            if sys.platform != "linux":
                set_no_delay(sock)  # inherited from the listening socket on Linux only
            Connection(self._loop, sock, protocol, self._terms, sockaddr).open()
        except OSError as exc:
            sock.close()
            self._leave()
            self._loop.report(exc, f"accepting on {self}")

    def _connection_lost(self, connection: Connection) -> None:
        self._leave()
        self._on_lost(connection)

    def _leave(self) -> None:
        self.connections -= 1
        self._release("full")

    def _back_off(self, exc: OSError) -> None:
        self._hold("backing off")
        self._loop.call_later(self._backoff, self._release, "backing off")
        if self._loop.now >= self._logged_until:
            self._logged_until = self._loop.now + 1.0
            scarce = "out of resources" if exc.errno in ACCEPT_EXHAUSTED else "cannot accept"
            log.error("%s: %s: %s; trying again in %g s", self, scarce, exc, self._backoff)
        self._backoff = min(self._backoff * 2, _LAST_BACKOFF)

    def _hold(self, why: str) -> None:
        if not self._holds:
            self._watch(0)
        self._holds.add(why)

    def _release(self, why: str) -> None:
        self._holds.discard(why)
        if not self._holds:
            try:
                self._watch(EVENT_READ)
            except OSError as exc:
                self._back_off(exc)

    def _watch(self, events: int) -> None:
        for sock in self._sockets:
            self._loop.registry.modify(sock.fileno(), events)

    def _check_open(self) -> None:
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
