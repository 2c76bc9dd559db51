"""`python -m bench`: lists the benchmarks; `python -m bench NAME` runs one."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import missing

#: Each benchmark is a module of `bench.cases`.
BENCHMARKS = {
    "echo": "messages per second and CPU time for each: plain, with timeouts, beside idle connections",
    "idle": "memory for each idle connection, and the system calls of an idle loop",
    "fairness": "how late a timer and an interactive peer are, quiet and under flood",
    "hostile": "slow loris, timeouts due at once, peers that never read, resets, no free descriptors",
    "soak": "one server under peers of every kind: resources held before and after, and bytes lost",
    "lines": "messages of 16 lines, each upper-cased and written by itself",
    "streams": "echo by coroutines, and the memory of idle ones",
    "broadcast": "a chat room: one member's lines, sent to 10,000",
    "proxy": "one connection's bytes forwarded, beside socat and haproxy",
    "tls": "echo, bulk, memory and handshakes over TLS",
    "embed": "echo in the loop of a host, its idle cost, and wake-ups from another thread",
    "asyncore": "unchanged programs beside the standard `asyncore`: echo, idle ones, lines, predicates",
    "frames": "how long the steps of a game's frames are under load",
    "threads": "echo by blocking handlers, and thousands of idle connections",
    "handover": "idle members of a chat that go from one process to another",
    "churn": "connect and close: memory that grows, connections per second and CPU time for each",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        for name, summary in BENCHMARKS.items():
            sys.stdout.write(f"{name:10} {summary}\n")
        return 0
    try:
        return _run(words)
    except ImportError as exc:
        return _failed(missing(exc))
    except KeyboardInterrupt:
        sys.stderr.write("python -m bench: interrupted\n")
        return 130


def _run(words: list[str]) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from bench.harness.clients import BrokenServerError, raise_descriptor_limit
    from bench.harness.measure import machine, pin_load
    from bench.harness.process import ChildFailedError
    from bench.harness.report import Report

    options = _parser().parse_args(words)
    needed = max(getattr(options, "connections", 0), getattr(options, "idle_connections", 0)) + 100
    limit = raise_descriptor_limit()
    if limit < needed:
        return _failed(
            f"{needed} descriptors are needed and {limit} allowed: run `ulimit -n {needed}` as root"
        )
    pin_load()
    console = Console()
    report = Report(machine(getattr(options, "servers", ["reactor"])), getattr(options, "rounds", None))
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            options.benchmark.run(options, report, progress)
    except (ChildFailedError, BrokenServerError, OSError) as exc:
        return _failed(str(exc))
    report.show(console)
    if options.json is not None:
        report.write(options.json)
    for failure in report.failures:
        _failed(failure)
    return 1 if report.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks beside asyncio, uvloop and a bare selectors loop."
    )
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, summary in BENCHMARKS.items():
        benchmark = importlib.import_module(f"bench.cases.{name}")
        command = commands.add_parser(name, help=summary, description=benchmark.__doc__)
        command.set_defaults(benchmark=benchmark)
        command.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
        benchmark.add_options(command)
    return parser


def _failed(message: str) -> int:
    sys.stderr.write(f"python -m bench: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
