"""Hand-off: from `call_soon_threadsafe` on another thread to the callback, while the loop waits."""

from __future__ import annotations

import argparse

from rich.progress import Progress

from bench.harness.metrics import P99
from bench.harness.options import add_peers, add_rounds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import ask_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

HALF = Metric("p50", "s", "lower", compared=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_peers(parser, PROGRAMS["wakes"])


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure: a round is a thousand calls."""
    ask_all(result, progress, "1,000 calls", options, "wakes", {"wakes": (HALF, P99)})
