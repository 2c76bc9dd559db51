"""Fixtures of all tests; `helpers` has the functions behind them."""

import faulthandler
import gc
import os
import selectors
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from reactor import Reactor
from reactor.loop.selector import default_selector
from reactor.testing import Errors, ManualClock
from tests.certificates import certificates

__all__ = ["certificates"]

# A change is judged by the same examples as the one before it; the long run looks for new ones.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("nightly", settings.get_profile("ci"), derandomize=False, max_examples=100_000)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


#: Seconds after which a test is stuck, even on busy processors; and those of slow tests.
BOUND = 60.0
SLOW_BOUND = 300.0


class Hung(BaseException):
    """The test exceeded its limit. Not an `Exception`: neither a reactor nor Hypothesis must handle it."""


def _hung(signum: int, frame: FrameType | None) -> None:
    faulthandler.dump_traceback(file=2)  # of all threads; what is raised shows only this one
    raise Hung("the test has not ended within its bound")


def _bounded(item: pytest.Item) -> Generator[None, object, object]:
    """Raise `Hung` in the test after its limit, and again each second in case it hangs in a `finally`."""
    if PROFILE == "nightly":  # many examples take longer
        faulthandler.cancel_dump_traceback_later()
        return (yield)
    signal.setitimer(signal.ITIMER_REAL, SLOW_BOUND if item.get_closest_marker("slow") else BOUND, 1.0)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# A forked child does not inherit the timer. It must fail before the test that waits for it.
os.register_at_fork(after_in_child=lambda: signal.setitimer(signal.ITIMER_REAL, BOUND / 2))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Limit the time of the fixtures."""
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Limit the time of the test."""
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Limit the time of the fixtures' teardown."""
    return (yield from _bounded(item))


def pytest_configure() -> None:
    """Set the handlers: that of the bound, and SIGINT's where it is ignored.

    That it is in what a script runs in the background; and what the tests start would inherit it.
    """
    signal.signal(signal.SIGALRM, _hung)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exclude pytest and the tests' modules from garbage collection: many tests collect twice."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Exit at once where the interpreter would wait for a stuck thread, whose test has failed."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)


# The platform's default, then the standard library's others, which are defaults elsewhere.
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
    """Every selector of the platform: a parametrized fixture."""
    return SELECTORS[request.param]


@pytest.fixture
def reactor_selector(make_selector: Callable[[], selectors.BaseSelector]) -> selectors.BaseSelector:
    """The selector of the plugin's fixture `reactor`: each of the platform's."""
    return make_selector()


@pytest.fixture
def errors(reactor_errors: Errors) -> Errors:
    """The errors that the reactor reported to `on_error`."""
    return reactor_errors


@pytest.fixture
def clock() -> ManualClock:
    """The manual clock of `timed`."""
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - few tests need it

    program = shutil.which("chromium")
    assert program, "chromium is missing: install the package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def port() -> Iterator[int]:
    """A TCP port for a server of another program, which the kernel gives to nobody else meanwhile.

    It is bound, and does not listen: another socket with SO_REUSEADDR may be bound to it too (socket(7)).
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
