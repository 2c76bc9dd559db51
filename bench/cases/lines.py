"""Lines: each is sent back in upper case, 16 of them in one piece, each by a write of its own."""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.generator import Load
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import serve_all
from bench.results.schema import Result

__all__ = ["add_options", "run"]

PIPELINED = 16  # lines of one message
SIZE = 64  # bytes of a line, with its end


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["lines"])
    parser.add_argument("--connections", type=int, default=64, metavar="N")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure."""
    message = (b"x" * (SIZE - 1) + b"\n") * PIPELINED
    workload = f"{options.connections} connections, {PIPELINED} lines of {SIZE} B"
    load = Load(options.connections, message, message.upper())
    measure = partial(load.measure, options.seconds)
    serve_all(result, progress, workload, options.servers, "lines", options.rounds, measure)
