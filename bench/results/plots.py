"""Plots of results, as SVG: throughput, latency, and the memory and cost of idle connections."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import matplotlib as mpl
from hdrh.histogram import HdrHistogram

from bench.results.schema import Result, Series
from bench.results.tables import cell

__all__ = ["plots"]

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "bench"  # the same figures make the same file
mpl.rcParams["svg.fonttype"] = "none"  # text stays text, and the file small
mpl.rcParams["font.size"] = 9

_TAILS = (0, 50, 90, 99, 99.9, 99.99)
_IDLE = re.compile(r"([\d,]+) idle connections$")


def plots(results: Sequence[Result], folder: Path) -> dict[str, Path]:
    """Write the plots that these results have figures for; return their files by their captions."""
    drawn: dict[str, Path] = {}
    for result in results:
        python = result.machine.get("python", "")
        for draw in (_throughput, _latency, _memory, _cost):
            figure = draw(result)
            if figure is None:
                continue
            name = f"{result.case}-{draw.__name__.strip('_')}-{python}"
            path = _unused(folder, name, set(drawn.values()))
            figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
            drawn[f"{path.stem}: {_CAPTIONS[draw]}"] = path
    return drawn


def _unused(folder: Path, name: str, used: set[Path]) -> Path:
    """Return the path of a plot's file, with a number where another result of the case has the name."""
    paths = chain([folder / f"{name}.svg"], (folder / f"{name}-{number}.svg" for number in count(2)))
    return next(path for path in paths if path not in used)


def _wide(workloads: int) -> float:
    """Return the width of a plot with so many groups of bars, in inches."""
    return min(16.0, max(7.0, 1.1 * workloads))


def _figure(title: str, label: str, width: float = 7.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.5))
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _throughput(result: Result) -> Any:
    """Draw each subject's rate under each workload, with the spread of its rounds."""
    rates = [series for series in result.series if series.metric.name == "rate"]
    if not rates or any(series.metric.unit != rates[0].metric.unit for series in rates):
        return None
    subjects = list(dict.fromkeys(series.subject for series in rates))
    workloads = list(dict.fromkeys(series.workload for series in rates))
    figure, axes = _figure("", rates[0].metric.unit, _wide(len(workloads)))
    width = 0.8 / len(subjects)
    colors = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for number, subject in enumerate(subjects):
        found = {series.workload: series for series in rates if series.subject == subject}
        places = [index + number * width for index, name in enumerate(workloads) if name in found]
        shown = [found[name] for name in workloads if name in found]
        heights = [series.median for series in shown]
        spread = [
            [height - min(series.rounds) for height, series in zip(heights, shown, strict=True)],
            [max(series.rounds) - height for height, series in zip(heights, shown, strict=True)],
        ]
        axes.bar(
            places, heights, width, yerr=spread, label=subject, color=colors[number % 20],
            error_kw={"elinewidth": 0.6},
        )  # fmt: skip
    axes.set_xticks([index + 0.4 - width / 2 for index in range(len(workloads))], workloads)
    axes.tick_params(axis="x", labelrotation=0 if len(workloads) < 4 else 20)
    axes.legend(fontsize=7, ncols=2 if len(subjects) < 8 else 4, frameon=False)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.35)
    return figure


def _latency(result: Result) -> Any:
    """Draw the percentiles of latencies at a fixed rate."""
    if not result.histograms:
        return None
    figure, axes = _figure(result.histograms[0].workload, "latency, ms")
    for histogram in result.histograms:
        latencies = HdrHistogram.decode(histogram.encoded)
        values = [latencies.get_value_at_percentile(tail) / 1e6 for tail in _TAILS]
        axes.plot(range(len(_TAILS)), values, marker=".", label=histogram.subject)
    axes.set_xticks(range(len(_TAILS)), ["min", *(f"p{tail:g}" for tail in _TAILS[1:])])
    axes.set_yscale("log")
    axes.legend(fontsize=7, frameon=False)
    return figure


def _memory(result: Result) -> Any:
    """Draw the memory of an idle connection of each subject, at the largest number of them."""
    found = [series for series in _beside_idle(result, "memory").values() if series]
    if not found:
        return None
    largest = [series[max(series)] for series in found]
    figure, axes = _figure(f"memory of each of {largest[0].workload}", "bytes")
    bars = axes.bar([series.subject for series in largest], [series.median for series in largest])
    axes.bar_label(bars, [cell(series.median, "B") for series in largest])
    return figure


def _cost(result: Result) -> Any:
    """Draw what a message costs beside idle connections, against the same without them."""
    found = _beside_idle(result, "beside / alone")
    if not any(len(series) > 1 for series in found.values()):
        return None
    figure, axes = _figure("CPU of a message beside idle connections", "against none")
    for subject, series in found.items():
        axes.plot(list(series), [one.median for one in series.values()], marker=".", label=subject)
    axes.set_xscale("log")
    axes.set_xlabel("idle connections")
    axes.set_ylim(0, max(1.5, axes.get_ylim()[1]))
    axes.legend(fontsize=7, frameon=False)
    return figure


def _beside_idle(result: Result, metric: str) -> dict[str, dict[int, Series]]:
    """Return the series of a metric by subject and the number of idle connections in its workload."""
    found: dict[str, dict[int, Series]] = {}
    for series in result.series:
        match = _IDLE.match(series.workload)
        if match and series.metric.name == metric:
            found.setdefault(series.subject, {})[int(match[1].replace(",", ""))] = series
    return found


_CAPTIONS: dict[Callable[[Result], Any], str] = {
    _throughput: "throughput, with the spread of rounds",
    _latency: "percentiles of latency",
    _memory: "memory of an idle connection",
    _cost: "cost beside idle connections",
}
