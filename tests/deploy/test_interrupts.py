"""An interrupt at any line of a handover: each connection has one owner or ends, and no loss is silent."""

import os
import socket
from contextlib import suppress

import pytest

from reactor import HandedOver, Protocol, Reactor
from reactor.deploy import hand_over, take_over
from reactor.testing import Errors, ManualClock
from tests.tracing import Interrupt, failures, without_collector

TICKS = 45
QUEUED = bytes(range(251)) * 400

FILES = [
    os.path.join("deploy", "handover.py"),
    os.path.join("deploy", "handing_over.py"),
    os.path.join("deploy", "taking_over.py"),
    os.path.join("deploy", "messages.py"),
    os.path.join("connection", "handover.py"),
]


class Counted(Protocol):
    """Echoes, and hands over how many bytes it has received."""

    def __init__(self, kept):
        kept.append(self)
        self.count = 0
        self.ends = []

    def connection_made(self, connection):
        self.connection = connection

    def data_received(self, data):
        self.count += len(data)
        self.connection.write(data)

    def hand_over(self):
        return b"%d" % self.count

    def connection_lost(self, exc):
        self.ends.append(exc)


class Factory:
    """The factory of one process."""

    def __init__(self):
        self.kept = []

    def __call__(self):
        return Counted(self.kept)

    def take_over(self, connection, state):
        protocol = Counted(self.kept)
        protocol.connection_made(connection)
        protocol.count = int(state)
        return protocol


class Client:
    """A client that knows what it is to receive."""

    def __init__(self, address):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(address)
        self.sock.setblocking(False)
        self.name = self.sock.getsockname()
        self.expected = self.received = b""
        self.ended = False

    def send(self, data):
        with suppress(OSError):
            self.sock.send(data)
            self.expected += data

    def receive(self):
        try:
            while data := self.sock.recv(1 << 20):
                self.received += data
            self.ended = True
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True

    def check(self, owners):
        assert len(owners) <= 1, f"two owners of {self.name}"
        assert self.expected.startswith(self.received), "doubled, lost or out of order"
        assert bool(owners) is not self.ended, f"owners: {owners}, ended: {self.ended}"
        if owners:
            assert self.received == self.expected, f"{len(self.received)} of {len(self.expected)} bytes"


class Scenario:
    """Two processes that hand connections over: with a queue, written to meanwhile, closed meanwhile."""

    def __init__(self, tracer):
        self.tracer = tracer
        self.clock = ManualClock()
        self.errors = Errors()
        self.old, self.new = (Reactor(clock=self.clock, on_error=self.errors) for _ in range(2))
        self.factories = Factory(), Factory()
        self.reports = [], []
        self.begun = [False, False]

    def run(self):
        small = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.address = listening.getsockname()
            self.old.listen(listening.dup(), self.factories[0], options=small)
            self.new.listen(listening.dup(), self.factories[1], options=small).pause()
            self.clients = [Client(self.address) for _ in range(4)]
            while len(self.old.connections()) < 4:
                self.old.run_once(0)
            self.serve()
            self.check()
            for client in self.clients:
                client.sock.close()

    def serve(self):
        queued, late, closed = (self.connection_of(client) for client in self.clients[1:])
        queued.write(QUEUED)
        self.clients[1].expected += QUEUED
        ours, theirs = socket.socketpair()
        for side, begin, reactor, end in ((0, hand_over, self.old, ours), (1, take_over, self.new, theirs)):
            self.tracer.run(self.begin, side, begin, reactor, end)
            if not self.begun[side]:
                end.close()
        for tick in range(TICKS):
            for client in self.clients:
                if tick < 10 and client is not self.clients[2]:
                    client.send(b"%d," % tick)
                client.receive()
            if tick == 1 and not closed.is_closing():
                closed.close()
            if tick < 20 and not late.is_closing() and late.write(b"late %d," % tick):
                self.clients[2].expected += b"late %d," % tick
            self.tracer.run(self.old.run_once, 0)
            self.tracer.run(self.new.run_once, 0)
            self.clock.advance(0.001 if tick < 30 else 1)

    def begin(self, side, begin, reactor, end):
        begin(reactor, end, timeout=5.0, on_done=self.reports[side].append)
        self.begun[side] = True

    def connection_of(self, client):
        (found,) = (c for c in self.old.connections() if c.get_extra_info("peername") == client.name)
        return found

    def check(self):
        self.turn(lambda: all(c.ended or c.received == c.expected for c in self.clients))
        owners = [(r, c) for r in (self.old, self.new) for c in r.connections() if not c.is_closing()]
        for client in self.clients:
            client.check([o for o in owners if o[1].get_extra_info("peername") == client.name])
        for begun, reports in zip(self.begun, self.reports, strict=True):
            assert len(reports) == 1 or (self.tracer.done and not (begun and reports)), reports
        self.new.listeners()[0].resume()
        another = Client(self.address)
        another.send(b"served?")
        self.clients.append(another)
        self.turn(lambda: another.received)
        assert another.received == b"served?"

    def turn(self, until):
        """Drive both, until what is waited for has come, or can hardly come any more."""
        settled = 0
        for _ in range(5000):
            for reactor in (self.old, self.new):
                reactor.run_once(0)
            for client in self.clients:
                client.receive()
            settled += bool(until())
            if settled == 20:
                break


def scenario(tracer):
    before = len(os.listdir("/proc/self/fd"))
    made = Scenario(tracer)
    with made.old, made.new:
        made.run()
    for factory in made.factories:
        for protocol in factory.kept:
            assert len(protocol.ends) == 1, protocol.ends
    if not tracer.done:
        assert [len(factory.kept) for factory in made.factories] == [4, 4], "not handed over"
        ends = [type(protocol.ends[0]) for protocol in made.factories[0].kept]
        assert ends == [HandedOver, HandedOver, HandedOver, type(None)]
    assert not [error for error in made.errors.seen if not isinstance(error[0], Interrupt)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # lost by its owner in an interrupt


def failed(*args, **options):
    with without_collector():
        return failures(scenario, *args, **options)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_interrupt_at_any_line(file):
    assert failed(file) == []
