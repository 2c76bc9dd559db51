"""Fairness: how late a timer and an interactive peer are while others flood the server.

The server echoes and has a timer of 10 ms. It measures that timer's lateness itself: nothing but the server
is in that figure. The interactive peer keeps 64 B in flight every few milliseconds and measures the round
trip, first alone with the server, then while one peer sends and receives at full speed and others connect and
close 10,000 times a second. All peers are processes of their own on the load's core; the floods run at the
lowest priority, the server and the interactive peer as real-time processes where that is allowed. What is not
the server's is shown beside: how late the interactive peer itself woke up (`own delay`), and for how long of
each second the server was ready and did not get its core (`kept waiting`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from rich.progress import Progress

from bench.harness.instrumented import KINDS, Plan
from bench.harness.loads import percentile
from bench.harness.measure import instrumented, loading
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.report import Report, ratio

__all__ = ["add_options", "run"]

PERIOD = 0.01  # seconds
SETTLE = 0.3  # seconds until a flood has filled what there is to fill

Rounds = dict[str, dict[str, list[float]]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser, 2.0)
    add_peers(parser, KINDS)


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure each server quiet and under flood, in an order that rotates."""
    quiet: Rounds = {kind: defaultdict(list) for kind in options.servers}
    flood: Rounds = {kind: defaultdict(list) for kind in options.servers}
    for number in progress.track(range(options.rounds), description="quiet and under flood"):
        first = number % len(options.servers)
        for kind in options.servers[first:] + options.servers[:first]:
            phases = [(quiet[kind], False), (flood[kind], True)]
            for rounds, flooded in phases if number % 2 else reversed(phases):
                for name, value in _measure(kind, options.seconds, flooded=flooded).items():
                    rounds[name].append(value)
    report.raw.append({"title": "fairness", "quiet": quiet, "flood": flood})
    _add_timer(report, quiet, flood)
    _add_interactive(report, quiet, flood)
    _add_flood(report, flood)


def _measure(kind: str, seconds: float, *, flooded: bool) -> dict[str, float]:
    with ExitStack() as stack:
        server = stack.enter_context(instrumented(kind, Plan(timer=PERIOD, first=True)))
        names = ("interactive", "talk", "connects") if flooded else ("interactive",)
        loads = [stack.enter_context(loading(server, name)) for name in names]
        time.sleep(SETTLE)
        for process in (*loads, server.process):
            process.ask("observed")
        started, waited = time.perf_counter(), server.waited_seconds()
        time.sleep(seconds)
        took, waited = time.perf_counter() - started, server.waited_seconds() - waited
        observed: dict[str, Any] = server.observed()
        seen: dict[str, float] = {}
        for load in loads:
            seen |= load.ask("observed")
    return {
        "timer_p50": statistics.median(observed["late"]),
        "timer_p99": percentile(observed["late"], 99),
        **{name: seen[name] for name in ("p50", "p99", "own_p99")},
        "waited": waited / took,
        "accepted": observed["accepted"] / took,
        "connects": seen.get("connects", 0) / took,
        "bytes": seen.get("bytes", 0) / took,
    }


def _milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.2f}"


def _add_timer(report: Report, quiet: Rounds, flood: Rounds) -> None:
    table = report.table(
        "lateness of a 10 ms timer, in ms",
        ["server", "median quiet", "p99 quiet", "median flood", "p99 flood", "p99 flood / quiet"],
    )
    for kind in quiet:
        table.add_row(
            kind,
            *(
                _milliseconds(rounds[kind][name])
                for rounds in (quiet, flood)
                for name in ("timer_p50", "timer_p99")
            ),
            f"{ratio(flood[kind]['timer_p99'], quiet[kind]['timer_p99']):.2f}",
        )


def _add_interactive(report: Report, quiet: Rounds, flood: Rounds) -> None:
    table = report.table(
        "round trip of an interactive peer, in ms (asked: p99 under flood within 2 times)",
        ["server", "p50 quiet", "p99 quiet", "p50 flood", "p99 flood", "p99 flood / quiet", "own delay p99"],
    )
    for kind in quiet:
        table.add_row(
            kind,
            *(_milliseconds(rounds[kind][name]) for rounds in (quiet, flood) for name in ("p50", "p99")),
            f"{ratio(flood[kind]['p99'], quiet[kind]['p99']):.2f}",
            _milliseconds(flood[kind]["own_p99"]),
        )


def _add_flood(report: Report, flood: Rounds) -> None:
    table = report.table(
        "the flood", ["server", "connects/s", "accepted/s", "MB/s echoed", "server kept waiting, ms/s"]
    )
    for kind, rounds in flood.items():
        table.add_row(
            kind,
            f"{statistics.median(rounds['connects']):,.0f}",
            f"{statistics.median(rounds['accepted']):,.0f}",
            f"{statistics.median(rounds['bytes']) / 1e6:,.0f}",
            _milliseconds(rounds["waited"]),
        )
