"""A deployment: `python -m reactor serve --workers` as processes of its own, whose log is read."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import attrs

__all__ = ["TIMEOUT", "Deployment", "deployed"]

#: Seconds in which whatever is awaited must come.
TIMEOUT = 30.0


@attrs.define
class Deployment:
    """A supervisor, whose log is read as it comes."""

    process: subprocess.Popen[bytes]
    pid: int
    address: tuple[str, int] = ("", 0)
    _rest: bytes = b""
    _lines: list[str] = attrs.field(factory=list)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the match of the next line that has the pattern. Raises OSError if none comes."""
        assert self.process.stderr is not None
        end = time.monotonic() + TIMEOUT
        while True:
            while self._lines:
                found = re.search(pattern, self._lines.pop(0))
                if found is not None:
                    return found
            ready, _, _ = select.select([self.process.stderr], [], [], max(0, end - time.monotonic()))
            data = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            if not data:
                raise OSError(f"the server did not say {pattern!r}")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += [line.decode() for line in lines]

    def workers(self, count: int) -> list[int]:
        """Return the processes of the next workers that are ready."""
        return [int(self.wait_for(r"worker \d+ \(process (\d+)\) is ready")[1]) for _ in range(count)]

    def restart(self) -> None:
        """Replace all workers."""
        os.kill(self.pid, signal.SIGHUP)
        self.wait_for("all workers are restarted")

    def replace(self) -> None:
        """Replace the supervisor."""
        os.kill(self.pid, signal.SIGUSR2)
        self.pid = int(self.wait_for(r"process (\d+) is the supervisor now")[1])


@contextlib.contextmanager
def deployed(workers: int, app: str = "echo", *more: str) -> Iterator[tuple[Deployment, list[int]]]:
    """Run an app in some workers; yield the deployment and their processes. more: other arguments."""
    words = ["serve", app, "--workers", str(workers), "--listen", "127.0.0.1:0", "--drain-timeout", "10"]
    words += more
    process = subprocess.Popen(
        [sys.executable, "-m", "reactor", *words], stderr=subprocess.PIPE, start_new_session=True, bufsize=0
    )
    try:
        deployment = Deployment(process, process.pid)
        pids = deployment.workers(workers)
        host, port = deployment.wait_for(r"listening on (?:udp:)?(\S+)")[1].split(":")
        deployment.address = (host, int(port))
        yield deployment, pids
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
