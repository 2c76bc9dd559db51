"""Statistics of a reactor: the running counts, and `Stats`, their snapshot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import attrs

__all__ = ["LAG_BOUNDS", "Counters", "DatagramStats", "Gauges", "Histogram", "Stats"]

#: Upper bounds of the lag's buckets, seconds. The ticks of a healthy loop stay below the first.
LAG_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@attrs.frozen
class Histogram:
    """A histogram: how many values fell into each bucket.

    bounds: upper bounds of the buckets, inclusive, in the values' unit.
    counts: the number of values in each bucket; the last one is for values above all bounds.

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

        Raises ValueError if nothing was counted, or if `fraction` is out of range.
        """
        total = self.total()
        if not total or not 0 <= fraction <= 1:
            raise ValueError(f"no {fraction:g} quantile of {total} values")
        for bound, seen in zip((*self.bounds, math.inf), accumulate(self.counts), strict=True):
            if seen and seen >= fraction * total:
                return bound
        return math.inf


@attrs.frozen(kw_only=True)
class DatagramStats:
    """The datagrams of one endpoint, or of all that a reactor had; its gauges are of the open ones.

    received, sent: datagrams from and to the kernel, without the dropped and refused ones.
    bytes_received, bytes_sent: their bytes.
    dropped: datagrams lost on this host, by reason: "kernel" (the receive buffer was full), "truncated"
        (larger than the buffer), "queue_timeout", "closed" (queued at `abort`), or the error of a `send`, as
        "EMSGSIZE".
    refused: by reason: "queue_full", "closing" (`send` after `close`), "prefix" (of a client prefix over its
        limit).
    errors: what `error_received` was called with, or would have been where there were too many.
    open, queued, queued_bytes: endpoints that are open, and what they have queued.

    >>> from reactor import Reactor
    >>> with Reactor() as reactor:
    ...     datagrams = reactor.stats().datagrams
    >>> datagrams.received, dict(datagrams.dropped)
    (0, {})
    """

    received: int = 0
    sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    dropped: Mapping[str, int] = attrs.field(factory=dict)
    refused: Mapping[str, int] = attrs.field(factory=dict)
    errors: int = 0
    open: int = 0
    queued: int = 0
    queued_bytes: int = 0

    def __add__(self, other: DatagramStats) -> DatagramStats:
        """Return the sums of both."""
        sums: dict[str, Any] = {}
        for name in attrs.fields_dict(DatagramStats):
            mine, its = getattr(self, name), getattr(other, name)
            sums[name] = dict(Counter(mine) + Counter(its)) if isinstance(mine, Mapping) else mine + its
        return DatagramStats(**sums)


@attrs.frozen(kw_only=True)
class Stats:
    """A snapshot of a reactor's counters since its creation, and of its gauges. Made by `Reactor.stats`.

    accepted: connections that listeners accepted. connected: those of `connect` and `adopt`.
    taken_over: connections that another process has handed over, as `reactor.deploy.take_over` does.
    refused: accepted connections that were closed at once, by reason: "max_connections", "max_per_ip",
        "descriptors" (none was left), "proxy_untrusted" (not from a trusted proxy). "proxy_header" (no valid
        one came in time) and, behind a proxy, "max_per_ip" are also in `accepted` and `closed`.
    closed: connections that ended, by reason: "clean", or the error's name, as "ECONNRESET".
    bytes_received, bytes_sent: from and to the kernel.
    drained: connections that ended in drains of the reactor, by outcome, as `Drained` has them: "idle",
        "finished", "failed", "aborted". draining: whether such a drain is under way.
    dropped_writes: calls of `write` and `writelines` after the end, whose bytes were dropped.
    handler_errors: exceptions that callbacks raised.
    ticks, events: ticks of the loop, and the events that they handled.
    lag: durations of ticks, in seconds: the time for which other events waited.
    open, paused, lingering: connections that are open, those between `pause_writing` and `resume_writing`,
        and sockets of closed connections that wait for the peer's end of file.
    queued_bytes: bytes that were written and not accepted by the kernel.
    datagrams: those of datagram endpoints, which are in none of the others.

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
    drained: Mapping[str, int]
    draining: bool
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
    datagrams: DatagramStats = attrs.field(factory=DatagramStats)


@attrs.frozen(kw_only=True)
class Gauges:
    """The gauges of some of a reactor's connections, as `Stats` has them."""

    open: int = 0
    paused: int = 0
    lingering: int = 0
    queued_bytes: int = 0

    def __add__(self, other: Gauges) -> Gauges:
        """Return the sums of both."""
        return Gauges(
            open=self.open + other.open,
            paused=self.paused + other.paused,
            lingering=self.lingering + other.lingering,
            queued_bytes=self.queued_bytes + other.queued_bytes,
        )


@attrs.define(eq=False, repr=False)
class Counters:
    """The counters of a reactor, as attributes that its parts add to."""

    accepted: int = 0
    connected: int = 0
    taken_over: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    closed: Counter[str] = attrs.field(factory=Counter)
    drained: Counter[str] = attrs.field(factory=Counter)  # in drains that are done
    dropped_writes: int = 0
    handler_errors: int = 0
    datagrams: DatagramStats = attrs.field(factory=DatagramStats)  # of endpoints that have ended
    # Ticks by duration. Those below the first bound are the rest, so that counting them costs nothing.
    slow_ticks: list[int] = attrs.field(factory=lambda: [0] * (len(LAG_BOUNDS) + 1))

    def add_lag(self, seconds: float) -> None:
        """Count a tick that took longer than the first bound."""
        self.slow_ticks[sum(bound < seconds for bound in LAG_BOUNDS)] += 1

    def lag(self, ticks: int) -> Histogram:
        """Return the durations of `ticks` ticks."""
        slow = self.slow_ticks[1:]
        return Histogram(LAG_BOUNDS, (ticks - sum(slow), *slow))
