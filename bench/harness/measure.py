"""Servers as processes: started, measured through /proc, and killed at the end in every case."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs

from bench.harness.instrumented import Plan
from bench.harness.metrics import UTILISATION, WAITED
from bench.harness.process import Child, ChildFailedError, child
from bench.harness.servers import NO_COLLECTOR
from bench.results.schema import Metric

__all__ = [
    "PEERS",
    "Instrumented",
    "Server",
    "Used",
    "core",
    "instrumented",
    "loading",
    "machine",
    "pin_load",
    "put_on_core",
    "revision",
    "serving",
]

SERVER_CORE = 0
LOAD_CORE = 1

#: Packages that are measured beside this one.
PEERS = (
    "uvloop",
    "aiofastnet",
    "rloop",
    "twisted",
    "tornado",
    "gevent",
    "trio",
    "pyftpdlib",
    "aiohttp",
)


@attrs.define
class Used:
    """A server's CPU time, and the time in which it was kept waiting for a core, in seconds."""

    cpu: float = 0.0
    waited: float = 0.0

    def shares(self, took: float) -> dict[Metric, float]:
        """Return which parts of `took` seconds these are."""
        return {
            UTILISATION: min(1.0, self.cpu / max(took - self.waited, self.cpu)),
            WAITED: self.waited / took,
        }


@attrs.frozen
class Server:
    """A running server: its kind, its port, and the kernel's figures for its process."""

    kind: str
    port: int
    pid: int
    process: Child

    def cpu_seconds(self) -> float:
        """Return the CPU time that it and all its threads have used, in seconds: clock_getcpuclockid(3)."""
        return time.clock_gettime(~self.pid << 3 | 2)  # as glibc makes one of a process id: CPUCLOCK_SCHED

    def waited_seconds(self) -> float:
        """Return the seconds in which it was ready to run and another process had its core."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    @contextmanager
    def usage(self) -> Iterator[Used]:
        """Measure what it uses within; the figures are there at the end."""
        cpu, waited, used = self.cpu_seconds(), self.waited_seconds(), Used()
        yield used
        used.cpu, used.waited = self.cpu_seconds() - cpu, self.waited_seconds() - waited

    def anonymous_bytes(self) -> int:
        """Return its anonymous memory, in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
        raise ChildFailedError("/proc has no figure for the anonymous memory")

    def peak_bytes(self) -> int:
        """Return the peak of its resident memory since `forget_peak`, in bytes."""
        return self._status("VmHWM") * 1024

    def forget_peak(self) -> None:
        """Reset `peak_bytes`: proc_pid_clear_refs(5)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """Return how many threads it has."""
        return self._status("Threads")

    def system_calls(self, seconds: float) -> tuple[int, str]:
        """Return how many system calls it makes in `seconds`, and how that was found out.

        Without strace, times that it went to sleep are counted instead, which an idle loop does once
        for each wake-up.
        """
        strace = shutil.which("strace")
        if strace is None:
            before = self.sleeps()
            subprocess.run(["sleep", str(seconds)], check=True)
            return self.sleeps() - before, "wake-ups; strace is not installed"
        with subprocess.Popen(
            [strace, "-c", "-f", "-p", str(self.pid)],  # -c: calls that end, not the waits it is found in
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as tracer:
            try:
                tracer.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                tracer.send_signal(signal.SIGINT)
            _, output = tracer.communicate()
        if f"Process {self.pid} attached" not in output:
            raise ChildFailedError(f"strace could not attach to the server: {output.strip()}")
        totals = re.search(r"^100\.00\s+\S+\s+\S+\s+(\d+).*\btotal$", output, re.MULTILINE)
        return int(totals[1]) if totals else 0, "strace"

    def sleeps(self) -> int:
        """Return how often it has gone to sleep, of itself."""
        return self._status("voluntary_ctxt_switches")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise ChildFailedError(f"/proc has no figure for {name}")


@attrs.frozen
class Instrumented(Server):
    """A server that reports what it observes."""

    def observed(self) -> dict[str, Any]:
        """Return its `bench.harness.apps.Observations` since the last call."""
        observed: dict[str, Any] = self.process.ask("observed")
        return observed

    def held(self) -> dict[str, dict[str, int]]:
        """Return what it holds now, and the reasons for ended and refused connections with their numbers."""
        answer: dict[str, dict[str, int]] = self.process.ask("held")
        answer["held"]["descriptors"] = self.descriptors()
        return answer


@contextmanager
def serving(kind: str, name: str, *words: str, collect: bool = True) -> Iterator[Server]:
    """Run a server of `kind` with the program of this name, a key of `bench.harness.programs.PROGRAMS`.

    It runs on a core of its own where there are two. collect: whether its garbage collector is on.
    """
    words = ("bench.harness.programs", kind, name, core(SERVER_CORE), *words)
    with child(kind, *words, environment={} if collect else {NO_COLLECTOR: "1"}) as process:
        yield Server(kind, int(process.line()), process.pid, process)


@contextmanager
def instrumented(kind: str, plan: Plan) -> Iterator[Instrumented]:
    """Run an instrumented server of `kind`, set up by `plan`."""
    words = json.dumps(attrs.asdict(plan))
    with child(kind, "bench.harness.instrumented", kind, words, core(SERVER_CORE)) as process:
        yield Instrumented(kind, int(process.line()), process.pid, process)


@contextmanager
def loading(server: Server, name: str, *numbers: float) -> Iterator[Child]:
    """Run a load on `server`, a name in `bench.harness.loads`, and wait until it has started."""
    words = map(str, (server.port, *numbers))
    with child(name, "bench.harness.loads", name, *words) as process:
        process.line()
        yield process


def pin_load() -> None:
    """Pin this process, the load, to a core that is not the server's."""
    if core(LOAD_CORE) != "any":
        os.sched_setaffinity(0, {LOAD_CORE})


def put_on_core(pid: int) -> None:
    """Pin the process to the servers' core."""
    if core(SERVER_CORE) != "any":
        os.sched_setaffinity(pid, {SERVER_CORE})


def core(number: int) -> str:
    """Return the core for a server's command line: "any" where there is only one."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        return str(number)
    return "any"


def machine() -> dict[str, str]:
    """Return the conditions of the figures: processor, cores, kernel, Python and the versions of packages."""
    versions = {name: _version(name) for name in ("selectors-reactor", "attrs", *PEERS)}
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: found for name, found in versions.items() if found},
    }


def revision() -> str:
    """Return the source's revision, with a plus sign where files differ from it; empty outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    words = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
