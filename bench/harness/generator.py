"""Loads, each a process of its own: `load.c` where there is a C compiler, `load.py` otherwise."""

from __future__ import annotations

import os
import sys
from functools import partial

import attrs
from hdrh.histogram import HdrHistogram

from bench.harness.measure import Server
from bench.harness.metrics import (
    CPU,
    CPU_CONNECTION,
    FIXED_CPU,
    FIXED_P99,
    FIXED_UTILISATION,
    P50,
    P99,
    RATE,
    RATE_CONNECTIONS,
    UTILISATION,
    WAITED,
)
from bench.harness.native import compiled
from bench.harness.process import program
from bench.harness.rounds import Round

__all__ = ["Load", "echo_load", "generator", "new_histogram"]

_LONGEST = 3600 * 10**9  # nanoseconds


@attrs.frozen
class Load:
    """What the generator does.

    connections, and depth: messages in flight on each. rate: messages a second on all of them together,
    whether or not the server keeps up; 0 is the closed loop, a message for each answer. mode: "echo", or
    "churn" (connect, send, receive, close). tls: "1.2", "1.3", or "0" for none.
    """

    connections: int
    message: bytes
    answer: bytes
    depth: int = 1
    rate: float = 0
    mode: str = "echo"
    tls: str = "0"

    def measure(self, seconds: float, server: Server) -> Round:
        """Run for so long, and return the figures of the round."""
        words = [server.port, self.connections, len(self.message), self.depth, seconds, self.rate]
        with program("the load", *_command(self.tls), *map(str, words), self.mode, self.tls) as child:
            child.send(self.message + self.answer)
            child.line()
            with server.usage() as used:
                child.send(b"go\n")
                result = child.answer(60 + seconds)
        latencies = new_histogram()
        for value, number in result["latencies"]:
            latencies.record_value(value, number)
        kept_waiting = min(1.0, (used.waited + result["waited_seconds"]) / result["seconds"])
        rate, cost = result["messages"] / result["seconds"], used.cpu / max(1, result["answered"])
        busy = min(1.0, rate * cost / (1 - kept_waiting)) if kept_waiting < 1 else 1.0
        tail = {P50: _seconds(latencies, 50), P99: _seconds(latencies, 99)}
        if self.rate:
            figures = {FIXED_P99: tail[P99], P50: tail[P50], FIXED_CPU: cost, FIXED_UTILISATION: busy}
            return Round({**figures, WAITED: kept_waiting}, latencies)
        units = (CPU_CONNECTION, RATE_CONNECTIONS) if self.mode == "churn" else (CPU, RATE)
        return Round({units[0]: cost, units[1]: rate, UTILISATION: busy, WAITED: kept_waiting, **tail})


def _seconds(latencies: HdrHistogram, percentile: float) -> float:
    return float(latencies.get_value_at_percentile(percentile)) / 1e9


def new_histogram() -> HdrHistogram:
    """Return an empty histogram of latencies in nanoseconds."""
    return HdrHistogram(1, _LONGEST, 3)


def echo_load(connections: int, size: int, **options: object) -> Load:
    """Return a load of messages of `size` bytes, whose answer is the same."""
    message = bytes(i * 7 % 251 for i in range(size))
    return partial(Load, connections, message, message)(**options)  # type: ignore[arg-type]


def generator() -> str:
    """Return which generator is used."""
    return "in C" if compiled("load") else "in Python: a C compiler is missing"


def _command(tls: str) -> list[str]:
    native = compiled("load", tls=tls != "0")
    return [os.fspath(native)] if native else [sys.executable, "-m", "bench.harness.load"]
