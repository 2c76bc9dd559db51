"""`python -m bench`: lists the benchmarks and runs one; `report` and `compare` read their results."""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import missing
from bench.results import MARKS

_TOOLS = {
    "report": "Markdown tables and plots of results",
    "compare": "what got slower from one result to another",
}


def benchmarks() -> dict[str, str]:
    """Return the names of the benchmarks, which are modules of `bench.cases`, with a line each."""
    return {
        path.stem: _first_line(path)
        for path in sorted((Path(__file__).parent / "cases").glob("*.py"))
        if path.stem != "__init__"
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed or slower, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        for name, summary in {**benchmarks(), **_TOOLS}.items():
            sys.stdout.write(f"{name:10} {summary}\n")
        return 0
    try:
        options = _parser(words[0]).parse_args(words)
        status: int = options.do(options, words)
        return status
    except ImportError as exc:
        return _failed(missing(exc))


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(": ")[2].rstrip(".")


def _parser(chosen: str) -> argparse.ArgumentParser:
    """Return the parser; only the chosen benchmark is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks beside other event loops; results as JSON."
    )
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, summary in benchmarks().items():
        command = commands.add_parser(name, help=summary)
        if name == chosen:
            _add_benchmark(command, name)
    report = commands.add_parser("report", help=_TOOLS["report"])
    report.add_argument("results", nargs="+", type=Path, metavar="FILE", help="that --json has written")
    report.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write report.md and the plots there (default: no plots)",
    )
    report.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        help=f"put the summary there, between the lines {' and '.join(MARKS)}",
    )
    report.set_defaults(do=_report)
    compare = commands.add_parser("compare", help=_TOOLS["compare"])
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument(
        "--confidence", type=_part, default=0.99, metavar="P", help="of the interval (default: 0.99)"
    )
    compare.add_argument(
        "--threshold", type=_part, default=0.03, metavar="P", help="smaller changes are none (default: 0.03)"
    )
    compare.set_defaults(do=_compare)
    return parser


def _part(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("it must be 0 or more and below 1")
    return value


def _add_benchmark(command: argparse.ArgumentParser, name: str) -> None:
    benchmark = importlib.import_module(f"bench.cases.{name}")
    command.description = benchmark.__doc__
    command.set_defaults(do=_run, name=name, benchmark=benchmark)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    benchmark.add_options(command)


def _run(options: argparse.Namespace, words: list[str]) -> int:
    from rich.console import Console

    from bench.harness.clients import BrokenServerError, raise_descriptor_limit
    from bench.harness.generator import generator
    from bench.harness.measure import machine, pin_load, revision
    from bench.harness.process import ChildFailedError
    from bench.harness.terminal import bar, show
    from bench.results.schema import Result

    raise_descriptor_limit()
    pin_load()
    started = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
    command = shlex.join(["python", "-m", "bench", *_without_file(words)])
    facts = {**machine(), "load": generator()}
    result = Result(options.name, command, started, revision(), facts)
    status = 0
    try:
        with bar(Console(stderr=True)) as progress:
            options.benchmark.run(options, result, progress)
    except (ChildFailedError, BrokenServerError, OSError) as exc:
        result.partial, status = True, _failed(str(exc))
    except KeyboardInterrupt:
        result.partial, status = True, 130
        sys.stderr.write("python -m bench: interrupted; what was measured until now follows\n")
    if options.json is not None:
        result.write(options.json)
    show(result)
    for failure in result.failures:
        status = _failed(failure)
    return status


def _without_file(words: list[str]) -> list[str]:
    """Return the command line without the file of the result, which is no part of what is measured."""
    if "--json" not in words:
        return [word for word in words if not word.startswith("--json=")]
    at = words.index("--json")
    return words[:at] + words[at + 2 :]


def _report(options: argparse.Namespace, _: list[str]) -> int:
    from bench.results.report import put_into, report, summary_of
    from bench.results.schema import ResultError, load

    try:
        results = [load(path) for path in options.results]
        if options.into is not None:
            put_into(options.into, summary_of(results))
    except ResultError as exc:
        return _failed(str(exc))
    if options.output is not None:
        from bench.results.plots import plots

        options.output.mkdir(parents=True, exist_ok=True)
        drawn = plots(results, options.output)
        (options.output / "report.md").write_text(report(results, drawn), encoding="utf-8")
    elif options.into is None:
        sys.stdout.write(report(results))
    return 0


def _compare(options: argparse.Namespace, _: list[str]) -> int:
    from bench.results.compare import changes, table
    from bench.results.schema import ResultError, load
    from bench.results.tables import markdown

    try:
        before, after = load(options.before), load(options.after)
    except ResultError as exc:
        return _failed(str(exc))
    found = list(changes(before, after, options.confidence, options.threshold))
    if not found:
        return _failed("the two results have no figures of the same kind: give two runs of one benchmark")
    sys.stdout.write(markdown(table(found)))
    slower = sum(change.slower for change in found)
    sys.stdout.write(f"\n{slower} of {len(found)} got slower.\n")
    return 1 if slower else 0


def _failed(message: str) -> int:
    sys.stderr.write(f"python -m bench: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
