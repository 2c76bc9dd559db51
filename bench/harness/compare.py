"""Subjects side by side: how much of something in a second, and the CPU time for each."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs
from rich.progress import Progress

from bench.harness.clients import exchange, open_connections
from bench.harness.measure import Server
from bench.harness.report import Report, ratio

__all__ = ["BYTES", "HANDSHAKES", "MESSAGES", "Measurement", "compare", "talking"]

T = TypeVar("T")

#: Loads a server; returns units per second, and CPU seconds per unit.
Measurement = Callable[[Server], tuple[float, float]]


@attrs.frozen
class Unit:
    """A unit of measurement: the headings of its columns, and the factors for figures in seconds."""

    rate: str
    rate_factor: float
    cost: str
    cost_factor: float


MESSAGES = Unit("messages/s", 1, "CPU µs/message", 1e6)
BYTES = Unit("MB/s", 1e-6, "CPU ms/GB", 1e12)
HANDSHAKES = Unit("handshakes/s", 1, "CPU µs/handshake", 1e6)


def talking(connections: int, talk: tuple[bytes, bytes], seconds: float) -> Measurement:
    """Return a measurement: `connections` with one message in flight on each."""

    def measure(server: Server) -> tuple[float, float]:
        with open_connections(server.port, connections) as opened:
            before = server.cpu_seconds()
            messages, took = exchange(opened, talk, seconds)
            cpu = server.cpu_seconds() - before
        return messages / took, cpu / messages

    return measure


def compare(
    report: Report,
    progress: Progress,
    title: str,
    subjects: Mapping[str, T],
    rounds: int,
    measure: Callable[[T], tuple[float, float]],
    unit: Unit = MESSAGES,
) -> dict[str, list[float]]:
    """Measure all subjects in each round, and add a table in which the first is compared with each.

    Returns the CPU seconds that each has taken in each round.
    """
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    kinds = list(subjects)
    for number in progress.track(range(rounds), description=title):
        # The order rotates with the rounds, so that none always follows the same one.
        first = number % len(kinds)
        for kind in [*kinds[first:], *kinds[:first]]:
            rate, cost = measure(subjects[kind])
            rates[kind].append(rate)
            costs[kind].append(cost)
    report.raw.append({"title": title, unit.rate: rates, "cpu_seconds_for_each": costs})
    table = report.table(title, ["", unit.rate, unit.cost, "our rate / its", "its CPU / ours"])
    for kind in kinds:
        cost = statistics.median(costs[kind]) * unit.cost_factor
        table.add_row(
            kind,
            f"{statistics.median(rates[kind]) * unit.rate_factor:,.0f}",
            f"{cost:,.2f}" if cost < 100 else f"{cost:,.0f}",
            f"{ratio(rates[kinds[0]], rates[kind]):.3f}",
            f"{ratio(costs[kind], costs[kinds[0]]):.3f}",
        )
    return costs
