"""Proxy: one connection's bytes through a forwarder, at its full speed, beside socat and haproxy."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.progress import Progress

from bench.harness.bulk import bulk_figures
from bench.harness.clients import BrokenServerError
from bench.harness.measure import Server, put_on_core
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.process import program
from bench.harness.rounds import side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

CHUNK = 1 << 20  # bytes that are sent or dropped at once
_WAIT = 10.0  # the limit of seconds until a forwarder listens and moves its bytes
_HAPROXY = """\
global
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen bench
    bind 127.0.0.1:{port}
    server target 127.0.0.1:{target}
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, FORWARDERS)


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure: a new process of each forwarder in each round."""
    workload = "one connection, bytes one way"
    kinds = {kind: kind for kind in options.servers if shutil.which(kind) or kind == "reactor"}
    for kind in set(options.servers) - set(kinds):
        result.note(workload, kind, f"not installed: apt-get install {kind}")
    side_by_side(result, progress, workload, kinds, options.rounds, partial(_measure, options.seconds))


def _measure(seconds: float, kind: str) -> dict[Metric, float]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        _forwarding(kind, listening.getsockname()[1]) as server,
        _connect(server) as client,
    ):
        client.sendall(b"x")
        listening.settimeout(_WAIT)
        try:
            target, _ = listening.accept()
        except TimeoutError:
            raise BrokenServerError(f"{kind} does not connect to its target") from None
        with target:
            with server.usage() as used:
                moved, took = _move(client, target, seconds)
            return bulk_figures(moved, took, used)


def _connect(server: Server) -> socket.socket:
    end = time.monotonic() + _WAIT
    while True:
        try:
            return socket.create_connection(("127.0.0.1", server.port), timeout=_WAIT)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise BrokenServerError(f"{server.kind} does not listen") from None
            time.sleep(0.01)


def _move(client: socket.socket, target: socket.socket, seconds: float) -> tuple[int, float]:
    """Send at one end and drop at the other; neither copies a byte, so that the forwarder is measured.

    sendfile(2) sends the pages of a file, and recv(2) with MSG_TRUNC drops what has come: tcp(7). It never
    sleeps either, because the forwarder would pay for waking it up.
    """
    moved = 0
    nowhere = bytearray(CHUNK)  # not written to
    file = os.memfd_create("bytes")
    try:
        os.truncate(file, CHUNK)
        client.setblocking(False)
        target.setblocking(False)
        with select.epoll() as poller:
            poller.register(client, select.EPOLLOUT)
            poller.register(target, select.EPOLLIN)
            started = time.perf_counter()
            while (took := time.perf_counter() - started) < seconds:
                for fd, _ in poller.poll(0):
                    if fd == client.fileno():
                        os.sendfile(fd, file, 0, CHUNK)
                    else:
                        dropped = target.recv_into(nowhere, CHUNK, socket.MSG_TRUNC)
                        if not dropped:
                            raise BrokenServerError("the forwarder closed the connection")
                        moved += dropped
        if not moved:
            raise BrokenServerError("the forwarder moves nothing")
    finally:
        os.close(file)
    return moved, took


# The forwarders: commands that forward from one port of the loopback net to another


def _reactor(port: int, target: int, _: Path) -> list[str]:
    words = ["serve", "proxy", "--to", f"127.0.0.1:{target}", "--listen", f"127.0.0.1:{port}"]
    return [sys.executable, "-m", "reactor", *words]


def _socat(port: int, target: int, _: Path) -> list[str]:
    return ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr", f"TCP:127.0.0.1:{target}"]


def _haproxy(port: int, target: int, folder: Path) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, target=target))
    return ["haproxy", "-db", "-f", str(config)]


FORWARDERS = {"reactor": _reactor, "socat": _socat, "haproxy": _haproxy}


@contextmanager
def _forwarding(kind: str, target: int) -> Iterator[Server]:
    with socket.socket() as held, tempfile.TemporaryDirectory() as folder:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))  # with SO_REUSEADDR a forwarder may listen there; the port is taken
        port = held.getsockname()[1]
        words = FORWARDERS[kind](port, target, Path(folder))
        with program(kind, *words) as process:
            put_on_core(process.pid)
            yield Server(kind, port, process.pid, process)
