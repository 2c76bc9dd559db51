"""The rate-limited log, and text that is safe to print.

Text from a peer may hold a newline or a terminal's escape sequence. It is escaped (`printable`) in every
message of this package, so that no peer can forge a record.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable
from typing import Any

import attrs

__all__ = ["LimitedLog", "caller", "printable"]

#: Seconds within which equal messages are logged once.
INTERVAL = 1.0


@attrs.define
class _Window:
    level: int
    message: str
    args: tuple[Any, ...]
    more: int = 0


def caller() -> str:
    """Return the file and line of the code outside of this package that called into it."""
    frame = sys._getframe()  # noqa: SLF001  # the documented way to the caller's frame
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "reactor":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def printable(text: str) -> str:
    """Return `text` with each character that does not print as itself written as a Python escape.

    That is control characters (C0, DEL, C1), line separators, invisible format characters such as those that
    turn the direction of writing, and surrogates. Backslashes stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class LimitedLog:
    """Writes to the logger "reactor" each thing once a second at most, and says how often it came since.

    call_later: the loop's. So a peer that makes one callback fail 50,000 times a second costs two lines.
    """

    def __init__(self, call_later: Callable[..., object]) -> None:
        self._call_later = call_later
        self._logger = logging.getLogger("reactor")
        self._windows: dict[Hashable, _Window] = {}

    def log(
        self, level: int, key: Hashable, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None:
        """Log `message % args`, or count it, if one with the same `key` was logged within the last second.

        Arguments that are no numbers are logged as their text, with control characters escaped.
        """
        window = self._windows.get(key)
        if window is not None:
            window.more += 1
            window.args = args
            return
        self._windows[key] = _Window(level, message, args)
        self._call_later(INTERVAL, self._look_back, key)
        self._logger.log(level, message, *map(_safe, args), exc_info=exc_info)

    def _look_back(self, key: Hashable) -> None:
        window = self._windows.pop(key, None)
        if window is not None and window.more:
            self._windows[key] = _Window(window.level, window.message, window.args)
            self._call_later(INTERVAL, self._look_back, key)
            self._log_count(window)

    def _log_count(self, window: _Window) -> None:
        message = f"{window.message} (and %d more like it in %g s, of which this is the last)"
        self._logger.log(window.level, message, *map(_safe, window.args), window.more, INTERVAL)

    def flush(self) -> None:
        """Log the counts that are left: the loop is being closed."""
        windows, self._windows = self._windows, {}
        for window in windows.values():
            if window.more:
                self._log_count(window)


def _safe(arg: object) -> object:
    return arg if isinstance(arg, int | float) else printable(str(arg))
