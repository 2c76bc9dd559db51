"""Fixtures of the tests of datagrams: endpoints with recorders, on real sockets and on scripted ones."""

import socket

import pytest

from reactor import Reactor
from reactor.testing import DatagramRecorder, MemoryReactor, ScriptedSocket


class Ends:
    """Makes endpoints on the loopback addresses, and runs the reactor until something is so."""

    def __init__(self, reactor):
        self.reactor = reactor
        self.sockets = []

    def bind(self, address="127.0.0.1:0", **options):
        recorder = DatagramRecorder()
        self.reactor.bind_datagram(address, lambda: recorder, **options)
        return recorder

    def connect(self, address, **options):
        recorder = DatagramRecorder()
        self.reactor.connect_datagram(address, lambda: recorder, **options)
        return recorder

    def scripted(self, **options):
        """Return a recorder, its scripted socket, and a plain socket that it can send to."""
        ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (ours, theirs):
            sock.bind(("127.0.0.1", 0))
        theirs.setblocking(False)
        self.sockets.append(theirs)
        sock = ScriptedSocket(ours)
        return self.bind(sock, **options), sock, theirs

    def until(self, condition):
        for _ in range(1000):
            if condition():
                return
            self.reactor.run_once(0.01)
        raise AssertionError("it does not come about")


@pytest.fixture
def ends(reactor):
    made = Ends(reactor)
    yield made
    for sock in made.sockets:
        sock.close()


@pytest.fixture(params=[Reactor, MemoryReactor])
def ends_anywhere(request):
    """`ends` on kernel sockets, and in memory."""
    with request.param() as reactor:
        yield Ends(reactor)


@pytest.fixture
def closed_port():
    """The address of a loopback port that nothing is bound to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()
