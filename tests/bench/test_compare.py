"""Comparisons: a result is as fast as itself, and what is slower is found, whatever the figures."""

from hypothesis import assume, given
from hypothesis import strategies as st

from bench.results.compare import changes, table
from bench.results.tables import markdown
from tests.bench.results import measured, results

CONFIDENCE = 0.99
THRESHOLD = 0.03

#: Rounds that differ by 1 % at the most, as on a quiet machine.
STEADY = st.tuples(st.floats(1e-6, 1e6), st.lists(st.floats(0.995, 1.005), min_size=5, max_size=9)).map(
    lambda drawn: [drawn[0] * factor for factor in drawn[1]]
)


def compared(before, after):
    return list(changes(before, after, CONFIDENCE, THRESHOLD))


@given(results(st.floats(0, 1e9)))
def test_result_compared_with_itself_got_neither_slower_nor_faster(result):
    assert [change for change in compared(result, result) if change.slower or change.faster] == []


@given(STEADY, st.sampled_from(["lower", "higher"]))
def test_ten_percent_slower_is_found(rounds, better):
    factor = 1.1 if better == "lower" else 1 / 1.1
    slower = measured([figure * factor for figure in rounds], better=better)
    (change,) = compared(measured(rounds, better=better), slower)
    assert change.slower
    assert not change.faster
    assert 1.08 < change.low <= change.ratio <= change.high < 1.12


@given(STEADY, st.sampled_from(["lower", "higher"]))
def test_ten_percent_faster_is_found_and_is_not_slower(rounds, better):
    factor = 1 / 1.1 if better == "lower" else 1.1
    (change,) = compared(
        measured(rounds, better=better), measured([figure * factor for figure in rounds], better=better)
    )
    assert change.faster
    assert not change.slower


@given(STEADY)
def test_change_below_the_threshold_is_none(rounds):
    (change,) = compared(measured(rounds), measured([figure * 1.01 for figure in rounds]))
    assert not change.slower


@given(st.lists(st.floats(0.5, 2), min_size=5, max_size=9))
def test_interval_contains_the_ratio_of_the_medians(rounds):
    assume(len(set(rounds)) > 1)
    (change,) = compared(measured(rounds), measured(rounds[::-1]))
    assert change.low <= change.ratio == 1 <= change.high


def test_rounds_that_differ_much_prove_nothing():
    (change,) = compared(measured([1.0, 2.0, 1.1]), measured([1.2, 2.2, 0.9]))
    assert not change.slower


def test_zero_is_equal_to_zero_and_something_is_endlessly_worse():
    (same,) = compared(measured([0.0] * 5), measured([0.0] * 5))
    (worse,) = compared(measured([0.0] * 5), measured([3.0] * 5))
    assert not same.slower
    assert worse.slower


def test_only_what_both_have_and_what_can_be_better_is_compared():
    assert compared(measured([1.0]), measured([1.0], subject="uvloop")) == []
    assert compared(measured([1.0], better="neither"), measured([2.0], better="neither")) == []


def test_table_has_the_worst_first():
    before, after = measured([1.0] * 5), measured([1.0] * 5)
    for result, figure in ((before, 1e-6), (after, 2e-6)):
        for series in measured([figure] * 5, subject="uvloop").series:
            result.series.append(series)
    shown = markdown(table(compared(before, after)))
    assert shown.splitlines()[2:] == [
        "| 64 B: uvloop, CPU | 1 µs | 2 µs | 2.000 | 2.000 to 2.000 | slower |",
        "| 64 B: reactor, CPU | 1 s | 1 s | 1.000 | 1.000 to 1.000 |  |",
    ]
