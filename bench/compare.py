"""Servers side by side: messages per second, and the CPU time for each."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from rich.progress import Progress

from bench.load import exchange, open_connections
from bench.measure import Server
from bench.report import Report, ratio

__all__ = ["compare", "talking"]

#: Talks to a server; returns messages per second, and the CPU microseconds for each.
Measurement = Callable[[Server], tuple[float, float]]


def talking(connections: int, talk: tuple[bytes, bytes], seconds: float) -> Measurement:
    """Return the measurement of so many connections with one message each in flight."""

    def measure(server: Server) -> tuple[float, float]:
        with open_connections(server.port, connections) as opened:
            before = server.cpu_seconds()
            messages, took = exchange(opened, talk, seconds)
            cpu = server.cpu_seconds() - before
        return messages / took, cpu / messages * 1e6

    return measure


def compare(
    report: Report,
    progress: Progress,
    title: str,
    servers: Sequence[Server],
    rounds: int,
    measure: Measurement,
) -> None:
    """Measure all servers in each round, and add a table in which the first is compared with each."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for number in progress.track(range(rounds), description=title):
        # The order turns with the rounds, so that no server always follows the same one.
        turn = number % len(servers)
        for server in [*servers[turn:], *servers[:turn]]:
            rate, cost = measure(server)
            rates[server.kind].append(rate)
            costs[server.kind].append(cost)
    report.raw.append({"title": title, "rates": rates, "cpu_us_per_message": costs})
    table = report.table(
        title, ["server", "messages/s", "CPU µs/message", "our rate / its", "its CPU / ours"]
    )
    ours = servers[0].kind
    for kind in (server.kind for server in servers):
        table.add_row(
            kind,
            f"{statistics.median(rates[kind]):,.0f}",
            f"{statistics.median(costs[kind]):.2f}",
            f"{ratio(rates[ours], rates[kind]):.3f}",
            f"{ratio(costs[kind], costs[ours]):.3f}",
        )
