"""Latency: round trips at a fixed rate, half of what this project's server reaches.

The rate is the same for all, and sent whether or not a server keeps up. Latencies are counted from the time
at which a message was to be sent, so that a server that stalls delays all that were due meanwhile. Servers
and load run in real time where that is allowed, so that other processes are not measured.
"""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.clients import run_first
from bench.harness.echoes import ECHOES
from bench.harness.generator import echo_load
from bench.harness.measure import serving
from bench.harness.metrics import RATE
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.rounds import serve_all
from bench.results.schema import Result

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser, 0.4, "length of one measurement; longer ones meet the kernel's limit for real time")
    add_peers(parser, ECHOES, default=["uvloop", "asyncio", "aiofastnet", "selectors", "epoll"])
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--size", type=int, default=64, metavar="N", help="bytes of a message")
    parser.add_argument(
        "--rate", type=float, metavar="R", help="messages a second (default: half of what ours reaches)"
    )


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure."""
    run_first()  # the processes that are started inherit it
    rate = options.rate or _saturation(options) / 2
    workload = f"{options.connections} connections, {options.size} B, {rate:,.0f} messages/s"
    load = echo_load(options.connections, options.size, rate=rate)
    measure = partial(load.measure, options.seconds)
    serve_all(result, progress, workload, options.servers, "echo", options.rounds, measure)


def _saturation(options: argparse.Namespace) -> float:
    load = echo_load(options.connections, options.size)
    with serving("reactor", "echo") as server:
        load.measure(0.2, server)
        return load.measure(options.seconds, server).figures[RATE]
