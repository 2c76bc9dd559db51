"""Datagrams: UDP echo, bulk to the server and from it with GSO and GRO, and more than the server can take."""

from __future__ import annotations

import argparse
from functools import partial

from rich.progress import Progress

from bench.harness.datagrams import DATAGRAM_SERVERS, SIZE, load
from bench.harness.measure import Server
from bench.harness.options import add_peers, add_rounds, add_seconds, numbers
from bench.harness.rounds import serve_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

CPU = Metric("CPU/datagram", "s", "lower", compared=True)
RATE = Metric("rate", "datagrams/s", "higher", compared=True)
LOST = Metric("lost", "1", "lower")
WAITED = Metric("kept waiting", "1")
LATE = Metric("latest timer", "s", "lower", compared=True)
UNCOUNTED = Metric("losses not counted", "datagrams")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, DATAGRAM_SERVERS)
    parser.add_argument("--sizes", type=numbers, default=[64, 1200], metavar="N,N", help="of echo, bytes")
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="of echo")
    parser.add_argument("--offered", type=int, default=100_000, metavar="N", help="datagrams/s of the flood")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure echo, bulk and the flood."""

    def serve(workload: str, word: str, measure: partial[dict[Metric, float]]) -> None:
        serve_all(result, progress, workload, options.servers, "datagrams", options.rounds, measure, word)

    for size in options.sizes:
        measure = partial(_echo, options.seconds, options.clients, size)
        serve(f"echo, {options.clients} clients, {size:,} B", "echo", measure)
    serve(f"to the server, {SIZE:,} B", "drop", partial(_bulk, options.seconds, "to"))
    serve(f"from the server, {SIZE:,} B", "blast", partial(_bulk, options.seconds, "from"))
    workload = f"{options.offered:,} datagrams/s offered, each takes 20 µs"
    serve(workload, "slow", partial(_flood, options.seconds, options.offered))


def _echo(seconds: float, clients: int, size: int, server: Server) -> dict[Metric, float]:
    done = load(server, "echo", seconds, clients=clients, size=size)
    return {
        CPU: done.cpu / max(1, done.received),
        RATE: done.received / done.seconds,
        LOST: done.lost / max(1, done.sent),
        WAITED: min(1.0, done.waited / done.seconds),
    }


def _bulk(seconds: float, mode: str, server: Server) -> dict[Metric, float]:
    """Measure what the server itself has received or sent: the rest was dropped between the two."""
    before = server.process.ask("count")
    done = load(server, mode, seconds)
    after = server.process.ask("count")
    name = "received" if mode == "to" else "sent"
    moved = after[name] - before[name]
    return {
        CPU: done.cpu / max(1, moved),
        RATE: moved / done.seconds,
        WAITED: min(1.0, done.waited / done.seconds),
    }


def _flood(seconds: float, rate: int, server: Server) -> dict[Metric, float]:
    before = server.process.ask("count")
    done = load(server, "flood", seconds, clients=16, size=64, rate=rate)
    after = server.process.ask("count")
    late = after["late"]
    while (later := server.process.ask("count"))["received"] != after["received"]:  # the receive buffer
        after = later
    received = after["received"] - before["received"]
    figures = {
        LATE: late,
        RATE: received / done.seconds,
        LOST: 1 - received / done.sent,
        WAITED: min(1.0, done.waited / done.seconds),
    }
    if "dropped" in after:
        figures[UNCOUNTED] = done.sent - received - (after["dropped"] - before["dropped"])
    return figures
