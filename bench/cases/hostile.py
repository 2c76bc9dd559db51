"""Hostile: the server under malicious peers, and without free descriptors.

p99: round trips of an interactive peer, before the attack and during it. timer: the longest delay of a
timer of 10 ms, which is the longest delay of any peer. The server and the interactive peer are real-time
processes in these rows where that is allowed, so that other processes on their cores are not measured.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable

import attrs
from rich.progress import Progress

from bench.harness import attacks
from bench.harness.instrumented import KINDS
from bench.harness.options import add_peers, add_rounds
from bench.harness.report import Report, ratio

__all__ = ["add_options", "run"]

Found = dict[str, dict[str, list[float]]]
Cell = Callable[[dict[str, list[float]]], str]


@attrs.frozen
class Row:
    """An attack with its title, its columns, and whether the peers are attacked too."""

    attack: attacks.Attack
    title: str
    columns: dict[str, Cell]
    beside_peers: bool = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, 3)
    add_peers(parser, KINDS)
    parser.add_argument(
        "--rows",
        type=_rows,
        default=list(ROWS),
        metavar="NAME,NAME",
        help=f"of {', '.join(ROWS)} (default: all)",
    )
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="of the slow loris")
    parser.add_argument("--read-timeout", type=float, default=20.0, metavar="S", help="for those")
    parser.add_argument(
        "--idle-connections", type=int, default=15_000, metavar="N", help="that time out in one second"
    )
    parser.add_argument("--idle-timeout", type=float, default=5.0, metavar="S", help="of those")
    parser.add_argument(
        "--writes", type=int, default=1_000_000, metavar="N", help="of 1 KiB to a peer that never reads"
    )
    parser.add_argument(
        "--watch-seconds", type=float, default=5.0, metavar="S", help="how long a server is observed"
    )


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    unknown = set(rows) - set(ROWS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(sorted(unknown))}")
    return rows


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure row after row, the servers interleaved."""
    for name in options.rows:
        row = ROWS[name]
        title = row.title.format(**vars(options))
        kinds = options.servers if row.beside_peers else ["reactor"]
        found: Found = {kind: defaultdict(list) for kind in kinds}
        for _ in progress.track(range(options.rounds), description=name):
            for kind, figures in found.items():
                for what, value in row.attack(kind, options).items():
                    figures[what].append(value)
        report.raw.append({"title": title, "found": found})
        table = report.table(title, ["server", *row.columns])
        for kind, figures in found.items():
            table.add_row(kind, *(cell(figures) for cell in row.columns.values()))


def _cell(name: str, form: str, scale: float = 1.0) -> Cell:
    """Return a formatter of the median of the figure `name`: a dash for a server without it."""
    return lambda figures: form.format(statistics.median(figures[name]) * scale) if name in figures else "-"


def _ratio(name: str, other: str) -> Cell:
    return lambda figures: f"{ratio(figures[name], figures[other]):.2f}"


_INTERACTIVE: dict[str, Cell] = {
    "p99 quiet, ms": _cell("quiet", "{:.2f}", 1e3),
    "p99 attacked, ms": _cell("p99", "{:.2f}", 1e3),
    "ratio": _ratio("p99", "quiet"),
}

_RESET: dict[str, Cell] = {
    "wake-ups/s": _cell("woken", "{:.1f}"),
    "server's CPU, %": _cell("cpu", "{:.2f}", 100),
}

ROWS = {
    "loris": Row(
        attacks.loris,
        "{connections:,} connections that owe 16 B in {read_timeout:g} s and send one each quarter of that"
        " (asked: p99 within 2 times, a tenth late or less)",
        {
            "timed out": _cell("ended", "{:,.0f}"),
            "longest delay / timeout": _cell("late", "{:.3f}"),
            **_INTERACTIVE,
        },
        beside_peers=False,
    ),
    "due": Row(
        attacks.due_at_once,
        "{idle_connections:,} idle timeouts of {idle_timeout:g} s due in a second (asked: ticks of 50 ms)",
        {
            "spoke within, ms": _cell("spoke", "{:.0f}", 1e3),
            "timed out": _cell("ended", "{:,.0f}"),
            "longest tick, ms": _cell("tick", "{:.1f}", 1e3),
            "timer late by, ms": _cell("late", "{:.1f}", 1e3),
            "quiet, ms": _cell("late_quiet", "{:.1f}", 1e3),
        },
    ),
    "never-reading": Row(
        attacks.never_reading,
        "{writes:,} KiB for a peer that never reads, max_write_buffer"
        f" {attacks.WRITE_BUFFER >> 20} MiB (asked: no more, and others unaffected)",
        {"memory grown, MiB": _cell("grown", "{:,.1f}", 2**-20), **_INTERACTIVE},
    ),
    "starved": Row(
        attacks.starved,
        f"{attacks.STARVED} descriptors, {attacks.TRYING} clients, {{watch_seconds:g}} s (asked: CPU < 5 %)",
        {
            "tries": _cell("tries", "{:,.0f}"),
            "server's CPU, %": _cell("cpu", "{:.2f}", 100),
            "lines logged": _cell("lines", "{:,.0f}"),
            "serves again after, ms": _cell("again", "{:,.0f}", 1e3),
        },
    ),
    "paused": Row(
        attacks.paused,
        f"{attacks.RESET} paused connections, reset by their peers (asked: below 20 wake-ups/s)",
        _RESET,
    ),
    "half-open": Row(
        attacks.half_open,
        f"{attacks.RESET} half-closed connections, reset by their peers (asked: below 20 wake-ups/s)",
        _RESET,
    ),
}
