"""Embedding: the cost of the host's loop to the reactor, and of an idle reactor to the host."""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.clients import open_connections, talk_once
from bench.harness.generator import echo_load
from bench.harness.measure import serving
from bench.harness.options import add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import serve_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

SIZE = 64  # bytes of a message
CALLS = Metric("system calls", "system calls", "lower")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument(
        "--watch-seconds", type=float, default=5.0, metavar="S", help="how long system calls are counted"
    )


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure the speed, then the idle cost."""
    kinds = list(PROGRAMS["embed"])
    workload = f"{options.connections} connections, {SIZE} B: alone, nested in asyncio, as its guest"
    measure = partial(echo_load(options.connections, SIZE).measure, options.seconds)
    serve_all(result, progress, workload, kinds, "embed", options.rounds, measure)

    workload = f"one idle connection for {options.watch_seconds:g} s"
    for kind in progress.track(kinds, description=workload):
        with serving(kind, "embed") as server, open_connections(server.port, 1) as (opened,):
            talk_once(opened)
            calls, how = server.system_calls(options.watch_seconds)
            result.record(workload, kind, {CALLS: calls})
            result.note(workload, kind, f"counted by {how}")
