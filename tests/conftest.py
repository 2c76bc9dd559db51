"""Fixtures that every test file may use. The tools behind them are in `helpers`."""

import faulthandler
import gc
import os
import selectors
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from reactor.selector import default_selector
from reactor.testing import Errors
from tests.certificates import certificates

__all__ = ["certificates"]

settings.register_profile(
    "ci", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=100_000)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def pytest_runtest_setup() -> None:
    """Let the many examples of a night take longer than a test that hangs may."""
    if PROFILE == "nightly":
        faulthandler.cancel_dump_traceback_later()


# What the platform's default is, then the standard library's: other platforms' users get one of them.
SELECTORS: dict[str, Callable[[], selectors.BaseSelector]] = {
    "default": default_selector,
    **{
        name: getattr(selectors, name)
        for name in ("EpollSelector", "PollSelector", "SelectSelector", "KqueueSelector")
        if hasattr(selectors, name)
    },
}


@pytest.fixture(params=list(SELECTORS))
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
