"""The rate-limited log, and text that is safe to print.

Text from a peer may hold a newline or a terminal's escape sequence. It is escaped (`printable`) in every
message of this package, so that no peer can forge a record.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ["LimitedLog", "caller", "checked", "logger", "printable"]

#: Seconds within which equal messages are logged once.
INTERVAL = 1.0


def logger() -> logging.Logger:
    """Return the logger "reactor" of the standard library's `logging`, which is imported here."""
    import logging  # noqa: PLC0415 - it is a tenth of the time that importing this package takes

    return logging.getLogger("reactor")


def caller() -> str:
    """Return the file and line of the code outside of this package that called into it."""
    frame = sys._getframe()  # noqa: SLF001  # the documented way to the caller's frame
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "reactor":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def checked(method: Callable[..., Any], loop_of: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return `method`, which first checks its thread. loop_of: returns the loop of its object."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop_of(self).check_thread(method.__qualname__)
        return method(self, *args, **kwargs)

    return call


def printable(text: str) -> str:
    """Return `text` with each character that does not print as itself written as a Python escape.

    Escaped are control characters (C0, DEL, C1), line separators, invisible format characters such as those
    that change the direction of writing, and surrogates. Backslashes stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class _Window:
    """The interval after a record was logged: its repetitions, and the arguments of the last one."""

    __slots__ = ("args", "log", "message", "repeated")

    def __init__(self, log: Callable[..., None], message: str, args: tuple[object, ...]) -> None:
        self.log = log
        self.message = message
        self.args = args
        self.repeated = 0


class LimitedLog:
    """A rate-limited log: equal records reach the logger "reactor" once a second, with their number.

    call_later: the loop's. A callback that fails 50,000 times a second costs two records a second.
    """

    def __init__(self, call_later: Callable[..., object]) -> None:
        self._call_later = call_later
        # Now, because there may be no descriptor left for an import when something is logged.
        self._logger = logger()
        self._windows: dict[Hashable, _Window] = {}

    def info(self, key: Hashable, message: str, *args: object) -> None:
        """Log `message % args` at level INFO, or count it if `key` was logged within the last second.

        Arguments that are not numbers are logged as text, with control characters escaped.
        """
        self._log(self._logger.info, key, message, args)

    def warning(self, key: Hashable, message: str, *args: object) -> None:
        """As `info`, at level WARNING."""
        self._log(self._logger.warning, key, message, args)

    def error(self, key: Hashable, message: str, *args: object) -> None:
        """As `info`, at level ERROR."""
        self._log(self._logger.error, key, message, args)

    def traceback(self, exc: BaseException, key: Hashable, message: str, *args: object) -> None:
        """As `info`, at level ERROR, with the traceback of `exc`."""
        self._log(self._logger.error, key, message, args, exc_info=exc)

    def _log(
        self, log: Callable[..., None], key: Hashable, message: str, args: tuple[object, ...], **extra: Any
    ) -> None:
        window = self._windows.get(key)
        if window is not None:
            window.repeated += 1
            window.args = args
            return
        self._open_window(key, _Window(log, message, args))
        log(message, *map(_safe, args), **extra)

    def _open_window(self, key: Hashable, window: _Window) -> None:
        self._windows[key] = window
        self._call_later(INTERVAL, self._end_window, key)

    def _end_window(self, key: Hashable) -> None:
        window = self._windows.pop(key, None)
        if window is not None and window.repeated:
            self._open_window(key, _Window(window.log, window.message, window.args))
            _log_repeated(window)

    def flush(self) -> None:
        """Log the counts of all intervals that have not ended: the loop is being closed."""
        windows, self._windows = self._windows, {}
        for window in windows.values():
            if window.repeated:
                _log_repeated(window)


def _log_repeated(window: _Window) -> None:
    message = f"{window.message} (and %d more like it in %g s, of which this is the last)"
    window.log(message, *map(_safe, window.args), window.repeated, INTERVAL)


def _safe(arg: object) -> object:
    return arg if isinstance(arg, int | float) else printable(str(arg))
