"""The loop: order, bounds, threads, descriptors, and leaving it in one piece."""

import logging
import os
import select
import selectors
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Reactor, UsageError
from reactor.loop import CALLBACKS_PER_TICK, EVENTS_PER_TICK, TIMERS_PER_TICK, Loop
from tests.helpers import DEADLINE, Errors, ManualClock, Recorder, pair, spin


@pytest.fixture
def ran():
    return []


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def timed(make_selector, clock):
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        yield reactor


@pytest.fixture
def pairs():
    """Makes pairs of sockets, which are closed at the end."""
    made = []

    def make(number):
        new = [socket.socketpair() for _ in range(number)]
        made.extend(new)
        return new

    yield make
    for each in made:
        for sock in each:
            sock.close()


# Callbacks


def test_callbacks_run_in_the_order_they_were_asked_for(reactor, ran):
    for number in range(3):
        reactor.call_soon(ran.append, number)
    reactor.run_once()
    assert ran == [0, 1, 2]


def test_cancelled_callback_does_not_run(reactor, ran):
    handle = reactor.call_soon(ran.append, 1)
    handle.cancel()
    reactor.run_once()
    assert ran == []


def test_callback_may_cancel_a_later_one(reactor, ran):
    reactor.call_soon(lambda: [later.cancel()])
    later = reactor.call_soon(ran.append, 1)
    reactor.run_once()
    assert ran == []


def test_what_a_callback_asks_for_runs_in_the_next_tick(reactor, ran):
    def again():
        ran.append(1)
        reactor.call_soon(again)

    again()
    for expected in (2, 3, 4):
        reactor.run_once()
        assert len(ran) == expected


def test_tick_runs_a_bounded_number_of_callbacks(reactor, ran):
    for number in range(CALLBACKS_PER_TICK + 10):
        reactor.call_soon(ran.append, number)
    assert reactor.run_once() == CALLBACKS_PER_TICK
    assert reactor.run_once() == 10
    assert ran == list(range(CALLBACKS_PER_TICK + 10))


def test_exception_is_reported_by_name_and_the_others_run(reactor, ran, errors):
    problem = RuntimeError("mine")

    def broken():
        raise problem

    reactor.call_soon(broken)
    reactor.call_soon(ran.append, 1)
    reactor.run_once()
    exc, callback, connection = errors.take()
    assert (exc, connection) == (problem, None)
    assert callback.endswith("broken")
    assert ran == [1]


def test_callback_without_a_name_is_shown(reactor, errors):
    class Broken:
        def __call__(self):
            raise RuntimeError

        def __repr__(self):
            return "<mine>"

    reactor.call_soon(Broken())
    reactor.run_once()
    assert errors.take()[1] == "<mine>"


def test_without_on_error_the_traceback_is_logged(caplog):
    with Reactor() as reactor:
        reactor.call_soon(lambda: 1 / 0)
        reactor.run_once()
    (record,) = caplog.records
    assert record.name == "reactor"
    assert record.levelno == logging.ERROR
    assert record.exc_info[0] is ZeroDivisionError
    assert "<lambda>" in record.getMessage()


def test_error_of_a_connection_is_logged_with_it(caplog):
    class Broken(Recorder):
        def data_received(self, data):
            raise RuntimeError

    with Reactor() as reactor:
        _, peer = pair(reactor, Broken())
        peer.send(b"x")
        reactor.run_once(1)
        peer.close()
    assert "Broken.data_received of <Connection open, Broken>" in caplog.text


def test_on_error_that_fails_is_logged_with_what_it_was_told(caplog, ran):
    def on_error(exc, callback, connection):
        raise KeyError("handler")

    with Reactor(on_error=on_error) as reactor:
        reactor.call_soon(lambda: 1 / 0)
        reactor.call_soon(ran.append, 1)
        reactor.run_once()
    assert ran == [1]
    assert "on_error itself failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


# Timers


def test_timers_run_when_they_are_due_and_in_order(timed, clock, ran):
    timed.call_later(2, ran.append, "second")
    timed.call_later(1, ran.append, "first")
    timed.call_at(timed.time() + 2, ran.append, "third")
    clock.advance(0.999)
    timed.run_once()
    assert ran == []
    clock.advance(0.001)
    timed.run_once()
    assert ran == ["first"]
    clock.advance(1)
    timed.run_once()
    assert ran == ["first", "second", "third"]


@given(delays=st.lists(st.floats(0, 100)), cancelled=st.sets(st.integers(0, 20)))
def test_every_timer_that_is_not_cancelled_runs_once_never_early(delays, cancelled):
    clock = ManualClock()
    ran = []
    with Loop(clock=clock) as loop:
        start = clock.now
        handles = [
            loop.call_later(delay, lambda number=number: ran.append((number, clock.now - start)))
            for number, delay in enumerate(delays)
        ]
        for number in cancelled & set(range(len(handles))):
            handles[number].cancel()
        while (wait := loop.next_timeout()) is not None:
            clock.advance(wait)
            loop.run_once()
    assert sorted(number for number, _ in ran) == sorted(set(range(len(delays))) - cancelled)
    assert all(when >= delays[number] - 1e-9 for number, when in ran)
    assert [when for _, when in ran] == sorted(when for _, when in ran)


def test_tick_runs_a_bounded_number_of_timers(timed, clock, ran):
    for number in range(TIMERS_PER_TICK + 10):
        timed.call_later(1, ran.append, number)
    clock.advance(2)
    assert timed.run_once() == TIMERS_PER_TICK
    assert timed.run_once() == 10


def test_timer_that_was_asked_for_in_the_past_is_due(timed, ran):
    timed.call_later(-5, ran.append, 1)
    timed.run_once()
    assert ran == [1]


def test_timer_that_never_comes_does_no_harm(reactor, ran):
    reactor.call_at(float("inf"), ran.append, 1)
    reactor.run_once(0)
    assert reactor.next_timeout() == 86400
    assert ran == []


def test_time_that_is_no_number(reactor):
    with pytest.raises(ValueError, match="not nan"):
        reactor.call_later(float("nan"), print)


def test_after_a_long_uptime_timers_still_run(ran):
    clock = ManualClock(1e16)
    with Loop(clock=clock) as loop:
        loop.call_later(1e-9, ran.append, 1)
        loop.run_once()
    assert ran == [1]


def test_wait_ends_with_the_timer(reactor, ran):
    reactor.call_later(0.001, ran.append, 1)
    reactor.call_later(DEADLINE, reactor.stop)
    spin(reactor, lambda: ran)


def test_next_timeout(timed, clock):
    assert timed.next_timeout() is None
    handle = timed.call_later(3, print)
    assert timed.next_timeout() == 3
    clock.advance(4)
    assert timed.next_timeout() == 0
    handle.cancel()
    assert timed.next_timeout() is None
    timed.call_soon(int)
    assert timed.next_timeout() == 0


# Threads


def test_call_from_a_thread_ends_an_endless_wait(reactor, ran):
    def call():
        reactor.call_soon_threadsafe(ran.append, threading.current_thread())
        reactor.call_soon_threadsafe(reactor.stop)

    thread = threading.Thread(target=call)
    reactor.call_soon(thread.start)
    reactor.run()
    thread.join()
    assert ran == [thread]


def test_burst_of_calls_wakes_the_loop_once_and_runs_in_order(reactor, ran):
    for number in range(1000):
        reactor.call_soon_threadsafe(ran.append, number)
    fd = reactor._wakeup.fileno()
    with socket.socket(fileno=os.dup(fd)) as receiver:
        assert receiver.recv(100, socket.MSG_PEEK) == b"\0"
    spin(reactor, lambda: len(ran) == 1000)
    assert ran == list(range(1000))


def test_many_threads_lose_no_call(reactor, ran):
    def call():
        for _ in range(500):
            reactor.call_soon_threadsafe(ran.append, 1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    spin(reactor, lambda: len(ran) == 2000)
    for thread in threads:
        thread.join()


def test_wake_up_that_fails_is_loud(reactor, monkeypatch):
    def broken():
        raise OSError(5, "broken")

    monkeypatch.setattr(type(reactor._wakeup), "wake", lambda self: broken())
    with pytest.raises(OSError, match="broken"):
        reactor.call_soon_threadsafe(print)
    monkeypatch.undo()


def test_stop_after_close_is_nothing():
    reactor = Reactor()
    reactor.close()
    reactor.stop()


# Running and leaving


def test_run_once_tells_how_much_it_handled(reactor):
    assert reactor.run_once() == 0
    reactor.call_soon(int)
    reactor.call_later(0, int)
    assert reactor.run_once() == 2


def test_stop_from_a_callback_ends_the_run_after_its_tick(reactor, ran):
    reactor.call_soon(reactor.stop)
    reactor.call_soon(ran.append, 1)
    reactor.run()
    assert ran == [1]


def test_stop_before_run_ends_it_at_once(reactor, ran):
    reactor.stop()
    reactor.run()
    reactor.call_soon(ran.append, 1)
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert ran == [1]


@pytest.mark.parametrize("drive", ["run", "run_once"])
def test_driving_from_inside_a_callback_is_an_error(reactor, errors, drive):
    reactor.call_soon(getattr(reactor, drive))
    reactor.run_once()
    exc, _, _ = errors.take()
    assert isinstance(exc, UsageError)
    assert str(exc) == "the reactor is being driven by this thread already"


def test_driving_from_a_second_thread_is_an_error(reactor, ran):
    def drive():
        try:
            reactor.run_once()
        except UsageError as exc:
            ran.append(str(exc))

    def start():
        thread = threading.Thread(target=drive)
        thread.start()
        thread.join(DEADLINE)

    reactor.call_soon(start)
    reactor.run_once()
    assert ran == ["the reactor is being driven by another thread already"]


@pytest.mark.parametrize("leaver", [KeyboardInterrupt, SystemExit])
def test_interrupt_leaves_the_loop_in_one_piece(reactor, ran, leaver):
    def leave():
        raise leaver

    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    reactor.call_soon(connection.write, b"written before")
    reactor.call_soon(leave)
    reactor.call_soon(ran.append, 1)
    with pytest.raises(leaver):
        reactor.run()
    assert peer.recv(100) == b"written before"
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert ran == [1]
    peer.close()


def test_interrupt_in_data_received_loses_no_event(reactor):
    class Leaver(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise KeyboardInterrupt

    protocols = [Leaver(), Leaver()]
    peers = [pair(reactor, protocol)[1] for protocol in protocols]
    for peer in peers:
        peer.send(b"x")
    for _ in protocols:
        with pytest.raises(KeyboardInterrupt):
            reactor.run_once(1)
    assert [protocol.received for protocol in protocols] == [b"x", b"x"]
    for peer in peers:
        peer.close()


def test_close_from_a_callback_closes_after_the_tick(make_selector, ran):
    reactor = Reactor(selector=make_selector())
    reactor.call_soon(reactor.close)
    reactor.call_soon(lambda: ran.append(reactor.is_closed()))
    reactor.run()
    assert ran == [False]
    assert reactor.is_closed()


def test_close_drops_what_was_to_be_called(ran):
    with Reactor() as reactor:
        reactor.call_soon(ran.append, 1)
        reactor.call_later(0, ran.append, 1)
        reactor.call_soon_threadsafe(ran.append, 1)
    assert ran == []


def test_closed_loop_s_use_is_an_error():
    reactor = Reactor()
    reactor.close()
    for use in (
        lambda: reactor.call_soon(print),
        lambda: reactor.call_later(1, print),
        lambda: reactor.call_at(1, print),
        lambda: reactor.call_soon_threadsafe(print),
        lambda: reactor.add_reader(0, print),
        lambda: reactor.add_writer(0, print),
        lambda: reactor.add_signal_handler(10, print),
    ):
        with pytest.raises(UsageError, match=r"^the reactor is closed: make a new one$"):
            use()


def test_context_manager_gives_the_loop_itself():
    reactor = Reactor()
    with reactor as given:
        assert given is reactor


# Descriptors


def test_host_can_wait_for_the_reactor_s_descriptor():
    with Reactor() as reactor:
        recorder = Recorder()
        _, peer = pair(reactor, recorder)
        assert select.select([reactor.fileno()], [], [], 0)[0] == []
        peer.send(b"x")
        assert select.select([reactor.fileno()], [], [], DEADLINE)[0]
        reactor.run_once(0)
        assert recorder.received == b"x"
        peer.close()


def test_selector_without_a_descriptor_says_so():
    with Reactor(selector=selectors.PollSelector()) as reactor:
        with pytest.raises(UsageError, match="PollSelector has no descriptor: call run_once instead"):
            reactor.fileno()


def test_reader_and_writer_of_one_descriptor(reactor, pairs, ran):
    ((ours, theirs),) = pairs(1)
    reactor.add_reader(ours, ran.append, "old")
    reactor.add_reader(ours, lambda: (ran.append("read"), ours.recv(10)))
    reactor.add_writer(ours.fileno(), ran.append, "write")
    reactor.run_once(1)
    assert ran == ["write"]
    theirs.send(b"x")
    reactor.run_once(1)
    assert ran == ["write", "read", "write"]
    assert reactor.remove_writer(ours) is True
    assert reactor.remove_writer(ours) is False
    theirs.send(b"x")
    reactor.run_once(1)
    assert ran[3:] == ["read"]
    assert reactor.remove_reader(ours) is True
    assert reactor.remove_reader(ours) is False


def test_reader_may_remove_the_writer_of_the_same_event(reactor, pairs, ran):
    ((ours, theirs),) = pairs(1)
    reactor.add_reader(ours, reactor.remove_writer, ours)
    reactor.add_writer(ours, ran.append, 1)
    theirs.send(b"x")
    reactor.run_once(1)
    assert ran == []


def test_exception_in_a_reader_is_reported_and_it_stays(reactor, pairs, errors):
    ((ours, theirs),) = pairs(1)
    reactor.add_reader(ours, lambda: 1 / ours.recv(10).count(b"y"))
    theirs.send(b"x")
    reactor.run_once(1)
    assert isinstance(errors.take()[0], ZeroDivisionError)
    theirs.send(b"y")
    reactor.run_once(1)
    assert errors.seen == []


def test_closed_file_is_refused(reactor, pairs):
    ((ours, _),) = pairs(1)
    ours.close()
    with pytest.raises(ValueError, match="is closed: it has no descriptor to wait for"):
        reactor.add_reader(ours, print)


def test_regular_file_is_refused_on_epoll(tmp_path):
    with Reactor() as reactor, open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            reactor.add_reader(file, print)
        assert reactor.remove_reader(file) is False


def test_more_ready_descriptors_than_a_tick_takes_all_get_their_turn(reactor, pairs, ran):
    number = EVENTS_PER_TICK + 20
    for index, (ours, theirs) in enumerate(pairs(number)):
        theirs.send(b"x")
        reactor.add_reader(ours, ran.append, index)  # never read: ready for ever
    assert reactor.run_once(1) == EVENTS_PER_TICK
    assert len(ran) == EVENTS_PER_TICK
    for _ in range(3):
        reactor.run_once(1)
    assert set(ran) == set(range(number))


def test_event_of_a_closed_descriptor_does_not_reach_the_next_owner_of_its_number(reactor, pairs, ran):
    (first, second) = pairs(2)
    new = []

    def take_over(mine, other):
        ran.append(mine)
        mine.recv(10)
        if not new:
            number = other.fileno()
            reactor.remove_reader(other)
            other.close()
            new.extend(socket.socketpair())
            assert new[0].fileno() == number
            reactor.add_reader(new[0], ran.append, "new owner")

    for (ours, theirs), (other, _) in ((first, second), (second, first)):
        reactor.add_reader(ours, take_over, ours, other)
        theirs.send(b"x")
    reactor.run_once(1)
    assert len(ran) == 1
    reactor.run_once(0)
    assert "new owner" not in ran
    new[1].send(b"x")
    reactor.run_once(1)
    assert ran[-1] == "new owner"
    reactor.remove_reader(new[0])
    for sock in new:
        sock.close()


def test_event_that_was_no_longer_asked_for_when_its_turn_came_is_dropped(reactor, pairs, ran):
    (first, second) = pairs(2)
    for (ours, theirs), (other, _) in ((first, second), (second, first)):
        reactor.add_reader(ours, lambda other=other: (ran.append(1), reactor.remove_reader(other)))
        reactor.add_writer(ours, int)
        theirs.send(b"x")
    reactor.run_once(1)
    assert ran == [1]


def test_writer_s_hang_up_of_an_unwatched_direction_is_dropped(pairs):
    # epoll tells of a hang-up whether or not it is asked for.
    ((ours, theirs),) = pairs(1)
    with Loop() as loop:
        ran = []
        loop.add_reader(ours, lambda: (ran.append(ours.recv(10)), loop.remove_reader(ours)))
        theirs.close()
        loop.run_once(1)
        loop.run_once(0)
        assert ran == [b""]


def test_events_that_nobody_asked_for_are_passed_over(make_selector, pairs, ran):
    ((ours, _),) = pairs(1)
    with Loop(selector=make_selector()) as loop:
        loop.add_reader(ours, ran.append, 1)
        real = loop.registry.poll
        loop.registry.poll = lambda timeout, most: [*real(0, most), (ours.fileno(), 0)]
        loop.run_once(0)
    assert ran == []


def test_idle_loop_makes_no_system_calls():
    strace = shutil.which("strace")
    assert strace, "strace is missing: install the package strace"
    program = textwrap.dedent("""
        import socket, sys
        from reactor import Protocol, Reactor
        with Reactor() as reactor:
            address = reactor.listen("127.0.0.1:0", Protocol).addresses[0]
            clients = [socket.create_connection((address.host, address.port)) for _ in range(100)]
            while len(reactor.connections()) < 100:
                reactor.run_once(1)
            reactor.call_soon(lambda: print("ready", flush=True))
            reactor.run()
    """)
    idle = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert idle.stdout.readline() == "ready\n"
        tracer = subprocess.Popen(
            [strace, "-f", "-p", str(idle.pid)], stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
        )
        with pytest.raises(subprocess.TimeoutExpired):
            tracer.communicate(timeout=1)
        tracer.terminate()
        _, told = tracer.communicate(timeout=DEADLINE)
    finally:
        idle.kill()
        idle.communicate()
    calls = [line for line in told.splitlines() if "(" in line and not line.startswith("strace:")]
    assert f"Process {idle.pid} attached" in told
    assert len(calls) <= 1, told  # the wait that it was found in
    assert all("epoll_" in call for call in calls)


def test_a_loop_alone_knows_nothing_to_flush(ran):
    errors = Errors()
    with Loop(on_error=errors) as loop:
        loop.call_soon(lambda: loop.outbox.append("something"))
        loop.run_once()
    assert errors.seen == []
    assert time.monotonic() >= loop.now
