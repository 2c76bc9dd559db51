"""Statistics of a reactor: the running counts, and `Stats`, their snapshot."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

import attrs

__all__ = ["LAG_BOUNDS", "Counters", "Histogram", "Stats"]

#: Upper bounds of the lag's buckets, seconds. A tick below the first is what a healthy loop does.
LAG_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@attrs.frozen
class Histogram:
    """How many values fell between bounds.

    bounds: upper bounds, inclusive, in the values' unit. counts: how many values were at or below each
    and above the one before it; a last one for those above all.

    >>> lag = Histogram(bounds=(0.001, 0.01), counts=(98, 1, 1))
    >>> lag.total(), lag.quantile(0.99)
    (100, 0.01)
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    def total(self) -> int:
        """Return how many values were counted."""
        return sum(self.counts)

    def quantile(self, fraction: float) -> float:
        """Return the bound that `fraction` (0 to 1) of the values are at or below; infinity above all.

        Raises ValueError if nothing was counted, or for a fraction that is none.
        """
        total = self.total()
        if not total or not 0 <= fraction <= 1:
            raise ValueError(f"no {fraction:g} quantile of {total} values")
        for bound, seen in zip((*self.bounds, math.inf), accumulate(self.counts), strict=True):
            if seen and seen >= fraction * total:
                return bound
        return math.inf


@attrs.frozen(kw_only=True)
class Stats:
    """A snapshot of a reactor's counts since it was made, and of what it holds now. Made by `Reactor.stats`.

    accepted: connections that listeners took in. connected: those of `connect` and `adopt`.
    taken_over: connections that another process has handed over, as `reactor.deploy.take_over` does.
    refused: newcomers that were closed at once, by reason: "max_connections", "max_per_ip",
        "descriptors" (there were none left).
    closed: connections that ended, by reason: "clean", or the error's name, as "ECONNRESET".
    bytes_received, bytes_sent: from and to the kernel.
    dropped_writes: calls of `write` and `writelines` after the end, whose bytes went nowhere.
    handler_errors: exceptions that came out of callbacks.
    ticks, events: ticks of the loop, and the events that they handled.
    lag: how long ticks took, in seconds: the time that everything else waited meanwhile.
    open, paused, lingering: connections that are open, those between `pause_writing` and `resume_writing`,
        and sockets of closed connections that wait for the peer's end of file.
    queued_bytes: bytes that were written and not accepted by the kernel.

    >>> from reactor import Reactor
    >>> with Reactor() as reactor:
    ...     stats = reactor.stats()
    >>> stats.open, stats.closed.get("clean", 0)
    (0, 0)
    """

    accepted: int
    connected: int
    taken_over: int
    refused: Mapping[str, int]
    closed: Mapping[str, int]
    bytes_received: int
    bytes_sent: int
    dropped_writes: int
    handler_errors: int
    ticks: int
    events: int
    lag: Histogram
    open: int
    paused: int
    lingering: int
    queued_bytes: int


@attrs.define(eq=False)
class Counters:
    """The running counts, as attributes that whoever knows adds to."""

    accepted: int = 0
    connected: int = 0
    taken_over: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    closed: Counter[str] = attrs.field(factory=Counter)
    dropped_writes: int = 0
    handler_errors: int = 0
    # Turns by duration; those below the first bound are the rest, and cost nothing to count.
    slow_ticks: list[int] = attrs.field(factory=lambda: [0] * (len(LAG_BOUNDS) + 1))

    def add_lag(self, seconds: float) -> None:
        """Count a turn that took longer than the first bound."""
        self.slow_ticks[bisect_left(LAG_BOUNDS, seconds)] += 1

    def lag(self, ticks: int) -> Histogram:
        """Return `ticks` turns by duration."""
        slow = self.slow_ticks[1:]
        return Histogram(LAG_BOUNDS, (ticks - sum(slow), *slow))
