"""Threads: echo by a thread for each connection, and thousands of idle connections."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.clients import echo, exchange, open_connections
from bench.harness.compare import compare, talking
from bench.harness.measure import Server, serving
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.report import Report

__all__ = ["add_options", "run"]

ACTIVE = 64  # connections that talk
SIZE = 1024  # bytes of their messages
_SETTLE = 1.0  # seconds in which a busy server starts a thread, if it starts more


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["threads"])
    parser.add_argument("--connections", type=int, default=5000, metavar="N", help="that say nothing")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure the speed, then what silent connections cost, and that others are served after them."""
    title = f"echo by threads: {ACTIVE} connections, {SIZE} B, one message in flight each"
    measure = talking(ACTIVE, echo(SIZE), options.seconds)
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind, "threads")) for kind in options.servers}
        compare(report, progress, title, servers, options.rounds, measure)

    title = f"{options.connections:,} connections that say nothing"
    table = report.table(title, ["server", "threads", "memory, MB", "serves after them"])
    figures = {}
    for kind in progress.track(options.servers, description=title):
        with serving(kind, "threads") as server:
            with open_connections(server.port, 1) as first:
                exchange(first, echo(64), 0.01)
            before = server.anonymous_bytes()
            with open_connections(server.port, options.connections):
                threads, memory = _settled(server), server.anonymous_bytes() - before
            with open_connections(server.port, 1) as last:
                messages, _ = exchange(last, echo(64), 0.01)
        figures[kind] = {"threads": threads, "bytes": memory, "served_after": messages}
        table.add_row(kind, str(threads), f"{memory / 1e6:.1f}", "yes" if messages else "no")
    report.raw.append({"title": title, "figures": figures})


def _settled(server: Server) -> int:
    """Return the number of the server's threads once it starts no more."""
    threads = -1
    while threads != (threads := server.threads()):
        time.sleep(_SETTLE)
    return threads
