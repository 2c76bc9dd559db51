"""Standard input, read by a thread, and standard output: the user's end of `connect`."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from reactor.cli.arguments import CommandFailed
from reactor.errors import UsageError
from reactor.reactor import Reactor

__all__ = ["CHUNK", "InputReader", "write_output"]

_STDIN = 0
_STDOUT = 1

#: Bytes of one read from standard input. The next read waits until they have been written to the peer.
CHUNK = 64 * 1024


class InputReader:
    """Reads standard input on a thread: it may be a file, which no selector accepts.

    on_data: called on the loop's thread with each chunk, b"" at the end. on_failure: called there instead,
    with a CommandFailed, if it can't be read.
    """

    def __init__(
        self, loop: Reactor, on_data: Callable[[bytes], object], on_failure: Callable[[CommandFailed], object]
    ) -> None:
        self._loop = loop
        self._on_data = on_data
        self._on_failure = on_failure
        self._may_read = threading.Event()

    def start(self) -> None:
        """Read the first chunk."""
        self._may_read.set()
        threading.Thread(target=self._run, daemon=True).start()

    def go_on(self) -> None:
        """Read the next chunk: the last one has been dealt with."""
        self._may_read.set()

    def _run(self) -> None:
        try:
            data = b"."
            while data:
                self._may_read.wait()
                self._may_read.clear()
                try:
                    data = _read(_STDIN)
                except OSError as exc:
                    problem = CommandFailed(f"cannot read standard input: {exc.strerror}")
                    self._loop.call_soon_threadsafe(self._on_failure, problem)
                    return
                self._loop.call_soon_threadsafe(self._on_data, data)
        except UsageError:
            pass  # the connection has ended and the reactor is closed


def write_output(data: bytes) -> None:
    """Write `data` to standard output. Raises CommandFailed if that fails."""
    try:
        _write_all(_STDOUT, data)
    except OSError as exc:
        raise CommandFailed(f"cannot write to standard output: {exc.strerror}") from exc


def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:  # O_NONBLOCK, set by another process that shares the terminal or pipe
            select.select([fd], [], [])


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # as above
            select.select([], [fd], [])
