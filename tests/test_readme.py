"""The READMEs: their programs run as printed, and what they say of the tree and of the code is so."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from reactor.connection.state import TRANSITIONS, Event

ROOT = Path(__file__).parent.parent
TOP = ROOT / "README.md"
BENCH = ROOT / "bench" / "README.md"
PACKAGES = sorted(path.parent for path in (ROOT / "reactor").rglob("__init__.py"))[1:]
READMES = [TOP, BENCH, *(package / "README.md" for package in PACKAGES)]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(readme, language):
    return [text for kind, text in BLOCK.findall(readme.read_text(encoding="utf-8")) if kind == language]


def section(readme, title):
    _, _, rest = readme.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def cells(text):
    """The cells of each row of the tables in `text`, without the rows of headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        line.strip("|").split("|")
        for line, below in pairwise([*lines, ""])
        if not line.startswith("|---") and not below.startswith("|---")
    ]


PROGRAMS = [
    pytest.param(text, id=f"{name_of(readme)}-{number}")
    for readme in READMES
    for number, text in enumerate(blocks(readme, "python"), 1)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_runs_as_printed(program, tmp_path):
    file = tmp_path / "test_program.py"
    file.write_text(program, encoding="utf-8")
    runner = ["-m", "pytest", "-p", "no:cacheprovider"] if "\ndef test_" in program else []
    done = subprocess.run(
        [sys.executable, "-W", "error", *runner, file],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_top_readme_has_200_lines_or_less():
    assert len(TOP.read_text(encoding="utf-8").splitlines()) <= 200


def test_there_is_an_embedding_example():
    assert "run_once" in blocks(TOP, "python")[0]


def test_ci_runs_the_test_command_that_the_readme_gives():
    assert blocks(TOP, "sh")[1] == "sh tests/run\n"
    assert "sh tests\\/run" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_package_has_a_readme_with_a_program(package):
    assert blocks(package / "README.md", "python")


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_readme_names_the_files_of_its_package(package):
    rows = cells((package / "README.md").read_text(encoding="utf-8"))
    named = {name for row in rows for name in re.findall(r"`(\w+\.py)`", row[0])}
    assert named == {path.name for path in package.glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_relative_links_lead_to_files(readme):
    text = BLOCK.sub("", readme.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (readme.parent / link).is_file()] == []


def test_top_readme_links_to_every_other():
    text = TOP.read_text(encoding="utf-8")
    assert [name_of(readme) for readme in READMES[1:] if f"]({name_of(readme)})" not in text] == []


def test_state_diagram_has_the_transitions_of_the_table():
    # FORKED leads from every state to LOST, and is left out: eight more arrows say nothing.
    (diagram,) = (text for text in blocks(TOP, "mermaid") if text.startswith("stateDiagram"))
    drawn = {
        (before, event, after)
        for before, after, events in re.findall(r"(\w+) --> (\w+): (.+)", diagram)
        for event in events.split(", ")
    }
    assert drawn == {
        (before.name, event.name, after.name)
        for (before, event), after in TRANSITIONS.items()
        if event is not Event.FORKED
    }


def test_figures_of_the_top_readme_are_those_of_the_benchmarks():
    figures = section(TOP, "Five figures")
    rows = cells(figures)
    assert len(rows) == 5
    shown = {number for row in rows for cell in row[1:] for number in NUMBER.findall(cell)} - {"1"}
    measured = {n for row in cells(BENCH.read_text(encoding="utf-8")) for n in NUMBER.findall(" ".join(row))}
    assert shown - measured == set()
    assert re.search(r"!\[[^\]]+\]\(bench/measured/[^)]+\.svg\)", figures)
