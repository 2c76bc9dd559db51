"""The fixtures of every test: a limit of its time, and of a forked child's."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from reactor import Reactor
from tests.conftest import BOUND, Hung


def left():
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_test_is_ended_at_its_limit():
    assert 0 < left() <= BOUND


@pytest.mark.slow
def test_slow_test_has_a_longer_limit():
    assert left() > BOUND


@pytest.fixture
def ending():
    yield
    assert 0 < left() <= BOUND


def test_teardown_of_a_fixture_is_ended_at_its_limit(ending):
    assert 0 < left() <= BOUND


@pytest.mark.parametrize("where", ["in a lock", "in the loop", "in a callback"])
def test_wait_without_end_is_ended_with_the_stacks_of_all_threads(capfd, where):
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    with Reactor() as reactor:
        if where == "in a callback":
            reactor.call_soon(thread.join)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Hung):
            thread.join() if where == "in a lock" else reactor.run()
    assert capfd.readouterr().err.count("(most recent call first)") >= 2
    release.set()
    while thread in threading.enumerate():  # Python 3.11's join that was ended takes it for stopped
        pass


def test_forked_child_fails_before_its_parent_does():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(left()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as report:
        assert 0 < float(report.read()) < left()
    os.waitpid(pid, 0)


def test_process_started_by_a_test_can_be_interrupted():
    program = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    words = [sys.executable, "-c", program]
    assert subprocess.run(words, capture_output=True, timeout=60).stdout == b"True\n"
