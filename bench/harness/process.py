"""Child processes that are asked by lines on standard input, and killed at the end in every case."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any

import attrs

__all__ = ["Child", "ChildFailedError", "child", "program"]

_WAIT = 60.0  # seconds that an answer may take: a server may have 15,000 connections to look through


class ChildFailedError(Exception):
    """A process of the benchmark did not start, or ended. The text is its last line."""


@attrs.define
class Child:
    """A running process; its standard error goes to the file `errors`, so that it never blocks."""

    name: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    _output: bytes = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def line(self, timeout: float = _WAIT) -> str:
        """Return the next line of its standard output. Raises ChildFailedError if none comes."""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        while b"\n" not in self._output:
            if not select.select([output], [], [], timeout)[0]:
                raise ChildFailedError(f"{self.name} does not answer")
            more = os.read(output, 65536)
            if not more:
                last = self.error_lines()[-1:]
                raise ChildFailedError(f"{self.name}: {last[0] if last else 'it ended'}")
            self._output += more
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def answer(self) -> Any:
        """Return the next line of its standard output, which is JSON."""
        return json.loads(self.line())

    def ask(self, word: str) -> Any:
        """Send a line and return the answer."""
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), f"{word}\n".encode())
        except BrokenPipeError:
            pass  # it has ended, and `line` raises with the reason
        return self.answer()

    def dismiss(self) -> None:
        """Close its standard input, which ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def error_lines(self) -> list[str]:
        """Return what it has written on standard error until now."""
        errors = self.errors.fileno()
        # Its own descriptor shares the file's position: a seek here would have it write over what it wrote.
        written = os.pread(errors, os.fstat(errors).st_size, 0)
        return written.decode(errors="replace").splitlines()


@contextmanager
def child(name: str, *words: str) -> Iterator[Child]:
    """Run `python -m WORDS` as `program` does."""
    with program(name, sys.executable, "-m", *words) as process:
        yield process


@contextmanager
def program(name: str, *words: str, descriptors: Collection[int] = ()) -> Iterator[Child]:
    """Run this command, which inherits `descriptors`, and kill it at the end.

    It has a process group of its own: Ctrl-C reaches the benchmark alone, which ends its children.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
            pass_fds=descriptors,
        ) as process,
    ):
        try:
            yield Child(name, process, errors)
        finally:
            process.kill()
