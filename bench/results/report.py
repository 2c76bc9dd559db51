"""A report of results, as Markdown: a summary and the tables of each, with the command that repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.results.schema import Result
from bench.results.tables import details, markdown, summary

__all__ = ["report"]


def report(results: Sequence[Result], plots: Mapping[str, Path] | None = None) -> str:
    """Return the report. plots: the files of plots by their captions, beside the report's."""
    parts = ["# Benchmarks\n", *_plots(plots or {})]
    for result in results:
        parts += _section(result)
    return "\n".join(parts)


def _plots(plots: Mapping[str, Path]) -> Iterator[str]:
    for caption, path in plots.items():
        yield f"![{caption}]({path.name})\n"


def _section(result: Result) -> Iterator[str]:
    python = result.machine.get("python", "")
    yield f"## {result.case}, Python {python}\n"
    yield f"`{result.command}`{' (interrupted)' if result.partial else ''}\n"
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    yield f"{facts}; revision {result.revision}; {result.started}.\n"
    found = summary(result)
    if found is not None:
        yield f"### {found.title}\n"
        yield markdown(found)
    for table in details(result):
        yield f"### {table.title}\n"
        yield markdown(table)
    yield from (f"Failed: {failure}\n" for failure in result.failures)
