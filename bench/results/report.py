"""A report of results, as Markdown: a summary and the tables of each, with the command that repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.results import MARKS
from bench.results.schema import Result, ResultError
from bench.results.tables import Table, details, markdown, summary

__all__ = ["put_into", "report", "summary_of"]


def report(results: Sequence[Result], plots: Mapping[str, Path] | None = None) -> str:
    """Return the report. plots: the files of plots by their captions, beside the report's."""
    parts = ["# Benchmarks\n", *_plots(plots or {})]
    for result in results:
        parts += _section(result)
    return "\n".join(parts)


def summary_of(results: Sequence[Result]) -> str:
    """Return tables for each command, with the results of all interpreters in them."""
    commands: dict[str, list[Result]] = {}
    for result in results:
        commands.setdefault(result.command, []).append(result)
    return "\n".join(part for found in commands.values() for part in _summary_of(found))


def put_into(path: Path, summary: str) -> None:
    """Replace what stands between the marks of a Markdown file. Raises ResultError if it has none."""
    try:
        before, rest = path.read_text(encoding="utf-8").split(f"{MARKS[0]}\n")
        _, after = rest.split(f"{MARKS[1]}\n")
    except OSError as exc:
        raise ResultError(f"{path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ResultError(f"{path} must have the lines {MARKS[0]} and {MARKS[1]}, once each") from exc
    path.write_text(f"{before}{MARKS[0]}\n\n{summary}\n{MARKS[1]}\n{after}", encoding="utf-8")


def _summary_of(results: Sequence[Result]) -> Iterator[str]:
    rows: dict[str, list[tuple[str, Table]]] = {}
    for result in results:
        python = ".".join(result.machine.get("python", "").split(".")[:2])
        for table in summary(result):
            rows.setdefault(table.headings[0], []).append((python, table))
    if rows:
        yield f"`{results[0].command}`{' (interrupted)' if results[0].partial else ''}\n"
    for heading, tables in rows.items():
        yield markdown(_joined(heading, tables))


def _joined(heading: str, tables: Sequence[tuple[str, Table]]) -> Table:
    """Return one table of these, each with its version of Python in a column."""
    columns = list(dict.fromkeys(name for _, table in tables for name in table.headings[1:]))
    rows = []
    for python, table in tables:
        for row in table.rows:
            cells = dict(zip(table.headings, row, strict=True))
            rows.append([row[0], python, *(cells.get(name, "") for name in columns)])
    return Table(heading, [heading, "Python", *columns], rows)


def _plots(plots: Mapping[str, Path]) -> Iterator[str]:
    for caption, path in plots.items():
        yield f"![{caption}]({path.name})\n"


def _section(result: Result) -> Iterator[str]:
    python = result.machine.get("python", "")
    yield f"## {result.case}, Python {python}\n"
    yield f"`{result.command}`{' (interrupted)' if result.partial else ''}\n"
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    yield f"{facts}; revision {result.revision}; {result.started}.\n"
    for table in summary(result):
        yield f"### {table.title}\n"
        yield markdown(table)
    for table in details(result):
        yield f"### {table.title}\n"
        yield markdown(table)
    yield from (f"Failed: {failure}\n" for failure in result.failures)
