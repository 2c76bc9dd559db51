"""Hostile: the server under malicious peers, and without free descriptors.

p99: round trips of an interactive peer, before the attack and during it. timer: the longest delay of a
timer of 10 ms, which is the longest delay of any peer. The server and the interactive peer are real-time
processes in these rows where that is allowed, so that other processes on their cores are not measured.
"""

from __future__ import annotations

import argparse
from functools import partial

import attrs
from rich.progress import Progress

from bench.harness import attacks
from bench.harness.instrumented import KINDS
from bench.harness.options import add_peers, add_rounds
from bench.harness.rounds import present, side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]


@attrs.frozen
class Row:
    """An attack, its title, the metrics of its figures by name, and whether the peers are attacked too."""

    attack: attacks.Attack
    title: str
    metrics: dict[str, Metric]
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
        "--proxy-connections", type=int, default=2_000, metavar="N", help="whose PROXY header never ends"
    )
    parser.add_argument("--proxy-timeout", type=float, default=5.0, metavar="S", help="of that header")
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


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure row after row, the servers interleaved."""
    for name in options.rows:
        row = ROWS[name]
        workload = row.title.format(**vars(options))
        kinds = present(result, workload, options.servers if row.beside_peers else ["reactor"])
        measure = partial(_measure, row, options)
        side_by_side(result, progress, workload, {kind: kind for kind in kinds}, options.rounds, measure)


def _measure(row: Row, options: argparse.Namespace, kind: str) -> dict[Metric, float]:
    figures = row.attack(kind, options)
    return {metric: figures[name] for name, metric in row.metrics.items() if name in figures}


_INTERACTIVE = {
    "quiet": Metric("p99, quiet", "s", "lower"),
    "p99": Metric("p99, attacked", "s", "lower"),
}

_RESET = {
    "woken": Metric("wake-ups/s", "wake-ups/s", "lower"),
    "cpu": Metric("server's CPU", "1", "lower"),
}

ROWS = {
    "loris": Row(
        attacks.loris,
        "{connections:,} connections that owe 16 B in {read_timeout:g} s and send one each quarter of that"
        " (asked: p99 within 2 times, a tenth late or less)",
        {
            "ended": Metric("timed out", "connections"),
            "late": Metric("longest delay / timeout", "1", "lower"),
            **_INTERACTIVE,
        },
        beside_peers=False,
    ),
    "proxy-loris": Row(
        attacks.proxy_loris,
        "{proxy_connections:,} PROXY headers that never end, a byte each quarter of {proxy_timeout:g} s"
        " (asked: all ended by the deadline, p99 within 2 times)",
        {"ended": Metric("timed out in time", "connections"), **_INTERACTIVE},
        beside_peers=False,
    ),
    "due": Row(
        attacks.due_at_once,
        "{idle_connections:,} idle timeouts of {idle_timeout:g} s due in a second (asked: ticks of 50 ms)",
        {
            "spoke": Metric("spoke within", "s"),
            "ended": Metric("timed out", "connections"),
            "tick": Metric("longest tick", "s", "lower"),
            "late": Metric("timer late by", "s", "lower"),
            "late_quiet": Metric("timer late by, quiet", "s", "lower"),
        },
    ),
    "never-reading": Row(
        attacks.never_reading,
        "{writes:,} KiB for a peer that never reads, max_write_buffer"
        f" {attacks.WRITE_BUFFER >> 20} MiB (asked: no more, and others unaffected)",
        {"grown": Metric("memory grown", "B", "lower", compared=True), **_INTERACTIVE},
    ),
    "starved": Row(
        attacks.starved,
        f"{attacks.STARVED} descriptors, {attacks.TRYING} clients, {{watch_seconds:g}} s (asked: CPU < 5 %)",
        {
            "tries": Metric("tries", "tries"),
            "cpu": Metric("server's CPU", "1", "lower"),
            "lines": Metric("lines logged", "lines", "lower"),
            "again": Metric("serves again after", "s", "lower"),
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
