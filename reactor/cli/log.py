"""The command line's log: one line for each record, written on a thread of its own.

Text from a peer may hold a newline or a terminal's escape sequence. `LineFormatter` escapes it, so that no
peer can forge a record.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import traceback
from typing import Any

from reactor.loop.log import printable

__all__ = ["BackgroundLog", "LineFormatter"]


class LineFormatter(logging.Formatter):
    """Formats a record as one line, followed by its traceback if there is one.

    The message and the texts of exceptions are escaped by `printable`. The arguments are those of
    `logging.Formatter`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text. The record keeps no cached traceback for another formatter."""
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


class BackgroundLog(logging.handlers.QueueHandler):
    """A logging handler that writes on a thread of its own: the caller never waits for the descriptor.

    fd: the descriptor to write to. While it is full, like a pipe that is not read, up to `LIMIT` records
        wait; further ones are dropped, and their number is logged when there is room again.
    Records are formatted by `LineFormatter` unless another formatter is set.
    """

    LIMIT = 1000

    def __init__(self, fd: int) -> None:
        self._lines: queue.Queue[Any] = queue.Queue(self.LIMIT)
        super().__init__(self._lines)
        self.setFormatter(LineFormatter())
        self._dropped = 0
        self._writer = logging.handlers.QueueListener(self._lines, _LineWriter(fd))
        self._writer.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue `record`; drop and count it if the queue is full."""
        try:
            if self._dropped:
                message = f"{self._dropped} log lines were dropped: the log was not read fast enough"
                self._lines.put_nowait(logging.makeLogRecord({**vars(record), "msg": message, "args": None}))
                self._dropped = 0
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def finish(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until all lines are written, then end the thread."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, timeout)
        try:
            self._writer.enqueue_sentinel()
        except queue.Full:
            pass  # the descriptor is full; the thread is a daemon and ends with the process


class _LineWriter(logging.Handler):
    """A logging handler that writes lines to a descriptor."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def handle(self, record: logging.LogRecord) -> bool:
        """Write without the lock: only one thread writes, and `logging.shutdown` would wait for the lock."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            os.write(self._fd, f"{record.getMessage()}\n".encode(errors="backslashreplace"))
        except OSError:
            pass  # the reader has gone; there is nowhere to report it
