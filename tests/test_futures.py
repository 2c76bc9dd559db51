"""Work for a thread, and its future: completed once, whatever becomes of it."""

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import pytest

from reactor.futures import Work, fulfil
from tests.helpers import DEADLINE


def fail():
    raise LookupError("mine")


def run(work):
    callback, args = work.take()
    callback(*args)


def test_result_and_exception_go_into_the_future():
    work = Work(pow, (2, 5))
    run(work)
    assert work.future.result(0) == 32
    work = Work(fail, ())
    run(work)
    assert isinstance(work.future.exception(0), LookupError)


def test_what_ends_the_program_is_told_and_goes_on():
    work = Work(exec, ("raise SystemExit",))
    with pytest.raises(SystemExit):
        run(work)
    assert isinstance(work.future.exception(0), SystemExit)
    future = Future()
    assert isinstance(fulfil(future, exec, "raise SystemExit"), SystemExit)
    assert isinstance(future.exception(0), SystemExit)


def test_cancelled_work_cancels_its_future_and_who_waits_is_told():
    work = Work(fail, ())
    work.cancel()
    assert work.cancelled()
    assert wait([work.future], 0).done == {work.future}
    with pytest.raises(CancelledError):
        work.future.result(0)
    work.cancel()


def test_cancelled_future_is_not_run():
    ran = []
    work = Work(ran.append, (1,))
    assert work.future.cancel()
    run(work)
    assert ran == []


def test_work_that_was_done_can_not_be_cancelled():
    work = Work(int, ())
    run(work)
    work.cancel()
    assert work.future.result(0) == 0


@pytest.fixture
def executors():
    with ThreadPoolExecutor(1) as given:
        yield [None, given]


def test_submit_runs_on_the_thread_that_drives(reactor):
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(reactor.submit, pow, 2, 3).result(DEADLINE)
        assert not asked.done()
        reactor.run_once(DEADLINE)
        assert asked.result(0) == 8
        refused = reactor.submit(fail)
        reactor.run_once(0)
        assert isinstance(refused.exception(0), LookupError)


def test_run_in_executor_completes_on_the_thread_that_drives(reactor, executors):
    for executor in executors:
        on = []
        done = reactor.run_in_executor(executor, threading.get_ident)
        done.add_done_callback(lambda future, on=on: on.append(threading.get_ident()))
        while not on:
            reactor.run_once(DEADLINE)
        assert on == [threading.get_ident()]
        assert done.result(0) != threading.get_ident()
        failed = reactor.run_in_executor(executor, fail)
        while not failed.done():
            reactor.run_once(DEADLINE)
        assert isinstance(failed.exception(0), LookupError)


@pytest.mark.parametrize("own", [True, False], ids=["own threads", "an executor"])
def test_close_cancels_what_was_not_run(reactor, own):
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        waiting = reactor.submit(int)
        working = reactor.run_in_executor(None if own else executor, release.wait, DEADLINE)
        reactor.close()
        assert waiting.cancelled()
        release.set()
        with pytest.raises(CancelledError):
            working.result(DEADLINE)


def test_cancelling_withdraws_what_has_not_begun(reactor):
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        first = reactor.run_in_executor(executor, release.wait, DEADLINE)
        ran = []
        second = reactor.run_in_executor(executor, ran.append, 1)
        assert second.cancel()
        release.set()
        while not first.done():
            reactor.run_once(DEADLINE)
    assert ran == []


def test_exit_elsewhere_is_the_future_s_alone(reactor):
    failed = reactor.run_in_executor(None, exec, "raise SystemExit(3)")
    done = reactor.run_in_executor(None, int)
    while not (failed.done() and done.done()):
        reactor.run_once(DEADLINE)
    assert isinstance(failed.exception(0), SystemExit)
    assert done.result(0) == 0


def test_close_cancels_at_once_what_is_under_way(reactor):
    release, began, ran = threading.Event(), threading.Event(), []

    def work():
        began.set()
        release.wait(DEADLINE)

    with ThreadPoolExecutor(1) as executor:
        working = reactor.run_in_executor(executor, work)
        queued = reactor.run_in_executor(executor, ran.append, 1)
        assert began.wait(DEADLINE)
        reactor.close()
        assert working.cancelled()
        assert queued.cancelled()
        release.set()
    assert ran == []


def test_interrupt_before_the_work_began_is_told():
    work = Work(int, ())
    work.broken_off(KeyboardInterrupt())
    assert isinstance(work.future.exception(0), KeyboardInterrupt)
    work.broken_off(KeyboardInterrupt())
