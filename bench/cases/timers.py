"""Timers: the CPU time of a timer, set and cancelled, or set and run, 100,000 of them at once."""

from __future__ import annotations

import argparse

from rich.progress import Progress

from bench.harness.options import add_peers, add_rounds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import ask_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

COSTS = {word: (Metric(f"set and {word}", "s", "lower", compared=True),) for word in ("cancel", "run")}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_peers(parser, PROGRAMS["timers"])


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure."""
    ask_all(result, progress, "100,000 timers", options, "timers", COSTS)
