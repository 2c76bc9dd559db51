"""Deadlines of a connection, on a manual clock, and hang-ups of peers that are not read from."""

import contextlib
import socket
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import CloseTimeout, IdleTimeout, Limits, Reactor, ReadTimeout, Timeouts
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import connect, pair, pass_time, spin


@pytest.fixture
def recorder():
    return Recorder()


class Messages(Recorder):
    """Lines, each under a read deadline from its first byte on."""

    def data_received(self, data):
        super().data_received(data)
        self.connection.set_timeouts(read=None if data.endswith(b"\n") else 8)


def test_read_timeout_counts_from_the_start_of_a_message(timed, clock, recorder):
    _, peer = pair(timed, recorder, timeouts=Timeouts(read=8, idle=5))
    for _ in range(3):
        peer.send(b"x")
        pass_time(timed, clock, 2.6)
        assert not recorder.lost
    pass_time(timed, clock, 0.75)
    assert isinstance(recorder.reason, ReadTimeout)
    assert str(recorder.reason) == "the peer did not send what it owes within 8 s"
    peer.close()


def test_read_timeout_is_cleared_and_set_by_the_protocol(timed, clock):
    messages = Messages()
    _, peer = pair(timed, messages, timeouts=Timeouts(read=8))
    peer.send(b"all\n")
    timed.run_once(0)
    pass_time(timed, clock, 100)
    assert not messages.lost
    peer.send(b"half")
    timed.run_once(0)
    pass_time(timed, clock, 7.9)
    assert not messages.lost
    pass_time(timed, clock, 0.7)
    assert isinstance(messages.reason, ReadTimeout)
    peer.close()


def test_read_timeout_ends_with_the_peer_s_end_of_file(timed, clock, recorder):
    recorder.keep_open = True
    connection, peer = pair(timed, recorder, timeouts=Timeouts(read=8))
    peer.shutdown(socket.SHUT_WR)
    timed.run_once(0)
    pass_time(timed, clock, 100)
    assert not recorder.lost
    connection.close()
    peer.close()


def test_set_timeouts_changes_one_connection(timed, clock, recorder):
    connection, peer = pair(timed, recorder)
    connection.set_timeouts(idle=8, write=1, close=2)
    pass_time(timed, clock, 7.9)
    assert not recorder.lost
    connection.set_timeouts(idle=None)
    pass_time(timed, clock, 100)
    assert not recorder.lost
    connection.set_timeouts(idle=120)
    pass_time(timed, clock, 12)
    assert not recorder.lost
    pass_time(timed, clock, 8)
    assert isinstance(recorder.reason, IdleTimeout)
    connection.set_timeouts(idle=1, read=1)
    assert timed.next_timeout() is None
    peer.close()


@pytest.mark.parametrize("name", ["idle", "read", "write", "close"])
def test_invalid_timeout_is_refused(timed, recorder, name):
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
            pass_time(reactor, clock, part * timeout)
            assert not recorder.lost
            peer.send(b"x")
            reactor.run_once(0)
        active = clock.now
        while not recorder.lost:
            pass_time(reactor, clock, step * timeout)
        assert timeout <= clock.now - active <= timeout * (1.1 + step)
        assert isinstance(recorder.reason, IdleTimeout)
        peer.close()


@pytest.mark.parametrize("queued", [False, True])
def test_deadline_ends_with_a_reset_only_if_something_is_queued(timed, clock, recorder, queued):
    """A partial answer must not look complete; an idle peer that got everything sees a clean end."""
    listener = timed.listen("127.0.0.1:0", lambda: recorder, timeouts=Timeouts(idle=10))
    with connect(timed, listener.addresses[0]) as client:
        spin(timed, timed.connections)
        if queued:
            recorder.connection.write(bytes(32 << 20))
        pass_time(timed, clock, 12)
        assert isinstance(recorder.reason, IdleTimeout)
        assert str(recorder.reason) == "no byte in either direction for 10 s"
        if queued:
            with pytest.raises(ConnectionResetError):
                while client.recv(1 << 20):
                    pass
        else:
            assert client.recv(1) == b""


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("half_closed", [False, True])
def test_reset_is_noticed_while_nothing_is_read_or_sent(timed, clock, half_closed):
    """Within a second, with a few wake-ups."""
    recorder = Recorder()
    recorder.keep_open = half_closed
    listener = timed.listen("127.0.0.1:0", lambda: recorder)
    client = connect(timed, listener.addresses[0])
    spin(timed, timed.connections)
    if half_closed:
        client.shutdown(socket.SHUT_WR)
        spin(timed, lambda: "eof_received" in recorder.names)
    else:
        recorder.connection.pause_reading()
    assert sum(timed.run_once(0) for _ in range(100)) == 0
    for _ in range(4):
        pass_time(timed, clock, 0.6)
        wait = timed.next_timeout()
        assert wait is None or wait > 0
    reset(client)
    clock.advance(0.9)
    assert sum(timed.run_once(0) for _ in range(100)) <= 3
    assert isinstance(recorder.reason, ConnectionError)


def test_reset_is_noticed_while_the_rate_allows_nothing(timed, clock, recorder):
    listener = timed.listen("127.0.0.1:0", lambda: recorder, limits=Limits(read_rate=10))
    client = connect(timed, listener.addresses[0])
    client.sendall(bytes(10))
    spin(timed, lambda: recorder.received)
    recorder.connection.pause_reading()
    reset(client)
    pass_time(timed, clock, 0.2)  # the rate allows input again, and reading is paused
    pass_time(timed, clock, 0.7)
    assert isinstance(recorder.reason, ConnectionResetError)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_input_before_the_peer_s_close_is_read_when_reading_resumes(timed, clock, recorder, kind, tmp_path):
    """A hang-up is no reset: the peer's bytes are received first, when reading resumes."""
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/s"
    listener = timed.listen(address, lambda: recorder)
    client = connect(timed, listener.addresses[0])
    spin(timed, timed.connections)
    recorder.connection.pause_reading()
    client.sendall(b"last words")
    client.close()
    clock.advance(5)
    assert sum(timed.run_once(0) for _ in range(100)) <= 3
    assert recorder.names == ["connection_made"]
    recorder.connection.resume_reading()
    spin(timed, lambda: recorder.lost)
    assert recorder.received == b"last words"
    assert recorder.reason is None


def test_hang_up_of_a_half_closed_connection_causes_no_wake_ups(reactor, recorder):
    recorder.keep_open = True
    connection, peer = pair(reactor, recorder)
    peer.close()
    spin(reactor, lambda: "eof_received" in recorder.names)
    assert sum(reactor.run_once(0) for _ in range(100)) <= 1
    connection.abort()


@pytest.mark.parametrize("timeouts", [Timeouts(idle=1), Timeouts(read=1)])
def test_peer_is_not_blamed_while_this_side_has_paused_reading(timed, clock, recorder, timeouts):
    connection, peer = pair(timed, recorder, timeouts=timeouts)
    pass_time(timed, clock, 0.5)
    connection.pause_reading()
    peer.send(b"unread")
    pass_time(timed, clock, 100)
    assert recorder.names == ["connection_made"]
    connection.resume_reading()
    pass_time(timed, clock, 0.4)
    assert recorder.names == ["connection_made", "data_received"]
    pass_time(timed, clock, 1.2)
    assert isinstance(recorder.reason, IdleTimeout if timeouts.idle else ReadTimeout)
    peer.close()


class Stopping:
    """A connection whose program stops reading now and then, and how much is left of its deadlines."""

    IDLE, READ = 4, 8

    def __init__(self, reactor, clock):
        self.reactor, self.clock = reactor, clock
        self.recorder = Recorder()
        timeouts = Timeouts(idle=self.IDLE, read=self.READ)
        self.connection, self.peer = pair(reactor, self.recorder, timeouts=timeouts)
        self.stops = set()
        self.unread = False
        self.idle_left, self.read_left = self.IDLE, self.READ

    def do(self, step):
        stopped = bool(self.stops)
        match step:
            case "pause" | "hold":
                self.stops.add(step)
                self.connection.pause_reading() if step == "pause" else self.connection.hold_reading(True)
            case "resume" | "release":
                self.stops.discard("pause" if step == "resume" else "hold")
                self.connection.resume_reading() if step == "resume" else self.connection.hold_reading(False)
                if stopped and not self.stops:
                    self.idle_left = self.IDLE
            case "send":
                self.peer.send(b"x")
                self.unread = True
            case "owe":
                self.connection.set_timeouts(read=self.READ)
                self.read_left = self.READ
        self.reactor.run_once(0)
        if self.unread and not self.stops:
            self.unread = False
            self.idle_left = self.IDLE

    def wait(self, seconds):
        pass_time(self.reactor, self.clock, seconds)
        if not self.stops:
            self.idle_left -= seconds
            self.read_left -= seconds

    def check(self):
        """Check that it is lost if a deadline has passed, and not before; return whether it is."""
        lost = self.recorder.lost
        if lost:
            assert not self.stops
            left = self.idle_left if isinstance(self.recorder.reason, IdleTimeout) else self.read_left
            assert left <= 1e-9
        elif not self.stops:
            assert self.idle_left > -self.IDLE / 16 - 1e-9
            assert self.read_left > -self.READ / 16 - 1e-9
        return lost


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["pause", "resume", "hold", "release", "send", "owe", "wait"]),
            st.sampled_from([0, 0.5, 1, 3.9, 4.2, 9]),
        ),
        max_size=30,
    )
)
def test_idle_and_read_count_only_while_this_side_reads(steps):
    """`read` goes on with what is left of it, `idle` begins anew."""
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        model = Stopping(reactor, clock)
        with model.peer:
            for step, seconds in steps:
                model.do(step)
                model.wait(seconds)
                if model.check():
                    return
            model.do("resume")
            model.do("release")
            for _ in range(50):
                model.wait(0.25)
                if model.check():
                    return
            raise AssertionError("no deadline has ended it")


@pytest.mark.parametrize("timeouts", [Timeouts(read=3), Timeouts(idle=0.05)])
def test_peer_is_not_blamed_for_what_read_rate_leaves_unread(timed, clock, timeouts):
    messages = Messages()
    _, peer = pair(timed, messages, timeouts=timeouts, limits=Limits(read_rate=100))
    peer.send(bytes(1500) + b"\n")
    while not messages.received.endswith(b"\n"):
        pass_time(timed, clock, 0.04)
        assert not messages.lost
    assert clock.now > 1000 + 10
    peer.close()


def test_peer_is_not_idle_while_write_rate_sends_it_nothing(timed, clock, recorder):
    connection, peer = pair(timed, recorder, timeouts=Timeouts(idle=0.5), limits=Limits(write_rate=1))
    connection.write(b"12345")
    received = b""
    while received != b"12345":
        pass_time(timed, clock, 0.1)
        assert not recorder.lost
        with contextlib.suppress(BlockingIOError):
            received += peer.recv(100)
    pass_time(timed, clock, 0.6)
    assert isinstance(recorder.reason, IdleTimeout)
    peer.close()


def test_close_timeout_is_a_bound_for_what_write_rate_holds_back_too(timed, clock, recorder):
    connection, peer = pair(timed, recorder, timeouts=Timeouts(close=8), limits=Limits(write_rate=100))
    connection.write(bytes(10_000))
    connection.close()
    while not recorder.lost:
        pass_time(timed, clock, 0.1)
        assert clock.now < 1000 + 9
    assert isinstance(recorder.reason, CloseTimeout)
    left = 10_000 - len(peer.recv(10_000))
    assert str(recorder.reason) == f"{left} bytes not sent in the 8 s that close gave them: write_rate is 100"
    peer.close()


class Busy(Recorder):
    """Echoes in slow callbacks; `busy` has the seconds that each of them takes."""

    def __init__(self, clock, busy):
        super().__init__()
        self.clock, self.busy, self.answered = clock, list(busy), None

    def data_received(self, data):
        super().data_received(data)
        self.clock.advance(self.busy.pop() if self.busy else 0)
        self.connection.write(data)
        self.answered = self.clock.now


@given(
    timeout=st.floats(0.001, 1e4),
    busy=st.lists(st.floats(0, 3), min_size=1, max_size=8),
    others=st.integers(0, 3),
    step=st.floats(0.01, 0.06),
)
def test_idle_timeout_is_never_early_however_long_callbacks_take(timeout, busy, others, step):
    """A second connection keeps the loop busy for `busy` times the timeout, before and after the answer."""
    clock = ManualClock()
    quick = [Busy(clock, []) for _ in range(1 + others)]
    slow = Busy(clock, [part * timeout for part in busy])
    with Reactor(clock=clock) as reactor:
        peers = [pair(reactor, protocol, timeouts=Timeouts(idle=timeout))[1] for protocol in quick]
        peers.append(pair(reactor, slow)[1])
        while slow.busy:
            for peer in peers:
                peer.send(b"x")
            reactor.run_once(0)
            for protocol in quick:
                if protocol.answered is None or clock.now - protocol.answered < timeout:
                    assert not protocol.lost
        lengths = [timeout * part for part in busy]
        while not all(protocol.lost for protocol in quick):
            pass_time(reactor, clock, step * timeout)
            for protocol in quick:
                silent = clock.now - protocol.answered
                assert silent >= timeout or not protocol.lost
                assert silent <= (1.1 + step) * timeout + 1.07 * max(lengths) or protocol.lost
        for peer in peers:
            peer.close()


def test_write_in_a_long_callback_restarts_the_idle_timeout(timed, clock):
    busy = Busy(clock, [1.5])
    _, peer = pair(timed, busy, timeouts=Timeouts(idle=1))
    peer.send(b"x")
    timed.run_once(0)
    timed.run_once(0)
    assert not busy.lost
    pass_time(timed, clock, 0.99)
    assert not busy.lost
    pass_time(timed, clock, 2)
    assert isinstance(busy.reason, IdleTimeout)
    peer.close()


@pytest.mark.parametrize("timeouts", [Timeouts(idle=1), Timeouts(read=1)])
def test_deadline_fires_after_the_kernel_s_input_was_read(timed, clock, timeouts):
    """The process was stopped; meanwhile more has arrived than one tick reads."""
    protocols = [Messages() for _ in range(200)]
    peers = [pair(timed, protocol, timeouts=timeouts)[1] for protocol in protocols]
    timed.run_once(0)
    for peer in peers:
        peer.send(b"all of it\n")
    clock.advance(3)
    for _ in range(20):
        timed.run_once(0)
    assert [protocol.received for protocol in protocols] == [b"all of it\n"] * 200
    assert not any(protocol.lost for protocol in protocols)
    for peer in peers:
        peer.close()


def test_write_timeout_does_not_count_a_long_callback(timed, clock, recorder):
    """The queue is sent before its deadline fires, though other connections are handled first."""
    connection, peer = pair(timed, recorder, timeouts=Timeouts(write=1))
    others = [pair(timed, Recorder()) for _ in range(200)]
    connection.write(bytes(8 << 20))
    timed.run_once(0)
    received = 0
    for _ in range(3):
        received += len(peer.recv(1 << 20))
        for _, other in others:
            other.send(b"x")
        clock.advance(1.5)
        timed.run_once(0)
        assert not recorder.lost
    assert received
    peer.close()
    for _, other in others:
        other.close()


def test_flooding_peer_is_ended_at_its_deadline(timed, clock, recorder):
    """Reading before a deadline fires is bounded: a message that never ends does not extend it."""
    _, peer = pair(timed, recorder, timeouts=Timeouts(read=1))
    receive = recorder.data_received

    def data_received(data):
        receive(data)
        peer.send(data)

    recorder.data_received = data_received
    peer.send(b"x" * 1000)
    clock.advance(1.2)
    timed.run_once(0)
    timed.run_once(0)
    assert isinstance(recorder.reason, ReadTimeout)
    peer.close()


def test_reset_found_by_a_deadline_is_the_reason_of_connection_lost(timed, clock, recorder):
    """The kernel reports an error once: a check for input must not consume it."""
    listener = timed.listen("127.0.0.1:0", lambda: recorder, timeouts=Timeouts(idle=10))
    client = connect(timed, listener.addresses[0])
    spin(timed, timed.connections)
    timed.call_later(5, reset, client)  # in the tick in which the deadline fires, after its poll
    clock.advance(20)
    spin(timed, lambda: recorder.lost)
    assert isinstance(recorder.reason, ConnectionResetError)
    assert "eof_received" not in recorder.names


class Answering(Recorder):
    """Answers its read deadline as `answers` says, one after the other."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def timed_out(self, exc):
        assert isinstance(exc, ReadTimeout)
        return self.answers.pop(0)(self.connection)


def test_protocol_may_answer_its_read_deadline_with_another(timed, clock):
    def go_on(connection):
        connection.set_timeouts(read=4)
        return True

    answering = Answering(go_on, go_on, lambda connection: False)
    _, peer = pair(timed, answering, timeouts=Timeouts(read=8))
    pass_time(timed, clock, 8.6)
    assert len(answering.answers) == 2
    pass_time(timed, clock, 3.9)
    assert len(answering.answers) == 2
    pass_time(timed, clock, 0.4)
    assert len(answering.answers) == 1
    pass_time(timed, clock, 4.3)
    assert isinstance(answering.reason, ReadTimeout)
    peer.close()


def test_connection_kept_at_its_read_deadline_has_none_from_then_on(timed, clock):
    answering = Answering(lambda connection: True)
    connection, peer = pair(timed, answering, timeouts=Timeouts(read=8))
    pass_time(timed, clock, 100)
    assert not answering.lost
    connection.set_timeouts(idle=5)
    pass_time(timed, clock, 6)
    assert isinstance(answering.reason, IdleTimeout)
    peer.close()


def test_protocol_may_answer_the_peer_at_its_read_deadline(timed, clock):
    def farewell(connection):
        connection.write(b"too late")
        connection.close()
        return True

    answering = Answering(farewell)
    _, peer = pair(timed, answering, timeouts=Timeouts(read=8))
    pass_time(timed, clock, 8.6)
    assert answering.reason is None
    assert peer.recv(100) == b"too late"
    assert peer.recv(100) == b""
    peer.close()


def test_exception_in_timed_out_resets_the_connection(clock):
    errors = Errors()
    with Reactor(clock=clock, on_error=errors) as reactor:
        answering = Answering(lambda connection: 1 / 0)
        _, peer = pair(reactor, answering, timeouts=Timeouts(read=8))
        pass_time(reactor, clock, 9)
        assert isinstance(answering.reason, ZeroDivisionError)
        peer.close()
    assert errors.take()[1] == "Answering.timed_out"


class Slow(Recorder):
    """Takes 0.2 ms, on the reactor's clock, to end at its read deadline."""

    ended = 0

    def timed_out(self, exc):
        Slow.ended += 1
        self.connection.reactor._loop.time.advance(0.0002)
        return False


@pytest.mark.parametrize(("budget", "at_once"), [(None, 6), (0.0001, 1)])
def test_many_deadlines_that_pass_at_once_are_spread_over_ticks(timed, clock, budget, at_once):
    Slow.ended = 0
    pairs = [pair(timed, Slow(), timeouts=Timeouts(read=1)) for _ in range(30)]
    clock.advance(2)
    counts = [0]
    while Slow.ended < 30:
        timed.run_once(0, budget)
        counts.append(Slow.ended)
    assert max(later - earlier for earlier, later in pairwise(counts)) <= at_once
    while timed.connections():
        timed.run_once(0)
    for _, peer in pairs:
        peer.close()
