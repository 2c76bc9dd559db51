"""Metrics: an `Overview` in the text formats of Prometheus and OpenMetrics, by `prometheus_client`.

What is added up over all workers is `reactor_NAME`; below a supervisor each worker's own is
`reactor_worker_NAME{worker="0"}`, so that a sum over a name never counts twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

import reactor
from reactor.listening.listener import Hold
from reactor.loop.stats import LAG_BOUNDS
from reactor.status.overview import Overview, Phase
from reactor.status.snapshot import Counters, Snapshot, add_counters, labelled

__all__ = ["exposition"]

# Name of the metric, of the counter, and the help.
_COUNTERS = (
    ("connections_accepted", "accepted", "Connections that listeners accepted."),
    ("connections_made", "connected", "Connections of connect and adopt."),
    ("connections_taken_over", "taken_over", "Connections that another process has handed over."),
    ("received_bytes", "bytes_received", "Bytes from the kernel."),
    ("sent_bytes", "bytes_sent", "Bytes that the kernel accepted."),
    ("dropped_writes", "dropped_writes", "Writes after the end of their connection."),
    ("datagrams_received", "datagrams_received", "Datagrams from the kernel, without those refused."),
    ("datagrams_sent", "datagrams_sent", "Datagrams that the kernel accepted."),
    ("datagrams_errors", "datagrams_errors", "Datagrams that did not arrive or could not be sent."),
    ("handler_errors", "handler_errors", "Exceptions that callbacks raised."),
    ("ticks", "ticks", "Ticks of the event loop."),
    ("events", "events", "Events, timers and callbacks that ticks handled."),
    ("cpu_seconds", "cpu_seconds", "CPU time of the serving processes."),
)
# The same, and the label with the values that are there from the start: a rate needs a zero to begin with.
_LABELLED = (
    (
        "connections_refused", "refused", "reason",
        ("max_connections", "max_per_ip", "descriptors", "proxy_untrusted", "proxy_header"),
        "Connections that were accepted and closed at once.",
    ),
    ("connections_closed", "closed", "reason", ("clean",), "Connections that ended."),
    (
        "datagrams_dropped", "datagrams_dropped", "reason", ("kernel", "queue_timeout"),
        "Datagrams that were lost on this host.",
    ),
    (
        "datagrams_refused", "datagrams_refused", "reason", ("queue_full", "prefix"),
        "Datagrams over a limit.",
    ),
    (
        "connections_drained", "drained", "outcome", ("idle", "finished", "failed", "aborted"),
        "Connections that ended in drains.",
    ),
)  # fmt: skip
_OF_WORKERS = (
    ("starts", "starts", "Processes that were started."),
    ("failures", "failures", "Processes that did not start, or ended without being asked to."),
)
_GAUGES = (
    ("connections", "open", "Open connections."),
    ("connections_paused", "paused", "Connections over their high-water mark."),
    ("connections_lingering", "lingering", "Closed connections that wait for the peer's end of file."),
    ("queued_bytes", "queued_bytes", "Bytes that were written and not accepted by the kernel."),
)
_LAG = "Durations of ticks of the event loop: the time for which other events waited."


def exposition(overview: Overview, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics and their media type.

    accept: the request's Accept, by which the client library chooses OpenMetrics or the text format.
    """
    encode, media_type = choose_encoder(accept)
    return encode(_Once(overview)), media_type


# Rows of a family: the values of its labels, and what they count.
_Rows = Mapping[tuple[str, ...], Mapping[str, float]]


class _Once:
    """The collector of one overview, with a registry's interface for the encoders."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        overview = self._overview
        yield InfoMetricFamily("reactor", "Version of the package.", {"version": reactor.__version__})
        yield from _states(overview)
        yield from _listeners(overview.current())
        yield from _checks(overview.current())
        yield from _counted("reactor", (), {(): overview.totals()})
        yield from _held("reactor", (), {(): {key: overview.gauge(key) for _, key, _ in _GAUGES}})
        if overview.target is not None:
            yield from _workers(overview)


def _states(overview: Overview) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "reactor_ready", "Whether the server is ready, as /ready answers.", not overview.problems()
    )
    state = GaugeMetricFamily(
        "reactor_state", "1 for the state in which the server is, else 0.", labels=["state"]
    )
    for phase in Phase:
        state.add_metric([phase.value], phase is overview.phase)
    yield state


def _listeners(snapshots: list[Snapshot]) -> Iterator[Metric]:
    connections = GaugeMetricFamily(
        "reactor_listener_connections", "Open connections of a listener.", labels=["address"]
    )
    held = GaugeMetricFamily(
        "reactor_listener_held",
        "Processes in which a listener accepts nothing.",
        labels=["address", "reason"],
    )
    listeners = [listener for snapshot in snapshots for listener in snapshot.listeners]
    for address in dict.fromkeys(listener.address for listener in listeners):
        same = [listener for listener in listeners if listener.address == address]
        connections.add_metric([address], sum(listener.connections for listener in same))
        for reason in Hold:
            held.add_metric([address, reason.value], sum(reason.value in one.holds for one in same))
    yield connections
    yield held


def _checks(snapshots: list[Snapshot]) -> Iterator[Metric]:
    failing = GaugeMetricFamily(
        "reactor_check_failing", "Processes in which a check fails.", labels=["check"]
    )
    for name in dict.fromkeys(name for snapshot in snapshots for name in snapshot.checks):
        failing.add_metric([name], sum(name in snapshot.problems for snapshot in snapshots))
    yield failing


def _counted(prefix: str, labels: tuple[str, ...], rows: _Rows) -> Iterator[Metric]:
    yield from _plain(prefix, labels, rows, _COUNTERS)
    for name, key, label, known, text in _LABELLED:
        family = CounterMetricFamily(f"{prefix}_{name}", text, labels=(*labels, label))
        for values, counters in rows.items():
            for reason, count in {**dict.fromkeys(known, 0), **labelled(counters, key)}.items():
                family.add_metric((*values, reason), count)
        yield family
    lag = HistogramMetricFamily(f"{prefix}_loop_lag_seconds", _LAG, labels=labels)
    for values, counters in rows.items():
        lag.add_metric(values, _buckets(counters), None)  # their sum is not known: no clock for quick ticks
    yield lag


def _plain(
    prefix: str, labels: tuple[str, ...], rows: _Rows, metrics: Iterable[tuple[str, str, str]]
) -> Iterator[Metric]:
    for name, key, text in metrics:
        family = CounterMetricFamily(f"{prefix}_{name}", text, labels=labels)
        for values, counters in rows.items():
            family.add_metric(values, counters.get(key, 0))
        yield family


def _buckets(counters: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the upper bounds, as the format writes them, with the number of ticks up to each."""
    ticks = labelled(counters, "lag")
    counts = [ticks.get(str(bucket), 0) for bucket in range(len(LAG_BOUNDS) + 1)]
    return list(zip((*map(str, LAG_BOUNDS), "+Inf"), accumulate(counts), strict=True))


def _held(prefix: str, labels: tuple[str, ...], rows: _Rows) -> Iterator[Metric]:
    for name, key, text in _GAUGES:
        family = GaugeMetricFamily(f"{prefix}_{name}", text, labels=labels)
        for values, gauges in rows.items():
            family.add_metric(values, gauges[key])
        yield family


def _workers(overview: Overview) -> Iterator[Metric]:
    yield GaugeMetricFamily("reactor_workers", "Workers that are to serve.", overview.target)
    up = GaugeMetricFamily(
        "reactor_worker_up", "Whether a process answers.", labels=["worker", "process", "state"]
    )
    started = GaugeMetricFamily(
        "reactor_worker_start_time_seconds",
        "Unix time at which a process was started.",
        labels=["worker", "process"],
    )
    for worker in overview.workers:
        values = [str(worker.index), str(worker.pid)]
        up.add_metric([*values, worker.phase], worker.answers)
        if worker.current is not None:
            started.add_metric(values, worker.current.started)
    yield up
    yield started
    counted: _Rows = {(str(index),): counters for index, counters in overview.by_worker.items()}
    yield from _plain("reactor_worker", ("worker",), counted, _OF_WORKERS)
    yield from _counted("reactor_worker", ("worker",), counted)
    yield from _held("reactor_worker", ("worker",), _gauges(overview))


def _gauges(overview: Overview) -> dict[tuple[str, ...], Counters]:
    """Return the gauges by the worker's index: two processes have the same while one replaces the other."""
    gauges: dict[tuple[str, ...], Counters] = {}
    for worker in overview.workers:
        if worker.current is not None:
            add_counters(gauges.setdefault((str(worker.index),), {}), worker.current.gauges)
    return gauges
