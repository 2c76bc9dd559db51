"""Soak: one server under peers of every kind, good and bad, must return to its initial state.

The good peers look at every byte that comes back, the others stop reading, reset, send noise, say nothing,
vanish, or are stopped with SIGSTOP for longer than every timeout of the server. What the server holds is
compared with what it held before the first connection; its memory with what it was after a first crew of all
kinds had come and gone, because what is made once stays.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.progress import Progress

from bench.harness.instrumented import Plan
from bench.harness.measure import Instrumented, instrumented
from bench.harness.options import add_seconds
from bench.harness.peers import PEERS
from bench.harness.process import Child, child
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

TIMEOUTS = {"idle": 1.5, "read": 1.0, "write": 1.0, "close": 1.0}  # seconds
CROWD = 6  # times as many crowding peers as of another kind: twice the limit for an address
SEND_BUFFER = 16 * 1024  # so small that the kernel often accepts a part of what is sent
WARM_UP = 3.0  # seconds
STOP_EVERY = 3.5  # seconds from one SIGSTOP to the next
STOP_FOR = 2.0  # seconds until the SIGCONT, longer than every timeout
SETTLE = 10.0  # seconds that the server has to let go of the last connections
MEMORY_SLACK = 4_000_000  # bytes of growth that count as none: the allocator keeps what it has had
LOOK = 0.1  # seconds

_TALLY = {
    "connections": Metric("visits", "visits"),
    "messages": Metric("messages", "messages"),
    "sent": Metric("out", "B"),
    "received": Metric("in", "B"),
    "lost": Metric("lost", "B", "lower"),
}
ENDS = "what the server counted, the first crew included"
CUT_OFF = Metric("cut off", "cut off")
BEFORE = Metric("before", "before")
AFTER = Metric("after", "after")
COUNTED = Metric("connections", "connections")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_seconds(parser, 60.0, "how long the peers come and go")
    parser.add_argument(
        "--each", type=int, default=4, metavar="N", help="connections of each kind of peer at once"
    )


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Run all peers, and compare what the server holds before and after."""
    with instrumented("reactor", _plan(options.each)) as server:
        before = _settled(server)
        _crew(server, options.each, min(WARM_UP, options.seconds), progress, "warming up")
        before["held"]["memory"] = _settled(server, before["held"])["held"]["memory"]
        seen, took = _crew(server, options.each, options.seconds, progress, "soaking")
        after = _settled(server, before["held"])
    _record_peers(result, seen, took)
    _record_held(result, before["held"], after["held"])
    _record_ends(result, after)


def _plan(each: int) -> Plan:
    return Plan(
        app="owing",
        limits={"max_connections": 1000, "max_per_ip": each * CROWD // 2, "when_full": "refuse"},
        timeouts=TIMEOUTS,
        send_buffer=SEND_BUFFER,
    )


def _crew(
    server: Instrumented, each: int, seconds: float, progress: Progress, title: str
) -> tuple[dict[str, Any], float]:
    with _peers(server.port, each) as peers:
        started = time.monotonic()
        task = progress.add_task(title, total=seconds)
        while (passed := time.monotonic() - started) < seconds:
            progress.update(task, completed=passed)
            stopped = passed % STOP_EVERY > STOP_EVERY - STOP_FOR
            peers["stop"].process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
            time.sleep(LOOK)
        progress.remove_task(task)
        peers["stop"].process.send_signal(signal.SIGCONT)
        for peer in peers.values():
            peer.dismiss()
        return {kind: peer.answer() for kind, peer in peers.items()}, time.monotonic() - started


@contextmanager
def _peers(port: int, each: int) -> Iterator[dict[str, Child]]:
    with ExitStack() as stack:
        peers = {
            kind: stack.enter_context(
                child(
                    kind,
                    "bench.harness.peers",
                    kind,
                    str(port),
                    str(_number(kind, each)),
                    f"127.0.1.{number}",
                )
            )
            for number, kind in enumerate(PEERS, start=1)
        }
        for peer in peers.values():
            peer.line()  # it has started
        yield peers


def _number(kind: str, each: int) -> int:
    return each * CROWD if kind == "crowd" else each


def _settled(server: Instrumented, wanted: dict[str, int] | None = None) -> dict[str, dict[str, int]]:
    """Return what the server holds once it is down to `wanted`, or after `SETTLE` seconds."""
    end = time.monotonic() + SETTLE
    while True:
        answer = server.held()
        held = answer["held"]
        calm = wanted is None or all(held[name] <= wanted[name] for name in held)
        if calm or time.monotonic() > end:
            held["memory"] = server.anonymous_bytes()
            return answer
        time.sleep(LOOK)


def _record_peers(result: Result, seen: dict[str, Any], took: float) -> None:
    workload = f"{took:.0f} s of peers (cut off: the server ended the connection first)"
    for kind, (name, _, keeps_rules) in PEERS.items():
        tally = seen[kind]
        figures = {metric: tally[key] for key, metric in _TALLY.items()}
        figures[CUT_OFF] = tally["broken" if keeps_rules else "ended"]
        result.record(workload, name, figures)
        if tally["lost"] or tally["broken"]:
            result.failures.append(
                f"{name}: {tally['lost']} bytes lost, {tally['broken']} connections broken: {tally['why']}"
            )


def _record_held(result: Result, before: dict[str, int], after: dict[str, int]) -> None:
    workload = "what the server holds"
    for name, was in before.items():
        result.record(workload, name, {BEFORE: was, AFTER: after[name]})
        if after[name] - was > (MEMORY_SLACK if name == "memory" else 0):
            result.note(workload, name, "NOT BACK")
            result.failures.append(f"{name} did not come back: {was:,} before, {after[name]:,} after")


def _record_ends(result: Result, after: dict[str, dict[str, int]]) -> None:
    for what in ("ended", "refused"):
        for why, number in sorted(after[what].items()):
            result.record(ENDS, f"{what}: {why}", {COUNTED: number})
