"""A network in memory, for one thread: what a kernel keeps of listening sockets and connections.

What TCP does on Linux is followed where a server can see it: each direction has a send buffer and a
receive buffer, a FIN comes after the bytes before it, and closing with unread input, or sending to who
has closed, is answered with a reset, which drops what was not delivered.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import attrs

__all__ = ["FIRST_DESCRIPTOR", "Endpoint", "ListeningEndpoint", "Network", "SocketAddress", "error"]

#: Descriptors in memory start here: far above the real ones of a test, which a reactor has too.
FIRST_DESCRIPTOR = 512

SocketAddress = tuple[str, int]


def _length(data: bytearray) -> str:
    return f"{len(data)} bytes"


def error(number: int) -> OSError:
    """Return the exception that the socket module raises for `number`."""
    return OSError(number, os.strerror(number))


class Network:
    """Descriptors, deliveries that are due, and the one way in for every call that can fail.

    random: decides on all that a kernel decides. Each end has one of its own beside it, so that what
        happens to one connection does not depend on the order in which others are served.
    latency: the least and the most seconds that a segment is under way.
    choppy: how often a call or a segment takes less than it could.
    fault: asked for each call, with its name and index; an errno that it returns is raised.

    calls: the names of all calls, in order. complaints: what no program may do, in words.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        random: Random,
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        choppy: float = 0.0,
        fault: Callable[[str, int], int | None] = lambda name, index: None,
    ) -> None:
        self.clock = clock
        self.random = random
        self.choppy = choppy
        self.fault = fault
        self.calls: list[str] = []
        self.complaints: list[str] = []
        self.descriptors: dict[int, Any] = {}
        self.watched: set[int] = set()
        self.latency = latency
        self._free = [FIRST_DESCRIPTOR]
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._scheduled = 0
        self._ports = 0

    def call(self, name: str) -> None:
        """Count a call that can fail; raise what `fault` says."""
        self.calls.append(name)
        number = self.fault(name, len(self.calls) - 1)
        if number is not None:
            raise error(number)

    # Descriptors

    def open(self, sock: Any) -> int:
        """Give `sock` the lowest descriptor that is free, as a kernel does."""
        fd = heapq.heappop(self._free)
        if not self._free:
            self._free.append(fd + 1)
        self.descriptors[fd] = sock
        return fd

    def free(self, fd: int) -> None:
        """Take back a descriptor; the next socket gets it."""
        if fd in self.watched:
            self.complaints.append(f"descriptor {fd} was closed while it was registered")
        del self.descriptors[fd]
        heapq.heappush(self._free, fd)

    # Time

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Run `action` when the clock has reached `when`."""
        self._scheduled += 1
        heapq.heappush(self._due, (when, self._scheduled, action))

    def next_due(self) -> float | None:
        """Return when the next action is due, or None."""
        return self._due[0][0] if self._due else None

    def run_due(self) -> int:
        """Run the actions that are due, and return how many."""
        count = 0
        while self._due and self._due[0][0] <= self.clock():
            heapq.heappop(self._due)[2]()
            count += 1
        return count

    # Connections

    def connect(
        self, listening: ListeningEndpoint, *, host: str = "10.0.0.1", buffers: tuple[int, int] | None = None
    ) -> Endpoint:
        """Return the client's end of a new connection that waits in the backlog to be accepted.

        host: the client's. buffers: the sizes of its send and receive buffer; None for the listener's.
        """
        if listening.closed:
            raise error(errno.ECONNREFUSED)
        if len(listening.backlog) >= listening.limit:
            raise error(errno.EAGAIN)
        self._ports += 1
        client = Endpoint(self, (host, 1024 + self._ports % 60000), *(buffers or listening.buffers))
        server = Endpoint(self, listening.sockname, *listening.buffers)
        client.peer, server.peer = server, client
        listening.backlog.append(server)
        return client


@attrs.define(eq=False)
class ListeningEndpoint:
    """What a kernel keeps of a listening socket: the connections that wait to be accepted."""

    network: Network
    sockname: SocketAddress = ("10.0.0.254", 9092)
    buffers: tuple[int, int] = (4096, 4096)
    limit: int = 128
    backlog: deque[Endpoint] = attrs.Factory(deque)
    closed: bool = False

    def accept(self) -> Endpoint:
        """Take out the connection that has waited longest."""
        if not self.backlog:
            raise error(errno.EAGAIN)
        return self.backlog.popleft()

    def close(self, *, reset: bool = False) -> None:
        """Refuse newcomers, and reset who waits."""
        self.closed = True
        while self.backlog:
            self.backlog.popleft().reset()

    def ready(self) -> tuple[bool, bool]:
        """Return whether the socket is readable and writable, as epoll tells it."""
        return bool(self.backlog), False


@attrs.define(eq=False)
class Endpoint:
    """What a kernel keeps of one end of a connection; its methods are what its program calls.

    ending: a FIN waits behind `sending`. ended: it is under way. at_eof: the peer's has arrived.
    dead: reset by either side. orphan: its program has closed it, and `sending` still goes out.
    active: when its program last sent or received a byte. sent_at, sent: when it last sent, and how
    many bytes it has.
    """

    network: Network
    sockname: SocketAddress
    send_size: int
    receive_size: int
    peer: Endpoint = attrs.field(init=False, repr=False)
    sending: bytearray = attrs.field(factory=bytearray, init=False, repr=_length)
    receiving: bytearray = attrs.field(factory=bytearray, init=False, repr=_length)
    error: int | None = attrs.field(default=None, init=False)
    ending: bool = attrs.field(default=False, init=False)
    ended: bool = attrs.field(default=False, init=False)
    at_eof: bool = attrs.field(default=False, init=False)
    dead: bool = attrs.field(default=False, init=False)
    orphan: bool = attrs.field(default=False, init=False)
    active: float = attrs.field(default=-math.inf, init=False)
    sent_at: float = attrs.field(default=-math.inf, init=False)
    sent: int = attrs.field(default=0, init=False)
    _random: Random = attrs.field(init=False, repr=False)
    _in_flight: int = attrs.field(default=0, init=False)
    _arrival: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._random = Random(self.network.random.getrandbits(64))

    def portion(self, size: int) -> int:
        """Return how much of `size` goes at once: all of it, or from 1 byte on."""
        choppy = self.network.choppy
        return self._random.randint(1, size) if size > 1 and self._random.random() < choppy else size

    # What the program calls

    def recv(self, size: int) -> bytes:
        """Take at most `size` bytes that have arrived; none at the end of file."""
        if self.receiving:
            data = bytes(self.receiving[:size])
            del self.receiving[:size]
            self.active = self.network.clock()
            self.peer.pump()
            return data
        return self._receive_nothing()

    def peek(self, size: int) -> bytes:
        """Return what `recv` would, and leave it there."""
        return bytes(self.receiving[:size]) or self._receive_nothing()

    def _receive_nothing(self) -> bytes:
        if not self.at_eof:
            self._raise_error()
            if not self.dead:
                raise error(errno.EAGAIN)
        return b""

    def send(self, data: bytes | memoryview) -> int:
        """Put what fits of `data` into the send buffer, and return how much that is."""
        self._raise_error()
        if self.ending or self.dead:
            raise error(errno.EPIPE)
        room = self.send_size - len(self.sending)
        if not room:
            raise error(errno.EAGAIN)
        self.sending += data[:room]
        self.active = self.sent_at = self.network.clock()
        self.sent += min(room, len(data))
        self.pump()
        return min(room, len(data))

    def shutdown(self) -> None:
        """End the direction to the peer, after what is in the send buffer."""
        if self.dead:
            raise error(errno.ENOTCONN)
        self.ending = True
        self.pump()

    def close(self, *, reset: bool = False) -> None:
        """Give the connection up; unread input makes it a reset, as `reset` does: tcp(7), RFC 2525 2.17."""
        self.orphan = True
        if reset or self.receiving:
            self.receiving.clear()
            self.reset()
        else:
            self.ending = True
            self.pump()

    def ready(self) -> tuple[bool, bool]:
        """Return whether the socket is readable and writable, as epoll tells it.

        A hang-up or an error is both, and a send buffer more than two thirds full is not writable.
        """
        hung_up = self.dead or self.error is not None or (self.at_eof and self.ending)
        room = self.send_size - len(self.sending)
        readable = bool(self.receiving) or self.at_eof
        return readable or hung_up, self.ending or hung_up or room * 3 >= self.send_size

    # What happens on the wire

    def reset(self) -> None:
        """Drop what was not delivered, and let the peer know."""
        if not self.dead:
            self._die()
            self._send(self.peer._be_reset)

    def pump(self) -> None:
        """Send what the peer's receive buffer has room for, then the FIN."""
        while self.sending and not self.dead and (room := self._window()):
            size = self.portion(min(room, len(self.sending)))
            segment = bytes(self.sending[:size])
            del self.sending[:size]
            self._in_flight += size
            self._send(partial(self._deliver, segment))
        if self.ending and not self.ended and not self.sending and not self.dead:
            self.ended = True
            self._send(self._deliver_fin)

    def _send(self, arrive: Callable[[], object]) -> None:
        least, most = self.network.latency
        if not most:
            arrive()
            return
        arrival = self.network.clock() + self._random.uniform(least, most)
        self._arrival = max(self._arrival, arrival)
        self.network.at(self._arrival, arrive)

    def _window(self) -> int:
        return max(0, self.peer.receive_size - len(self.peer.receiving) - self._in_flight)

    def _deliver(self, segment: bytes) -> None:
        self._in_flight -= len(segment)
        if self.dead:
            return
        if self.peer.orphan or self.peer.dead:
            self.peer._refuse()
        else:
            self.peer.receiving += segment

    def _deliver_fin(self) -> None:
        if not self.dead:
            self.peer.at_eof = True

    def _refuse(self) -> None:
        # Nobody is there to receive it: the reset takes what is still to be sent along, RFC 1122 4.2.2.13.
        self._die()
        self._send(self.peer._be_reset)

    def _be_reset(self) -> None:
        if not self.dead:
            self.error = errno.EPIPE if self.at_eof else errno.ECONNRESET
            self._die()

    def _die(self) -> None:
        self.dead = True
        self.sending.clear()

    def _raise_error(self) -> None:
        if self.error is not None:
            number, self.error = self.error, None
            raise error(number)
