"""Options that several benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection

__all__ = ["add_peers", "add_rounds", "add_seconds", "numbers"]


def add_rounds(parser: argparse.ArgumentParser, default: int = 9) -> None:
    """Add `--rounds`."""
    parser.add_argument("--rounds", type=int, default=default, metavar="N")


def add_seconds(
    parser: argparse.ArgumentParser, default: float = 1.0, text: str = "length of one measurement"
) -> None:
    """Add `--seconds`."""
    parser.add_argument("--seconds", type=float, default=default, metavar="S", help=text)


def numbers(text: str) -> list[int]:
    """Return the numbers of an option like "64,1024". Raises ArgumentTypeError for other text."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers like 64,1024") from None
    if min(found) < 1:
        raise argparse.ArgumentTypeError("each number must be 1 or more")
    return found


def add_peers(
    parser: argparse.ArgumentParser, kinds: Collection[str], default: Collection[str] | None = None
) -> None:
    """Add `--peers`, which sets `servers`: this project, then the chosen ones of `kinds`, all by default."""
    beside = [kind for kind in kinds if kind != "reactor"]
    chosen = [kind for kind in beside if default is None or kind in default]
    parser.add_argument(
        "--peers",
        dest="servers",
        type=_servers(beside),
        default=["reactor", *chosen],
        metavar="NAME,NAME",
        help=f"beside this project: {', '.join(beside)} (default: {', '.join(chosen)})",
    )


def _servers(beside: list[str]) -> Callable[[str], list[str]]:
    def convert(text: str) -> list[str]:
        peers = text.split(",") if text else []
        if peers == ["all"]:
            peers = beside
        unknown = set(peers) - {"reactor", *beside}
        if unknown:
            raise argparse.ArgumentTypeError(f"no such peer: {', '.join(sorted(unknown))}")
        return ["reactor", *(peer for peer in peers if peer != "reactor")]

    return convert
