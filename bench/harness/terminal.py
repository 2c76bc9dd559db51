"""The terminal: a progress bar with rate and remaining time, and the tables of a result."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table
from rich.text import Text

from bench.results.schema import Result
from bench.results.tables import details

WIDTH = 160  # where the output goes to a file

__all__ = ["bar", "show"]


class RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """Return it as text."""
        return Text("" if task.speed is None else f"{task.speed:,.1f}/s")


def bar(console: Console) -> Progress:
    """Return a progress bar, which is gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), Remaining())
    return Progress(*columns, console=console, transient=True)


def show(result: Result) -> None:
    """Print the conditions of a result, and all its tables."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    interrupted = "; interrupted" if result.partial else ""
    console.print(f"{facts}; {result.revision}; {result.started}{interrupted}", highlight=False)
    for table in details(result):
        console.print(f"\n{table.title}", highlight=False)
        made = Table()
        for index, heading in enumerate(table.headings):
            made.add_column(heading, justify="right" if index else "left")
        for row in table.rows:
            made.add_row(*row)
        console.print(made)
