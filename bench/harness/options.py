"""Options that several benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection

__all__ = ["add_peers", "add_rounds", "add_seconds"]


def add_rounds(parser: argparse.ArgumentParser, default: int = 9) -> None:
    """Add `--rounds`."""
    parser.add_argument("--rounds", type=int, default=default, metavar="N")


def add_seconds(
    parser: argparse.ArgumentParser, default: float = 1.0, text: str = "length of one measurement"
) -> None:
    """Add `--seconds`."""
    parser.add_argument("--seconds", type=float, default=default, metavar="S", help=text)


def add_peers(parser: argparse.ArgumentParser, kinds: Collection[str]) -> None:
    """Add `--peers`, which sets `servers`: this project, then the chosen ones of `kinds`."""
    beside = [kind for kind in kinds if kind != "reactor"]
    parser.add_argument(
        "--peers",
        dest="servers",
        type=_servers(beside),
        default=["reactor", *beside],
        metavar="NAME,NAME",
        help=f"beside this project: {', '.join(beside)} (default: all)",
    )


def _servers(beside: list[str]) -> Callable[[str], list[str]]:
    def convert(text: str) -> list[str]:
        peers = text.split(",") if text else []
        unknown = set(peers) - {"reactor", *beside}
        if unknown:
            raise argparse.ArgumentTypeError(f"no such peer: {', '.join(sorted(unknown))}")
        return ["reactor", *(peer for peer in peers if peer != "reactor")]

    return convert
