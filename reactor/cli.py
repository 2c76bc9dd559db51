"""The command line: `serve` runs an app, `connect` is the client for it."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import reactor
from reactor.address import Address
from reactor.apps import APPS, App
from reactor.connection import Connection
from reactor.errors import AddressError, ListenError, TLSContextError, UsageError
from reactor.listener import Factory
from reactor.log import BackgroundLog
from reactor.options import Limits, Timeouts
from reactor.protocol import Protocol
from reactor.server import Reactor
from reactor.tls import client_context, server_context

__all__ = ["main"]

log = logging.getLogger("reactor")

DEFAULT_ADDRESS = "127.0.0.1:9092"
LEVELS = ("debug", "info", "warning", "error", "critical")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

_STDERR = 2

# Seconds that the end waits for the log's last lines to be taken.
_LAST_WORDS = 1.0

# Bytes of standard input that are read, and on their way to the peer, at a time.
_CHUNK = 64 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    argv: the words after the program's name; None for the process's own.
    Status 0: done. 1: the port, the peer or the network said no. 2: a word that can't be meant.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words = ["serve", *words]
    options = _parser().parse_args(words)
    lines = BackgroundLog(_STDERR)
    logging.basicConfig(
        handlers=[lines], level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        logging.getLogger().removeHandler(lines)
        lines.finish(_LAST_WORDS)
    return status


class _Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (try {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m reactor",
        description="A TCP reactor. Without a command it is: serve echo.",
    )
    parser.add_argument("--version", action="version", version=f"reactor {reactor.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run a server"))
    _add_connect(commands.add_parser("connect", help="connect standard input and output to a server"))
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_serve)
    parser.add_argument(
        "app",
        nargs="?",
        type=_app,
        default="echo",
        metavar="APP",
        help="; ".join(f"{name}: {app.told}" for name, app in APPS.items())
        + "; or module:factory with what makes a Protocol (default: echo)",
    )
    parser.add_argument("--to", type=_address, metavar="ADDRESS", help="where proxy forwards to")
    parser.add_argument("--root", type=_directory, metavar="DIR", help="whose files the app files sends")
    parser.add_argument(
        "--listen",
        action="append",
        type=_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, :PORT for every interface, unix:/path or fd:N; port 0 picks "
        f"one; may be repeated (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--idle-timeout",
        type=float,
        metavar="S",
        help="seconds without a byte in either direction until a client is cut off (default: never)",
    )
    parser.add_argument(
        "--max-connections",
        type=int,
        metavar="N",
        help="clients at once, for each --listen; more wait in the kernel's backlog (default: no limit)",
    )
    parser.add_argument(
        "--max-per-ip",
        type=int,
        metavar="N",
        help="clients at once of one IP address, or IPv6 /64; more are closed at once (default: no limit)",
    )
    parser.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="seconds that clients have after SIGINT or SIGTERM; a second one leaves at once "
        "(default: %(default)g)",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="speak TLS with this certificate chain (PEM)")
    parser.add_argument(
        "--tls-key",
        metavar="FILE",
        help="its private key, if it is not in the same file; both are read anew at SIGHUP",
    )
    parser.add_argument(
        "--tls-client-ca", metavar="FILE", help="ask clients for a certificate that one of these has signed"
    )
    _add_alpn(parser, "that is spoken")
    _add_log_level(parser)


def _add_connect(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_connect)
    parser.add_argument(
        "address", type=_address, metavar="ADDRESS", help="HOST:PORT, [IPV6]:PORT or unix:/path"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="seconds that connecting may take (default: %(default)g)",
    )
    parser.add_argument("--tls", action="store_true", help="speak TLS, and check the server's certificate")
    parser.add_argument("--ca", metavar="FILE", help="authorities to trust instead of the system's (PEM)")
    parser.add_argument(
        "--insecure", action="store_true", help="take any certificate: whoever is on the line can read it all"
    )
    parser.add_argument(
        "--server-name", metavar="NAME", help="whose certificate to expect (default: the address's host)"
    )
    _add_alpn(parser, "to offer")
    parser.add_argument("--verbose", action="store_true", help="tell of the peer's certificate")
    _add_log_level(parser)


def _add_alpn(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument(
        "--alpn",
        type=lambda text: text.split(","),
        metavar="NAME,NAME",
        help=f"the application protocols {which} over TLS, the preferred one first",
    )


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"{', '.join(LEVELS)}; the log goes to standard error (default: %(default)s)",
    )
    parser.set_defaults(error=parser.error)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _seconds(text: str) -> float:
    try:
        return Timeouts(close=float(text)).close
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0") from None


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no directory")
    return text


def _app(name: str) -> App:
    known = APPS.get(name)
    if known is not None:
        return known
    module_name, separator, path = name.partition(":")
    if not (separator and module_name and path):
        raise argparse.ArgumentTypeError(
            f"there is no app {name!r}: choose {', '.join(APPS)}, or give module:factory"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # the installed command finds modules where `python -m` does
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as exc:
        # Whatever a module raises while it is imported is its user's to mend.
        raise argparse.ArgumentTypeError(f"cannot import {name!r}: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise argparse.ArgumentTypeError(f"{name!r} is no factory: it can't be called")
    return App(f"what {name} makes", lambda: found)


def _factory(options: argparse.Namespace) -> Factory:
    app: App = options.app
    needed = app.option
    for option in ("to", "root"):
        if getattr(options, option) is not None and option != needed:
            options.error(f"--{option} is for the app {'proxy' if option == 'to' else 'files'}")
    if needed is None:
        return app.start()
    value = getattr(options, needed)
    if value is None:
        options.error(f"this app needs --{needed}: it {app.told}")
    return app.start(value)


def _serve(options: argparse.Namespace) -> int:
    factory = _factory(options)
    try:
        limits = Limits(max_connections=options.max_connections, max_per_ip=options.max_per_ip)
        timeouts = Timeouts(idle=options.idle_timeout)
    except ValueError as exc:
        options.error(str(exc))
    try:
        tls = _server_context(options)
    except TLSContextError as exc:
        return _failed(str(exc))
    with Reactor() as loop:
        try:
            for address in options.listen or [Address.parse(DEFAULT_ADDRESS)]:
                listener = loop.listen(address, factory, limits=limits, timeouts=timeouts, tls=tls)
                for bound in listener.addresses:
                    log.info("listening on %s", bound)
        except ListenError as exc:
            return _failed(exc.strerror)
        if tls is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, _renew_tls, loop, options)
        loop.run(signals={signal.SIGINT, signal.SIGTERM}, drain_timeout=options.drain_timeout)
        left = len(loop.connections())
        if left:
            return _failed(f"left at once: {left} connections were still open")
    return 0


def _server_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        for option in ("tls_key", "tls_client_ca", "alpn"):
            if getattr(options, option) is not None:
                options.error(f"--{option.replace('_', '-')} needs --tls-cert")
        return None
    return server_context(
        options.tls_cert, options.tls_key, client_ca=options.tls_client_ca, alpn=options.alpn or ()
    )


def _renew_tls(loop: Reactor, options: argparse.Namespace) -> None:
    try:
        context = _server_context(options)
    except TLSContextError as exc:
        log.warning("the old certificate stays: %s", exc)
        return
    assert context is not None
    for listener in loop.listeners():
        listener.replace_tls(context)
    log.info("newcomers get the certificate of %s", options.tls_cert)


def _client_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        for option in ("ca", "insecure", "server_name", "alpn"):
            if getattr(options, option):
                options.error(f"--{option.replace('_', '-')} needs --tls")
        return None
    return client_context(options.ca, alpn=options.alpn or (), verify=not options.insecure)


def _connect(options: argparse.Namespace) -> int:
    problems: list[BaseException] = []
    try:
        tls = _client_context(options)
    except TLSContextError as exc:
        return _failed(str(exc))
    with Reactor() as loop:

        def failed(exc: BaseException) -> None:
            problems.append(exc)
            loop.stop()

        try:
            loop.connect(
                options.address,
                lambda: _Terminal(loop, failed, verbose=options.verbose),
                timeouts=Timeouts(connect=options.timeout),
                on_failure=failed,
                tls=tls,
                server_hostname=options.server_name,
            )
        except AddressError as exc:
            options.error(str(exc))
        except UsageError:
            options.error("TLS to a Unix socket needs --server-name: whose certificate is expected?")
        loop.run()
    return _failed(str(problems[0])) if problems else 0


def _failed(message: str | None) -> int:
    sys.stderr.write(f"python -m reactor: {message}\n")
    return EXIT_FAILED


class _Terminal(Protocol):
    """Standard input to the peer, the peer to standard output.

    Standard input may be a file, which no selector takes, so a thread reads it: one chunk at a time,
    the next when the last has been written and the peer keeps up.
    """

    def __init__(self, loop: Reactor, failed: Callable[[BaseException], None], *, verbose: bool) -> None:
        self._loop = loop
        self._failed = failed
        self._verbose = verbose
        self._may_read = threading.Event()
        self._paused = False

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection
        if self._verbose:
            for line in _told_of_tls(connection):
                log.info("%s", line)
        self._may_read.set()
        threading.Thread(target=self._read_input, daemon=True).start()

    def data_received(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(sys.stdout.fileno(), rest) :]
        except OSError as exc:
            self._connection.abort(OSError(exc.errno, f"standard output: {exc.strerror}"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._may_read.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is None:
            self._loop.stop()
        else:
            self._failed(exc)

    def _read_input(self) -> None:
        try:
            data = b"."
            while data:
                self._may_read.wait()
                self._may_read.clear()
                data = os.read(sys.stdin.fileno(), _CHUNK)
                self._loop.call_soon_threadsafe(self._send, data)
        except OSError as exc:
            problem = OSError(exc.errno, f"standard input: {exc.strerror}")
            self._loop.call_soon_threadsafe(self._connection.abort, problem)
        except UsageError:
            pass  # the connection has ended, and the reactor with it

    def _send(self, data: bytes) -> None:
        if data:
            self._connection.write(data)
        elif self._connection.can_write_eof():
            self._connection.write_eof()
        else:
            self._connection.close()
        if not self._paused:
            self._may_read.set()


def _told_of_tls(connection: Connection) -> Iterator[str]:
    """Give what is known of the connection's TLS and of the peer's certificate, in lines."""
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
