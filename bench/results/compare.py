"""Comparison of two results: the series that got worse, with a bootstrap interval over their rounds.

The interval is the percentile interval of the ratio of medians (Efron and Tibshirani, An Introduction to the
Bootstrap, chapter 13): both series are resampled with replacement, so that it is as wide as rounds differ.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence

import attrs

from bench.results.schema import Result, Series
from bench.results.tables import Table, cell

__all__ = ["Change", "changes", "table"]

_SAMPLES = 2000


@attrs.frozen
class Change:
    """A series in two results.

    ratio: how many times worse it became; below 1 it became better. low, high: the ends of the interval.
    """

    before: Series
    after: Series
    ratio: float
    low: float
    high: float
    threshold: float

    @property
    def slower(self) -> bool:
        """Whether it got worse, by more than the threshold, in the whole of the interval."""
        return self.low > 1 and self.ratio > 1 + self.threshold

    @property
    def faster(self) -> bool:
        """Whether it got better, by more than the threshold, in the whole of the interval."""
        return self.high < 1 and self.ratio < 1 - self.threshold


def changes(before: Result, after: Result, confidence: float, threshold: float) -> Iterator[Change]:
    """Yield a change for each series with a better direction that both results have.

    confidence: of the interval, below 1. threshold: the part by which a change must exceed 1 to count.
    Where a figure is zero or less, the ratio is 1 to an equal one, and endless or 0 to another.
    """
    later = {_key(series): series for series in after.series}
    for series in before.series:
        other = later.get(_key(series))
        if other is None or series.metric.better == "neither":
            continue
        worse = (series, other) if series.metric.better == "lower" else (other, series)
        found = _ratios(worse[0].rounds, worse[1].rounds, confidence)
        yield Change(series, other, *found, threshold)


def table(found: Sequence[Change]) -> Table:
    """Return the changes as a table, the worst first."""
    rows = [
        [
            f"{change.before.workload}: {change.before.subject}, {change.before.metric.name}",
            cell(change.before.median, change.before.metric.unit),
            cell(change.after.median, change.after.metric.unit),
            f"{change.ratio:.3f}",
            f"{change.low:.3f} to {change.high:.3f}",
            "slower" if change.slower else "faster" if change.faster else "",
        ]
        for change in sorted(found, key=lambda change: -change.ratio)
    ]
    return Table("changes", ["", "before", "after", "times worse", "interval", ""], rows)


def _key(series: Series) -> tuple[str, str, str]:
    return series.workload, series.subject, series.metric.name


def _ratios(before: list[float], after: list[float], confidence: float) -> tuple[float, float, float]:
    """Return the ratio of the medians, after to before, and the ends of its interval."""
    chance = random.Random(0)  # the same files give the same answer
    ratios = sorted(
        _times(
            statistics.median(chance.choices(after, k=len(after))),
            statistics.median(chance.choices(before, k=len(before))),
        )
        for _ in range(_SAMPLES)
    )
    left_out = round(_SAMPLES * (1 - confidence) / 2)
    found = _times(statistics.median(after), statistics.median(before))
    return found, ratios[left_out], ratios[-1 - left_out]


def _times(after: float, before: float) -> float:
    if min(after, before) > 0:
        return after / before
    return 1.0 if after == before else math.inf if after > before else 0.0
