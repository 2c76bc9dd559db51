"""TLS: echo, bulk one way and the other, memory of idle connections, and handshakes."""

from __future__ import annotations

import argparse
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trustme
from rich.progress import Progress

from bench.harness.bulk import move
from bench.harness.clients import BrokenServerError, open_connections, reset_at_close, talk_once
from bench.harness.generator import echo_load
from bench.harness.measure import Server, serving
from bench.harness.metrics import CONNECTION_MEMORY, CPU_HANDSHAKE, RATE_HANDSHAKES
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import present, serve_all, side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

ACTIVE = 64  # connections that talk
SIZES = (64, 1024, 16384)  # bytes of their messages
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_QUIET = 3.0  # seconds until idle connections have freed their buffers


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


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure; all servers have the same certificate and the same context."""
    with tempfile.TemporaryDirectory() as folder:
        context = _certify(Path(folder), options.key_type)
        context.minimum_version = context.maximum_version = VERSIONS[options.version]
        measurements: dict[str, Callable[[Server], Any]] = {
            **{
                f"echo, {ACTIVE} connections, {size} B": partial(
                    echo_load(ACTIVE, size, tls=options.version).measure, options.seconds
                )
                for size in SIZES
            },
            "bulk to the server": partial(_bulk, context, b"D", options.seconds),
            "bulk from the server": partial(_bulk, context, b"S", options.seconds),
            "full handshakes": partial(_handshakes, context, options.handshakes, False),
            "resumed handshakes": partial(_handshakes, context, options.handshakes, True),
        }
        for workload, measure in measurements.items():
            serve_all(result, progress, workload, options.servers, "tls", options.rounds, measure, folder)
        workload = f"{options.connections:,} idle connections that have talked once"
        kinds = {kind: kind for kind in present(result, workload, options.servers)}
        memory = partial(_memory, options.connections, folder, context)
        side_by_side(result, progress, workload, kinds, min(options.rounds, 3), memory)


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


def _bulk(context: ssl.SSLContext, word: bytes, seconds: float, server: Server) -> dict[Metric, float]:
    with _secured(context, server.port, 1) as (opened,):
        return move(opened, word, seconds, server)


def _handshakes(context: ssl.SSLContext, number: int, resumed: bool, server: Server) -> dict[Metric, float]:
    """Connect, shake hands, talk once and leave, `number` times."""
    session = None
    if resumed:
        with _secured(context, server.port, 1) as (opened,):
            talk_once(opened, b"x")  # the ticket comes with the answer
            session = opened.session
    started = time.perf_counter()
    with server.usage() as used, open_connections(server.port, number) as connections:
        for each in connections:
            with context.wrap_socket(each, server_hostname="localhost", session=session) as opened:
                talk_once(opened, b"x")
                if opened.session_reused is not resumed:
                    raise BrokenServerError("a session was resumed that should not, or the other way round")
                reset_at_close(opened)
        took = time.perf_counter() - started
    return {CPU_HANDSHAKE: used.cpu / number, RATE_HANDSHAKES: number / took, **used.shares(took)}


def _memory(number: int, folder: str, context: ssl.SSLContext, kind: str) -> dict[Metric, float]:
    with serving(kind, "tls", folder) as server:
        with _secured(context, server.port, 10) as opened:
            for each in opened:
                talk_once(each, b"x" * 1024)
        before = server.anonymous_bytes()
        with _secured(context, server.port, number) as opened:
            for each in opened:
                talk_once(each, b"x" * 1024)
            time.sleep(_QUIET)
            return {CONNECTION_MEMORY: (server.anonymous_bytes() - before) / number}
