"""Streams: echo by a coroutine for each connection, and the memory of an idle one."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.clients import echo, exchange, open_connections
from bench.harness.compare import compare, talking
from bench.harness.measure import serving
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.report import Report

__all__ = ["add_options", "run"]

ACTIVE = 64  # connections that talk
SIZE = 1024  # bytes of their messages


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["streams"])
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="idle ones")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure the speed, then the memory."""
    title = f"echo by coroutines: {ACTIVE} connections, {SIZE} B, one message in flight each"
    measure = talking(ACTIVE, echo(SIZE), options.seconds)
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind, "streams")) for kind in options.servers}
        compare(report, progress, title, servers, options.rounds, measure)

    memory = defaultdict(list)
    title = f"memory of {options.connections:,} coroutines that wait for a connection's first byte"
    for _ in progress.track(range(min(options.rounds, 3)), description=title):
        for kind in options.servers:
            memory[kind].append(_memory(kind, options.connections))
    report.raw.append({"title": title, "bytes_per_connection": memory})
    table = report.table(title, ["server", "bytes/connection", "its / ours"])
    ours = statistics.median(memory[options.servers[0]])
    for kind in options.servers:
        median = statistics.median(memory[kind])
        table.add_row(kind, f"{median:,.0f}", f"{median / ours:.2f}")


def _memory(kind: str, number: int) -> float:
    with serving(kind, "streams") as server, open_connections(server.port, 1) as first:
        exchange(first, echo(64), 0.01)  # what is made once is not the connections'
        before = server.anonymous_bytes()
        with open_connections(server.port, number) as opened:
            exchange(opened[-1:], echo(64), 0.01)  # answered: all before it are accepted
            return (server.anonymous_bytes() - before) / number
