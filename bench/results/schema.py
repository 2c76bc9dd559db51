"""The result of one run, as it is kept in a JSON file: the conditions, and every round's figures.

A result has series: the figures of one metric, for one subject (a server, mostly) under one workload, one for
each round. Figures are in the unit that the metric names, without a prefix: seconds and bytes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

__all__ = ["SCHEMA", "Histogram", "Metric", "Result", "ResultError", "Series", "load", "ratio"]

SCHEMA = 1  # raised when a reader of older files would misunderstand newer ones

Better = Literal["higher", "lower", "neither"]


class ResultError(ValueError):
    """A file is no result of a benchmark."""


@attrs.frozen
class Metric:
    """A column of figures.

    unit: "s", "B", "1" for a part of a whole, or the noun that is counted, as "messages/s". better: the
    direction in which a figure is better, which decides what counts as slower. compared: whether tables show
    the ratio to the first subject too.
    """

    name: str
    unit: str
    better: Better = "neither"
    compared: bool = False


@attrs.define
class Series:
    """The figures of one metric for one subject under one workload."""

    workload: str
    subject: str
    metric: Metric
    rounds: list[float] = attrs.field(factory=list)

    @property
    def median(self) -> float:
        """The median of its rounds."""
        return statistics.median(self.rounds)


@attrs.define
class Histogram:
    """The latencies of all rounds at a fixed rate, in nanoseconds: an HdrHistogram, encoded (V2, base64)."""

    workload: str
    subject: str
    encoded: str


@attrs.define
class Result:
    """One run of a benchmark.

    case: its name. command: the words that repeat it. revision: of the source, with a plus sign where it was
    changed. machine: processor, cores, kernel, Python and the versions of packages. notes: a subject's
    condition under a workload, as ("64 B", "uvloop", "not installed"). failures: expectations that were not
    met, a line each. partial: it was interrupted.
    """

    case: str
    command: str = ""
    started: str = ""
    revision: str = ""
    machine: dict[str, str] = attrs.field(factory=dict)
    partial: bool = False
    series: list[Series] = attrs.field(factory=list)
    notes: list[tuple[str, str, str]] = attrs.field(factory=list)
    histograms: list[Histogram] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)
    _index: dict[tuple[str, str, str], Series] = attrs.field(factory=dict, repr=False, eq=False)

    def record(self, workload: str, subject: str, figures: Mapping[Metric, float]) -> None:
        """Add one round's figures."""
        for metric, figure in figures.items():
            key = (workload, subject, metric.name)
            if key not in self._index:
                self._index[key] = Series(workload, subject, metric)
                self.series.append(self._index[key])
            self._index[key].rounds.append(float(f"{figure:.6g}"))  # more digits than are measured

    def note(self, workload: str, subject: str, text: str) -> None:
        """Add a subject's condition, once."""
        if (workload, subject, text) not in self.notes:
            self.notes.append((workload, subject, text))

    def workloads(self) -> list[str]:
        """Return the workloads in the order in which they were measured."""
        names = [series.workload for series in self.series] + [workload for workload, *_ in self.notes]
        return list(dict.fromkeys(names))

    def of(self, workload: str) -> dict[str, dict[str, Series]]:
        """Return the series of a workload, by subject and the metric's name."""
        found: dict[str, dict[str, Series]] = {}
        for series in self.series:
            if series.workload == workload:
                found.setdefault(series.subject, {})[series.metric.name] = series
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it as what `write` writes."""
        return {"schema": SCHEMA, **attrs.asdict(self, filter=lambda field, _: field.name != "_index")}

    def write(self, path: Path) -> None:
        """Write it to a file."""
        lines = ",\n".join(f"{json.dumps(name)}: {_lines(value)}" for name, value in self.to_json().items())
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def load(path: Path) -> Result:
    """Return the result in a file. Raises ResultError, which names the file, if it has none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if read.pop("schema") != SCHEMA:
            raise ResultError(
                f"{path}: its schema is not {SCHEMA}: measure again, or use the version it is of"
            )
        return _result(read)
    except ResultError:
        raise
    except OSError as exc:
        raise ResultError(f"{path}: {exc.strerror}") from exc
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ResultError(
            f"{path} is no result: give a file that python -m bench NAME --json FILE wrote"
        ) from exc


def _lines(value: Any) -> str:
    """Return a value as JSON, a list with a line for each of its elements."""
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(each) for each in value) + "\n]"


def _result(read: dict[str, Any]) -> Result:
    series = [Series(**{**one, "metric": Metric(**one["metric"])}) for one in read.pop("series")]
    histograms = [Histogram(**one) for one in read.pop("histograms")]
    notes = [(workload, subject, text) for workload, subject, text in read.pop("notes")]
    for one in series:
        if not one.rounds or not all(math.isfinite(figure) for figure in one.rounds):
            raise ValueError(f"{one.subject}: {one.metric.name} has no figures")
    return Result(**read, series=series, notes=notes, histograms=histograms)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of the rounds, or of as many as both have.

    Figures that were measured one after the other are compared.
    """
    return statistics.median(
        a / b if b else (1.0 if a == b else math.inf) for a, b in zip(ours, theirs, strict=False)
    )
