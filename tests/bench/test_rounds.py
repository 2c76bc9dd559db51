"""Rounds: all subjects in each, in an order that rotates; what is missing is named."""

import importlib.util

import pytest
from hdrh.histogram import HdrHistogram
from rich.progress import Progress

from bench.harness.clients import BrokenServerError
from bench.harness.rounds import Round, present, side_by_side
from bench.results.schema import Metric, Result

ORDER = Metric("order", "1")


def test_every_subject_is_measured_in_each_round_and_none_always_follows_the_same():
    asked = []

    def measure(subject):
        asked.append(subject)
        return {ORDER: len(asked)}

    result = Result("echo")
    with Progress(disable=True) as progress:
        side_by_side(result, progress, "64 B", {"a": 1, "b": 2, "c": 3}, 3, measure)
    assert asked == [1, 2, 3, 2, 3, 1, 3, 1, 2]
    assert [series.rounds for series in result.series] == [[1, 6, 8], [2, 4, 9], [3, 5, 7]]


def test_peer_that_fails_is_noted_and_left_out():
    def measure(subject):
        if subject == 2:
            raise ConnectionResetError(104, "Connection reset by peer")
        return {ORDER: 1}

    result = Result("echo")
    with Progress(disable=True) as progress:
        side_by_side(result, progress, "64 B", {"a": 1, "b": 2}, 3, measure)
    assert [(series.subject, len(series.rounds)) for series in result.series] == [("a", 3)]
    assert result.notes == [("64 B", "b", "failed in round 1: [Errno 104] Connection reset by peer")]


def test_failure_of_the_first_subject_is_raised():
    def fail(_):
        raise BrokenServerError("the server stopped answering")

    with Progress(disable=True) as progress, pytest.raises(BrokenServerError):
        side_by_side(Result("echo"), progress, "64 B", {"a": 1, "b": 2}, 3, fail)


def test_latencies_of_all_rounds_are_one_histogram():
    def measure(value):
        latencies = HdrHistogram(1, 10**9, 3)
        latencies.record_value(value)
        return Round({ORDER: 1}, latencies)

    result = Result("latency")
    with Progress(disable=True) as progress:
        side_by_side(result, progress, "64 B", {"a": 100}, 4, measure)
    (histogram,) = result.histograms
    assert (histogram.workload, histogram.subject) == ("64 B", "a")
    assert HdrHistogram.decode(histogram.encoded).get_total_count() == 4


def test_peer_that_is_not_installed_is_noted(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "bench.harness.rounds.find_spec", lambda name: None if name == "gevent" else find(name)
    )
    result = Result("echo")
    assert present(result, "64 B", ["reactor", "gevent", "selectors"]) == ["reactor", "selectors"]
    assert result.notes == [("64 B", "gevent", "not installed: pip install gevent")]
