"""Child processes that are asked by lines on standard input, and killed at the end in every case."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import attrs

__all__ = ["Child", "ChildFailedError", "child", "program"]

_NONE: Mapping[str, str] = {}
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

    def answer(self, timeout: float = _WAIT) -> Any:
        """Return the next line of its standard output, which is JSON."""
        return json.loads(self.line(timeout))

    def send(self, data: bytes) -> None:
        """Write all of `data` to its standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and `line` raises with the reason

    def ask(self, word: str) -> Any:
        """Send a line and return the answer."""
        self.send(f"{word}\n".encode())
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
def child(name: str, *words: str, environment: Mapping[str, str] = _NONE) -> Iterator[Child]:
    """Run `python -m WORDS` as `program` does."""
    with program(name, sys.executable, "-m", *words, environment=environment) as process:
        yield process


@contextmanager
def program(
    name: str, *words: str, environment: Mapping[str, str] = _NONE, descriptors: Collection[int] = ()
) -> Iterator[Child]:
    """Run this command, with these variables too, and kill it at the end. It inherits `descriptors`.

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
            env={**os.environ, **environment},
            pass_fds=descriptors,
        ) as process,
    ):
        try:
            yield Child(name, process, errors)
        finally:
            process.kill()
