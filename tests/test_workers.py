"""Threads in a bounded number: order, reuse, and their end."""

import threading

from reactor.workers import Workers
from tests.helpers import DEADLINE


def test_work_is_done_in_order_by_one_thread():
    done = []
    workers = Workers(1, "one", daemon=True)
    for number in range(100):
        workers.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    assert workers.close(DEADLINE)
    assert done == [(number, "one-1") for number in range(100)]


def named(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_no_more_threads_than_asked_for_and_none_before_there_is_work():
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


def test_end_that_does_not_come_is_told():
    gate = threading.Event()
    workers = Workers(1, "stuck", daemon=True)
    workers.submit(lambda: gate.wait(DEADLINE))
    assert not workers.close(0.01)
    gate.set()
    assert workers.close(DEADLINE)
