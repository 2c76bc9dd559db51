"""Happy eyeballs: overlapping attempts to connect to the addresses of one peer; the first to succeed wins.

RFC 8305: IPv6 and IPv4 addresses are tried in turn, the next one 250 ms after the one before, or as soon as
that has failed.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

from reactor.address import Address
from reactor.connection.closing import close_quietly
from reactor.listening.listener import set_no_delay
from reactor.loop.loop import Loop
from reactor.loop.registry import EVENT_WRITE
from reactor.loop.timers import Handle

__all__ = ["ATTEMPT_DELAY", "Place", "Race", "interleave"]

#: Seconds between the starts of two attempts: RFC 8305, 5, "Connection Attempt Delay".
ATTEMPT_DELAY = 0.25

#: An address family, and an address as connect(2) takes it.
Place = tuple[socket.AddressFamily, Any]

# What connect(2) on a non-blocking socket says when the answer comes later, here and on Windows. EAGAIN is
# not of them: a Unix socket says it for a full backlog, and nothing comes later.
_IN_PROGRESS = frozenset({errno.EINPROGRESS, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS)})


def interleave(places: Sequence[Place]) -> list[Place]:
    """Return `places` with their families alternating, beginning with the first one's: RFC 8305, 4."""
    families = dict.fromkeys(family for family, _ in places)
    groups = [[place for place in places if place[0] == family] for family in families]
    return [place for place in chain.from_iterable(zip_longest(*groups)) if place is not None]


class Race:
    """Overlapping attempts to connect to one of several addresses.

    local_address: the address to connect from; None leaves it to the kernel.
    on_won: called with the connected socket and its peer's address. on_lost: called when all have failed.

    answer: the addresses that a look-up has found, with its error or None; None before it is done.
    unfinished: whether a step is being done, or was left half done by an interrupt.
    """

    def __init__(
        self,
        loop: Loop,
        local_address: Address | None,
        on_won: Callable[[socket.socket, Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._places: list[Place] = []
        self._local_address = local_address
        self._on_won = on_won
        self._on_lost = on_lost
        self._attempts: list[_Attempt] = []
        self._timer: Handle | None = None
        self.answer: tuple[list[Place], OSError | None] | None = None
        self.unfinished = False

    def start(self, places: Sequence[Place]) -> None:
        """Try `places`, in this order."""
        self._places = list(places)
        self.go_on()

    def go_on(self) -> None:
        """Start the next attempt; if there is none, and none is under way, call `on_lost`."""
        self.unfinished = True
        self._start_next()
        self.unfinished = False

    def _start_next(self) -> None:
        self._cancel_timer()
        while self._places:
            attempt = _Attempt(self._loop, self, *self._places.pop(0))
            self._attempts.append(attempt)
            if attempt.start(self._local_address):
                if self._places and attempt.sock is not None:
                    self._timer = self._loop.scheduler.call_later(ATTEMPT_DELAY, self.go_on)
                return
        if not self.sockets():
            self._on_lost()

    def stop(self) -> None:
        """Close the sockets of all attempts."""
        self._cancel_timer()
        self._places = []
        for attempt in self._attempts:
            attempt.drop()

    def won(self, sock: socket.socket, sockaddr: Any) -> None:
        """Close the other attempts, and hand `sock` on: it is connected."""
        self.stop()
        self._on_won(sock, sockaddr)

    def sockets(self) -> list[socket.socket]:
        """Return the sockets of the attempts that are under way."""
        return [attempt.sock for attempt in self._attempts if attempt.sock is not None]

    def is_broken(self) -> bool:
        """Return whether an interrupt has left it in a state that may never end."""
        if self.unfinished:
            return True
        waits = self._timer is not None and not self._timer.cancelled()
        return bool(self._places) and not waits

    def outcome(self) -> list[tuple[str, OSError]]:
        """Return each attempt's address and its error, in the order in which they were started."""
        return [(str(Address.from_sockaddr(attempt.sockaddr)), attempt.problem) for attempt in self._attempts]

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class _Attempt:
    """One attempt to connect. sock: its socket; None when it is connected, or has failed with `problem`."""

    def __init__(self, loop: Loop, race: Race, family: socket.AddressFamily, sockaddr: Any) -> None:
        self.sockaddr = sockaddr
        self.sock: socket.socket | None = None
        self.problem = OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))  # unless another is set
        self._family = family
        self._loop = loop
        self._race = race

    def start(self, local_address: Address | None) -> bool:
        """Begin to connect; return whether it is under way, or has succeeded already."""
        try:
            self.sock = sock = self._loop.system.new_socket(self._family)
            sock.setblocking(False)
            set_no_delay(sock)
            if local_address is not None:
                sock.bind(self._source(local_address))
            problem = sock.connect_ex(self.sockaddr)
            if problem in _IN_PROGRESS:
                self._loop.registry.register(sock.fileno(), EVENT_WRITE, _Attempt.on_event, self)
                return True
        except OSError as exc:
            self._fail(exc)
            return False
        return self._answered(problem)

    def _source(self, local_address: Address) -> Any:
        for family, sockaddr in self._loop.system.resolve(local_address):
            if family == self._family:
                return sockaddr
        raise OSError(errno.EAFNOSUPPORT, f"local_address {local_address} is of another family")

    def on_event(self, events: int) -> None:
        """Find out whether it has succeeded or failed. Called by the loop."""
        assert self.sock is not None
        self._race.unfinished = True
        try:
            problem = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as exc:
            problem = exc.errno or errno.EIO
        if not self._answered(problem):
            self._race.go_on()
        self._race.unfinished = False

    def drop(self) -> None:
        """Close the socket, if it has not been handed on."""
        if self.sock is not None:
            self._unregister(self.sock)
            close_quietly(self.sock)
            self.sock = None

    def _answered(self, problem: int) -> bool:
        if problem:
            self._fail(OSError(problem, os.strerror(problem)))
            return False
        sock = self.sock
        assert sock is not None
        self._unregister(sock)
        self.sock = None
        self._race.won(sock, self.sockaddr)
        return True

    def _fail(self, exc: OSError) -> None:
        self.problem = exc
        self.drop()

    def _unregister(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0 and self._loop.registry.owner_of(sock.fileno()) is self:
            self._loop.registry.unregister(sock.fileno())
