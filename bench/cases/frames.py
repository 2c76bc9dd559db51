"""Frames: a host with 60 frames a second gives the reactor a budget in each, under more load than fits.

All connections have a message in flight whenever a frame begins. Steps are timed where they are made. Beside
them stands a step that only reads the clock for 2 ms: how much longer those take is the machine's doing.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

from rich.progress import Progress

from bench.harness.clients import echo, exchange, open_connections
from bench.harness.loads import percentile
from bench.harness.measure import SERVER_CORE, core
from bench.harness.options import add_rounds, add_seconds
from bench.harness.process import child
from bench.harness.report import Report

__all__ = ["add_options", "run"]

SIZE = 64  # bytes of a message


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser, 5.0)
    parser.add_argument("--connections", type=int, default=1000, metavar="N")
    parser.add_argument("--budget", type=float, default=2.0, metavar="MS", help="of each step, milliseconds")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure with the budget, without it, and a busy wait alone."""
    budget = options.budget / 1000
    kinds = {
        f"budget of {options.budget:g} ms": str(budget),
        "no budget: one tick": "none",
        "reading the clock for 2 ms": "clock",
    }
    title = f"steps of a host with 60 frames a second, {options.connections:,} busy connections"
    steps: dict[str, list[list[float]]] = defaultdict(list)
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in progress.track(range(options.rounds), description=title):
        for kind, word in kinds.items():
            with child(
                kind, "bench.harness.programs", "reactor", "frames", core(SERVER_CORE), word
            ) as process:
                port = int(process.line())
                with open_connections(port, options.connections) as opened:
                    exchange(opened, echo(SIZE), 0.1)
                    process.ask("frames")
                    messages, took = exchange(opened, echo(SIZE), options.seconds)
                    rates[kind].append(messages / took)
                    steps[kind].append(process.ask("frames"))
    report.raw.append({"title": title, "step_seconds": steps, "messages_per_second": rates})
    table = report.table(title, ["", "steps", "median ms", "p99", "p99.9", "longest", "messages/s"])
    for kind in kinds:
        every = [step for one in steps[kind] for step in one]
        figures = (statistics.median(every), percentile(every, 99), percentile(every, 99.9), max(every))
        shown = [f"{figure * 1000:.2f}" for figure in figures]
        table.add_row(kind, f"{len(every):,}", *shown, f"{statistics.median(rates[kind]):,.0f}")
