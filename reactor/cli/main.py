"""The command line: `serve` runs an app, `connect` is a client for it.

Exit status 0: done. 1: failed, because of a port, the peer, the network or a file. 2: invalid arguments.
130: interrupted. An error is one line on standard error.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import select
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import reactor
from reactor.address import Address, encode_host
from reactor.apps import APPS, App
from reactor.connection.connection import Connection
from reactor.errors import AddressError, ConnectError, ListenError, TLSContextError, UsageError
from reactor.loop.log import BackgroundLog, LineFormatter, printable
from reactor.options import Limits, Timeouts
from reactor.protocol import Factory, Protocol
from reactor.reactor import Reactor
from reactor.tls import check_alpn, client_context, server_context

__all__ = ["main"]

log = logging.getLogger("reactor")

DEFAULT_ADDRESS = "127.0.0.1:9092"
LEVELS = ("debug", "info", "warning", "error", "critical")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

_STDIN = 0
_STDOUT = 1
_STDERR = 2

# Seconds that the end waits for the log's last lines to be written.
_LAST_WORDS = 1.0

# Bytes of standard input that are read, and on their way to the peer, at a time.
_CHUNK = 64 * 1024


class _FailedError(Exception):
    """The command has failed; the text says why, in one line."""


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
    options = _parser(prog).parse_args(words)
    lines = BackgroundLog(_STDERR)
    lines.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[lines], level=options.log_level.upper())
    failure: str | None = None
    try:
        options.command(options)
    except _FailedError as exc:
        failure = str(exc)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        logging.getLogger().removeHandler(lines)
        lines.finish(_LAST_WORDS)
    if failure is None:
        return 0
    _print_error(f"{prog}: {printable(failure)}\n")
    return EXIT_FAILED


def _print_error(line: str) -> None:
    """Write `line` to standard error, past the stream, which would change the exit status if it could not."""
    try:
        os.write(_STDERR, line.encode(errors="backslashreplace"))
    except OSError:
        pass  # a full disk: the exit status says it


def _fill_standard_descriptors() -> None:
    """Open the null device where standard input, output or error is closed.

    Else the next socket would get that number, and the log would be sent to a peer.
    """
    for fd in (_STDIN, _STDOUT, _STDERR):
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
        help="; ".join(f"{name}: {app.summary}" for name, app in APPS.items())
        + "; or module:factory, where factory() returns the protocol of a connection (default: echo)",
    )
    parser.add_argument("--to", type=_address, metavar="ADDRESS", help="the address that proxy forwards to")
    parser.add_argument("--root", type=_directory, metavar="DIR", help="the directory that files serves")
    parser.add_argument(
        "--listen",
        action="append",
        type=_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, :PORT for every interface, unix:/path or fd:N; port 0 picks "
        f"a free one; may be repeated (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--idle-timeout",
        type=_seconds,
        metavar="S",
        help="close a connection after S seconds without a byte in either direction (default: never)",
    )
    parser.add_argument(
        "--max-connections",
        type=_count,
        metavar="N",
        help="connections open at once, for each --listen; more wait in the kernel's backlog "
        "(default: no limit)",
    )
    parser.add_argument(
        "--max-per-ip",
        type=_count,
        metavar="N",
        help="connections open at once from one IPv4 address or IPv6 /64; more are closed at once "
        "(default: no limit)",
    )
    parser.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="seconds that connections have to end after SIGINT or SIGTERM; a second signal ends the server "
        "at once (default: %(default)g)",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="speak TLS with this certificate chain (PEM)")
    parser.add_argument(
        "--tls-key",
        metavar="FILE",
        help="the private key, if it is not in the same file; SIGHUP reads both files again",
    )
    parser.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="require a client certificate signed by one of these authorities (PEM)",
    )
    _add_alpn(parser, "to accept")
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
    parser.add_argument("--ca", metavar="FILE", help="the authorities to trust instead of the system's (PEM)")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="accept any certificate: anybody on the path can read and change everything",
    )
    parser.add_argument(
        "--server-name",
        type=_server_name,
        metavar="NAME",
        help="the host name that the certificate must be for (default: the host of ADDRESS)",
    )
    _add_alpn(parser, "to offer")
    parser.add_argument(
        "--verbose", action="store_true", help="log the TLS version, the cipher and the server's certificate"
    )
    _add_log_level(parser)


def _add_alpn(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument(
        "--alpn",
        type=_alpn,
        metavar="NAME,NAME",
        help=f"the application protocols {purpose} over TLS, the preferred one first",
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


# Values of options. What they raise, argparse puts behind the option's name.


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _seconds(text: str) -> float:
    try:
        return Timeouts(close=float(text)).close
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0") from None


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return count


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text


def _alpn(text: str) -> list[str]:
    names = text.split(",")
    try:
        check_alpn(names)
    except TLSContextError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return names


def _server_name(text: str) -> str:
    try:
        encode_host(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


# Apps


def _app(name: str) -> App:
    known = APPS.get(name)
    if known is not None:
        return known
    module_name, separator, path = name.partition(":")
    if module_name.endswith(".py") or module_name.startswith(".") or os.sep in module_name:
        raise argparse.ArgumentTypeError(_not_a_module(name, module_name, path))
    if not (separator and module_name and path):
        raise argparse.ArgumentTypeError(
            f"there is no app {name!r}: choose {', '.join(APPS)}, or give module:factory"
        )
    factory = _import(name, module_name, path)
    problem = _problem_of_factory(factory)
    if problem is not None:
        raise argparse.ArgumentTypeError(f"{name!r} {problem}")
    summary = f"serves the protocols of {name}"
    if isinstance(factory, type):
        return App(summary, lambda: factory)
    return App(summary, lambda: _checking(name, factory))


def _not_a_module(name: str, file: str, path: str) -> str:
    module = os.path.normpath(file).removesuffix(".py").replace(os.sep, ".")
    importable = all(map(str.isidentifier, module.split(".")))
    mend = f"{module}:{path or 'FACTORY'}" if importable else "module:factory"
    return f"{name!r} names a file: name the module as Python imports it, {mend}"


def _import(name: str, module_name: str, path: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the installed command finds modules where `python -m` does
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as exc:  # whatever the module raises is for its author to mend
        raise argparse.ArgumentTypeError(f"cannot import {name!r}: {type(exc).__name__}: {exc}") from exc
    return found


def _problem_of_factory(factory: Any) -> str | None:
    """Return why calling `factory` can't return a protocol, as far as is known without calling it."""
    if not callable(factory):
        return f"is not a factory: it is a {type(factory).__name__}, which can't be called"
    if inspect.iscoroutinefunction(factory):
        return "is a coroutine function: a factory is a plain function or class"
    try:
        inspect.signature(factory).bind()
    except TypeError as exc:
        return f"can't be called without arguments: {exc}"
    except ValueError:
        pass  # written in C, without a signature
    if isinstance(factory, type) and not hasattr(factory, "__getattr__"):
        missing = _missing_callback(factory)
        if missing is not None:
            return f"is not a protocol class: it has no {missing}; derive it from reactor.Protocol"
    return None


def _missing_callback(protocol: object) -> str | None:
    """Return the name of a callback that a connection needs and `protocol` lacks."""
    receive = "get_buffer" if hasattr(protocol, "buffer_updated") else "data_received"
    needed = ("connection_made", receive, "eof_received", "connection_lost")
    return next((name for name in needed if not hasattr(protocol, name)), None)


def _checking(name: str, factory: Factory) -> Factory:
    """Return a factory that raises TypeError, in words, where `factory` returns no protocol."""

    def make() -> Any:
        protocol = factory()
        missing = _missing_callback(protocol)
        if missing is not None:
            kind = type(protocol).__name__
            raise TypeError(f"{name} must return a protocol: it returned a {kind}, without {missing}")
        return protocol

    return make


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
        options.error(f"this app needs --{needed}: it {app.summary}")
    return app.start(value)


def _serve(options: argparse.Namespace) -> None:
    factory = _factory(options)
    limits = Limits(max_connections=options.max_connections, max_per_ip=options.max_per_ip)
    timeouts = Timeouts(idle=options.idle_timeout)
    try:
        tls = _server_context(options)
    except TLSContextError as exc:
        raise _FailedError(str(exc)) from exc
    with Reactor() as loop:
        for address in options.listen or [Address.parse(DEFAULT_ADDRESS)]:
            try:
                listener = loop.listen(address, factory, limits=limits, timeouts=timeouts, tls=tls)
            except AddressError as exc:
                options.error(str(exc))
            except ListenError as exc:
                raise _FailedError(exc.strerror) from exc
            for bound in listener.addresses:
                log.info("listening on %s", bound)
        if tls is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, _renew_tls, loop, options)
        loop.run(signals={signal.SIGINT, signal.SIGTERM}, drain_timeout=options.drain_timeout)
        left = len(loop.connections())
        if left:
            raise _FailedError(f"stopped at once, with {left} connection{'s'[: left != 1]} still open")


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
    log.info("new connections get the certificate of %s", options.tls_cert)


def _client_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        for option in ("ca", "insecure", "server_name", "alpn"):
            if getattr(options, option):
                options.error(f"--{option.replace('_', '-')} needs --tls")
        return None
    return client_context(options.ca, alpn=options.alpn or (), verify=not options.insecure)


def _connect(options: argparse.Namespace) -> None:
    if sys.stdout is None:
        raise _FailedError("standard output is closed, and what the peer sends would go there")
    try:
        tls = _client_context(options)
    except TLSContextError as exc:
        raise _FailedError(str(exc)) from exc
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
    if isinstance(reason, _FailedError):
        raise reason
    if isinstance(reason, ConnectError):
        raise _FailedError(str(reason)) from reason
    if reason is not None:
        cause = getattr(reason, "strerror", None) or reason
        raise _FailedError(f"lost the connection to {options.address}: {cause}") from reason


class _Terminal(Protocol):
    """Standard input to the peer, the peer to standard output.

    Standard input may be a file, which no selector takes, so a thread reads it: one chunk at a time,
    the next when the last has been written and the peer keeps up.

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
            self._connection.abort(_FailedError(f"cannot write to standard output: {exc.strerror}"))

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
                data = _read(_STDIN)
                self._loop.call_soon_threadsafe(self._send, data)
        except OSError as exc:
            problem = _FailedError(f"cannot read standard input: {exc.strerror}")
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
