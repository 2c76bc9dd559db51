"""Frames: a host with 60 frames a second gives the reactor a budget in each, under more load than fits.

All connections have a message in flight whenever a frame begins. Steps are timed where they are made. Beside
them stands a step that only reads the clock for 2 ms: how much longer those take is the machine's doing.
"""

from __future__ import annotations

import argparse
import statistics

from rich.progress import Progress

from bench.harness.generator import echo_load
from bench.harness.loads import percentile
from bench.harness.measure import serving
from bench.harness.metrics import RATE as LOADS_RATE
from bench.harness.options import add_rounds, add_seconds
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

SIZE = 64  # bytes of a message
STEPS = Metric("steps", "steps")
MEDIAN = Metric("median step", "s", "lower")
STEP_P99 = Metric("p99 step", "s", "lower")
LONGEST = Metric("longest step", "s", "lower")
RATE = Metric("rate", "messages/s", "higher")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser, 5.0)
    parser.add_argument("--connections", type=int, default=1000, metavar="N")
    parser.add_argument("--budget", type=float, default=2.0, metavar="MS", help="of each step, milliseconds")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure with the budget, without it, and a busy wait alone."""
    subjects = {
        f"budget of {options.budget:g} ms": str(options.budget / 1000),
        "no budget: one tick": "none",
        "reading the clock for 2 ms": "clock",
    }
    workload = f"steps of a host with 60 frames a second, {options.connections:,} busy connections"
    load = echo_load(options.connections, SIZE)
    for _ in progress.track(range(options.rounds), description=workload):
        for subject, word in subjects.items():
            with serving("reactor", "frames", word) as server:
                load.measure(0.1, server)
                server.process.ask("frames")
                measured = load.measure(options.seconds, server)
                steps = server.process.ask("frames")
            figures = {
                STEPS: len(steps),
                MEDIAN: statistics.median(steps),
                STEP_P99: percentile(steps, 99),
                LONGEST: max(steps),
                RATE: measured.figures[LOADS_RATE],
            }
            result.record(workload, subject, figures)
