"""Idle: memory for each idle connection, and the system calls of an idle loop."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

from rich.progress import Progress

from bench.harness.clients import echo, exchange, open_connections
from bench.harness.measure import running
from bench.harness.options import add_peers, add_rounds
from bench.harness.report import Report
from bench.harness.servers import SERVERS

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_peers(parser, [kind for kind in SERVERS if kind != "timed"])
    parser.add_argument("--connections", type=int, default=15_000, metavar="N")
    parser.add_argument(
        "--watch-seconds", type=float, default=5.0, metavar="S", help="how long system calls are counted"
    )


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure memory with an idle timeout armed, then system calls without any timer."""
    memory = defaultdict(list)
    title = f"memory of {options.connections:,} idle connections, an idle timeout armed on each"
    for _ in progress.track(range(options.rounds), description=title):
        for kind in options.servers:
            memory[kind].append(_memory(kind, options.connections))
    report.raw.append({"title": title, "bytes_per_connection": memory})
    table = report.table(title, ["server", "bytes/connection", "its / ours"])
    ours = statistics.median(memory[options.servers[0]])
    for kind in options.servers:
        note = " (no timeout, no protocol)" if kind == "bare" else ""
        median = statistics.median(memory[kind])
        table.add_row(kind + note, f"{median:,.0f}", f"{median / ours:.2f}")

    calls = {}
    title = (
        f"system calls in {options.watch_seconds:g} s, {options.connections:,} idle connections, no timers"
    )
    for kind in progress.track(options.servers, description=title):
        calls[kind] = _calls(kind, options)
    report.raw.append({"title": title, "calls": calls})
    table = report.table(title, ["server", "system calls", "counted by"])
    for kind, (number, how) in calls.items():
        table.add_row(kind, str(number), how)


def _memory(kind: str, number: int) -> float:
    with running(kind, "timeout") as server, open_connections(server.port, 1) as first:
        exchange(first, echo(64), 0.01)  # what is made once is not the connections'
        before = server.anonymous_bytes()
        with open_connections(server.port, number) as opened:
            exchange(opened[-1:], echo(64), 0.01)  # answered: all before it are accepted
            return (server.anonymous_bytes() - before) / number


def _calls(kind: str, options: argparse.Namespace) -> tuple[int, str]:
    with (
        running(kind, "untimed") as server,
        open_connections(server.port, options.connections) as opened,
    ):
        exchange(opened[-1:], echo(64), 0.01)
        return server.system_calls(options.watch_seconds)
