"""An interrupt at any line of the package: protocols are called in order, and endpoints work afterwards."""

import os
import socket

import pytest

from reactor import Reactor
from reactor.apps.echo import DatagramEcho
from reactor.datagrams import DatagramLimits
from reactor.testing import DatagramRecorder, ManualClock, ScriptedSocket
from tests.tracing import failures, without_collector

SHARES = 2  # tests that the lines are divided among


class Scenario:
    """An echo server and clients of each kind, driven under the tracer; then once more without it."""

    def __init__(self, tracer):
        self.tracer = tracer
        self.kept = []
        self.clock = ManualClock()
        self.errors = []
        self.reactor = Reactor(clock=self.clock, on_error=lambda *what: self.errors.append(what))

    def make(self):
        self.kept.append(DatagramRecorder())
        return self.kept[-1]

    def tick(self, times=3):
        for _ in range(times):
            self.clock.advance(0.01)
            self.tracer.run(self.reactor.run_once, 0)

    def connect(self, **options):
        """Return an endpoint; it is made again if an interrupt came before there was one."""
        made = []
        address = self.server.address

        def begin():
            made.append(self.reactor.connect_datagram(address, self.make, **options))

        self.tracer.run(begin)
        if not made:
            self.reactor.run_once(0)
            begin()
        return made[0]

    def serve(self):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        self.server = self.reactor.bind_datagram(sock, DatagramEcho)
        self.script = ScriptedSocket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        limits = DatagramLimits(queue_timeout=0.05, high_water=4, low_water=1)
        self.blocked = self.reactor.bind_datagram(self.script, self.make, limits=limits)

    def exchange(self):
        """Send in every way, close and abort."""
        self.script.add(sendto=[None, BlockingIOError, BlockingIOError])
        address = self.server.get_extra_info("sockname")
        for _ in range(3):
            self.tracer.run(self.blocked.send, b"abc", address)
        joined = self.connect(gso=True, gro=True, info=True)
        for data in (b"one", b"two", b"3"):
            self.tracer.run(joined.send, data)
        plain = self.connect()
        self.tracer.run(plain.send, b"x")
        self.tracer.run(self.blocked.send, bytes(70_000), address)
        self.tick()
        self.script.add(sendto=[BlockingIOError] * 10)
        self.tracer.run(self.blocked.send, b"late", address)
        self.tick(8)
        self.tracer.run(joined.send, b"last")
        self.tracer.run(joined.close)
        self.tracer.run(plain.abort)
        self.tick()

    def check(self):
        """Check that all goes on without an interrupt."""
        client = self.make()
        self.reactor.run_once(0)
        self.reactor.connect_datagram(self.server.address, lambda: client).send(b"still here")
        self.script.add(sendto=[None])
        for _ in range(20):
            self.clock.advance(0.01)
            self.reactor.run_once(0)
        assert client.received == [b"still here"]
        assert self.blocked.stats().queued == 0
        self.reactor.drain(5)
        for _ in range(200):
            self.clock.advance(0.05)
            self.reactor.run_once(0)
        assert self.reactor.endpoints() == []


def scenario(tracer):
    before = len(os.listdir("/proc/self/fd"))
    run = Scenario(tracer)
    with run.reactor:
        run.serve()
        run.exchange()
        run.check()
    for recorder in run.kept:
        names = recorder.names
        assert names.count("connection_made") <= 1, names
        assert not names or names[0] == "connection_made", names
        assert names.count("connection_lost") == names.count("connection_made"), names
        assert "connection_lost" not in names[:-1], names
    assert run.errors == []
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # lost by its owner in an interrupt


def failed(*args, **options):
    with without_collector():
        return failures(scenario, *args, **options)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_interrupt_at_any_line(share):
    assert failed("datagrams", share=share, shares=SHARES) == []


@pytest.mark.parametrize("module", ["endpoint.py", "sending.py"])
def test_interrupt_at_some_lines(module):
    assert failed(os.path.join("datagrams", module), share=3, shares=20) == []
