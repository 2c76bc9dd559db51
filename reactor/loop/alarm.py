"""The alarm: a descriptor that becomes readable at a set time, where the platform has one.

It is a timerfd_create(2) of Linux; before Python 3.13, which has it, the C library is called.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from io import FileIO
from typing import Any

from reactor.errors import ACCEPT_EXHAUSTED

__all__ = ["Alarm", "new_alarm"]

_SHORTEST = 1e-9  # seconds; 0 would disarm the timer


class Alarm:
    """A descriptor that is readable from the time of `set` until `on_event`, the registry's callback."""

    __slots__ = ("_file", "_on_alarm")

    def __init__(self, fd: int, on_alarm: Callable[[], None]) -> None:
        self._file = FileIO(fd)
        self._on_alarm = on_alarm

    def __repr__(self) -> str:
        return "the alarm of the loop's timers"

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._file.fileno()

    def set(self, delay: float) -> None:
        """Set the time: readable in `delay` seconds, instead of the time that was set before."""
        _set_time(self._file.fileno(), max(delay, _SHORTEST))

    def on_event(self, events: int) -> None:
        """Call back, then clear the descriptor; an interrupt between the two loses nothing."""
        self._on_alarm()
        self._file.read(8)  # empty if it was set again after the poll

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()


def new_alarm(on_alarm: Callable[[], None]) -> Alarm | None:
    """Return an alarm that calls `on_alarm()`, or None where the system has none.

    Raises OSError if it has no descriptor or memory left for one.
    """
    if sys.platform != "linux":
        return None
    try:
        return Alarm(_create(), on_alarm)
    except OSError as exc:
        if exc.errno in ACCEPT_EXHAUSTED:
            raise
        return None


if sys.platform == "linux":
    if sys.version_info >= (3, 13):

        def _create() -> int:
            return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

        def _set_time(fd: int, delay: float) -> None:
            os.timerfd_settime(fd, initial=delay)

    else:

        @cache
        def _c() -> tuple[Any, Any]:
            """Return the C library and ctypes, imported here because only programs with a host need them."""
            import ctypes  # noqa: PLC0415

            return ctypes.CDLL(None, use_errno=True), ctypes

        def _create() -> int:
            libc, _ = _c()
            return _checked(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))

        def _set_time(fd: int, delay: float) -> None:
            libc, ctypes = _c()
            itimerspec = ctypes.c_long * 4  # the interval and the time, each in s and ns
            spec = itimerspec(0, 0, *divmod(math.ceil(delay * 1e9), 1_000_000_000))
            _checked(libc.timerfd_settime(fd, 0, ctypes.byref(spec), None))

        def _checked(result: int) -> int:
            if result < 0:
                number = _c()[1].get_errno()
                raise OSError(number, os.strerror(number))
            return result
