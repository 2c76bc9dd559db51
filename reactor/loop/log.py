"""The log: rate-limited for the loop, written in the background for the command line, safe to print.

Text that came from a peer may hold a newline or a terminal's escape sequence. It is escaped (`printable`) in
every message of this package, and in every exception that `LineFormatter` formats, so that no peer can forge
a record.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import sys
import traceback
from collections.abc import Callable, Hashable
from typing import Any

import attrs

__all__ = ["BackgroundLog", "LimitedLog", "LineFormatter", "caller", "printable"]

#: Seconds in which what is the same is told once.
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


class LineFormatter(logging.Formatter):
    """Formats a record as one line, followed by its traceback if there is one.

    The message and the texts of exceptions are escaped by `printable`. The arguments are those of
    `logging.Formatter`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text. It leaves nothing in the record that another formatter would use."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [printable(self.formatMessage(record))]
        if record.exc_info and record.exc_info[1] is not None:
            lines.append(_format_exception(record.exc_info[1]))
        if record.stack_info:
            lines.append(self.formatStack(record.stack_info))
        return "\n".join(lines)


def _format_exception(exc: BaseException) -> str:
    """Return the traceback of `exc`, without a newline at its end."""
    lines: list[str] = []
    for piece in traceback.TracebackException.from_exception(exc).format():
        text = piece.removesuffix("\n")
        if text.lstrip(" |").startswith('File "'):  # a frame: its file, and the line of code
            lines.extend(map(printable, text.split("\n")))
        else:
            lines.append(printable(text.strip("\n")))
    return "\n".join(lines)


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
            self._tell(window)

    def _tell(self, window: _Window) -> None:
        message = f"{window.message} (and %d more like it in %g s, of which this is the last)"
        self._logger.log(window.level, message, *map(_safe, window.args), window.more, INTERVAL)

    def flush(self) -> None:
        """Say what has been counted and not told: the loop is being closed."""
        windows, self._windows = self._windows, {}
        for window in windows.values():
            if window.more:
                self._tell(window)


def _safe(arg: object) -> object:
    return arg if isinstance(arg, int | float) else printable(str(arg))


class BackgroundLog(logging.handlers.QueueHandler):
    """A logging handler that writes on a thread of its own, so that the caller never waits.

    fd: the descriptor to write to. While it takes nothing, as a pipe that nobody reads, up to `MOST` records
        wait; further ones are dropped, and their number is logged when there is room again.
    Records are formatted by `LineFormatter` unless another formatter is set.
    """

    MOST = 1000

    def __init__(self, fd: int) -> None:
        self._lines: queue.Queue[Any] = queue.Queue(self.MOST)
        super().__init__(self._lines)
        self.setFormatter(LineFormatter())
        self._dropped = 0
        self._writer = logging.handlers.QueueListener(self._lines, _LineWriter(fd))
        self._writer.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue `record`, or count it."""
        try:
            if self._dropped:
                told = f"{self._dropped} log lines were dropped: nobody takes them"
                self._lines.put_nowait(logging.makeLogRecord({**vars(record), "msg": told, "args": None}))
                self._dropped = 0
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def finish(self, timeout: float) -> None:
        """Wait until all lines are written, `timeout` seconds at most, and let the thread end."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, timeout)
        try:
            self._writer.enqueue_sentinel()
        except queue.Full:
            pass  # nobody takes the lines; the thread goes with the process


class _LineWriter(logging.Handler):
    """Writes lines to a descriptor."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def handle(self, record: logging.LogRecord) -> bool:
        """Write, without the lock: there is one thread, and `logging.shutdown` would wait for it."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            os.write(self._fd, f"{record.getMessage()}\n".encode(errors="backslashreplace"))
        except OSError:
            pass  # the reader has gone; there is nowhere to say so
