"""Fixtures that every test file may use. The tools behind them are in `helpers`."""

import faulthandler
import gc
import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from reactor import Reactor
from reactor.loop.selector import default_selector
from reactor.testing import Errors, ManualClock
from tests.certificates import certificates

__all__ = ["certificates"]

settings.register_profile(
    "ci", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=100_000)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


#: Seconds after which a test hangs, for certain even where the processors are busy; and for slow ones.
BOUND = 60.0
SLOW_BOUND = 300.0


class Hung(BaseException):
    """The test has not ended in its time. No `Exception`: no reactor goes on after it, nor Hypothesis."""


def _hung(signum: int, frame: FrameType | None) -> None:
    faulthandler.dump_traceback(file=2)  # of all threads; what is raised shows only this one
    raise Hung("the test has not ended within its bound")


def _bounded(item: pytest.Item) -> Generator[None, object, object]:
    """Have what hangs in the test raise `Hung`, and again each second if it goes on in a `finally`."""
    if PROFILE == "nightly":  # many examples take their time
        faulthandler.cancel_dump_traceback_later()
        return (yield)
    signal.setitimer(signal.ITIMER_REAL, SLOW_BOUND if item.get_closest_marker("slow") else BOUND, 1.0)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# A forked child does not inherit the timer. It is to fail before the test that waits for it does.
os.register_at_fork(after_in_child=lambda: signal.setitimer(signal.ITIMER_REAL, BOUND / 2))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Bound the fixtures."""
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Bound the test."""
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Bound the fixtures' ends."""
    return (yield from _bounded(item))


def pytest_configure() -> None:
    """Set the handlers: that of the bound, and SIGINT's where it is ignored.

    That it is in what a script runs in the background; and what the tests start would inherit it.
    """
    signal.signal(signal.SIGALRM, _hung)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare the collector what pytest and the tests themselves are: many collect before and after."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Leave at once where the interpreter would wait for a thread that hangs; its test has failed by it."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)


# What the platform's default is, then the standard library's: other platforms' users get one of them.
SELECTORS: dict[str, Callable[[], selectors.BaseSelector]] = {
    "default": default_selector,
    **{
        name: getattr(selectors, name)
        for name in ("EpollSelector", "PollSelector", "SelectSelector", "KqueueSelector")
        if hasattr(selectors, name)
    },
}


@pytest.fixture(
    params=[pytest.param(name, marks=() if name == "default" else pytest.mark.slow) for name in SELECTORS]
)
def make_selector(request: pytest.FixtureRequest) -> Callable[[], selectors.BaseSelector]:
    """Each selector that the platform has, in turn."""
    return SELECTORS[request.param]


@pytest.fixture
def reactor_selector(make_selector: Callable[[], selectors.BaseSelector]) -> selectors.BaseSelector:
    """The plugin's `reactor` is on each selector."""
    return make_selector()


@pytest.fixture
def errors(reactor_errors: Errors) -> Errors:
    """What the reactor reported to `on_error`."""
    return reactor_errors


@pytest.fixture
def clock() -> ManualClock:
    """The clock of `timed`; it stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def timed(
    make_selector: Callable[[], selectors.BaseSelector], clock: ManualClock, errors: Errors
) -> Iterator[Reactor]:
    """A reactor on `clock`, on each selector; fails the test if it reported an error."""
    with Reactor(selector=make_selector(), clock=clock, on_error=errors) as made:
        yield made
    assert errors.seen == []


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Fail the test if it leaves more descriptors open than it found."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    after = {
        f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}"
        for fd in set(os.listdir("/proc/self/fd")) - before
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
    assert after == set()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Fail the test if it leaves a thread that the interpreter would wait for at its end."""
    before = set(threading.enumerate())
    yield
    assert [thread for thread in threading.enumerate() if not (thread.daemon or thread in before)] == []
