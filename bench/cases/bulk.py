"""Bulk: bytes one way on one connection, to the server, which drops them, and from it."""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.bulk import move
from bench.harness.clients import open_connections
from bench.harness.measure import Server
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import serve_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["bulk"])


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure one way, then the other."""
    for word, workload in ((b"D", "to the server"), (b"S", "from the server")):
        measure = partial(_measure, word, options.seconds)
        serve_all(result, progress, workload, options.servers, "bulk", options.rounds, measure)


def _measure(word: bytes, seconds: float, server: Server) -> dict[Metric, float]:
    with open_connections(server.port, 1) as (opened,):
        return move(opened, word, seconds, server)
