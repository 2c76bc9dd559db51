"""Reactors in this process that hand connections over, each to the next."""

import os
import socket
from contextlib import ExitStack, contextmanager

from reactor import Protocol, Reactor
from reactor.deploy import hand_over, take_over
from reactor.testing import Errors
from tests.helpers import spin

SMALL = 4096  # bytes of a socket's buffers


class Plain(Protocol):
    """A protocol that records what it receives, and why it ended."""

    def __init__(self):
        self.received = b""
        self.reason = "open"

    def connection_made(self, connection):
        self.connection = connection

    def data_received(self, data):
        self.received += data

    def connection_lost(self, exc):
        self.reason = exc


class Movable(Plain):
    """The same; it can be handed over, and what it has received is its state."""

    def hand_over(self):
        return self.received

    @classmethod
    def take_over(cls, connection, state):
        protocol = cls()
        protocol.connection_made(connection)
        protocol.received = state
        return protocol


class World:
    """A chain of reactors that listen on one port; connections go from each to the next."""

    def __init__(self, stack, factories, clock=None, limits=None, timeouts=None, tls=None):
        self.errors = [Errors() for _ in factories]
        clocks = {} if clock is None else {"clock": clock}
        self.reactors = [stack.enter_context(Reactor(on_error=e, **clocks)) for e in self.errors]
        options = [(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)]
        self.listeners = []
        for reactor, factory in zip(self.reactors, factories, strict=True):
            at = "127.0.0.1:0" if not self.listeners else self.shared()
            limited = limits.pop(0) if isinstance(limits, list) else limits
            self.listeners.append(
                reactor.listen(at, factory, limits=limited, timeouts=timeouts, tls=tls, options=options)
                if not self.listeners
                else reactor.listen(at, factory, limits=limited, timeouts=timeouts, tls=tls)
            )
        self.stack = stack
        self.transfers = []

    def shared(self):
        return socket.socket(fileno=os.dup(self.listeners[0]._sockets[0].fileno()))

    def connect(self, count=1):
        """Return plain clients that the first reactor has accepted."""
        address = self.listeners[0].addresses[0]
        clients = []
        for _ in range(count):
            client = self.stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            client.connect((address.host, address.port))
            client.setblocking(False)
            clients.append(client)
        before = self.listeners[0].connections
        spin(self.reactors[0], lambda: self.listeners[0].connections == before + count)
        return clients

    def channel(self):
        return map(self.stack.enter_context, socket.socketpair())

    def begin(self, at=0, timeout=10.0):
        """Begin a handover from one reactor to the next."""
        ours, theirs = self.channel()
        self.transfers = []
        return (
            hand_over(self.reactors[at], ours, timeout=timeout, on_done=self.transfers.append),
            take_over(self.reactors[at + 1], theirs, timeout=timeout, on_done=self.transfers.append),
        )

    def turn(self):
        for reactor in self.reactors:
            reactor.run_once(0)

    def until(self, what):
        def passed():
            for reactor in self.reactors[1:]:
                reactor.run_once(0)
            return what()

        spin(self.reactors[0], passed, wait=0.002)

    def move(self, at=0, timeout=10.0):
        """Hand everything over, and return the two reports."""
        self.begin(at, timeout)
        self.until(lambda: len(self.transfers) == 2)
        self.turn()
        return self.transfers

    def by_peer(self, at):
        return {found.get_extra_info("peername"): found for found in self.reactors[at].connections()}

    def only(self, at):
        (connection,) = self.reactors[at].connections()
        return connection


@contextmanager
def world(*factories, **options):
    with ExitStack() as stack:
        made = World(stack, factories, **options)
        yield made
        assert [errors.seen for errors in made.errors] == [[] for _ in factories]


def read(client, limit=1 << 20):
    try:
        return client.recv(limit)
    except BlockingIOError:
        return b""


def send(client, data):
    try:
        return client.send(data) if data else 0
    except BlockingIOError:
        return 0


def exchange(made, client, data, size):
    """Send data, and return the first bytes of the answer."""
    answer = bytearray()

    def done():
        nonlocal data
        data = data[send(client, data) :]
        answer.extend(read(client))
        return not data and len(answer) >= size

    made.until(done)
    return bytes(answer)
