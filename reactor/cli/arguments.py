"""Types of argument values, options that the commands share, and the error that ends a command."""

from __future__ import annotations

import argparse

from reactor.address import Address
from reactor.errors import AddressError, TLSContextError
from reactor.options import Timeouts

__all__ = [
    "LOG_LEVELS",
    "CommandFailed",
    "add_alpn",
    "add_log_level",
    "parse_address",
    "parse_count",
    "parse_seconds",
]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class CommandFailed(Exception):
    """The command has failed: exit status 1. The text is the cause, in one line."""


def add_alpn(parser: argparse._ActionsContainer, purpose: str) -> None:
    """Add --alpn to a parser or a group. purpose: its place in the help, such as "to offer"."""
    parser.add_argument(
        "--alpn",
        type=_alpn,
        metavar="NAME,NAME",
        help=f"the application protocols {purpose} over TLS, the preferred one first",
    )


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Add --log-level, and `parser.error` as `options.error` for the errors that only the command finds."""
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"{', '.join(LOG_LEVELS)}; the log goes to standard error (default: %(default)s)",
    )
    parser.set_defaults(error=parser.error)


# Types of argument values. argparse puts the text of an `ArgumentTypeError` after the option's name.


def parse_address(text: str) -> Address:
    """Parse an address."""
    try:
        return Address.parse(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def parse_seconds(text: str) -> float:
    """Parse a timeout: seconds above 0."""
    try:
        return Timeouts(close=float(text)).close
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0") from None


def parse_count(text: str) -> int:
    """Parse a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _alpn(text: str) -> list[str]:
    from reactor.tls import check_alpn  # noqa: PLC0415 - imports ssl

    names = text.split(",")
    try:
        check_alpn(names)
    except TLSContextError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return names
