"""Echo: messages per second and CPU time per message, beside the peers."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.clients import echo, open_connections
from bench.harness.compare import compare, talking
from bench.harness.measure import running
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.report import Report, ratio
from bench.harness.servers import SERVERS

__all__ = ["add_options", "run"]

Rates = dict[str, list[float]]

ACTIVE = 16  # connections that talk beside the idle ones
ACTIVE_SIZE = 64  # bytes of their messages


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, SERVERS)
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[64, 1024, 16384],
        metavar="N,N",
        help="bytes of a message",
    )
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--idle-connections", type=int, default=15_000, metavar="N", help="0 leaves them out")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure plain echo, echo under an idle timeout, and echo beside idle connections."""
    for mode, title in (("plain", "echo"), ("timeout", "echo with an idle timeout on every connection")):
        kinds = [kind for kind in options.servers if mode == "plain" or kind not in {"bare", "timed"}]
        for size in options.sizes:
            label = f"{title}: {options.connections} connections, {size} B, one message in flight each"
            measure = talking(options.connections, echo(size), options.seconds)
            with ExitStack() as stack:
                servers = {kind: stack.enter_context(running(kind, mode)) for kind in kinds}
                compare(report, progress, label, servers, options.rounds, measure)
    if options.idle_connections:
        _beside_idle(options, report, progress)


def _beside_idle(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    number = options.idle_connections
    title = f"echo: {ACTIVE} connections, {ACTIVE_SIZE} B, beside {number:,} idle ones"
    with_idle: Rates = defaultdict(list)
    without: Rates = defaultdict(list)
    kinds = [kind for kind in options.servers if kind != "timed"]
    measure = talking(ACTIVE, echo(ACTIVE_SIZE), options.seconds)
    for kind in progress.track(kinds, description=title):
        with (
            running(kind, "plain") as crowded,
            running(kind, "plain") as empty,
            open_connections(crowded.port, number),
        ):
            for index in range(options.rounds):
                pair = [(crowded, with_idle), (empty, without)]
                for server, rates in pair if index % 2 else reversed(pair):
                    rate, _ = measure(server)
                    rates[kind].append(rate)
    report.raw.append({"title": title, "with_idle": with_idle, "without_idle": without})
    table = report.table(title, ["server", "messages/s with", "messages/s without", "with / without"])
    for kind in kinds:
        table.add_row(
            kind,
            f"{statistics.median(with_idle[kind]):,.0f}",
            f"{statistics.median(without[kind]):,.0f}",
            f"{ratio(with_idle[kind], without[kind]):.3f}",
        )
