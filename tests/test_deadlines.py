"""Deadlines of a connection, on a clock that is moved by hand; and peers that hang up unnoticed."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import IdleTimeout, Reactor, ReadTimeout, Timeouts
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import connect, pair, spin


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def timed(make_selector, clock):
    errors = Errors()
    with Reactor(selector=make_selector(), clock=clock, on_error=errors) as reactor:
        yield reactor
    assert errors.seen == []


@pytest.fixture
def recorder():
    return Recorder()


class Messages(Recorder):
    """Lines; the peer owes one from the first byte on."""

    def data_received(self, data):
        super().data_received(data)
        self.connection.set_timeouts(read=None if data.endswith(b"\n") else 8)


def let(reactor, clock, seconds):
    clock.advance(seconds)
    reactor.run_once(0)
    reactor.run_once(0)


def test_read_timeout_counts_from_the_beginning_and_not_from_each_byte(timed, clock, recorder):
    _, peer = pair(timed, recorder, timeouts=Timeouts(read=8, idle=5))
    for _ in range(3):
        peer.send(b"x")
        let(timed, clock, 2.6)
        assert not recorder.lost
    let(timed, clock, 0.75)
    assert isinstance(recorder.reason, ReadTimeout)
    assert str(recorder.reason) == "the peer did not send what it owes within 8 s"
    peer.close()


def test_read_timeout_is_cleared_and_set_by_the_protocol(timed, clock):
    messages = Messages()
    _, peer = pair(timed, messages, timeouts=Timeouts(read=8))
    peer.send(b"all\n")
    timed.run_once(0)
    let(timed, clock, 100)
    assert not messages.lost
    peer.send(b"half")
    timed.run_once(0)
    let(timed, clock, 7.9)
    assert not messages.lost
    let(timed, clock, 0.7)
    assert isinstance(messages.reason, ReadTimeout)
    peer.close()


def test_nothing_is_owed_after_the_end_of_file(timed, clock, recorder):
    recorder.keep_open = True
    connection, peer = pair(timed, recorder, timeouts=Timeouts(read=8))
    peer.shutdown(socket.SHUT_WR)
    timed.run_once(0)
    let(timed, clock, 100)
    assert not recorder.lost
    connection.close()
    peer.close()


def test_timeouts_of_one_connection(timed, clock, recorder):
    connection, peer = pair(timed, recorder)
    connection.set_timeouts(idle=8, write=1, close=2)
    let(timed, clock, 7.9)
    assert not recorder.lost
    connection.set_timeouts(idle=None)
    let(timed, clock, 100)
    assert not recorder.lost
    connection.set_timeouts(idle=120)
    let(timed, clock, 12)
    assert not recorder.lost
    let(timed, clock, 8)
    assert isinstance(recorder.reason, IdleTimeout)
    connection.set_timeouts(idle=1, read=1)
    assert timed.next_timeout() is None
    peer.close()


@pytest.mark.parametrize("name", ["idle", "read", "write", "close"])
def test_timeout_that_cannot_be_meant(timed, recorder, name):
    connection, peer = pair(timed, recorder)
    with pytest.raises(ValueError, match=f"{name} must be more than 0 seconds, not 0"):
        connection.set_timeouts(**{name: 0})
    peer.close()


def test_connection_made_long_after_the_last_tick_is_not_idle(timed, clock, recorder):
    timed.run_once(0)
    clock.advance(3600)
    _, peer = pair(timed, recorder, timeouts=Timeouts(idle=10, read=10))
    timed.run_once(0)
    timed.run_once(0)
    assert not recorder.lost
    peer.close()


@given(
    timeout=st.floats(0.01, 1e5),
    start=st.floats(0, 1e6),
    quiet=st.lists(st.floats(0.1, 0.999), max_size=8),
    step=st.floats(0.01, 0.06),
)
def test_idle_timeout_is_never_early_and_a_tenth_late_at_most(timeout, start, quiet, step):
    clock, recorder = ManualClock(1000 + start), Recorder()
    with Reactor(clock=clock) as reactor:
        _, peer = pair(reactor, recorder, timeouts=Timeouts(idle=timeout))
        for part in quiet:
            let(reactor, clock, part * timeout)
            assert not recorder.lost
            peer.send(b"x")
            reactor.run_once(0)
        active = clock.now
        while not recorder.lost:
            let(reactor, clock, step * timeout)
        assert timeout <= clock.now - active <= timeout * (1.1 + step)
        assert isinstance(recorder.reason, IdleTimeout)
        peer.close()


def test_hung_up_and_paused_costs_no_wake_ups(reactor, recorder):
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)
    recorder.connection.pause_reading()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert sum(reactor.run_once(0) for _ in range(100)) == 0
    recorder.connection.resume_reading()
    spin(reactor, lambda: recorder.lost)
    assert isinstance(recorder.reason, ConnectionResetError)


def test_hung_up_and_half_closed_costs_no_wake_ups(reactor, recorder):
    recorder.keep_open = True
    connection, peer = pair(reactor, recorder)
    peer.close()
    spin(reactor, lambda: "eof_received" in recorder.names)
    assert sum(reactor.run_once(0) for _ in range(100)) == 0
    connection.abort()
