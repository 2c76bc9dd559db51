"""Workers: a limited number of threads, their order, reuse and end."""

import logging
import sys
import threading

import pytest

from reactor.loop.workers import Workers
from tests.helpers import DEADLINE
from tests.tracing import failures


def test_work_is_done_in_order_by_one_thread():
    done = []
    workers = Workers(1, "one", daemon=True)
    for number in range(100):
        workers.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    assert workers.close(DEADLINE)
    assert done == [(number, "one-1") for number in range(100)]


def named(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_threads_start_with_work_up_to_the_limit():
    gate, started = threading.Event(), threading.Semaphore(0)
    workers = Workers(3, "few", daemon=True)
    assert named("few") == []

    def work():
        started.release()
        assert gate.wait(DEADLINE)

    for _ in range(10):
        workers.submit(work)
    for _ in range(3):
        assert started.acquire(timeout=DEADLINE)
    assert len(named("few")) == 3
    assert workers.unfinished() == 10
    gate.set()
    assert workers.close(DEADLINE)
    assert workers.unfinished() == 0
    assert named("few") == []


def test_idle_thread_is_used_again():
    workers = Workers(10, "again", daemon=True)
    names = set()
    for _ in range(20):
        done = threading.Event()
        workers.submit(lambda done=done: (names.add(threading.current_thread().name), done.set()))
        assert done.wait(DEADLINE)
        while workers.unfinished():
            pass
    assert names == {"again-1"}
    assert workers.close(DEADLINE)


def test_close_returns_false_if_a_thread_did_not_end():
    gate = threading.Event()
    workers = Workers(1, "stuck", daemon=True)
    workers.submit(lambda: gate.wait(DEADLINE))
    assert not workers.close(0.01)
    gate.set()
    assert workers.close(DEADLINE)


@pytest.fixture
def hooked(monkeypatch):
    """Return the list of calls of `threading.excepthook`."""
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    return reported


@pytest.fixture
def no_threads(monkeypatch):
    """Return an event; while it is set, no thread can be started."""
    refusing, start = threading.Event(), threading.Thread.start

    def start_or_not(thread):
        if refusing.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    return refusing


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exception_is_passed_to_excepthook_and_ends_no_thread(hooked, kind):
    problem, left = kind("mine"), threading.Semaphore(0)

    def work():
        raise problem

    workers = Workers(1, "raising", daemon=True, on_done=left.release)
    for _ in range(3):
        workers.submit(work)
        assert left.acquire(timeout=DEADLINE)
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(DEADLINE)
    assert [thread.name for thread in workers.threads()] == ["raising-1"]
    assert workers.close(DEADLINE)
    assert workers.unfinished() == 0
    assert len(hooked) == 3
    for args in hooked:
        assert (args.exc_type, args.exc_value, args.thread.name) == (kind, problem, "raising-1")
        assert args.exc_traceback.tb_next.tb_frame.f_code is work.__code__


def test_excepthook_that_raises_ends_no_thread(monkeypatch):
    def broken(args):
        raise LookupError("in the hook")

    reported, done = [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", broken)
    monkeypatch.setattr(sys, "excepthook", lambda *args: reported.append(args))
    workers = Workers(1, "hook", daemon=True)
    workers.submit(lambda: 1 / 0)
    workers.submit(done.set)
    assert done.wait(DEADLINE)
    assert workers.close(DEADLINE)
    ((kind, problem, _),) = reported
    assert kind is LookupError
    assert isinstance(problem.__context__, ZeroDivisionError)


def test_work_goes_to_existing_threads_if_no_other_can_be_started(no_threads, caplog):
    gate, began, done = threading.Event(), threading.Event(), threading.Semaphore(0)
    workers = Workers(3, "scarce", daemon=True)
    workers.submit(lambda: (began.set(), gate.wait(DEADLINE)))
    assert began.wait(DEADLINE)
    no_threads.set()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            workers.submit(done.release)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["scarce: can't start new thread: 1 do the work, and the rest waits for them"]
    assert (len(workers.threads()), workers.unfinished()) == (1, 6)
    no_threads.clear()
    workers.submit(done.release)  # it tries again, while the first thread is still busy
    for _ in range(6):
        assert done.acquire(timeout=DEADLINE)
    assert len(workers.threads()) == 2
    gate.set()
    assert workers.close(DEADLINE)


def test_submit_raises_and_keeps_nothing_if_no_thread_can_be_started(no_threads):
    done = []
    workers = Workers(2, "none", daemon=True)
    no_threads.set()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            workers.submit(lambda: done.append("refused"))
    assert (workers.threads(), workers.unfinished()) == ([], 0)
    assert workers.close(DEADLINE)
    no_threads.clear()
    workers.submit(lambda: done.append("done"))
    assert workers.close(DEADLINE)
    assert done == ["done"]


def test_workers_may_be_used_and_closed_again():
    gate, began, done = threading.Event(), threading.Event(), threading.Event()
    workers = Workers(1, "again", daemon=True)
    workers.submit(lambda: (began.set(), gate.wait(DEADLINE)))
    assert began.wait(DEADLINE)
    for _ in range(3):
        assert not workers.close(0.01)
    workers.submit(done.set)  # queued behind the request to end
    assert done.wait(DEADLINE)
    gate.set()
    assert workers.close(DEADLINE)
    for _ in range(2):
        done.clear()
        workers.submit(done.set)
        assert done.wait(DEADLINE)
        assert workers.close(DEADLINE)
    assert workers.threads() == []


@pytest.mark.parametrize("limit", [1, 3])
def test_interrupt_in_submit_or_close_costs_neither_a_count_nor_a_thread(limit):
    """What was submitted before and after is done once, and in that call once or not at all."""

    def scenario(tracer):
        done = []
        gate = threading.Event()
        workers = Workers(limit, "walk", daemon=True)
        tracer.run(workers.submit, lambda: gate.wait(DEADLINE))
        for number in range(5):
            tracer.run(workers.submit, lambda number=number: done.append(number))
        gate.set()
        tracer.run(workers.close, DEADLINE)
        again = threading.Event()
        workers.submit(again.set)
        assert again.wait(DEADLINE)
        assert workers.close(DEADLINE)
        assert workers.unfinished() == 0
        assert workers.threads() == []
        assert sorted(set(done)) == sorted(done)
        assert len(done) >= 5 - tracer.done
        gates = [threading.Event() for _ in range(limit)]
        for each in gates:  # the limit is as it was: all of them at once
            workers.submit(lambda each=each: (each.set(), all(gate.wait(DEADLINE) for gate in gates)))
        assert all(each.wait(DEADLINE) for each in gates)
        assert len(workers.threads()) == limit
        assert workers.close(DEADLINE)

    failed = failures(scenario, times=3)
    assert not failed, "\n".join(failed)
