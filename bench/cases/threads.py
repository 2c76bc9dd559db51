"""Threads: echo by a thread for each connection, and thousands of idle connections."""

from __future__ import annotations

import argparse
import time
from functools import partial

from rich.progress import Progress

from bench.harness.clients import open_connections, talk_once
from bench.harness.generator import echo_load
from bench.harness.measure import Server, serving
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import serve_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

ACTIVE = 64  # connections that talk
SIZE = 1024  # bytes of their messages
THREADS = Metric("threads", "threads", "lower")
MEMORY = Metric("memory grown", "B", "lower")
_SETTLE = 1.0  # seconds in which a busy server starts a thread, if it starts more


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["threads"])
    parser.add_argument("--connections", type=int, default=5000, metavar="N", help="that say nothing")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure the speed, then what silent connections cost; others are served after them."""
    workload = f"{ACTIVE} connections, {SIZE} B, blocking handlers"
    measure = partial(echo_load(ACTIVE, SIZE).measure, options.seconds)
    serve_all(result, progress, workload, options.servers, "threads", options.rounds, measure)

    workload = f"{options.connections:,} silent connections"
    for kind in progress.track(options.servers, description=workload):
        result.record(workload, kind, _silent(kind, options.connections))


def _silent(kind: str, number: int) -> dict[Metric, float]:
    with serving(kind, "threads") as server:
        with open_connections(server.port, 1) as (first,):
            talk_once(first)
        before = server.anonymous_bytes()
        with open_connections(server.port, number):
            found = {THREADS: float(_settled(server)), MEMORY: float(server.anonymous_bytes() - before)}
        with open_connections(server.port, 1) as (last,):
            talk_once(last)
    return found


def _settled(server: Server) -> int:
    """Return the number of the server's threads once it starts no more."""
    threads = -1
    while threads != (threads := server.threads()):
        time.sleep(_SETTLE)
    return threads
