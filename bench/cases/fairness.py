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
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.progress import Progress

from bench.harness.instrumented import KINDS, Plan
from bench.harness.loads import percentile
from bench.harness.measure import instrumented, loading
from bench.harness.metrics import WAITED
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.rounds import present, side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

PERIOD = 0.01  # seconds
SETTLE = 0.3  # seconds until a flood has filled what there is to fill

TIMER_P50 = Metric("timer late, p50", "s", "lower")
TIMER_P99 = Metric("timer late, p99", "s", "lower", compared=True)
TRIP_P50 = Metric("round trip, p50", "s", "lower")
TRIP_P99 = Metric("round trip, p99", "s", "lower", compared=True)
OWN_P99 = Metric("own delay, p99", "s")
ACCEPTED = Metric("accepted", "connections/s", "higher")
ECHOED = Metric("echoed", "MB/s", "higher")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser, 2.0)
    add_peers(parser, KINDS)


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure each server quiet and under flood."""
    for flooded, workload in ((False, "quiet"), (True, "under flood")):
        kinds = {kind: kind for kind in present(result, workload, options.servers)}
        measure = partial(_measure, options.seconds, flooded)
        side_by_side(result, progress, workload, kinds, options.rounds, measure)


def _measure(seconds: float, flooded: bool, kind: str) -> dict[Metric, float]:
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
    figures = {
        TIMER_P50: statistics.median(observed["late"]),
        TIMER_P99: percentile(observed["late"], 99),
        TRIP_P50: seen["p50"],
        TRIP_P99: seen["p99"],
        OWN_P99: seen["own_p99"],
        WAITED: waited / took,
    }
    if flooded:
        figures |= {ACCEPTED: observed["accepted"] / took, ECHOED: seen["bytes"] / took / 1e6}
    return figures
