"""TLS: echo, bulk one way and the other, memory of idle connections, and handshakes."""

from __future__ import annotations

import argparse
import contextlib
import select
import ssl
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import trustme
from rich.progress import Progress

from bench.harness.clients import BrokenServerError, open_connections, reset_at_close
from bench.harness.compare import BYTES, HANDSHAKES, compare
from bench.harness.measure import Server, serving
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.report import Report, ratio

__all__ = ["add_options", "run"]

ACTIVE = 64  # connections that talk
SIZES = (64, 1024, 16384)  # bytes of their messages
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_QUIET = 3.0  # seconds until idle connections have freed their buffers
_WAIT = 10.0  # seconds that a server may take before it counts as broken


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["tls"])
    parser.add_argument("--connections", type=int, default=2000, metavar="N", help="idle ones")
    parser.add_argument(
        "--key-type", choices=["ecdsa", "rsa"], default="ecdsa", help="P-256, or RSA of 2,048 bits"
    )
    parser.add_argument("--version", choices=list(VERSIONS), default="1.3", help="of TLS")
    parser.add_argument("--handshakes", type=int, default=300, metavar="N", help="in one measurement")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure; all servers have the same certificate and the same context."""
    with tempfile.TemporaryDirectory() as folder:
        context = _certify(Path(folder), options.key_type)
        context.minimum_version = context.maximum_version = VERSIONS[options.version]
        with ExitStack() as stack:
            servers = {kind: stack.enter_context(serving(kind, "tls", folder)) for kind in options.servers}
            for size in SIZES:
                title = f"TLS echo: {ACTIVE} connections, {size} B, one message in flight each"
                measure = partial(_echo, context, size, options.seconds)
                compare(report, progress, title, servers, options.rounds, measure)
            for word, title in ((b"D", "TLS bulk to the server"), (b"S", "TLS bulk from the server")):
                move = partial(_move, context, word, options.seconds)
                compare(report, progress, title, servers, options.rounds, move, BYTES)
            costs = []
            for resumed, title in ((False, "full TLS handshakes"), (True, "resumed TLS handshakes")):
                shake = partial(_handshakes, context, options.handshakes, resumed)
                costs.append(compare(report, progress, title, servers, options.rounds, shake, HANDSHAKES))
            _compare_resumed(report, *costs)
        _memory(options, report, progress, folder, context)


def _certify(folder: Path, key_type: str) -> ssl.SSLContext:
    """Write a server's certificate there, and return the context of its clients."""
    authority = trustme.CA(key_type=trustme.KeyType[key_type.upper()])
    issued = authority.issue_cert("localhost", key_type=trustme.KeyType[key_type.upper()])
    issued.private_key_pem.write_to_path(folder / "server.key")
    issued.cert_chain_pems[0].write_to_path(folder / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@contextmanager
def _secured(context: ssl.SSLContext, port: int, number: int) -> Iterator[list[ssl.SSLSocket]]:
    with open_connections(port, number) as opened:
        secured = [context.wrap_socket(each, server_hostname="localhost") for each in opened]
        try:
            yield secured
        finally:
            for each in secured:
                reset_at_close(each)
                each.close()


def _echo(context: ssl.SSLContext, size: int, seconds: float, server: Server) -> tuple[float, float]:
    with _secured(context, server.port, ACTIVE) as opened:
        message = bytes(i * 7 % 61 for i in range(size))  # its first byte is no command of the server's
        for each in opened:
            _talk_once(each, message)
        before = server.cpu_seconds()
        messages, took = _exchange(opened, message, seconds)
        return messages / took, (server.cpu_seconds() - before) / messages


def _talk_once(opened: ssl.SSLSocket, message: bytes) -> None:
    opened.sendall(message)
    got = b""
    while len(got) < len(message):
        more = opened.recv(65536)
        if not more:
            raise BrokenServerError("the server closed the connection")
        got += more
    if got != message:
        raise BrokenServerError("the server did not answer what it should")


def _exchange(opened: list[ssl.SSLSocket], message: bytes, seconds: float) -> tuple[int, float]:
    size = len(message)
    waiting = {each.fileno(): size for each in opened}
    by_fd = {each.fileno(): each for each in opened}
    messages = 0
    with select.epoll() as poller:
        for each in opened:
            each.setblocking(False)
            poller.register(each, select.EPOLLIN)
            each.send(message)
        started = time.perf_counter()
        while (took := time.perf_counter() - started) < seconds:
            events = poller.poll(_WAIT)
            if not events:
                raise BrokenServerError("the server stopped answering")
            for fd, _ in events:
                each = by_fd[fd]
                with contextlib.suppress(ssl.SSLWantReadError):
                    while True:
                        waiting[fd] -= len(each.recv(65536))
                        if not waiting[fd]:
                            waiting[fd] = size
                            messages += 1
                            each.send(message)
                            break
    return messages, took


def _move(context: ssl.SSLContext, word: bytes, seconds: float, server: Server) -> tuple[float, float]:
    """Return bytes per second one way, and the server's CPU seconds per byte."""
    chunk = bytes(64 * 1024)
    moved = 0
    with _secured(context, server.port, 1) as (opened,):
        opened.sendall(word)
        before = server.cpu_seconds()
        started = time.perf_counter()
        while (took := time.perf_counter() - started) < seconds:
            moved += opened.send(chunk) if word == b"D" else len(opened.recv(len(chunk)))
        cpu = server.cpu_seconds() - before
    return moved / took, cpu / moved


def _handshakes(context: ssl.SSLContext, number: int, resumed: bool, server: Server) -> tuple[float, float]:
    """Connect, shake hands, talk once and leave, `number` times; return handshakes per second and the CPU."""
    session = None
    if resumed:
        with _secured(context, server.port, 1) as (opened,):
            _talk_once(opened, b"x")  # the ticket comes with the answer
            session = opened.session
    before = server.cpu_seconds()
    started = time.perf_counter()
    with open_connections(server.port, number) as connections:
        for each in connections:
            with context.wrap_socket(each, server_hostname="localhost", session=session) as opened:
                _talk_once(opened, b"x")
                if opened.session_reused is not resumed:
                    raise BrokenServerError("a session was resumed that should not, or the other way round")
                reset_at_close(opened)
        took = time.perf_counter() - started
    return number / took, (server.cpu_seconds() - before) / number


def _compare_resumed(report: Report, full: dict[str, list[float]], resumed: dict[str, list[float]]) -> None:
    table = report.table("resumed TLS handshakes beside full ones", ["", "full CPU / resumed CPU"])
    for kind, costs in full.items():
        table.add_row(kind, f"{ratio(costs, resumed[kind]):.2f}")


def _memory(
    options: argparse.Namespace, report: Report, progress: Progress, folder: str, context: ssl.SSLContext
) -> None:
    title = f"memory of {options.connections:,} idle TLS connections that have talked once"
    memory: dict[str, list[float]] = defaultdict(list)
    for _ in progress.track(range(min(options.rounds, 3)), description=title):
        for kind in options.servers:
            with serving(kind, "tls", folder) as server:
                with _secured(context, server.port, 10) as opened:
                    for each in opened:
                        _talk_once(each, b"x" * 1024)
                before = server.anonymous_bytes()
                with _secured(context, server.port, options.connections) as opened:
                    for each in opened:
                        _talk_once(each, b"x" * 1024)
                    time.sleep(_QUIET)
                    memory[kind].append((server.anonymous_bytes() - before) / options.connections)
    report.raw.append({"title": title, "bytes_per_connection": memory})
    table = report.table(title, ["", "bytes/connection", "its / ours"])
    ours = statistics.median(memory[options.servers[0]])
    for kind in options.servers:
        median = statistics.median(memory[kind])
        table.add_row(kind, f"{median:,.0f}", f"{median / ours:.2f}")
