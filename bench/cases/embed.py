"""Embedding: the cost of the host's loop to the reactor, and of an idle reactor to the host."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack

from rich.progress import Progress

from bench.harness.clients import echo, exchange, open_connections
from bench.harness.compare import compare, talking
from bench.harness.measure import SERVER_CORE, Server, core, running, serving
from bench.harness.options import add_rounds, add_seconds
from bench.harness.process import child
from bench.harness.report import Report, ratio

__all__ = ["add_options", "run"]

SIZE = 64  # bytes of a message
HOSTS = ("reactor", "nested", "nested in uvloop", "guest", "asyncio")
LOOPS = ("reactor", "asyncio", "uvloop")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument(
        "--watch-seconds", type=float, default=5.0, metavar="S", help="how long system calls are counted"
    )


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure the speed, the idle cost, and wake-ups."""
    title = f"echo of {SIZE} B on {options.connections} connections: alone, nested in asyncio, as its guest"
    measure = talking(options.connections, echo(SIZE), options.seconds)
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(_echoing(kind)) for kind in HOSTS}
        compare(report, progress, title, servers, options.rounds, measure)

    title = f"system calls of the host in {options.watch_seconds:g} s, one idle connection"
    calls = {}
    for kind in progress.track(HOSTS, description=title):
        with _echoing(kind) as server, open_connections(server.port, 1) as opened:
            exchange(opened, echo(SIZE), 0.01)
            calls[kind] = server.system_calls(options.watch_seconds)
    report.raw.append({"title": title, "calls": calls})
    table = report.table(title, ["", "system calls", "counted by"])
    for kind, (number, how) in calls.items():
        table.add_row(kind, str(number), how)

    _wakes(options, report, progress)


def _echoing(kind: str) -> AbstractContextManager[Server]:
    return running(kind, "plain") if kind in LOOPS else serving(kind, "embed")


def _wakes(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    title = "from call_soon_threadsafe on another thread to the callback, while the loop waits"
    medians: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        children = {}
        for kind in LOOPS:
            words = ("bench.harness.programs", kind, "wakes", core(SERVER_CORE))
            children[kind] = stack.enter_context(child(kind, *words))
            children[kind].line()
        for _ in progress.track(range(options.rounds), description=title):
            for kind in LOOPS:
                medians[kind].append(statistics.median(children[kind].ask("wakes")))
    report.raw.append({"title": title, "median_seconds": medians})
    table = report.table(title, ["", "median µs", "its / ours"])
    for kind in LOOPS:
        times = ratio(medians[kind], medians["reactor"])
        table.add_row(kind, f"{statistics.median(medians[kind]) * 1e6:.1f}", f"{times:.2f}")
