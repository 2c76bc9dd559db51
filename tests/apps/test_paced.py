"""Frames in small batches: a burst is handled in full, and the other peers in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Protocol
from reactor.apps.paced import PacedProtocol
from reactor.framing import Lines
from reactor.testing import Errors, MemoryReactor, Recorder
from tests.helpers import pair, spin


class Paced(PacedProtocol):
    """Records each frame, and sends it back."""

    FRAMES_AT_ONCE = 3

    def __init__(self):
        super().__init__(Lines())
        self.handled = []

    def handle(self, frame):
        self.handled.append(frame)
        if frame == b"broken":
            raise ValueError("broken")
        self.send(frame)


def lines(count):
    return b"".join(b"%d\n" % number for number in range(count))


def test_frames_are_handled_a_few_at_once(reactor):
    paced = Paced()
    connection, peer = pair(reactor, paced)
    with peer:
        peer.send(lines(20))
        reactor.run_once(1)
        while len(paced.handled) < 20:
            before = len(paced.handled)
            reactor.run_once(1)
            assert len(paced.handled) - before <= 3
            assert connection.is_reading() is not paced.draining()
        spin(reactor, connection.is_reading)
        assert b"".join(frame + b"\n" for frame in paced.handled) == lines(20)
        assert not paced.draining()


def test_another_peer_is_served_between(reactor):
    busy, other = Paced(), Paced()
    _, peer = pair(reactor, busy)
    _, its_peer = pair(reactor, other)
    with peer, its_peer:
        peer.send(lines(10_000))
        reactor.run_once(1)
        its_peer.send(b"x\n")
        for _ in range(3):
            reactor.run_once(1)
        assert other.handled == [b"x"]
        assert len(busy.handled) < 20


def test_delay_holds_even_when_the_peer_reads_its_answers():
    class Slow(Paced):
        def handle(self, frame):
            super().handle(b"x" * 60_000)
            self.wait(10)

    with MemoryReactor() as memory:
        slow = Slow()
        server, client = memory.pair(lambda: slow, Recorder)
        client.write(lines(3))
        memory.advance(5)
        assert len(client.get_protocol().received) == 60_001
        assert (len(slow.handled), server.is_reading()) == (1, False)
        memory.advance(20)
        assert len(slow.handled) == 3


def test_peer_that_reads_no_answer_gets_no_more_of_them():
    class Big(Paced):
        FRAMES_AT_ONCE = 1

        def handle(self, frame):
            super().handle(frame)
            self.connection.write(bytes(1_000_000))

    with MemoryReactor() as memory:
        big = Big()
        _, client = memory.pair(lambda: big, Recorder)
        client.pause_reading()
        client.write(lines(5))
        memory.settle()
        assert len(big.handled) == 1
        client.resume_reading()
        memory.settle()
        assert len(big.handled) == 5


def test_frames_that_wait_are_handled_before_the_end_of_a_drain():
    with MemoryReactor() as memory:
        paced = Paced()
        server, client = memory.pair(lambda: paced, Recorder)
        client.write(lines(20))
        while not paced.handled:
            memory.run_once(0)
        assert len(paced.handled) < 20
        assert not server.may_end()
        memory.settle()
        assert server.may_end()
        assert client.get_protocol().received == lines(20)


@pytest.mark.parametrize("position", [0, 10])
def test_exception_closes_the_connection_and_is_reported(position):
    errors = Errors()
    with MemoryReactor(on_error=errors) as memory:
        paced = Paced()
        _, client = memory.pair(lambda: paced, Protocol)
        client.write(lines(position) + b"broken\n" + lines(10))
        memory.settle()
        assert str(errors.take()[0]) == "broken"
        assert len(paced.handled) == position + 1
        assert memory.connections() == []


def test_peer_that_leaves_while_its_frames_wait():
    errors = Errors()
    with MemoryReactor(on_error=errors) as memory:
        paced = Paced()
        server, client = memory.pair(lambda: paced, Protocol)
        client.write(lines(10))
        memory.run_once(0)
        server.abort()
        memory.settle()
        assert errors.seen == []
        assert len(paced.handled) < 10
        assert memory.connections() == []


LINES = st.binary(max_size=4).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))


@given(st.lists(LINES))
def test_every_frame_is_handled_once_and_in_order_however_it_is_cut(frames):
    data = b"".join(frame + b"\n" for frame in frames)
    with MemoryReactor(seed=len(data), choppy=0.5) as memory:
        paced = Paced()
        recorder = Recorder()
        _, client = memory.pair(lambda: paced, lambda: recorder)
        client.write(data)
        client.write_eof()
        memory.run_out()
        assert paced.handled == frames
        assert recorder.received == data
