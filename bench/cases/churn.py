"""Churn: connections that come and go, with the server's garbage collector off, so that a cycle would show.

The server's memory is taken at each tenth; what it has grown since the first is what a connection leaves
behind. The tenths of all servers are interleaved. One connection of eight is closed in order, the others
are reset, mostly before the server has accepted them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.clients import connect_and_close
from bench.harness.instrumented import KINDS, Plan
from bench.harness.measure import Instrumented, instrumented
from bench.harness.options import add_peers
from bench.harness.report import Report, ratio

__all__ = ["add_options", "run"]

TENTHS = 10
SETTLE = 0.05  # seconds until the server sleeps: the kernel adds up its CPU time when it does


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_peers(parser, KINDS)
    parser.add_argument("--times", type=int, default=1_000_000, metavar="N", help="connections for ours")
    parser.add_argument(
        "--peer-times", type=int, default=100_000, metavar="N", help="connections for each of the others"
    )


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Connect and close, a tenth at a time."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[int]] = defaultdict(list)
    with ExitStack() as stack:
        servers = [stack.enter_context(instrumented(kind, Plan(collect=False))) for kind in options.servers]
        for _ in progress.track(range(TENTHS), description="connecting and closing"):
            for server in servers:
                times = options.times if server.kind == "reactor" else options.peer_times
                rate, cost = _measure(server, max(1, times // TENTHS))
                rates[server.kind].append(rate)
                costs[server.kind].append(cost)
                memory[server.kind].append(server.anonymous_bytes())
    title = "connect and close, the garbage collector off"
    report.raw.append({"title": title, "rates": rates, "cpu_us_per_connection": costs, "memory": memory})
    _add_cost(report, title, rates, costs)
    _add_memory(report, options, memory)


def _measure(server: Instrumented, times: int) -> tuple[float, float]:
    """Return connections per second and CPU microseconds per connection."""
    before = server.cpu_seconds()
    took = connect_and_close(server.port, times)
    time.sleep(SETTLE)
    return times / took, (server.cpu_seconds() - before) / times * 1e6


def _add_cost(
    report: Report, title: str, rates: dict[str, list[float]], costs: dict[str, list[float]]
) -> None:
    table = report.table(title, ["server", "connects/s", "CPU µs/each", "our rate / its", "its CPU / ours"])
    for kind, its_rates in rates.items():
        table.add_row(
            kind,
            f"{statistics.median(its_rates):,.0f}",
            f"{statistics.median(costs[kind]):.1f}",
            f"{ratio(rates['reactor'], its_rates):.3f}",
            f"{ratio(costs[kind], costs['reactor']):.3f}",
        )


def _add_memory(report: Report, options: argparse.Namespace, memory: dict[str, list[int]]) -> None:
    table = report.table(
        "the server's memory in KiB, and what it grew after the first tenth (asked: flat)",
        ["server", "times", "first tenth", "highest", "last", "grown", "B/time"],
    )
    for kind, taken in memory.items():
        times = options.times if kind == "reactor" else options.peer_times
        grown = taken[-1] - taken[0]
        table.add_row(
            kind,
            f"{times:,}",
            *(f"{size / 1024:,.0f}" for size in (taken[0], max(taken), taken[-1], grown)),
            f"{grown / (times * (TENTHS - 1) / TENTHS):.3f}",
        )
