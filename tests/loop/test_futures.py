"""Calls handed to a thread, and their futures: each is completed once, whatever happens."""

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial

import mypy.api
import pytest

from reactor.loop.futures import Work, fulfil
from tests.helpers import DEADLINE


def fail():
    raise LookupError("mine")


def run(work):
    callback, args = work.pending()
    work.clear()
    callback(*args)


def test_result_and_exception_are_set_on_the_future():
    work = Work(pow, 2, 5)
    run(work)
    assert work.future.result(0) == 32
    work = Work(fail)
    run(work)
    assert isinstance(work.future.exception(0), LookupError)


def test_system_exit_is_set_on_the_future_and_raised():
    work = Work(exec, "raise SystemExit")
    with pytest.raises(SystemExit):
        run(work)
    assert isinstance(work.future.exception(0), SystemExit)
    future = Future()
    assert isinstance(fulfil(future, exec, "raise SystemExit"), SystemExit)
    assert isinstance(future.exception(0), SystemExit)


def test_cancelled_work_cancels_its_future_and_wakes_up_its_waiters():
    work = Work(fail)
    work.cancel()
    assert work.cancelled()
    assert wait([work.future], 0).done == {work.future}
    with pytest.raises(CancelledError):
        work.future.result(0)
    work.cancel()


def test_cancelled_future_is_not_run():
    ran = []
    work = Work(ran.append, 1)
    assert work.future.cancel()
    run(work)
    assert ran == []


def test_completed_work_cannot_be_cancelled():
    work = Work(int)
    run(work)
    work.cancel()
    assert work.future.result(0) == 0


@pytest.fixture
def executors():
    with ThreadPoolExecutor(1) as given:
        yield [None, given]


def test_submit_runs_on_the_loop_s_thread(reactor):
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(reactor.submit, pow, 2, 3).result(DEADLINE)
        assert not asked.done()
        reactor.run_once(DEADLINE)
        assert asked.result(0) == 8
        refused = reactor.submit(fail)
        reactor.run_once(0)
        assert isinstance(refused.exception(0), LookupError)


def test_run_in_executor_completes_on_the_loop_s_thread(reactor, executors):
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
def test_close_cancels_submitted_calls_that_did_not_run(reactor, own):
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        waiting = reactor.submit(int)
        working = reactor.run_in_executor(None if own else executor, release.wait, DEADLINE)
        reactor.close()
        assert waiting.cancelled()
        release.set()
        with pytest.raises(CancelledError):
            working.result(DEADLINE)


def test_cancel_withdraws_a_call_that_has_not_begun(reactor):
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


def test_system_exit_in_an_executor_is_set_on_the_future_only(reactor):
    failed = reactor.run_in_executor(None, exec, "raise SystemExit(3)")
    done = reactor.run_in_executor(None, int)
    while not (failed.done() and done.done()):
        reactor.run_once(DEADLINE)
    assert isinstance(failed.exception(0), SystemExit)
    assert done.result(0) == 0


def test_close_cancels_the_futures_of_running_calls(reactor):
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


def test_interrupt_before_the_call_is_set_on_the_future():
    work = Work(int)
    work.broken_off(KeyboardInterrupt())
    assert isinstance(work.future.exception(0), KeyboardInterrupt)
    work.broken_off(KeyboardInterrupt())


def test_keyword_arguments_of_any_name_are_passed_on(reactor, executors):
    def keywords(*args, **kwargs):
        return args, kwargs

    names = {name: name for name in ("self", "fn", "future", "executor", "args", "kwargs", "work")}
    asked = [reactor.submit(keywords, 1, 2, **names)]
    asked += [reactor.run_in_executor(executor, keywords, 1, 2, **names) for executor in executors]
    while not all(future.done() for future in asked):
        reactor.run_once(DEADLINE)
    assert [future.result(0) for future in asked] == [((1, 2), names)] * 3


def test_object_that_is_not_callable_is_refused(reactor, executors, errors):
    for call in (reactor.submit, partial(reactor.run_in_executor, None)):
        with pytest.raises(TypeError, match=r"^fn must be callable, not None$"):
            call(None)
    with pytest.raises(TypeError, match=r"^fn must be callable, not 'x'$"):
        reactor.run_in_executor(executors[1], "x")
    with pytest.raises(TypeError, match=r"^executor must be a [a-z.]*Executor or None, not 'x'$"):
        reactor.run_in_executor("x", int)
    reactor.run_once(0)
    assert errors.seen == []


def test_run_in_executor_raises_if_no_thread_can_be_started(reactor, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            reactor.run_in_executor(None, int)
    done = reactor.run_in_executor(None, int, "7")
    while not done.done():
        reactor.run_once(DEADLINE)
    assert done.result(0) == 7


def test_type_checker_reports_a_missing_argument(tmp_path):
    """The lines that mypy reports of a program with a mistake in each call."""
    program = tmp_path / "program.py"
    program.write_text(
        "from concurrent.futures import Future\n"
        "from reactor import Reactor\n"
        "def work(number: int, *, name: str) -> str: ...\n"
        "reactor = Reactor()\n"
        "good: Future[str] = reactor.submit(work, 1, name='a')\n"
        "good = reactor.run_in_executor(None, work, 1, name='a')\n"
        "reactor.submit(work, 1)\n"
        "reactor.submit(work, 1, nam='a')\n"
        "reactor.run_in_executor(None, work, 1)\n"
        "reactor.run_in_executor(None, work, 'x', name='a')\n"
    )
    output, _, _ = mypy.api.run(
        ["--cache-dir", str(tmp_path), "--disable-error-code", "empty-body", str(program)]
    )
    lines = [int(line.split(":")[1]) for line in output.splitlines() if "error:" in line]
    assert lines == [7, 8, 9, 10], output
