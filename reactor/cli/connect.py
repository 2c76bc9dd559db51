"""`connect`: standard input to the peer, and what the peer sends to standard output."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from reactor.address import encode_host
from reactor.cli.arguments import CommandFailed, add_alpn, add_log_level, parse_address, parse_seconds
from reactor.connection.connection import Connection
from reactor.errors import AddressError, ConnectError, TLSContextError, UsageError
from reactor.options import Timeouts
from reactor.protocol import Protocol
from reactor.reactor import Reactor

if TYPE_CHECKING:
    import ssl

__all__ = ["add_arguments", "run"]

log = logging.getLogger("reactor")

_STDIN = 0
_STDOUT = 1

#: Bytes of one read from standard input. The next read waits until they have been written to the peer.
_CHUNK = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `connect` to its parser."""
    parser.set_defaults(command=run)
    parser.add_argument(
        "address", type=parse_address, metavar="ADDRESS", help="HOST:PORT, [IPV6]:PORT or unix:/path"
    )
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        default=10.0,
        metavar="S",
        help="seconds that connecting may take (default: %(default)g)",
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
        raise CommandFailed("standard output is closed, and what the peer sends would go there")
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

    Standard input may be a file, which no selector accepts, so a thread reads it: one chunk at a time,
    the next when the last has been written and writing is not paused.

    on_end: called with the reason when the connection has ended; None for a clean end.
    """

    def __init__(
        self, loop: Reactor, on_end: Callable[[BaseException | None], None], *, verbose: bool
    ) -> None:
        self._loop = loop
        self._on_end = on_end
        self._verbose = verbose
        self._may_read = threading.Event()
        self._paused = False

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection
        if self._verbose:
            for line in _describe_tls(connection):
                log.info("%s", line)
        self._may_read.set()
        threading.Thread(target=self._read_input, daemon=True).start()

    def data_received(self, data: bytes) -> None:
        try:
            _write_all(_STDOUT, data)
        except OSError as exc:
            self._connection.abort(CommandFailed(f"cannot write to standard output: {exc.strerror}"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._may_read.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._on_end(exc)

    def _read_input(self) -> None:
        try:
            data = b"."
            while data:
                self._may_read.wait()
                self._may_read.clear()
                try:
                    data = _read(_STDIN)
                except OSError as exc:
                    problem = CommandFailed(f"cannot read standard input: {exc.strerror}")
                    self._loop.call_soon_threadsafe(self._connection.abort, problem)
                    return
                self._loop.call_soon_threadsafe(self._send, data)
        except UsageError:
            pass  # the connection has ended and the reactor is closed

    def _send(self, data: bytes) -> None:
        if data:
            self._connection.write(data)
        elif self._connection.can_write_eof():
            self._connection.write_eof()
        else:
            self._connection.close()
        if not self._paused:
            self._may_read.set()


def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:  # O_NONBLOCK, set by another process that shares the terminal or pipe
            select.select([fd], [], [])


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # as above
            select.select([], [fd], [])


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
