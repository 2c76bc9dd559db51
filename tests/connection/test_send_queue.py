"""The send queue: `max_write_buffer`, the write timeout, water marks and write rates."""

import errno
import socket
import tracemalloc
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import ConnectionAborted, Limits, Reactor, SlowConsumer, Timeouts, WriteTimeout
from reactor.testing import ManualClock, Recorder, ScriptedSocket
from tests.helpers import pair, pass_time

BIG = bytes(4 << 20)


@pytest.fixture
def recorder():
    return Recorder()


class Sink(ScriptedSocket):
    """A socket that accepts `room` bytes, which it discards, and then no more."""

    def __init__(self, sock, room):
        super().__init__(sock)
        self.room = room

    def send(self, data):
        if not self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        sent = min(self.room, len(data))
        self.room -= sent
        return sent

    def sendmsg(self, pieces):
        return self.send(b"".join(pieces))


def flow(recorder):
    return [name for name in recorder.names if name.endswith("_writing")]


def receive(reactor, peer):
    """Receive until no more bytes arrive, or to the end of file."""
    received = 0
    while True:
        reactor.run_once(0)
        try:
            more = len(peer.recv(1 << 20))
        except BlockingIOError:
            return received
        if not more:
            return received
        received += more


def test_peer_that_never_reads_is_aborted_at_max_write_buffer(reactor, recorder):
    limits = Limits(high_water=10_000, low_water=1000, max_write_buffer=100_000)
    connection, peer = pair(reactor, recorder, limits=limits)
    largest = 0
    for _ in range(100_000):
        connection.write(bytes(1000))
        largest = max(largest, connection.get_write_buffer_size())
    assert 100_000 < largest <= 101_000
    reactor.run_once(0)
    assert isinstance(recorder.reason, SlowConsumer)
    assert str(recorder.reason) == f"{largest} bytes queued, and max_write_buffer is 100000"
    assert reactor.stats().closed == {"SlowConsumer": 1}
    peer.close()


def test_one_write_may_exceed_max_write_buffer(reactor, recorder):
    limits = Limits(high_water=1000, low_water=1000, max_write_buffer=1000)
    connection, peer = pair(reactor, recorder, limits=limits)
    connection.write(BIG)
    assert not connection.is_closing()
    assert receive(reactor, peer) == len(BIG)
    connection.write(b"x")
    assert receive(reactor, peer) == 1
    peer.close()


@pytest.mark.parametrize("how", ["write", "writelines"])
def test_write_above_max_write_buffer_returns_false(reactor, recorder, how):
    limits = Limits(high_water=1000, low_water=1000, max_write_buffer=1000)
    connection, peer = pair(reactor, recorder, limits=limits)
    connection.write(BIG)
    result = connection.write(b"x") if how == "write" else connection.writelines([b"x"])
    assert result is False
    assert connection.is_closing()
    reactor.run_once(0)
    assert isinstance(recorder.reason, SlowConsumer)
    peer.close()


def test_max_write_buffer_may_be_none(reactor, recorder):
    connection, peer = pair(reactor, recorder, limits=Limits(max_write_buffer=None))
    for _ in range(20):
        connection.write(BIG)
    assert connection.get_write_buffer_size() > 19 * len(BIG)
    peer.close()


def test_max_write_buffer_holds_within_a_callback(reactor, recorder):
    limits = Limits(high_water=10_000, low_water=1000, max_write_buffer=100_000)
    connection, peer = pair(reactor, recorder, limits=limits)

    def flood():
        while connection.write(bytes(1000)) or not connection.is_closing():
            assert connection.get_write_buffer_size() <= 101_000

    reactor.call_soon(flood)
    reactor.run_once(0)
    reactor.run_once(0)
    assert isinstance(recorder.reason, SlowConsumer)
    peer.close()


def test_peer_that_accepts_nothing_ends_at_the_write_timeout(make_selector, recorder):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, timeouts=Timeouts(write=16))
        connection.write(BIG)
        clock.advance(15.9)
        reactor.run_once(0)
        peer.recv(1 << 20)
        reactor.run_once(0)  # the kernel accepted some of it: the timeout starts again
        pass_time(reactor, clock, 15.9)
        assert not recorder.lost
        pass_time(reactor, clock, 1.2)
        assert isinstance(recorder.reason, WriteTimeout)
        left = str(recorder.reason)
        assert left.startswith("the peer took none of ")
        assert left.endswith(" queued bytes for 16 s")
        peer.close()


def test_write_timeout_ends_with_the_queue(make_selector, recorder):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, timeouts=Timeouts(write=16))
        connection.write(BIG)
        assert receive(reactor, peer) == len(BIG)
        pass_time(reactor, clock, 100)
        assert not recorder.lost
        assert reactor.next_timeout() is None
        peer.close()


@given(queued=st.integers(0, 100_000), high=st.integers(0, 100_000), low=st.integers(0, 100_000))
def test_changed_water_marks_take_effect_at_once(queued, high, low):
    low = min(low, high)
    recorder = Recorder()
    ours, theirs = socket.socketpair()
    refusing = ScriptedSocket(ours, send=[BlockingIOError(errno.EAGAIN, "full")] * 4)
    with theirs, Reactor() as reactor:
        connection = reactor.adopt(refusing, lambda: recorder, limits=Limits(high_water=200_000))
        connection.write(bytes(queued))
        assert flow(recorder) == []
        connection.set_write_buffer_limits(high=high, low=low)
        assert flow(recorder) == ["pause_writing"] * (queued > high)
        connection.set_write_buffer_limits(high=200_000, low=100_000)
        assert flow(recorder) == ["pause_writing", "resume_writing"] * (queued > high)


def test_water_marks_above_max_write_buffer_are_refused(reactor, recorder):
    connection, peer = pair(reactor, recorder, limits=Limits(max_write_buffer=100_000))
    with pytest.raises(ValueError, match=r"high_water \(200000\) must not be above max_write_buffer"):
        connection.set_write_buffer_limits(high=200_000)
    peer.close()


def test_paused_writing_is_resumed_after_write_eof(reactor, recorder):
    connection, peer = pair(reactor, recorder)
    connection.write(BIG)
    connection.write_eof()
    assert receive(reactor, peer) == len(BIG)
    assert flow(recorder) == ["pause_writing", "resume_writing"]
    peer.close()


def test_write_timeout_of_a_write_between_ticks_counts_from_the_write(make_selector, recorder):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, timeouts=Timeouts(write=16, idle=16))
        reactor.run_once(0)
        clock.advance(15)
        connection.write(BIG)
        pass_time(reactor, clock, 15)
        assert not recorder.lost
        peer.close()


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("how", ["write", "writelines"])
def test_burst_that_the_kernel_accepts_is_not_counted_as_queued(make_selector, recorder, how, outside):
    with socket.create_server(("127.0.0.1", 0)) as server, Reactor(selector=make_selector()) as reactor:
        client = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
        connection = reactor.adopt(ours, lambda: recorder)
        lines = [b"%099d\n" % number for number in range(2000)]

        def burst():
            if how == "writelines":
                connection.writelines(lines)
            else:
                for line in lines:
                    connection.write(line)

        if outside:
            burst()
        else:
            reactor.call_soon(burst)
            reactor.run_once(0)
        assert connection.get_write_buffer_size() == 0
        assert flow(recorder) == []
        with client, client.makefile("rb") as file:
            assert [file.readline() for _ in lines] == lines


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=300),
    high=st.integers(0, 100_000),
    takes=st.integers(0, 200_000),
)
def test_pause_writing_counts_only_what_the_kernel_did_not_accept(sizes, high, takes):
    """The kernel accepts so many bytes: what it accepts is not counted as queued."""
    recorder = Recorder()
    ours, theirs = socket.socketpair()
    sock = Sink(ours, takes)
    with theirs, Reactor() as reactor:
        connection = reactor.adopt(sock, lambda: recorder, limits=Limits(high_water=high, low_water=0))

        def burst():
            for size in sizes:
                connection.write(bytes(size))

        reactor.call_soon(burst)
        reactor.run_once(0)
        left = max(0, sum(sizes) - takes)
        assert connection.get_write_buffer_size() == left
        assert flow(recorder) == ["pause_writing"] * (left > high)


def test_large_queue_is_sent_in_parts_between_other_connections(reactor, recorder):
    """The kernel would accept all of it at once; other connections wait for a part only."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = reactor.adopt(Sink(ours, 1 << 30), lambda: recorder)
        left = [64 << 20]
        connection.writelines([bytes(64 << 10)] * 1024)
        while connection.get_write_buffer_size():
            assert left[-1] - (8 << 20) <= connection.get_write_buffer_size() < left[-1]
            left.append(connection.get_write_buffer_size())
            reactor.run_once(0)
        assert len(left) > 8
        assert flow(recorder) == ["pause_writing", "resume_writing"]
        connection.abort()


@pytest.mark.parametrize("problem", [BlockingIOError(errno.EAGAIN, "full"), OSError(errno.EIO, "broken"), 1])
def test_failed_send_does_not_stop_the_flush_of_others(reactor, problem):
    ours, theirs = socket.socketpair()
    recorders = [Recorder(), Recorder()]
    connection = reactor.adopt(ScriptedSocket(ours, send=[problem]), lambda: recorders[0])
    other, peer = pair(reactor, recorders[1])
    with theirs, peer:
        reactor.call_soon(connection.write, b"one")
        reactor.call_soon(other.write, b"two")
        reactor.run_once(0)
        assert peer.recv(10) == b"two"
        assert other.get_write_buffer_size() == 0
        connection.abort()


def test_throttled_connection_has_one_timer_whatever_is_written(recorder):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, limits=Limits(write_rate=1000))
        connection.write(bytes(1000))
        for _ in range(100):
            connection.write(b"more")
            reactor.call_soon(connection.write, b"and more")
            reactor.run_once(0)
        assert receive(reactor, peer) == 1000
        assert connection.get_write_buffer_size() == 1200
        clock.advance(0.5)
        assert reactor.run_once(0) == 1
        assert receive(reactor, peer) == 500
        connection.abort()
        pass_time(reactor, clock, 10)
        assert isinstance(recorder.reason, ConnectionAborted)
        assert reactor.next_timeout() is None
        peer.close()


def test_throttled_connection_causes_no_wake_ups(make_selector, recorder):
    """The socket is writable again, but EVENT_WRITE is not registered."""
    clock = ManualClock()
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    sock = ScriptedSocket(ours)
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection = reactor.adopt(sock, lambda: recorder, limits=Limits(write_rate=1000))

        def events():
            return sum(reactor.run_once(0) for _ in range(20))

        for size in (1500, 500):
            sock.add(send=[BlockingIOError(errno.EAGAIN, "full")])
            connection.write(bytes(size))
            assert events() <= 3
            clock.advance(0.6)
            assert events() <= 3
            assert len(peer.recv(4000)) == size
            assert events() == 0
            clock.advance(5)
        connection.abort()
        peer.close()


def test_callback_that_writes_byte_by_byte_queues_little(reactor, recorder):
    """Gathered pieces are sent before the callback ends when they are as large as one large write."""
    connection, peer = pair(reactor, recorder)
    held = []

    def burst():
        for _ in range(10_000):
            connection.write(b"x")
            held.append(connection.get_write_buffer_size())

    reactor.call_soon(burst)
    reactor.run_once(0)
    assert 100 < max(held) < 5000
    assert receive(reactor, peer) == 10_000
    peer.close()


def test_small_pieces_take_the_memory_of_their_bytes(recorder):
    """The memory that a peer which reads nothing can make us use is counted, however small the pieces."""
    ours, theirs = socket.socketpair()
    sock = ScriptedSocket(ours, send=repeat(BlockingIOError), sendmsg=repeat(BlockingIOError))
    limits = Limits(max_write_buffer=200_000)
    tracemalloc.start()
    try:
        with theirs, Reactor() as reactor:
            connection = reactor.adopt(sock, lambda: recorder, limits=limits)
            before = tracemalloc.get_traced_memory()[0]
            number = 0
            while not connection.is_closing():
                connection.write(b"%02d" % (number % 100))  # a new object for each
                number += 1
                if number == 50_000:
                    held = tracemalloc.get_traced_memory()[0] - before
                    assert connection.get_write_buffer_size() == 100_000
                    assert held < 1.2 * 100_000
            assert number == 100_002
    finally:
        tracemalloc.stop()
