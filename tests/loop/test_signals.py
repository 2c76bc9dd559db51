"""Signals: no handler is set by default, no signal is lost, and previous handlers are restored."""

import os
import signal
import socket
import threading

import pytest

from reactor import Reactor, UsageError
from reactor.reactor import loop_of
from tests.helpers import DEADLINE, spin

SIGNUM = signal.SIGUSR1


@pytest.fixture
def before():
    """The signal's handler before the test, which must be its handler after it."""

    def handler(signum, frame):
        raise AssertionError

    outer = signal.signal(SIGNUM, handler)
    wakeup_fd = signal.set_wakeup_fd(-1)
    yield handler
    assert signal.getsignal(SIGNUM) is handler
    assert signal.set_wakeup_fd(wakeup_fd) == -1
    signal.signal(SIGNUM, outer)


def kill():
    os.kill(os.getpid(), SIGNUM)


def test_no_signal_handler_is_set_by_default(before, reactor):
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert signal.getsignal(SIGNUM) is before


def test_signal_runs_the_callback_on_the_loop(before, reactor):
    got = []
    reactor.add_signal_handler(SIGNUM, got.append, "signal")
    kill()
    assert got == []
    spin(reactor, lambda: got)
    assert got == ["signal"]
    assert reactor.remove_signal_handler(SIGNUM) is True
    assert reactor.remove_signal_handler(SIGNUM) is False


def test_signal_wakes_up_the_loop(before, reactor):
    reactor.add_signal_handler(SIGNUM, reactor.stop)
    timer = threading.Timer(0.05, kill)
    timer.start()
    reactor.run()
    timer.join()
    reactor.remove_signal_handler(SIGNUM)


def test_another_callback_replaces_the_first(before, reactor):
    got = []
    reactor.add_signal_handler(SIGNUM, got.append, 1)
    reactor.add_signal_handler(SIGNUM, got.append, 2)
    kill()
    spin(reactor, lambda: got)
    assert got == [2]
    reactor.remove_signal_handler(SIGNUM)


def test_close_restores_the_previous_handlers(before):
    with Reactor() as reactor:
        reactor.add_signal_handler(SIGNUM, print)
        reactor.add_signal_handler(signal.SIGUSR2, print)
        assert signal.getsignal(SIGNUM) is not before
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_handler_set_from_c_becomes_the_default(reactor, monkeypatch):
    set_signal = signal.signal
    calls = []

    def record(signum, handler):
        calls.append(handler)
        set_signal(signum, handler)

    monkeypatch.setattr(signal, "signal", record)
    reactor.add_signal_handler(SIGNUM, print)
    reactor.remove_signal_handler(SIGNUM)
    assert calls[-1] is signal.SIG_DFL


def test_signals_before_the_callback_ran_call_it_once(before, reactor):
    got = []
    reactor.add_signal_handler(SIGNUM, got.append, 1)
    for _ in range(10):
        kill()
    for _ in range(5):
        reactor.run_once(0)
    assert got == [1]
    reactor.remove_signal_handler(SIGNUM)


def test_storm_of_signals_loses_no_last_one(reactor):
    count = []
    previous = signal.getsignal(signal.SIGALRM)
    reactor.add_signal_handler(signal.SIGALRM, lambda: count.append(1))
    bound = signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        spin(reactor, lambda: len(count) > 200)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    reactor.run_once(0)
    reactor.run_once(0)
    before = len(count)
    os.kill(os.getpid(), signal.SIGALRM)
    spin(reactor, lambda: len(count) > before)
    reactor.remove_signal_handler(signal.SIGALRM)
    assert signal.getsignal(signal.SIGALRM) is previous
    signal.setitimer(signal.ITIMER_REAL, *bound)


def test_signal_that_comes_after_its_handler_was_removed_is_dropped(before, reactor):
    got = []
    reactor.add_signal_handler(SIGNUM, got.append, 1)
    loop_of(reactor)._signals._on_signal(signal.SIGUSR2, None)
    reactor.remove_signal_handler(SIGNUM)
    reactor.run_once(0)
    assert got == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, 0, 10**6])
def test_signal_that_cannot_be_handled_is_refused(before, reactor, signum):
    with pytest.raises((ValueError, OSError)):
        reactor.add_signal_handler(signum, print)


def test_only_the_main_thread_may_set_handlers(reactor):
    problems = []

    def add():
        try:
            reactor.add_signal_handler(SIGNUM, print)
        except UsageError as exc:
            problems.append(str(exc))

    thread = threading.Thread(target=add)
    thread.start()
    thread.join(DEADLINE)
    assert problems == ["signal handlers can only be set on the main thread: signal.signal's rule"]


@pytest.mark.parametrize("same", [True, False])
def test_reactors_restore_handlers_in_any_order(before, same, descriptors):
    first, second = Reactor(), Reactor()
    got = []
    first.add_signal_handler(SIGNUM, got.append, 1)
    second.add_signal_handler(SIGNUM if same else signal.SIGUSR2, got.append, 2)
    first.close()
    with socket.socket() as somebody_else_s:  # it may get the number of the closed wake-up descriptor
        os.kill(os.getpid(), SIGNUM if same else signal.SIGUSR2)
        assert second.run_once(DEADLINE)
        spin(second, lambda: got)
        assert got == [2]
        second.close()
        assert signal.set_wakeup_fd(-1) == -1
        assert somebody_else_s.fileno() >= 0


def test_handler_set_by_another_after_ours_is_kept(before, reactor):
    theirs = []
    ours, other = socket.socketpair()
    with ours, other:
        other.setblocking(False)
        reactor.add_signal_handler(SIGNUM, print)
        mine = signal.signal(SIGNUM, lambda signum, frame: theirs.append(signum))
        signal.set_wakeup_fd(other.fileno())
        reactor.remove_signal_handler(SIGNUM)
        kill()
        assert theirs == [SIGNUM]
        assert signal.set_wakeup_fd(-1) == other.fileno()
    assert mine != before
    signal.signal(SIGNUM, before)


def test_signal_after_a_close_on_another_thread_restores_the_handler(descriptors):
    got = []
    outer = signal.signal(SIGNUM, lambda signum, frame: got.append("before"))
    try:
        reactor = Reactor()
        reactor.add_signal_handler(SIGNUM, got.append, "reactor")
        waiting = reactor.submit(int)
        thread = threading.Thread(target=reactor.close)
        thread.start()
        thread.join()
        assert reactor.is_closed()
        assert waiting.cancelled()
        kill()
        kill()
        assert got == ["before", "before"]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(SIGNUM, outer)


@pytest.mark.parametrize("signum", ["SIGTERM", None, 15.0])
def test_signum_of_another_type_is_refused(reactor, signum):
    with pytest.raises(TypeError, match="signum must be of type int"):
        reactor.add_signal_handler(signum, print)
