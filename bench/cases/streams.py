"""Streams: echo by a coroutine for each connection, and the memory of an idle one."""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.generator import echo_load
from bench.harness.memory import connection_memory
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import present, serve_all, side_by_side
from bench.results.schema import Result

__all__ = ["add_options", "run"]

ACTIVE = 64  # connections that talk
SIZE = 1024  # bytes of their messages


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["streams"])
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="idle ones")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure the speed, then the memory."""
    workload = f"{ACTIVE} connections, {SIZE} B, a coroutine each"
    measure = partial(echo_load(ACTIVE, SIZE).measure, options.seconds)
    serve_all(result, progress, workload, options.servers, "streams", options.rounds, measure)

    workload = f"{options.connections:,} coroutines that wait for the first byte"
    kinds = {kind: kind for kind in present(result, workload, options.servers)}
    memory = partial(connection_memory, "streams", options.connections)
    side_by_side(result, progress, workload, kinds, min(options.rounds, 3), memory)
