"""The command line: `python -m reactor`, with the commands `serve` and `connect`."""

from reactor.cli.main import main

__all__ = ["main"]
