"""Drain: a server closes all its idle connections, in order, as at a deployment."""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.holder import holding
from bench.harness.measure import serving
from bench.harness.options import add_peers, add_rounds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import present, side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

TIME = Metric("until all are closed", "s", "lower")
CPU_CLOSED = Metric("CPU/connection", "s", "lower", compared=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, 3)
    add_peers(parser, PROGRAMS["drain"])
    parser.add_argument("--connections", type=int, default=15_000, metavar="N")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure: a new server in each round."""
    workload = f"{options.connections:,} idle connections"
    kinds = {kind: kind for kind in present(result, workload, options.servers)}
    side_by_side(result, progress, workload, kinds, options.rounds, partial(_measure, options.connections))


def _measure(number: int, kind: str) -> dict[Metric, float]:
    with serving(kind, "drain") as server, holding([server.port]) as (holder,):
        holder.ask(f"open {number}")
        holder.ask("talk")  # a drain gives those that have not sent anything a time for it
        cpu = server.cpu_seconds()
        server.process.send(b"drain\n")
        holder.ask("wait")
        took = server.process.answer()
        return {TIME: took, CPU_CLOSED: (server.cpu_seconds() - cpu) / number}
