"""HTTP: a page on kept connections beside h11 on uvloop and aiohttp, event streams, a slow loris."""

from __future__ import annotations

import argparse
import time
from functools import partial

from rich.progress import Progress

from bench.harness.measure import loading, serving
from bench.harness.options import add_peers, add_rounds
from bench.harness.pages import BROWSER, PAGES, get_pages, receive_events
from bench.harness.rounds import serve_all, side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

_LORIS = {
    "ended": Metric("timed out", "connections"),
    "quiet": Metric("p99, quiet", "s", "lower"),
    "p99": Metric("p99, attacked", "s", "lower"),
}


_LINGER = 5.0  # seconds that ended connections may take to be closed


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, 5)
    parser.add_argument("--seconds", type=int, default=2, metavar="S", help="length of one measurement")
    add_peers(parser, PAGES)
    parser.add_argument("--connections", type=int, default=64, metavar="N", help="that are kept")
    parser.add_argument("--receivers", type=int, default=1000, metavar="N", help="of events")
    parser.add_argument("--slow", type=int, default=2000, metavar="N", help="connections of the slow loris")
    parser.add_argument("--head-timeout", type=float, default=10.0, metavar="S", help="for those")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure requests that are alike and requests that differ, then the attack."""
    pages = partial(get_pages, options.connections, options.seconds)
    for workload, fields, change in (
        ("one field", {}, "nothing"),
        ("a browser's fields, each time another path", BROWSER, "path"),
        ("a browser's fields, each time another value", BROWSER, "fields"),
    ):
        measure = partial(pages, fields, change)
        serve_all(result, progress, workload, options.servers, "http", options.rounds, measure)
    workload = f"{options.receivers:,} streams of events, 1 KiB a second each (asked: 2 % of a core)"
    events = partial(receive_events, options.receivers, options.seconds)
    serve_all(result, progress, workload, ["reactor"], "events", options.rounds, events)
    workload = f"{options.slow:,} connections that send a head byte by byte (asked: p99 within 2 times)"
    rounds = min(options.rounds, 3)
    side_by_side(result, progress, workload, {"reactor": "reactor"}, rounds, partial(_loris, options))


def _loris(options: argparse.Namespace, kind: str) -> dict[Metric, float]:
    timeout = options.head_timeout
    with (
        serving(kind, "http", str(timeout), "first") as server,
        loading(server, "page") as honest,
    ):
        honest.ask("observed")
        time.sleep(min(timeout, 5.0))
        quiet = honest.ask("observed")
        before = server.descriptors()
        with loading(server, "loris", options.slow, int(timeout / 10 * 1000)):
            honest.ask("observed")
            end = time.perf_counter() + timeout * 2 + _LINGER
            while (left := server.descriptors() - before) > 0 and time.perf_counter() < end:
                time.sleep(0.3)
            during = honest.ask("observed")
    figures = {"ended": options.slow - max(left, 0), "quiet": quiet["p99"], "p99": during["p99"]}
    return {metric: figures[name] for name, metric in _LORIS.items()}
