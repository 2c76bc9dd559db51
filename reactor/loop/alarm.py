"""The alarm: a descriptor that becomes readable when some time has passed, where the platform has one.

That is timerfd_create(2), which Linux has; Python has it from 3.13 on, before that the C library is called.
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

_SHORTEST = 1e-9  # seconds: none at all would switch it off


class Alarm:
    """Readable from when the time of `set` has passed until `on_event`, which is for a registry."""

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
        """Be readable in `delay` seconds, and not at the time that was set before."""
        _set_time(self._file.fileno(), max(delay, _SHORTEST))

    def on_event(self, events: int) -> None:
        """It has come: call back, and be readable no more. Nothing is lost if an interrupt parts the two."""
        self._on_alarm()
        self._file.read(8)  # nothing, if it was set anew after it was seen

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()


def new_alarm(on_alarm: Callable[[], None]) -> Alarm | None:
    """Return an alarm that calls `on_alarm()`, or None where the system knows none.

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
            """Return the C library and ctypes, whose import a program without a host does not wait for."""
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
