"""Hostile: what the server does under peers that mean no good, and without the descriptors that it needs."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable

from rich.progress import Progress

from bench import attacks
from bench.options import add_peers, add_rounds
from bench.report import Report, ratio
from bench.watched import KINDS

__all__ = ["add_options", "run"]

Found = dict[str, dict[str, list[float]]]
Cell = Callable[[dict[str, list[float]]], str]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark looks at."""
    add_rounds(parser, 3)
    add_peers(parser, KINDS)
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=list(ROWS),
        metavar="NAME,NAME",
        help=f"of {', '.join(ROWS)} (default: all)",
    )
    parser.add_argument(
        "--idle-connections", type=int, default=15_000, metavar="N", help="that time out in one second"
    )
    parser.add_argument("--idle-timeout", type=float, default=5.0, metavar="S", help="of those")
    parser.add_argument(
        "--writes", type=int, default=1_000_000, metavar="N", help="of 1 KiB to a peer that never reads"
    )
    parser.add_argument(
        "--watch-seconds", type=float, default=5.0, metavar="S", help="how long a server is watched"
    )


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure row after row; within a row the servers take turns."""
    for name in options.rows:
        attack, heading, columns = ROWS[name]
        title = heading.format(**vars(options))
        found: Found = {kind: defaultdict(list) for kind in options.servers}
        for _ in progress.track(range(options.rounds), description=name):
            for kind, figures in found.items():
                for what, value in attack(kind, options).items():
                    figures[what].append(value)
        report.raw.append({"title": title, "found": found})
        table = report.table(title, ["server", *columns])
        for kind, figures in found.items():
            table.add_row(kind, *(cell(figures) for cell in columns.values()))


def _cell(name: str, form: str, scale: float = 1.0) -> Cell:
    """Return what writes the median of the figure `name`, or a dash where a server does not tell it."""
    return lambda figures: form.format(statistics.median(figures[name]) * scale) if name in figures else "-"


def _ratio(name: str, other: str) -> Cell:
    return lambda figures: f"{ratio(figures[name], figures[other]):.2f}"


ROWS: dict[str, tuple[attacks.Attack, str, dict[str, Cell]]] = {
    "due": (
        attacks.due_at_once,
        "{idle_connections:,} idle timeouts of {idle_timeout:g} s due in a second (asked: ticks of 50 ms)",
        {
            "spoke within, ms": _cell("spoke", "{:.0f}", 1e3),
            "ended": _cell("ended", "{:,.0f}"),
            "longest tick, ms": _cell("tick", "{:.1f}", 1e3),
            "10 ms timer late at most, ms": _cell("late", "{:.1f}", 1e3),
            "the same while quiet": _cell("late_quiet", "{:.1f}", 1e3),
        },
    ),
    "never-reading": (
        attacks.never_reading,
        "{writes:,} KiB for a peer that never reads (asked: max_write_buffer, and others unaffected)",
        {
            "memory grown, MiB": _cell("grown", "{:,.1f}", 2**-20),
            "interactive p99 quiet, ms": _cell("quiet", "{:.2f}", 1e3),
            "meanwhile, ms": _cell("p99", "{:.2f}", 1e3),
            "ratio": _ratio("p99", "quiet"),
        },
    ),
    "starved": (
        attacks.starved,
        f"{attacks.STARVED} descriptors, {attacks.TRYING} clients, {{watch_seconds:g}} s (asked: CPU < 5 %)",
        {
            "tries": _cell("tries", "{:,.0f}"),
            "server's CPU, %": _cell("cpu", "{:.2f}", 100),
            "lines logged": _cell("lines", "{:,.0f}"),
            "serves again after, ms": _cell("again", "{:,.0f}", 1e3),
        },
    ),
    **{
        name: (
            attack,
            f"{attacks.RESET} connections that are {name}, reset by their peers (asked: below 20 wake-ups/s)",
            {"wake-ups/s": _cell("woken", "{:.1f}"), "server's CPU, %": _cell("cpu", "{:.2f}", 100)},
        )
        for name, attack in (("paused", attacks.paused), ("half-open", attacks.half_open))
    },
}
