"""Tables: figures in cells, ratios that are above 1 in our favour, and rows that were bound by the load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.schema import Metric, Result
from bench.results.tables import cell, details, markdown, summary
from tests.bench.results import results

CPU = Metric("CPU/message", "s", "lower", compared=True)
RATE = Metric("rate", "messages/s", "higher", compared=True)
UTILISATION = Metric("utilisation", "1", "higher")


@pytest.mark.parametrize(
    ("figure", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (3.724e-6, "s", "3.72 µs"),
        (0.0316, "s", "31.6 ms"),
        (353, "B", "353 B"),
        (16 << 20, "B", "16 MiB"),
        (123_456.7, "messages/s", "123,457"),
        (0.954, "1", "0.95"),
    ],
)
def test_cell(figure, unit, text):
    assert cell(figure, unit) == text


@given(st.floats(1e-9, 1e9), st.sampled_from(["s", "B", "messages/s"]))
def test_cell_keeps_three_digits(figure, unit):
    factors = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    number, _, prefix = cell(figure, unit).partition(" ")
    shown = float(number.replace(",", "")) * factors.get(prefix, 1)
    assert shown == pytest.approx(figure, rel=0.01, abs=1e-2 if unit != "s" else 0)


@given(results())
def test_markdown_has_as_many_cells_in_every_row(result):
    for table in details(result):
        lines = markdown(table).splitlines()
        assert {line.count(" | ") for line in lines} == {len(table.headings) - 1}


def two_servers():
    result = Result("echo")
    for _ in range(3):
        result.record("64 B", "reactor", {CPU: 2e-6, RATE: 400_000, UTILISATION: 1.0})
        result.record("64 B", "uvloop", {CPU: 4e-6, RATE: 200_000, UTILISATION: 0.5})
    result.note("64 B", "trio", "not installed: pip install trio")
    return result


def test_ratios_above_one_are_in_favour_of_the_first():
    (table,) = details(two_servers())
    assert table.headings[-3:] == ["CPU/message, advantage", "rate, advantage", ""]
    assert [row[-3:-1] for row in table.rows[:2]] == [["1.00", "1.00"], ["2.00", "2.00"]]


def test_row_that_was_bound_by_the_load_says_so_and_a_missing_peer_is_named():
    (table,) = details(two_servers())
    assert [(row[0], row[-1]) for row in table.rows] == [
        ("reactor", ""),
        ("uvloop", "load-bound"),
        ("trio", "not installed: pip install trio"),
    ]


def test_summary_has_a_table_for_each_cost_that_is_compared_and_a_row_for_each_workload():
    (cpu,) = summary(two_servers())
    assert cpu.headings == ["CPU/message of reactor, and its advantage", "reactor", "uvloop"]
    assert cpu.rows == [["64 B", "2 µs", "2.00"]]


def test_summary_without_costs_has_the_rates():
    result = Result("echo")
    result.record("64 B", "reactor", {RATE: 400_000})
    result.record("64 B", "uvloop", {RATE: 200_000})
    (rate,) = summary(result)
    assert rate.rows == [["64 B", "400,000", "2.00"]]


def test_no_summary_without_a_metric_that_is_compared():
    result = Result("soak")
    result.record("peers", "good", {UTILISATION: 1.0})
    assert list(summary(result)) == []


def test_table_of_many_metrics_has_them_in_rows():
    result = Result("idle")
    result.record("100 idle connections", "reactor", {Metric(f"m{n}", "1"): n for n in range(9)})
    (table,) = details(result)
    assert table.headings == ["", "reactor"]
    assert [row[0] for row in table.rows] == [f"m{n}" for n in range(9)]
