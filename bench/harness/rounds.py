"""Subjects side by side: measured in interleaved rounds."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, TypeVar

import attrs
from hdrh.histogram import HdrHistogram
from rich.progress import Progress

from bench.harness.clients import BrokenServerError
from bench.harness.measure import PEERS, Server, serving
from bench.harness.process import ChildFailedError
from bench.results.schema import Histogram, Metric, Result

__all__ = ["Round", "ask_all", "missing_packages", "present", "serve_all", "side_by_side"]

T = TypeVar("T")


@attrs.frozen
class Round:
    """One round's figures, and the latencies behind them where all of them are kept."""

    figures: Mapping[Metric, float]
    latencies: HdrHistogram | None = None


def missing_packages(kinds: list[str]) -> dict[str, str]:
    """Return those of `kinds` that are packages and not installed, each with a line that says so."""
    return {
        kind: f"not installed: pip install {kind}"
        for kind in kinds
        if kind in PEERS and find_spec(kind) is None
    }


def present(result: Result, workload: str, kinds: list[str]) -> list[str]:
    """Return those of `kinds` that can run; the others are noted as missing."""
    missing = missing_packages(kinds)
    for kind, text in missing.items():
        result.note(workload, kind, text)
    return [kind for kind in kinds if kind not in missing]


def side_by_side(
    result: Result,
    progress: Progress,
    workload: str,
    subjects: Mapping[str, T],
    rounds: int,
    measure: Callable[[T], Round | Mapping[Metric, float]],
) -> None:
    """Measure all subjects in each round, and record their figures.

    A peer that fails is left out from then on, and the failure noted; one of the first subject is raised.
    """
    kinds = list(subjects)
    failed: set[str] = set()
    latencies: dict[str, HdrHistogram] = {}
    for number in progress.track(range(rounds), description=workload):
        # The order rotates with the rounds, so that none always follows the same one.
        first = number % len(kinds)
        for kind in [*kinds[first:], *kinds[:first]]:
            if kind in failed:
                continue
            try:
                measured = measure(subjects[kind])
            except (BrokenServerError, ChildFailedError, OSError) as exc:
                if kind == kinds[0]:
                    raise
                failed.add(kind)
                result.note(workload, kind, f"failed in round {number + 1}: {exc}")
                continue
            if not isinstance(measured, Round):
                measured = Round(measured)
            result.record(workload, kind, measured.figures)
            if measured.latencies is not None:
                latencies.setdefault(kind, HdrHistogram(1, measured.latencies.highest_trackable_value, 3))
                latencies[kind].add(measured.latencies)
    for kind, histogram in latencies.items():
        result.histograms.append(Histogram(workload, kind, histogram.encode().decode()))


def serve_all(
    result: Result,
    progress: Progress,
    workload: str,
    kinds: list[str],
    name: str,
    rounds: int,
    measure: Callable[[Server], Any],
    *words: str,
    collect: bool = True,
) -> None:
    """Measure the servers of these kinds side by side, each with the program `name`.

    collect: whether their garbage collector is on.
    """
    with ExitStack() as stack:
        servers = {
            kind: stack.enter_context(serving(kind, name, *words, collect=collect))
            for kind in present(result, workload, kinds)
        }
        side_by_side(result, progress, workload, servers, rounds, measure)


def ask_all(
    result: Result,
    progress: Progress,
    workload: str,
    options: argparse.Namespace,
    name: str,
    questions: Mapping[str, Sequence[Metric]],
) -> None:
    """Ask programs that measure themselves, without a load.

    questions: a word that is sent, with its metrics: the answer is a figure for one, or a list of figures of
    which the median is the first metric's and the 99th percentile the second's.
    """

    def measure(server: Server) -> dict[Metric, float]:
        figures: dict[Metric, float] = {}
        for word, metrics in questions.items():
            answer = server.process.ask(word)
            if isinstance(answer, list):
                answer = [statistics.median(answer), statistics.quantiles(answer, n=100)[98]]
            else:
                answer = [answer]
            figures.update(zip(metrics, answer, strict=True))
        return figures

    serve_all(result, progress, workload, options.servers, name, options.rounds, measure)
