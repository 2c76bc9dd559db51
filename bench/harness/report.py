"""Results: tables for the terminal, and a JSON file with every round."""

from __future__ import annotations

import datetime as dt
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

__all__ = ["Report", "ratio"]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each round: figures measured one after the other are compared."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


@attrs.define
class Report:
    """Tables with a title each, and the raw rounds they come from.

    facts: the machine and the versions. rounds: how many, for the heading; None where there are none.
    failures: failed expectations, a line each.
    """

    facts: dict[str, str]
    rounds: int | None
    tables: list[Table] = attrs.field(factory=list)
    raw: list[dict[str, Any]] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)

    def table(self, title: str, columns: Sequence[str]) -> Table:
        """Add and return a table; its first column is the name of the row."""
        made = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            made.add_column(column, justify="left" if index == 0 else "right")
        self.tables.append(made)
        return made

    def show(self, console: Console) -> None:
        """Print the facts and all tables."""
        today = dt.datetime.now(tz=dt.UTC).date()
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        rounds = f"; medians of {self.rounds} interleaved rounds" if self.rounds else ""
        console.print(f"{facts}; {today}{rounds}", highlight=False)
        for table in self.tables:
            console.print(table)

    def write(self, path: Path) -> None:
        """Write every round's figures as JSON."""
        path.write_text(
            json.dumps({"machine": self.facts, "rounds": self.raw}, indent=1) + "\n", encoding="utf-8"
        )
