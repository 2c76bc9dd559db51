"""Churn: connect, echo and close, again and again: the server's CPU time for each, and its memory.

The second workload has the garbage collector off, so that a cycle would show; what memory has grown after the
first round is what connections leave behind. `--rounds 10 --seconds 60` is ten minutes of it for each server.
"""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.echoes import ECHOES
from bench.harness.generator import echo_load
from bench.harness.measure import Server
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.rounds import Round, serve_all
from bench.results.schema import Metric, Result, Series

__all__ = ["add_options", "run"]

MEMORY = Metric("memory", "B")
GROWN = Metric("grown/connection", "B", "lower")
SIZE = 64  # bytes of the one message of a connection


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, ECHOES)
    parser.add_argument("--connections", type=int, default=16, metavar="N", help="at once")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure with the garbage collector, then without."""
    for collect in (True, False):
        workload = "connect, echo, close" + ("" if collect else "; garbage collector off")
        measure = partial(_measure, options)
        serve_all(
            result, progress, workload, options.servers, "echo", options.rounds, measure, collect=collect
        )
        for subject, series in result.of(workload).items():
            _record_growth(result, workload, subject, options.seconds, series)


def _measure(options: argparse.Namespace, server: Server) -> Round:
    measured = echo_load(options.connections, SIZE, mode="churn").measure(options.seconds, server)
    return Round({**measured.figures, MEMORY: server.anonymous_bytes()}, measured.latencies)


def _record_growth(
    result: Result, workload: str, subject: str, seconds: float, series: dict[str, Series]
) -> None:
    memory, rates = series[MEMORY.name].rounds, series["rate"].rounds
    if len(memory) > 1:
        connections = sum(rates[1:]) * seconds
        result.record(workload, subject, {GROWN: (memory[-1] - memory[0]) / connections})
