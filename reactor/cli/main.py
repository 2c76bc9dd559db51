"""`main`: the parser, the log on standard error, and the exit status.

Exit status 0: done. 1: failed, because of a port, the peer, the network or a file. 2: invalid arguments.
130: interrupted. An error is one line on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import reactor
from reactor.cli import connect, serve
from reactor.cli.arguments import CommandFailed
from reactor.cli.log import BackgroundLog, LineFormatter
from reactor.loop.log import printable

__all__ = ["main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

_STDERR = 2

#: Seconds for which the end waits until the queued log lines are written.
_FLUSH_TIMEOUT = 1.0


def main(argv: Sequence[str] | None = None, *, prog: str = "reactor") -> int:
    """Run the command line and return its exit status: 0 or 1, or 130 after an interrupt.

    argv: the arguments after the program's name; None for the process's own.
    prog: how the program was called, for its messages.
    Raises SystemExit with status 2 for invalid arguments, 0 after --help and --version.
    """
    _fill_standard_descriptors()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words = ["serve", *words]
    options, unknown = _parser(prog).parse_known_args(words)
    if unknown:
        options.error(f"unrecognized arguments: {' '.join(unknown)}")
    lines = BackgroundLog(_STDERR)
    several = getattr(options, "workers", None) is not None
    process = "[%(process)d] " if several else ""
    lines.setFormatter(LineFormatter(f"%(asctime)s {process}%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[lines], level=options.log_level.upper())
    failure: str | None = None
    try:
        options.command(options)
    except CommandFailed as exc:
        failure = str(exc)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        logging.getLogger().removeHandler(lines)
        lines.finish(_FLUSH_TIMEOUT)
    if failure is None:
        return 0
    _print_error(f"{prog}: {printable(failure)}\n")
    return EXIT_FAILED


def _print_error(line: str) -> None:
    """Write `line` to the descriptor: a stream that can't write at exit would change the exit status."""
    try:
        os.write(_STDERR, line.encode(errors="backslashreplace"))
    except OSError:
        pass  # a full disk: the exit status says it


def _fill_standard_descriptors() -> None:
    """Open the null device where standard input, output or error is closed.

    Otherwise the next socket would get that number, and the log would be sent to a peer.
    """
    for fd in (0, 1, _STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


class _Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _print_error(f"{self.prog}: {printable(message)} (try {self.prog} --help)\n")
        self.exit(EXIT_USAGE)


def _parser(prog: str) -> _Parser:
    parser = _Parser(
        prog=prog,
        description="A TCP server and client. Without a command it runs the echo server: serve echo.",
    )
    parser.add_argument("--version", action="version", version=f"reactor {reactor.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve.add_arguments(commands.add_parser("serve", help="run a server"))
    connect.add_arguments(
        commands.add_parser("connect", help="connect standard input and output to a server")
    )
    return parser
