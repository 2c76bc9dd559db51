"""The sending half: the hard cap, the write timeout, and water marks that change."""

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Reactor, SlowConsumer, Timeouts, WriteTimeout
from reactor.testing import ManualClock, Recorder
from tests.helpers import ScriptedSocket, pair

BIG = bytes(4 << 20)


@pytest.fixture
def recorder():
    return Recorder()


def flow(recorder):
    return [name for name in recorder.names if name.endswith("_writing")]


def receive(reactor, peer):
    """Receive all that comes until nothing more does, or to the end of file."""
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


def test_who_never_reads_costs_the_cap_and_one_message(reactor, recorder):
    limits = Limits(high_water=10_000, low_water=1000, max_write_buffer=100_000)
    connection, peer = pair(reactor, recorder, limits=limits)
    most = 0
    for _ in range(100_000):
        connection.write(bytes(1000))
        most = max(most, connection.get_write_buffer_size())
    assert 100_000 < most <= 101_000
    reactor.run_once(0)
    assert isinstance(recorder.reason, SlowConsumer)
    assert str(recorder.reason) == f"{most} bytes queued, and max_write_buffer is 100000"
    assert reactor.stats().closed == {"SlowConsumer": 1}
    peer.close()


def test_one_write_may_be_larger_than_the_cap(reactor, recorder):
    limits = Limits(high_water=1000, low_water=1000, max_write_buffer=1000)
    connection, peer = pair(reactor, recorder, limits=limits)
    connection.write(BIG)
    assert not connection.is_closing()
    assert receive(reactor, peer) == len(BIG)
    connection.write(b"x")
    assert receive(reactor, peer) == 1
    peer.close()


def test_no_cap(reactor, recorder):
    connection, peer = pair(reactor, recorder, limits=Limits(max_write_buffer=None))
    for _ in range(20):
        connection.write(BIG)
    assert connection.get_write_buffer_size() > 19 * len(BIG)
    peer.close()


def test_cap_holds_within_a_callback_too(reactor, recorder):
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


def test_peer_that_takes_nothing_is_ended(make_selector, recorder):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, timeouts=Timeouts(write=16))
        connection.write(BIG)
        clock.advance(15.9)
        reactor.run_once(0)
        peer.recv(1 << 20)
        reactor.run_once(0)  # some of it was taken: the time begins anew
        clock.advance(15.9)
        reactor.run_once(0)
        reactor.run_once(0)
        assert not recorder.lost
        clock.advance(1.2)
        reactor.run_once(0)
        reactor.run_once(0)
        assert isinstance(recorder.reason, WriteTimeout)
        left = str(recorder.reason)
        assert left.startswith("the peer took none of ")
        assert left.endswith(" queued bytes for 16 s")
        peer.close()


def test_write_timeout_goes_with_the_queue(make_selector, recorder):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, timeouts=Timeouts(write=16))
        connection.write(BIG)
        assert receive(reactor, peer) == len(BIG)
        clock.advance(100)
        reactor.run_once(0)
        reactor.run_once(0)
        assert not recorder.lost
        assert reactor.next_timeout() is None
        peer.close()


@given(queued=st.integers(0, 100_000), high=st.integers(0, 100_000), low=st.integers(0, 100_000))
def test_marks_that_change_are_kept_at_once(queued, high, low):
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


def test_marks_above_the_cap_are_refused(reactor, recorder):
    connection, peer = pair(reactor, recorder, limits=Limits(max_write_buffer=100_000))
    with pytest.raises(ValueError, match=r"high_water \(200000\) must not be above max_write_buffer"):
        connection.set_write_buffer_limits(high=200_000)
    peer.close()


def test_who_paused_is_resumed_after_its_end_of_file(reactor, recorder):
    connection, peer = pair(reactor, recorder)
    connection.write(BIG)
    connection.write_eof()
    assert receive(reactor, peer) == len(BIG)
    assert flow(recorder) == ["pause_writing", "resume_writing"]
    peer.close()


def test_time_of_a_write_between_ticks_is_now(make_selector, recorder):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, timeouts=Timeouts(write=16, idle=16))
        reactor.run_once(0)
        clock.advance(15)
        connection.write(BIG)
        clock.advance(15)
        reactor.run_once(0)
        reactor.run_once(0)
        assert not recorder.lost
        peer.close()
