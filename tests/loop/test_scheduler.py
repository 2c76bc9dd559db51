"""The scheduler: order and limits of callbacks, timers, calls from other threads, and exceptions."""

import contextlib
import logging
import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Reactor
from reactor.loop.loop import Loop
from reactor.loop.scheduler import CALLBACKS_PER_TICK, TIMERS_PER_TICK
from reactor.reactor import loop_of
from reactor.testing import ManualClock, Recorder
from tests.helpers import DEADLINE, pair, spin


@pytest.fixture
def ran():
    return []


@pytest.fixture
def timed(make_selector, clock):
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        yield reactor


# Callbacks


def test_callbacks_run_in_the_order_of_their_calls(reactor, ran):
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


def test_callback_scheduled_in_a_callback_runs_in_the_next_tick(reactor, ran):
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


def test_exception_is_reported_with_the_callback_s_name_and_others_run(reactor, ran, errors):
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


def test_callback_without_a_name_is_reported_by_its_repr(reactor, errors):
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


def test_on_error_that_raises_is_logged_with_the_exception_it_was_called_with(caplog, ran):
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
    with contextlib.closing(Loop(clock=clock)) as loop:
        start = clock.now
        handles = [
            loop.scheduler.call_later(delay, lambda number=number: ran.append((number, clock.now - start)))
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


def test_timer_in_the_past_is_due(timed, ran):
    timed.call_later(-5, ran.append, 1)
    timed.run_once()
    assert ran == [1]


def test_infinite_timer_never_fires(reactor, ran):
    reactor.call_at(float("inf"), ran.append, 1)
    reactor.run_once(0)
    assert reactor.next_timeout() == 86400
    assert ran == []


def test_time_that_is_no_number_is_refused(reactor):
    with pytest.raises(ValueError, match=r"^delay must be a number of seconds, not nan$"):
        reactor.call_later(float("nan"), print)
    with pytest.raises(ValueError, match=r"^when must be a number of seconds, not nan$"):
        reactor.call_at(float("nan"), print)
    for wrong in ("1", True, None):
        with pytest.raises(TypeError, match=f"^delay must be a number of seconds, not {wrong!r}$"):
            reactor.call_later(wrong, print)
        with pytest.raises(TypeError, match=f"^when must be a number of seconds, not {wrong!r}$"):
            reactor.call_at(wrong, print)
    assert reactor.next_timeout() is None


@given(delay=st.floats(allow_nan=False) | st.integers(-(10**400), 10**400))
def test_timer_is_due_after_any_delay_and_not_before(delay):
    ran = []
    clock = ManualClock(1000.0)
    with contextlib.closing(Loop(clock=clock)) as loop:
        loop.scheduler.call_later(delay, ran.append, 1)
        wait = loop.next_timeout()
        assert 0 <= wait <= 86400
        loop.run_once(0)
        assert bool(ran) == (1000 + float(min(max(delay, -1e300), 1e300)) <= 1000)


def test_after_a_long_uptime_timers_still_run(ran):
    clock = ManualClock(1e16)
    with contextlib.closing(Loop(clock=clock)) as loop:
        loop.scheduler.call_later(1e-9, ran.append, 1)
        loop.run_once()
    assert ran == [1]


def test_wait_ends_at_the_next_timer(reactor, ran):
    reactor.call_later(0.001, ran.append, 1)
    reactor.call_later(DEADLINE, reactor.stop)
    spin(reactor, lambda: ran)


def test_next_timeout_is_the_time_to_the_next_timer(timed, clock):
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
    fd = loop_of(reactor)._wakeup.fileno()
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


def test_wake_up_that_fails_raises(reactor, monkeypatch):
    def broken():
        raise OSError(5, "broken")

    monkeypatch.setattr(type(loop_of(reactor)._wakeup), "wake", lambda self: broken())
    with pytest.raises(OSError, match="broken"):
        reactor.call_soon_threadsafe(print)
    monkeypatch.undo()


def test_stop_after_close_does_nothing():
    reactor = Reactor()
    reactor.close()
    reactor.stop()


def test_time_between_ticks_is_not_counted_as_a_slow_callback(ran, caplog):
    clock = ManualClock()
    with Reactor(clock=clock, slow_callback=0.1) as reactor:
        reactor.call_at_close(ran.append, 1)
        reactor.run_once(0)
        clock.advance(10)
    assert ran == [1]
    assert caplog.messages == []
