"""`connect`: standard input to the peer, and what the peer sends to standard output."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from reactor.address import Address, encode_host
from reactor.cli.arguments import CommandFailed, add_alpn, add_log_level, parse_address, parse_seconds
from reactor.cli.datagrams import DatagramPeer, exchange
from reactor.cli.terminal import InputReader, write_output
from reactor.connection.connection import Connection
from reactor.errors import AddressError, ConnectError, TLSContextError, UsageError
from reactor.options import Timeouts
from reactor.protocol import Protocol
from reactor.reactor import Reactor

if TYPE_CHECKING:
    import ssl

__all__ = ["add_arguments", "run"]

log = logging.getLogger("reactor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `connect` to its parser."""
    parser.set_defaults(command=run)
    parser.add_argument(
        "address",
        type=_peer,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT or unix:/path; udp: before it sends each line as a datagram",
    )
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        default=10.0,
        metavar="S",
        help="seconds that connecting may take (default: %(default)g)",
    )
    parser.add_argument(
        "--wait",
        type=parse_seconds,
        metavar="S",
        help="with udp: end when the input has ended and nothing has come for S seconds (default: 1)",
    )
    parser.add_argument("--tls", action="store_true", help="speak TLS, and check the server's certificate")
    parser.add_argument("--ca", metavar="FILE", help="the authorities to trust instead of the system's (PEM)")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="accept any certificate: every host on the path can read and change everything",
    )
    parser.add_argument(
        "--server-name",
        type=_server_name,
        metavar="NAME",
        help="the host name that the certificate must be for (default: the host of ADDRESS)",
    )
    add_alpn(parser, "to offer")
    parser.add_argument(
        "--verbose", action="store_true", help="log the TLS version, the cipher and the server's certificate"
    )
    add_log_level(parser)


def _peer(text: str) -> Address | DatagramPeer:
    kind, separator, address = text.partition(":")
    if separator and kind == "udp":
        return DatagramPeer(parse_address(address))
    return parse_address(text)


def _server_name(text: str) -> str:
    try:
        encode_host(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def run(options: argparse.Namespace) -> None:
    """Connect, and copy until the connection has ended.

    Raises CommandFailed for a peer, network or file that failed, SystemExit for invalid arguments.
    """
    if sys.stdout is None:
        raise CommandFailed("standard output is closed: what the peer sends has nowhere to go")
    if isinstance(options.address, DatagramPeer):
        _exchange_datagrams(options)
        return
    if options.wait is not None:
        options.error("--wait is for udp: a connection ends when its peer ends it")
    try:
        tls = _client_context(options)
    except TLSContextError as exc:
        raise CommandFailed(str(exc)) from exc
    if tls is not None and tls.check_hostname and not (options.server_name or options.address.host):
        options.error(f"TLS to {options.address} needs --server-name: whose certificate is expected?")
    ends: list[BaseException | None] = []
    with Reactor() as loop:

        def end(exc: BaseException | None) -> None:
            ends.append(exc)
            loop.stop()

        try:
            loop.connect(
                options.address,
                lambda: _Terminal(loop, end, verbose=options.verbose),
                timeouts=Timeouts(connect=options.timeout),
                on_failure=end,
                tls=tls,
                server_hostname=options.server_name,
            )
        except (AddressError, UsageError) as exc:
            options.error(str(exc))
        loop.run()
    reason = ends[0]
    if isinstance(reason, CommandFailed):
        raise reason
    if isinstance(reason, ConnectError):
        raise CommandFailed(str(reason)) from reason
    if reason is not None:
        cause = getattr(reason, "strerror", None) or reason
        raise CommandFailed(f"lost the connection to {options.address}: {cause}") from reason


def _exchange_datagrams(options: argparse.Namespace) -> None:
    for option in ("tls", "ca", "insecure", "server_name", "alpn", "verbose"):
        if getattr(options, option):
            options.error(f"--{option.replace('_', '-')} is for connections, and udp has none")
    try:
        exchange(options.address, 1.0 if options.wait is None else options.wait)
    except AddressError as exc:
        options.error(str(exc))


def _client_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        for option in ("ca", "insecure", "server_name", "alpn"):
            if getattr(options, option):
                options.error(f"--{option.replace('_', '-')} needs --tls")
        return None
    from reactor.tls import client_context  # noqa: PLC0415 - imports ssl

    return client_context(options.ca, alpn=options.alpn or (), verify=not options.insecure)


class _Terminal(Protocol):
    """Standard input to the peer, the peer to standard output.

    A chunk of the input is read when the last one has been written and writing is not paused.

    on_end: called with the reason when the connection has ended; None for a clean end.
    """

    def __init__(
        self, loop: Reactor, on_end: Callable[[BaseException | None], None], *, verbose: bool
    ) -> None:
        self._on_end = on_end
        self._verbose = verbose
        self._input = InputReader(loop, self._send, self._fail)
        self._paused = False

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection
        if self._verbose:
            for line in _describe_tls(connection):
                log.info("%s", line)
        self._input.start()

    def _fail(self, exc: CommandFailed) -> None:
        self._connection.abort(exc)

    def data_received(self, data: bytes) -> None:
        try:
            write_output(data)
        except CommandFailed as exc:
            self._connection.abort(exc)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._input.go_on()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._on_end(exc)

    def _send(self, data: bytes) -> None:
        if data:
            self._connection.write(data)
        elif self._connection.can_write_eof():
            self._connection.write_eof()
        else:
            self._connection.close()
        if not self._paused:
            self._input.go_on()


def _describe_tls(connection: Connection) -> Iterator[str]:
    """Yield lines about the connection's TLS and the peer's certificate."""
    cipher = connection.get_extra_info("cipher")
    if cipher is None:
        yield "connected without TLS"
        return
    alpn = connection.get_extra_info("alpn_protocol")
    yield f"connected with {cipher[1]}, {cipher[0]}" + (f", {alpn}" if alpn else "")
    certificate = connection.get_extra_info("peercert")
    if not certificate:
        yield "the peer's certificate was not checked"
        return
    for name in ("subject", "issuer"):
        parts = ", ".join(f"{key}={value}" for part in certificate[name] for key, value in part)
        yield f"{name}: {parts}"
    names = ", ".join(value for _, value in certificate.get("subjectAltName", ()))
    yield f"for: {names}"
    yield f"valid from {certificate['notBefore']} to {certificate['notAfter']}"
