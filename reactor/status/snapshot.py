"""`Snapshot`: what one process has counted, and what it holds now, as JSON can carry it to another process.

Counters are in one flat mapping, NAME or NAME:LABEL, as "closed:ECONNRESET", so that those of several
processes add up in one loop (`add_counters`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from reactor.listening.listener import holds_of
from reactor.loop.stats import Stats
from reactor.reactor import Reactor, stats_in_parts
from reactor.status.checks import failures

__all__ = [
    "Counters", "ListenerState", "Snapshot", "add_counters", "collect_snapshot", "labelled", "take_snapshot",
]  # fmt: skip

#: Counters by NAME or NAME:LABEL.
Counters = dict[str, float]

# A snapshot has to fit in a message: so many listeners, reasons and checks, and characters of a reason.
_LIMIT = 50
_CHECKS = 20
_TEXT_LIMIT = 200

_NUMBERS = (
    "accepted", "connected", "taken_over", "bytes_received", "bytes_sent", "dropped_writes", "handler_errors",
    "ticks", "events",
)  # fmt: skip
_BY_LABEL = ("refused", "closed", "drained")
_OF_DATAGRAMS = ("received", "sent", "errors")
_DATAGRAMS_BY_LABEL = ("dropped", "refused")
_GAUGES = ("open", "paused", "lingering", "queued_bytes")

_BORN = time.time()


@attrs.frozen
class ListenerState:
    """A listener: its address, its open connections, and why it accepts nothing; empty: it accepts.

    holds: "paused", "full", "handover" or "backing off".
    """

    address: str
    connections: int
    holds: list[str]


@attrs.frozen(kw_only=True)
class Snapshot:
    """Counters and gauges of one process at one moment.

    pid: its number. started: the Unix time of its start. counters: of `Stats`, those of its `datagrams` as
        "datagrams_received" and so on, "cpu_seconds", and the ticks in each bucket of the lag, as "lag:0".
    gauges: "open", "paused", "lingering" and "queued_bytes".
    draining: whether the reactor is being drained. listeners: the open ones, 50 at most.
    problems: why it is not ready, by the check's name.
    checks: the names of all checks, 20 at most.

    >>> with Reactor() as reactor:
    ...     take_snapshot(reactor).gauges["open"]
    0
    """

    pid: int
    started: float = 0.0
    counters: Counters = attrs.field(factory=dict)
    gauges: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(_GAUGES, 0))
    draining: bool = False
    listeners: list[ListenerState] = attrs.field(factory=list)
    checks: list[str] = attrs.field(factory=list)
    problems: dict[str, str] = attrs.field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as a mapping for json.dumps."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot that `to_json` has made a mapping of.

        A worker may be of another version than its supervisor: what is not known is left out, what is missing
        has its default.
        """
        known = {field.name: fields[field.name] for field in attrs.fields(cls) if field.name in fields}
        known["gauges"] = {**dict.fromkeys(_GAUGES, 0), **known.get("gauges", {})}
        known["listeners"] = [
            ListenerState(one["address"], one["connections"], one["holds"])
            for one in known.get("listeners", [])
        ]
        return cls(**known)


def take_snapshot(reactor: Reactor) -> Snapshot:
    """Return a snapshot of this process, whose connections are those of `reactor`.

    It looks at every connection at once. Checks (`add_check`) are called. On the thread that drives the
    reactor.
    """
    return _snapshot(reactor, reactor.stats())


def collect_snapshot(reactor: Reactor, on_done: Callable[[Snapshot], object]) -> None:
    """Call `on_done` with a snapshot as of `take_snapshot`, which took several ticks if there is much to see.

    Counters, listeners and checks are of the moment of that call, gauges as `stats_in_parts` has them: each
    connection is counted once, but not all at the same moment. It is not called if the reactor is closed
    before.
    """
    stats_in_parts(reactor, lambda stats: on_done(_snapshot(reactor, stats)))


def _snapshot(reactor: Reactor, stats: Stats) -> Snapshot:
    checks, problems = failures(reactor)
    return Snapshot(
        pid=os.getpid(),
        started=_BORN,
        counters=_counters(stats),
        gauges={name: getattr(stats, name) for name in _GAUGES},
        draining=stats.draining,
        listeners=[
            ListenerState(", ".join(map(str, listener.addresses)), listener.connections, holds_of(listener))
            for listener in reactor.listeners()[:_LIMIT]
        ],
        checks=checks[:_CHECKS],
        problems={name: text[:_TEXT_LIMIT] for name, text in list(problems.items())[:_CHECKS]},
    )


def _counters(stats: Stats) -> Counters:
    counters: Counters = {name: getattr(stats, name) for name in _NUMBERS}
    counters["cpu_seconds"] = time.process_time()
    for name in _OF_DATAGRAMS:
        counters[f"datagrams_{name}"] = getattr(stats.datagrams, name)
    labels = {name: getattr(stats, name) for name in _BY_LABEL}
    labels |= {f"datagrams_{name}": getattr(stats.datagrams, name) for name in _DATAGRAMS_BY_LABEL}
    for name, counts in labels.items():
        for label, count in _limited(counts).items():
            counters[f"{name}:{label}"] = count
    for bucket, count in enumerate(stats.lag.counts):
        counters[f"lag:{bucket}"] = count
    return counters


def _limited(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Return the first labels, and what is left as "other"."""
    if len(counts) <= _LIMIT:
        return counts
    kept = dict(list(counts.items())[:_LIMIT])
    return {**kept, "other": sum(counts.values()) - sum(kept.values())}


def add_counters(total: Counters, more: Mapping[str, float]) -> None:
    """Add the counters `more` to `total`."""
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def labelled(counters: Mapping[str, float], name: str) -> Counters:
    """Return the counters NAME:LABEL, by label."""
    prefix = f"{name}:"
    return {key.removeprefix(prefix): count for key, count in counters.items() if key.startswith(prefix)}
