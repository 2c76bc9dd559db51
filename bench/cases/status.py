"""Status: a scrape beside many connections, many open pages, and a slow-loris attack on the status address.

The server is `python -m reactor serve echo --status`: one process, whose loop drives the page too, and for
scrapes also two workers below a supervisor. The durations of ticks are those of its own histogram. Asked: a
scrape in 50 ms with 10,000 connections open, and no tick above 5 ms for it; 2 % of a core for 1,000 pages; in
the attack, every slow connection ended, and a p99 of others within 2 times that of quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress

from bench.harness.clients import open_connections, run_first, talk_once
from bench.harness.loads import percentile
from bench.harness.measure import Server, loading, put_on_core
from bench.harness.options import add_rounds
from bench.harness.process import Child, child
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

SUBJECT = "reactor"
P99 = Metric("scrape, p99", "s", "lower")
LONGEST = Metric("longest scrape", "s", "lower")
ABOVE = Metric("ticks above 5 ms", "ticks", "lower")
CORE = Metric("part of a core", "1", "lower")
SIZE = Metric("a page's bytes/s", "B/s", "lower")
ENDED = Metric("ended", "connections")
LATE = Metric("last one ended after", "s", "lower")
ECHO = (Metric("echo p99, quiet", "s", "lower"), Metric("echo p99, attacked", "s", "lower"))
PROBE = (Metric("/live p99, quiet", "s", "lower"), Metric("/live p99, attacked", "s", "lower"))

_HEAD_TIMEOUT = 5.0  # seconds, of the page's server
_LIMIT = "0.005"  # seconds, a bound of the histogram
_EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, default=3)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="open beside a scrape")
    parser.add_argument("--scrapes", type=int, default=50, metavar="N", help="in a round")
    parser.add_argument("--pages", type=int, default=1000, metavar="N", help="that are open")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of open pages in a round")
    parser.add_argument("--slow", type=int, default=2000, metavar="N", help="connections of the attack")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure each in turn, with a new server each time."""
    run_first()  # as the server: neither waits for what else runs here
    steps = [
        (step, words, named)
        for step, words, named in (
            (_scrapes, (), "one process"),
            (_scrapes, ("--workers", "2"), "two workers"),
            (_pages, (), "one process"),
            (_loris, (), "one process"),
        )
        for _ in range(options.rounds)
    ]
    for step, words, named in progress.track(steps, description="looking"):
        with _serving(words) as (server, status):
            step(server, status, options, result, named)


@contextlib.contextmanager
def _serving(more: tuple[str, ...]) -> Iterator[tuple[Server, Server]]:
    """Run echo with a status page and `more` options; yield it twice, with the port of each."""
    words = ("reactor", "serve", "echo", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", *more)
    with child("reactor", *words) as process:
        ports: list[int] = []
        end = time.monotonic() + 30
        while len(ports) < 2:
            found = re.findall(
                r"(?:http://|listening on )127\.0\.0\.1:(\d+)", "\n".join(process.error_lines())
            )
            ports = [int(port) for port in found]
            if time.monotonic() > end:
                raise OSError("the server did not say where it listens")
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            put_on_core(pid)
            run_first(pid)
        yield tuple(Server("reactor", port, process.pid, process) for port in reversed(ports))  # type: ignore[misc]


def _scrapes(server: Server, status: Server, options: argparse.Namespace, result: Result, named: str) -> None:
    with open_connections(server.port, options.connections) as opened:
        talk_once(opened[-1])
        before, took = _ticks_above(_scrape(status)), []
        for _ in range(options.scrapes):
            time.sleep(0.11)  # an overview is kept for a tenth of a second
            begun = time.perf_counter()
            text = _scrape(status)
            took.append(time.perf_counter() - begun)
        figures = {P99: percentile(took, 99), LONGEST: max(took), ABOVE: _ticks_above(text) - before}
    workload = f"{options.scrapes} scrapes of {named}, {options.connections:,} connections"
    result.record(workload, SUBJECT, figures)


def _scrape(status: Server) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", status.port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _ticks_above(text: str) -> float:
    """Return how many ticks took longer than the limit."""
    buckets = dict(re.findall(r'^reactor_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE))
    return float(buckets["+Inf"]) - float(buckets[_LIMIT])


def _pages(server: Server, status: Server, options: argparse.Namespace, result: Result, named: str) -> None:
    with open_connections(status.port, options.pages) as opened, select.epoll() as poller:
        for page in opened:
            page.sendall(_EVENTS)
            poller.register(page, select.EPOLLIN)
        pages = {page.fileno(): page for page in opened}
        _receive(poller, pages, 3.0)  # the whole page first
        cpu = server.cpu_seconds()
        size = _receive(poller, pages, options.seconds)
        cpu = server.cpu_seconds() - cpu
    figures = {CORE: cpu / options.seconds, SIZE: size / options.seconds / options.pages}
    result.record(f"{options.pages:,} open pages of {named}", SUBJECT, figures)


def _receive(poller: select.epoll, pages: dict[int, socket.socket], seconds: float) -> int:
    """Receive for some seconds; return how many bytes came.

    It looks now and then: a client that waits here would be woken by each send, at the server's cost.
    """
    size, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        for fd, _ in poller.poll(0):
            data = pages[fd].recv(1 << 16)
            if not data:
                raise OSError("the server closed a page")
            size += len(data)
    return size


def _loris(server: Server, status: Server, options: argparse.Namespace, result: Result, named: str) -> None:
    workload = f"{options.slow:,} connections that send a head byte by byte to the status address"
    with loading(server, "interactive") as echo, loading(status, "probe") as probe:
        loads = (echo, probe)
        _take(loads)
        time.sleep(_HEAD_TIMEOUT / 2)
        quiet = _take(loads)
        with loading(status, "loris", options.slow, int(_HEAD_TIMEOUT / 4 * 1000)) as loris:
            begun = time.perf_counter()
            _take(loads)
            late = left = 0.0
            while time.perf_counter() - begun < 3 * _HEAD_TIMEOUT and (left := loris.ask("open")["open"]):
                late = time.perf_counter() - begun
                time.sleep(0.1)
            attacked = _take(loads)
    figures = {ENDED: options.slow - left, LATE: late}
    for metrics, before, during in zip((ECHO, PROBE), quiet, attacked, strict=True):
        figures |= dict(zip(metrics, (before, during), strict=True))
    result.record(workload, SUBJECT, figures)


def _take(loads: tuple[Child, ...]) -> list[float]:
    return [load.ask("observed")["p99"] for load in loads]
