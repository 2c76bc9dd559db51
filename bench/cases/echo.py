"""Echo: messages per second and CPU time for each, over sizes, connections and pipelining.

Every combination of the numbers given is measured: `--sizes 64,1024 --connections 1,64` are four.
`--idle-timeout` puts one on every connection, which each message arms again and which never fires.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product

from rich.progress import Progress

from bench.harness.echoes import ECHOES, TIMED_ECHOES
from bench.harness.generator import echo_load
from bench.harness.options import add_peers, add_rounds, add_seconds, numbers
from bench.harness.rounds import serve_all
from bench.results.schema import Result

__all__ = ["add_options", "run"]

IDLE_TIMEOUT = 60.0  # seconds; longer than a measurement


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, ECHOES)
    parser.add_argument(
        "--sizes", type=numbers, default=[64, 1024, 16384], metavar="N,N", help="bytes of a message"
    )
    parser.add_argument("--connections", type=numbers, default=[64], metavar="N,N")
    parser.add_argument(
        "--depths", type=numbers, default=[1], metavar="N,N", help="messages in flight on each connection"
    )
    parser.add_argument("--idle-timeout", action="store_true", help="of 60 s, on every connection")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure each combination."""
    program, words, kinds = "echo", [], options.servers
    if options.idle_timeout:
        program, words = "timed-echo", [str(IDLE_TIMEOUT)]
        kinds = [kind for kind in kinds if kind in TIMED_ECHOES]
    for connections, size, depth in product(options.connections, options.sizes, options.depths):
        workload = f"{connections} connection{'s' * (connections > 1)}, {size} B"
        if depth > 1:
            workload += f", {depth} in flight"
        if options.idle_timeout:
            workload += ", idle timeout"
        measure = partial(echo_load(connections, size, depth=depth).measure, options.seconds)
        serve_all(result, progress, workload, kinds, program, options.rounds, measure, *words)
