"""Lines: each comes back in upper case, 16 in one piece, each with a write of its own."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.compare import compare, talking
from bench.harness.measure import serving
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.report import Report

__all__ = ["add_options", "run"]

PIPELINED = 16  # lines of one message
SIZE = 64  # bytes of a line, with its end


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["lines"])
    parser.add_argument("--connections", type=int, default=64, metavar="N")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure."""
    message = (b"x" * (SIZE - 1) + b"\n") * PIPELINED
    title = f"lines: {options.connections} connections, each message {PIPELINED} lines of {SIZE} B"
    measure = talking(options.connections, (message, message.upper()), options.seconds)
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind, "lines")) for kind in options.servers}
        compare(report, progress, title, servers, options.rounds, measure)
