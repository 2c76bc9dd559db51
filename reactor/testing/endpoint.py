"""The kernel's side of sockets in memory: endpoints of connections, and listening endpoints.

They do what TCP on Linux does, as far as a server can observe it: each direction has a send buffer and a
receive buffer, a FIN arrives after the bytes before it, and closing with unread input, or sending to a closed
peer, causes a reset, which drops what was not delivered.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import attrs

from reactor.testing.host import error, socket_address

__all__ = ["ACKNOWLEDGE_TIMEOUT", "CONNECT_TIMEOUT", "Endpoint", "ListeningEndpoint"]

#: Seconds after which a kernel gives up connecting: tcp(7), tcp_syn_retries of 6.
CONNECT_TIMEOUT = 127.0

#: Seconds after which a kernel gives up a connection whose peer does not acknowledge data: tcp(7),
#: tcp_retries2 of 15, and "ip-sysctl" of Linux for the figure.
ACKNOWLEDGE_TIMEOUT = 924.6

# Seconds until a SYN is sent again: RFC 6298, 2.1; without exponential backoff.
_RETRANSMISSION = 1.0


def _length(data: bytearray) -> str:
    return f"{len(data)} bytes"


@attrs.define(eq=False)
class ListeningEndpoint:
    """The kernel's side of a listening socket, with its accept queue.

    limit: connections that the queue holds. shared: SO_REUSEPORT. both: an IPv6 socket that accepts IPv4 too.
    """

    network: Any
    sockname: Any = ("10.0.0.254", 9092)
    buffers: tuple[int, int] = (4096, 4096)
    limit: int = 128
    shared: bool = False
    both: bool = False
    backlog: deque[Endpoint] = attrs.Factory(deque)
    closed: bool = False

    def is_full(self) -> bool:
        """Return whether the accept queue is full."""
        return len(self.backlog) >= self.limit

    def accept(self) -> Endpoint:
        """Remove and return the first connection of the accept queue."""
        if not self.backlog:
            raise error(errno.EAGAIN)
        return self.backlog.popleft()

    def close(self, *, reset: bool = False) -> None:
        """Refuse new connections, and reset those in the accept queue."""
        self.closed = True
        while self.backlog:
            self.backlog.popleft().reset()

    def ready(self) -> tuple[bool, bool]:
        """Return whether the socket is readable and writable, as epoll reports it."""
        return bool(self.backlog), False


@attrs.define(eq=False)
class Endpoint:
    """The kernel's side of one end of a connection; its methods are the system calls of its program.

    ending: a FIN is queued behind `sending`. ended: the FIN was sent. at_eof: the peer's FIN has arrived.
    dead: reset by either side. orphan: closed by its program; `sending` is still delivered.
    active: when its program last sent or received a byte. sent_at, sent: when it last sent, and how
    many bytes in all.

    address, peer_address: those of the two hosts, between which there may be a partition; "" for a Unix
    socket. peername: the socket address of the other end, as this end sees it. connecting: the peer has not
    answered yet. owner: the connection of a reactor that uses it, or None.
    """

    network: Any
    sockname: Any
    send_size: int
    receive_size: int
    peer: Any = attrs.field(default=None, init=False, repr=False)
    address: str = attrs.field(default="", init=False)
    peer_address: str = attrs.field(default="", init=False)
    peername: Any = attrs.field(default=None, init=False)
    connecting: bool = attrs.field(default=False, init=False)
    owner: Any = attrs.field(default=None, init=False, repr=False)
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
    _held: deque[Callable[[], object]] = attrs.field(factory=deque, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._random = Random(self.network.random.getrandbits(64))

    def portion(self, size: int) -> int:
        """Return how many of `size` bytes one call or segment takes: all, or fewer, as `choppy` decides."""
        choppy = self.network.choppy
        return self._random.randint(1, size) if size > 1 and self._random.random() < choppy else size

    # System calls of the program

    def recv(self, size: int) -> bytes:
        """Remove and return up to `size` bytes that have arrived; b"" at the end of file."""
        if self.receiving:
            data = bytes(self.receiving[:size])
            del self.receiving[:size]
            self.active = self.network.clock()
            self.peer.pump()
            return data
        return self._receive_nothing()

    def peek(self, size: int) -> bytes:
        """Return what `recv` would return, and keep it."""
        return bytes(self.receiving[:size]) or self._receive_nothing()

    def _receive_nothing(self) -> bytes:
        if not self.at_eof:
            self._raise_error()
            if not self.dead:
                raise error(errno.EAGAIN)
        return b""

    def send(self, data: bytes | memoryview) -> int:
        """Put as much of `data` as fits into the send buffer, and return how many bytes."""
        self._raise_error()
        if self.ending or self.dead:
            raise error(errno.EPIPE)
        if self.connecting or self.peer is None:
            raise error(errno.EAGAIN if self.connecting else errno.ENOTCONN)
        room = self.send_size - len(self.sending)
        if not room:
            raise error(errno.EAGAIN)
        self.sending += data[:room]
        self.active = self.sent_at = self.network.clock()
        self.sent += min(room, len(data))
        self.pump()
        return min(room, len(data))

    def shutdown(self) -> None:
        """End our direction: queue a FIN behind the send buffer."""
        if self.dead or self.connecting or self.peer is None:
            raise error(errno.ENOTCONN)
        self.ending = True
        self.pump()

    def close(self, *, reset: bool = False) -> None:
        """Close the socket; with a reset if there is unread input: tcp(7), RFC 2525 2.17. reset: always."""
        self.orphan = True
        if reset or self.receiving or self.connecting or self.peer is None:
            self.receiving.clear()
            self.reset()
        else:
            self.ending = True
            self.pump()

    def ready(self) -> tuple[bool, bool]:
        """Return whether the socket is readable and writable, as epoll reports it.

        A hang-up or an error is both; a send buffer that is more than two thirds full is not writable.
        """
        if self.connecting:
            return False, False
        hung_up = self.dead or self.error is not None or (self.at_eof and self.ending)
        room = self.send_size - len(self.sending)
        readable = bool(self.receiving) or self.at_eof
        return readable or hung_up, self.ending or hung_up or room * 3 >= self.send_size

    # Segments on the network

    def reset(self) -> None:
        """Drop what was not delivered, and send a reset to the peer."""
        if not self.dead:
            self._die()
            if self.peer is not None:
                self.transmit(self.peer.be_reset)

    def pump(self) -> None:
        """Send as many bytes as the peer's receive buffer has room for, then the FIN."""
        while self.sending and not self.dead and (room := self._window()):
            size = self.portion(min(room, len(self.sending)))
            segment = bytes(self.sending[:size])
            del self.sending[:size]
            self._in_flight += size
            self.transmit(partial(self._deliver, segment))
        if self.ending and not self.ended and not self.sending and not self.dead:
            self.ended = True
            self.transmit(self._deliver_fin)

    def transmit(self, arrive: Callable[[], object]) -> None:
        """Call `arrive` at the peer after the network's latency, in the order of the calls."""
        shortest, longest = self.network.latency
        now = self.network.clock()
        if not longest and self._arrival < now:  # nothing is in transit
            self._arrive(arrive)
            return
        self._arrival = max(self._arrival, now + self._random.uniform(shortest, longest))
        self.network.at(self._arrival, partial(self._arrive, arrive))

    def _arrive(self, arrive: Callable[[], object]) -> None:
        """Call `arrive`, or hold it back until a partition between the hosts is healed."""
        if not self.network.is_cut(self.address, self.peer_address):
            arrive()
            return
        if not self._held:
            limit = CONNECT_TIMEOUT if self.connecting else ACKNOWLEDGE_TIMEOUT
            self.network.at(self.network.clock() + limit, partial(self._give_up, self._held))
        self._held.append(arrive)
        self.network.stalled[self] = None

    def _give_up(self, held: deque[Callable[[], object]]) -> None:
        if held is self._held:  # not released since
            self.fail(errno.ETIMEDOUT)

    def release(self) -> None:
        """Deliver what was held back, in order, after the partition was healed."""
        held, self._held = self._held, deque()
        for arrive in held:
            arrive()

    # The handshake of a client: SYN, then SYN and ACK, then ACK

    def start(self, find: Callable[[], ListeningEndpoint | None]) -> None:
        """Send a SYN. find: returns the listening endpoint, when the SYN arrives; None if there is none."""
        self.connecting = True
        self.transmit(partial(self._syn, find, self.network.clock() + CONNECT_TIMEOUT))

    def start_in_vain(self, problem: int | None) -> None:
        """Send a SYN that fails with the errno `problem`, by a router's answer; None: without an answer."""
        self.connecting = True
        if problem is None:
            until = self.network.clock() + CONNECT_TIMEOUT
            self.network.at(until, partial(self.fail, errno.ETIMEDOUT))  # nothing else can happen to it
        else:
            self.transmit(partial(self.fail, problem))

    def _syn(self, find: Callable[[], ListeningEndpoint | None], until: float) -> None:
        if self.dead:
            return
        listening = find()
        if listening is None:
            self.transmit(partial(self.fail, errno.ECONNREFUSED))
        elif not listening.is_full():
            self.meet(listening).transmit(partial(self._syn_ack, listening))
        elif self.network.clock() < until:  # dropped, and sent again
            again = partial(self._arrive, partial(self._syn, find, until))
            self.network.at(self.network.clock() + _RETRANSMISSION, again)
        else:
            self.fail(errno.ETIMEDOUT)

    def meet(self, listening: ListeningEndpoint) -> Endpoint:
        """Create and return the server's end of a connection to `listening`."""
        name = listening.sockname
        if isinstance(name, tuple):  # a wildcard, maybe
            name = socket_address(self.peer_address, name[1])
        server = Endpoint(self.network, name, *listening.buffers)
        server.peer, self.peer = self, server
        server.address, server.peer_address = self.peer_address, self.address
        server.peername, self.peername = self.sockname, name
        if listening.both and len(name) == 2:  # RFC 4291, 2.5.5.2
            server.sockname = (f"::ffff:{name[0]}", name[1], 0, 0)
            server.peername = (f"::ffff:{self.sockname[0]}", self.sockname[1], 0, 0)
        return server

    def _syn_ack(self, listening: ListeningEndpoint) -> None:
        if not self.dead:
            self.connecting = False
            self.transmit(partial(self._ack, listening))

    def _ack(self, listening: ListeningEndpoint) -> None:
        if listening.closed:
            self.peer.reset()
        else:
            listening.backlog.append(self.peer)

    def fail(self, number: int) -> None:
        """End with the errno `number`, without a segment to the peer. Does nothing if it has ended."""
        if not self.dead:
            self.error = number
            self._die()

    def _window(self) -> int:
        peer: Endpoint = self.peer
        return max(0, peer.receive_size - len(peer.receiving) - self._in_flight)

    def _deliver(self, segment: bytes) -> None:
        self._in_flight -= len(segment)
        if self.dead:
            return
        if self.peer.orphan or self.peer.dead:
            self.peer.refuse()
        else:
            self.peer.receiving += segment

    def _deliver_fin(self) -> None:
        if not self.dead:
            self.peer.at_eof = True

    def refuse(self) -> None:
        """Answer data that arrives after `close` with a reset, which drops queued data: RFC 1122 4.2.2.13."""
        self._die()
        self.transmit(self.peer.be_reset)

    def be_reset(self) -> None:
        """Receive a reset, from the peer or from a middlebox."""
        if not self.dead:
            self.error = errno.EPIPE if self.at_eof else errno.ECONNRESET
            self._die()

    def _die(self) -> None:
        self.dead = True
        self.connecting = False
        self.sending.clear()

    def _raise_error(self) -> None:
        if self.error is not None:
            number, self.error = self.error, None
            raise error(number)
