"""`serve`: run an app on one or more addresses until a signal drains it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NoReturn

from reactor.address import Address
from reactor.apps import APPS, App
from reactor.cli.app import chosen_app, name_of, parse_app
from reactor.cli.arguments import (
    CommandFailed,
    add_alpn,
    add_log_level,
    parse_address,
    parse_count,
    parse_seconds,
)
from reactor.deploy import Supervisor
from reactor.deploy.systemd import ServiceManager, inherited
from reactor.errors import (
    AddressError,
    ListenError,
    SupervisorError,
    TLSContextError,
    UsageError,
    missing_package,
)
from reactor.listening.listener import Listener
from reactor.options import Limits, ProxyProtocol, Timeouts
from reactor.protocol import Factory
from reactor.reactor import Reactor

if TYPE_CHECKING:
    import ssl

    from reactor.backplane import Backplane
    from reactor.datagrams import DatagramFactory, Endpoint

__all__ = ["add_arguments", "run"]

log = logging.getLogger("reactor")

DEFAULT_ADDRESS = "127.0.0.1:9092"

#: Seconds for which a broker keeps messages, for those who were away.
HISTORY_AGE = 24 * 3600.0

# Options that are of some apps alone.
_OPTIONS = {
    "to": ["proxy"],
    "send_proxy": ["proxy"],
    "root": ["files"],
    "backplane": [name for name, app in APPS.items() if app.shared is not None],
    "web": [name for name, app in APPS.items() if app.page is not None],
}

# Options that --udp refuses.
_OF_CONNECTIONS = (
    *_OPTIONS, "proxy_protocol", "idle_timeout", "max_connections", "max_per_ip", "tls_cert", "tls_key",
    "tls_client_ca", "alpn",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve` to its parser."""
    parser.set_defaults(command=run)
    parser.add_argument(
        "app",
        nargs="?",
        type=parse_app,
        default="echo",
        metavar="APP",
        help="; ".join(f"{name}: {app.summary}" for name, app in APPS.items())
        + "; or module:factory, where factory() returns the protocol of a connection (default: echo)",
    )
    add_log_level(parser)
    _add_addresses(parser.add_argument_group("addresses"))
    _add_app_options(parser.add_argument_group("options of some apps"))
    _add_processes(parser.add_argument_group("processes"))
    _add_limits(parser.add_argument_group("limits"))
    _add_tls(parser.add_argument_group("TLS"))


def _add_addresses(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--listen",
        action="append",
        type=_listen_address,
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, :PORT for every interface, unix:/path, fd:N, or systemd:NAME for the "
        "sockets that systemd passed under that name; port 0 picks a free one; may be repeated "
        f"(default: {DEFAULT_ADDRESS})",
    )
    group.add_argument(
        "--udp",
        action="store_true",
        help="serve datagrams, by UDP or on Unix datagram sockets: "
        f"{', '.join(name for name, app in APPS.items() if app.datagrams)}, or module:factory",
    )
    group.add_argument(
        "--proxy-protocol",
        action="store_true",
        help="each connection begins with a PROXY header, v1 or v2, which names the client; needs "
        "--proxy-trust",
    )
    group.add_argument(
        "--proxy-trust",
        action="append",
        metavar="NETWORK",
        help="a network of the proxies, as 10.0.0.0/8, an address, or unix: for Unix sockets; all others are "
        "refused; may be repeated",
    )


def _add_app_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--to", type=parse_address, metavar="ADDRESS", help="the address that proxy forwards to"
    )
    group.add_argument(
        "--send-proxy",
        choices=("v1", "v2"),
        metavar="VERSION",
        help="the PROXY protocol by which proxy names its clients to that address: v1 or v2 (default: none)",
    )
    group.add_argument("--root", type=_directory, metavar="DIR", help="the directory that files serves")
    group.add_argument(
        "--backplane",
        type=_broker_url,
        metavar="URL",
        help="join all processes of chat that use the same broker, on any number of machines: redis://HOST, "
        "rediss://USER:PASSWORD@HOST:PORT/DATABASE over TLS, or unix:///PATH",
    )
    group.add_argument(
        "--web",
        action="append",
        type=_listen_address,
        metavar="ADDRESS",
        help="serve the page of chat there, for browsers; as --listen; may be repeated",
    )


def _add_processes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workers",
        type=parse_count,
        metavar="N",
        help="serve in N processes below a supervisor, which restarts them without losing a connection or a "
        "datagram: SIGHUP one by one, SIGUSR2 with itself; SIGTTIN and SIGTTOU start and end one "
        "(default: one process alone)",
    )
    group.add_argument(
        "--drain-timeout",
        type=parse_seconds,
        default=10.0,
        metavar="S",
        help="seconds that connections have to end after SIGINT or SIGTERM; a second signal ends the server "
        "at once (default: %(default)g)",
    )
    group.add_argument(
        "--status",
        type=parse_address,
        metavar="ADDRESS",
        help="serve a page with the state of all processes there, /metrics, /live and /ready: HOST:PORT of "
        "the loopback interface, or unix:/path (default: none)",
    )
    group.add_argument(
        "--status-open",
        action="store_true",
        help="allow any other address for --status: everybody who can reach it can read the page",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--idle-timeout",
        type=parse_seconds,
        metavar="S",
        help="close a connection after S seconds without a byte in either direction (default: never)",
    )
    group.add_argument(
        "--max-connections",
        type=parse_count,
        metavar="N",
        help="connections open at once, for each --listen; more wait in the accept queue (default: no limit)",
    )
    group.add_argument(
        "--max-per-ip",
        type=parse_count,
        metavar="N",
        help="connections open at once from one IPv4 address or IPv6 /64; more are closed at once "
        "(default: no limit)",
    )


def _add_tls(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tls-cert", metavar="FILE", help="speak TLS with this certificate chain (PEM)")
    group.add_argument(
        "--tls-key",
        metavar="FILE",
        help="the private key, if it is not in the same file; SIGHUP reads both files again",
    )
    group.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="require a client certificate signed by one of these authorities (PEM)",
    )
    add_alpn(group, "to accept")


def run(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Raises CommandFailed for an address or file that failed and for a drain cut short by a second signal,
    SystemExit for invalid arguments and at the end of a worker.
    """
    if options.status_open and options.status is None:
        options.error("--status-open needs --status")
    if options.udp:
        _check_udp(options)
    else:
        _check_app(options)
    if options.workers is None:
        _serve_alone(options)
        return
    supervisor = Supervisor(
        partial(_bind_datagrams if options.udp else _listen, options),
        workers=options.workers,
        max_workers=1 if _is_alone(options) else None,
        drain_timeout=options.drain_timeout,
        status=options.status,
        status_open=options.status_open,
        name=_title(options),
    )
    try:
        with _status_errors(options), _extra("--status", "status"):
            supervisor.run()
    except SupervisorError as exc:
        if exc.status is not None:
            sys.exit(exc.status)  # the worker has said why
        raise CommandFailed(str(exc)) from exc


def _check_udp(options: argparse.Namespace) -> None:
    """Refuse apps without datagrams, and the options that those have no use for."""
    if isinstance(options.app, App):
        _datagram_factory(options, options.app)
    for option in _OF_CONNECTIONS:
        if getattr(options, option) not in {None, False}:
            options.error(f"--{option.replace('_', '-')} is for connections, and --udp has none")


def _check_app(options: argparse.Namespace) -> None:
    """Refuse options that are for another app, and workers that would have nothing in common."""
    app = options.app
    for option, owners in _OPTIONS.items():
        if getattr(options, option) is not None and not (isinstance(app, App) and name_of(app) in owners):
            options.error(f"--{option.replace('_', '-')} is for the app {', '.join(owners)}")
    if options.to is not None and options.to in _addresses(options):
        options.error(f"argument --to: the proxy listens on {options.to} itself: give another --listen")
    if _is_alone(options) and (options.workers or 1) > 1:
        options.error(
            f"with --workers {options.workers} each worker would have {app.shared} of its own: "
            "join them with --backplane redis://HOST"
        )


def _is_alone(options: argparse.Namespace) -> bool:
    """Return whether one process must serve all clients."""
    app = options.app
    return isinstance(app, App) and app.shared is not None and options.backplane is None


def _serve_alone(options: argparse.Namespace) -> None:
    manager = ServiceManager()
    with Reactor() as loop:
        with _status_errors(options), _extra("--status", "status"):
            _serve_status(options, loop)
        if options.udp:
            for endpoint in _bind_datagrams(options, loop):
                log.info("listening on udp:%s", endpoint.address)
        else:
            for listener in _listen(options, loop):
                for bound in listener.addresses:
                    log.info("listening on %s", bound)
        if options.tls_cert is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, _reload_tls, loop, options)
        loop.call_soon(manager.ready, "serving")
        loop.run(signals={signal.SIGINT, signal.SIGTERM}, drain_timeout=options.drain_timeout)
        left = len(loop.connections())
        if left:
            raise CommandFailed(f"stopped at once, with {left} connection{'s'[: left != 1]} still open")


def _serve_status(options: argparse.Namespace, loop: Reactor) -> None:
    if options.status is None:
        return
    from reactor.status import StatusPage  # noqa: PLC0415 - needs the extra `status`

    page = StatusPage(loop, name=_title(options))
    _log_pages("status page", [page.listen(options.status, open=options.status_open)], "http")


def _log_pages(what: str, listeners: list[Listener], scheme: str) -> None:
    for bound in chain(*(listener.addresses for listener in listeners)):
        log.info("%s: %s", what, bound if bound.path is not None else f"{scheme}://{bound}/")


@contextmanager
def _status_errors(options: argparse.Namespace) -> Iterator[None]:
    try:
        yield
    except ListenError as exc:
        raise CommandFailed(exc.strerror) from exc
    except UsageError as exc:
        options.error(f"argument --status: {exc}")


@contextmanager
def _extra(option: str, extra: str) -> Iterator[None]:
    """Name the option and its extra, which has all that it needs, where a package is missing."""
    try:
        yield
    except ImportError as exc:
        raise CommandFailed(str(missing_package(option, exc.name or "more", extra))) from exc


def _title(options: argparse.Namespace) -> str:
    app = options.app
    return f"reactor serve {app if isinstance(app, str) else name_of(app)}"


def _listen(options: argparse.Namespace, loop: Reactor) -> list[Listener]:
    """Listen on all addresses. In a worker this is all that it does itself."""
    limits = Limits(max_connections=options.max_connections, max_per_ip=options.max_per_ip)
    timeouts = Timeouts(idle=options.idle_timeout)
    proxies = _proxy_protocol(options)
    refuse: Callable[[str], NoReturn] = options.error
    try:
        app = chosen_app(options)
        factory = _factory(options, app, loop)
        tls = _server_context(options)
        listen = partial(loop.listen, limits=limits, timeouts=timeouts, tls=tls, proxy_protocol=proxies)
        listeners = [listen(address, factory) for address in _addresses(options)]
        if options.web is not None and app.page is not None:
            with _extra("--web", "web"):
                page = app.page(factory)
            listeners += (pages := [listen(address, page) for address in chain(*options.web)])
            _log_pages("page of the chat", pages, "http" if tls is None else "https")
        return listeners
    except (ImportError, TLSContextError) as exc:
        raise CommandFailed(str(exc)) from exc
    except AddressError as exc:
        refuse(str(exc))
    except ListenError as exc:
        raise CommandFailed(exc.strerror) from exc


def _bind_datagrams(options: argparse.Namespace, loop: Reactor) -> list[Endpoint]:
    factory = _datagram_factory(options, chosen_app(options))()
    refuse: Callable[[str], NoReturn] = options.error
    spread = options.workers is not None  # each worker has a socket of its own
    try:
        return [loop.bind_datagram(address, factory, reuse_port=spread) for address in _addresses(options)]
    except AddressError as exc:
        refuse(str(exc))
    except ListenError as exc:
        raise CommandFailed(exc.strerror) from exc


def _datagram_factory(options: argparse.Namespace, app: App) -> Callable[[], DatagramFactory]:
    refuse: Callable[[str], NoReturn] = options.error
    if app.datagrams is None:
        able = ", ".join(name for name, known in APPS.items() if known.datagrams)
        refuse(f"--udp is for {able} and module:factory: this app has connections only")
    return app.datagrams


def _addresses(options: argparse.Namespace) -> Iterable[Address]:
    return chain(*options.listen or [[Address.parse(DEFAULT_ADDRESS)]])


def _proxy_protocol(options: argparse.Namespace) -> ProxyProtocol | None:
    if not options.proxy_protocol:
        if options.proxy_trust is not None:
            options.error("--proxy-trust needs --proxy-protocol")
        return None
    if options.proxy_trust is None:
        options.error("--proxy-protocol needs --proxy-trust: which networks are the proxies'?")
    try:
        return ProxyProtocol(trusted=options.proxy_trust)
    except ValueError as exc:
        options.error(f"argument --proxy-trust: {exc}")
        raise


def _server_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        for option in ("tls_key", "tls_client_ca", "alpn"):
            if getattr(options, option) is not None:
                options.error(f"--{option.replace('_', '-')} needs --tls-cert")
        return None
    from reactor.tls import server_context  # noqa: PLC0415 - imports ssl

    return server_context(
        options.tls_cert, options.tls_key, client_ca=options.tls_client_ca, alpn=options.alpn or ()
    )


def _reload_tls(loop: Reactor, options: argparse.Namespace) -> None:
    try:
        context = _server_context(options)
    except TLSContextError as exc:
        log.warning("the old certificate stays: %s", exc)
        return
    assert context is not None
    for listener in loop.listeners():
        listener.replace_tls(context)
    log.info("new connections get the certificate of %s", options.tls_cert)


def _listen_address(text: str) -> list[Address]:
    kind, _, name = text.partition(":")
    if kind == "udp":
        raise argparse.ArgumentTypeError(
            f"{text!r} is for connect: to serve datagrams, write --udp --listen {name}"
        )
    if kind != "systemd":
        return [parse_address(text)]
    try:
        return inherited(name)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text


# Apps


def _factory(options: argparse.Namespace, app: App, loop: Reactor) -> Factory:
    if app.shared is not None:
        return app.start(_backplane(options, loop))
    needed = app.option
    if needed is None:
        return app.start()
    value = getattr(options, needed)
    if value is None:
        options.error(f"this app needs --{needed}: it {app.summary}")
    settings = {name: getattr(options, name) for name in app.settings}
    return app.start(value, **{name: setting for name, setting in settings.items() if setting is not None})


# The backplane


def _broker_url(text: str) -> str:
    from reactor.backplane.url import BrokerURL  # noqa: PLC0415 - needed with this option alone

    try:
        BrokerURL.parse(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def _backplane(options: argparse.Namespace, loop: Reactor) -> Backplane | None:
    """Return the backplane, which connects by and by; the process is not ready while it does not."""
    if options.backplane is None:
        return None
    with _extra("--backplane", "redis"):
        from reactor.backplane import RedisBackplane  # noqa: PLC0415 - needs the extra `redis`

    backplane = RedisBackplane(loop, options.backplane, history_age=HISTORY_AGE)
    if options.status is not None:
        from reactor.status import add_check  # noqa: PLC0415 - needs the extra `status`

        add_check(loop, "backplane", partial(_check_backplane, backplane))
    return backplane


def _check_backplane(backplane: Backplane) -> str | None:
    state = backplane.state.value
    return None if state == "up" else f"{backplane} is {state}: other processes can't be reached"
