"""Tables of results, as text in cells: for the terminal, and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import attrs

from bench.results.schema import Metric, Result, Series, ratio

__all__ = ["Table", "cell", "details", "markdown", "summary"]

LOAD_BOUND = 0.95  # a server that is busy for less of its time was not the bottleneck
MOST_COLUMNS = 8  # a table of more metrics has them in rows
UTILISATION = "utilisation"

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


@attrs.frozen
class Table:
    """Rows of text below a title; the first column names the row."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def cell(figure: float, unit: str) -> str:
    """Return a figure with its unit, in three digits or more."""
    if unit == "s":
        return _scaled(figure, _SECONDS)
    if unit == "B":
        return _scaled(figure, _BYTES) if abs(figure) >= 10_000 else f"{_number(figure)} B"
    return f"{figure:.2f}" if unit == "1" else _number(figure)


def details(result: Result) -> Iterator[Table]:
    """Yield a table for each workload: a row for each subject, a column for each metric."""
    for workload in result.workloads():
        yield _table(result, workload)


def summary(result: Result) -> Iterator[Table]:
    """Yield a table for each metric that is compared: a row for each workload, a column for each subject.

    The first subject's is a figure; of the others it is the ratio that is above 1 where the first is better.
    Rates are left out where there are costs, which say the same with less of the machine's noise.
    """
    compared = [metric for metric in _metrics(result.series) if metric.compared]
    for metric in [metric for metric in compared if metric.name != "rate"] or compared:
        subjects = [series.subject for series in result.series if series.metric == metric]
        first, *others = dict.fromkeys(subjects)
        rows = []
        for workload in result.workloads():
            found = {subject: series.get(metric.name) for subject, series in result.of(workload).items()}
            ours = found.get(first)
            if ours is not None and ours.metric == metric:
                ratios = [_advantage(ours, found.get(subject)) for subject in others]
                rows.append([workload, cell(ours.median, metric.unit), *ratios])
        heading = f"{metric.name} of {first}, and its advantage"
        yield Table(f"{result.case}: {heading}", [heading, first, *others], rows)


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    rows = [table.headings, ["---"] + ["---:"] * (len(table.headings) - 1), *table.rows]
    cells = [[" ".join(text.replace("|", "/").split()) for text in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _table(result: Result, workload: str) -> Table:
    found = result.of(workload)
    metrics = _metrics(series for of_subject in found.values() for series in of_subject.values())
    first = next(iter(found.values()), {})
    notes = [(subject, text) for where, subject, text in result.notes if where == workload]
    headings = ["", *(_heading(metric) for metric in metrics)]
    compared = [metric for metric in metrics if metric.compared] if len(found) > 1 else []
    headings += [f"{metric.name}, advantage" for metric in compared]
    rows = []
    for subject, series in found.items():
        figures = [_shown(series.get(metric.name)) for metric in metrics]
        ratios = [_advantage(first.get(metric.name), series.get(metric.name)) for metric in compared]
        rows.append([subject, *figures, *ratios])
    missing = dict.fromkeys(subject for subject, _ in notes if subject not in found)
    rows += [[subject, *[""] * (len(headings) - 1)] for subject in missing]
    if notes or any(_load_bound(series) for series in found.values()):
        headings.append("")
        for row in rows:
            texts = [text for subject, text in notes if subject == row[0]]
            row.append("; ".join(texts + (["load-bound"] if _load_bound(found.get(row[0], {})) else [])))
    made = Table(workload, headings, rows)
    return _transposed(made) if len(metrics) > MOST_COLUMNS else made


def _transposed(table: Table) -> Table:
    """Return the table with a row for each column; a row of the other's becomes a column."""
    columns = list(zip(table.headings, *table.rows, strict=True))
    return Table(table.title, list(columns[0]), [list(column) for column in columns[1:]])


def _metrics(series: Iterable[Series]) -> list[Metric]:
    return list(dict.fromkeys(one.metric for one in series))


def _heading(metric: Metric) -> str:
    return metric.name if metric.unit in {"s", "B", "1", metric.name} else f"{metric.name}, {metric.unit}"


def _shown(series: Series | None) -> str:
    return "-" if series is None else cell(series.median, series.metric.unit)


def _advantage(ours: Series | None, theirs: Series | None) -> str:
    """Return the ratio that is above 1 where `ours` is better."""
    if ours is None or theirs is None:
        return "-"
    pair = (ours, theirs) if ours.metric.better == "higher" else (theirs, ours)
    found = ratio(pair[0].rounds, pair[1].rounds)
    return f"{found:.2f}" if math.isfinite(found) else "-"


def _load_bound(series: dict[str, Series]) -> bool:
    busy = series.get(UTILISATION)
    return busy is not None and busy.metric.better == "higher" and busy.median < LOAD_BOUND


def _scaled(figure: float, units: tuple[tuple[float, str], ...]) -> str:
    for factor, name in units:
        if abs(figure) >= factor:
            return f"{_number(figure / factor)} {name}"
    return f"{_number(figure / units[-1][0])} {units[-1][1]}" if figure else f"0 {units[0][1]}"


def _number(figure: float) -> str:
    if figure == round(figure) or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"
