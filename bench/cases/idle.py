"""Idle: many connections that say nothing: ramping, memory, cost, a few active beside them, and their ends.

In each round a new server takes `--connections` of them, over as many processes as the limit of descriptors
asks for. What the few active connections cost is compared with the same on a server without idle ones, in
turns: `beside / alone` stays 1 where an idle connection costs the others nothing.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import attrs
from rich.progress import Progress

from bench.harness.echoes import TIMED_ECHOES
from bench.harness.generator import echo_load
from bench.harness.holder import holding
from bench.harness.measure import Server, serving
from bench.harness.metrics import CPU, P50, P99
from bench.harness.options import add_peers, add_rounds, add_seconds, numbers
from bench.harness.process import Child, ChildFailedError
from bench.harness.rounds import present
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

EACH = 15_000  # connections of one server process, which a limit of 20,000 descriptors allows
STEP = 250  # connections that are opened between two looks at the progress bar
ACTIVE = 16  # connections that talk beside the idle ones
SIZE = 64  # bytes of their messages
FOREVER = 3600.0  # seconds of an idle timeout that is armed and never fires
PAGE = resource.getpagesize()

RAMP = Metric("ramp", "connections/s", "higher")
CPU_RAMP = Metric("CPU/connect", "s", "lower")
OURS = Metric("memory", "B", "lower", compared=True)
BUFFERS = Metric("kernel's buffers", "B")
KERNEL = Metric("kernel's, both ends", "B")
IDLE_CPU = Metric("idle CPU", "1", "lower")
WAKE_UPS = Metric("wake-ups/s", "wake-ups/s", "lower")
COST = Metric("beside / alone", "1", "lower")
LATE = Metric("last timeout late by", "s", "lower")
CPU_TIMEOUT = Metric("CPU/timeout", "s", "lower")
CLOSING = Metric("closing all", "s", "lower")
CPU_CLOSE = Metric("CPU/close", "s", "lower")


@attrs.frozen
class Crowd:
    """Server processes, each with a process that holds connections to it."""

    servers: list[Server]
    holders: list[Child]

    def ask(self, word: str) -> list[float]:
        """Ask all holders at once, and return their answers."""
        for holder in self.holders:
            holder.send(f"{word}\n".encode())
        return [holder.answer() for holder in self.holders]

    def sum(self, figure: Callable[[Server], float]) -> float:
        """Return the sum of the servers' figures."""
        return sum(figure(server) for server in self.servers)

    def cpu(self) -> float:
        """Return the CPU seconds of the servers."""
        return self.sum(Server.cpu_seconds)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, 3)
    add_seconds(parser, 1.0, "length of one measurement of the active connections")
    add_peers(parser, TIMED_ECHOES, default=["uvloop", "asyncio"])
    parser.add_argument(
        "--connections", type=numbers, default=[100, 1000, 5000, 15_000], metavar="N,N", help="idle ones"
    )
    parser.add_argument(
        "--watch-seconds", type=float, default=2.0, metavar="S", help="how long the idle cost is taken"
    )
    parser.add_argument(
        "--idle-timeout", type=float, default=5.0, metavar="S", help="that ends them all, 0 leaves that out"
    )


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure each number of connections, the servers interleaved."""
    for number in options.connections:
        workload = f"{number:,} idle connections"
        kinds = present(result, workload, options.servers)
        total = number * options.rounds * len(kinds) * (2 if options.idle_timeout else 1)
        task = progress.add_task(workload, total=total)
        advance = partial(progress.advance, task)
        for _ in range(options.rounds):
            for kind in kinds:
                figures = _idle(kind, number, options, advance)
                if options.idle_timeout:
                    patience = 3 * number / figures[RAMP]  # none is to time out while others are opened
                    figures |= _time_out(kind, number, options.idle_timeout + patience, advance)
                result.record(workload, kind, figures)
        progress.remove_task(task)


@contextmanager
def _crowd(kind: str, number: int, idle_timeout: float) -> Iterator[Crowd]:
    count = -(-number // EACH)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(kind, "timed-echo", str(idle_timeout))) for _ in range(count)]
        yield Crowd(servers, stack.enter_context(holding([server.port for server in servers])))


def _shares(number: int, parts: int) -> list[int]:
    return [number // parts + (index < number % parts) for index in range(parts)]


def _ramp(crowd: Crowd, number: int, advance: Callable[[float], None]) -> float:
    """Open so many connections, a step at each server in turn; return the seconds that it took."""
    took = 0.0
    for holder, share in zip(crowd.holders, _shares(number, len(crowd.holders)), strict=True):
        for done in range(0, share, STEP):
            step = min(STEP, share - done)
            took += holder.ask(f"open {step}")
            advance(step)
    return took


def _idle(
    kind: str, number: int, options: argparse.Namespace, advance: Callable[[float], None]
) -> dict[Metric, float]:
    with _crowd(kind, number, FOREVER) as crowd, serving(kind, "timed-echo", str(FOREVER)) as alone:
        _ramp(crowd, len(crowd.servers), advance)  # what is made once is not the connections'
        cpu, memory, kernel, buffers = crowd.cpu(), crowd.sum(Server.anonymous_bytes), _slabs(), _buffers()
        took = _ramp(crowd, number, advance)
        figures = {
            RAMP: number / took,
            CPU_RAMP: (crowd.cpu() - cpu) / number,
            OURS: (crowd.sum(Server.anonymous_bytes) - memory) / number,
            BUFFERS: (_buffers() - buffers) / number,
            KERNEL: (_slabs() - kernel) / number,
        }
        cpu, sleeps = crowd.cpu(), crowd.sum(Server.sleeps)
        time.sleep(options.watch_seconds)
        figures[IDLE_CPU] = (crowd.cpu() - cpu) / options.watch_seconds
        figures[WAKE_UPS] = (crowd.sum(Server.sleeps) - sleeps) / options.watch_seconds
        figures |= _active(options.seconds, crowd.servers[0], alone)
        cpu = crowd.cpu()
        figures[CLOSING] = _close(crowd)
        figures[CPU_CLOSE] = (crowd.cpu() - cpu) / number
    return figures


def _active(seconds: float, crowded: Server, alone: Server) -> dict[Metric, float]:
    """Measure the few active connections in slices, on the crowded server and the other in turn."""
    load = echo_load(ACTIVE, SIZE)
    slices = 5
    pairs = [
        (load.measure(seconds / slices, crowded), load.measure(seconds / slices, alone))
        for _ in range(slices)
    ]
    ratios = [beside.figures[CPU] / without.figures[CPU] for beside, without in pairs]
    return {
        **{
            metric: statistics.median(beside.figures[metric] for beside, _ in pairs)
            for metric in (CPU, P50, P99)
        },
        COST: statistics.median(ratios),
    }


def _close(crowd: Crowd) -> float:
    """Close all connections; return the seconds until the servers have closed them too."""
    left = [server.descriptors() for server in crowd.servers]
    started = time.perf_counter()
    for server, holder, before in zip(crowd.servers, crowd.holders, left, strict=True):
        holder.ask("close")
        while server.descriptors() > min(before, 32):
            if time.perf_counter() - started > 60:
                raise ChildFailedError(f"{server.kind} has not closed its connections")
            time.sleep(0.001)
    return time.perf_counter() - started


def _time_out(
    kind: str, number: int, timeout: float, advance: Callable[[float], None]
) -> dict[Metric, float]:
    """Have all connections time out, due as soon after each other as they can talk."""
    with _crowd(kind, number, timeout) as crowd:
        _ramp(crowd, number, advance)
        crowd.ask("talk")
        spoke, cpu = time.perf_counter(), crowd.cpu()
        crowd.ask("wait")
        late = time.perf_counter() - spoke - timeout
        return {LATE: late, CPU_TIMEOUT: (crowd.cpu() - cpu) / number}


def _buffers() -> float:
    """Return the bytes of all TCP buffers: "mem", in pages, in /proc/net/sockstat."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * PAGE
    raise ChildFailedError("/proc/net/sockstat has no figure for TCP")


def _slabs() -> float:
    """Return the bytes of the kernel's objects, of which a connection has some at each end."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    raise ChildFailedError("/proc/meminfo has no figure for slabs")
