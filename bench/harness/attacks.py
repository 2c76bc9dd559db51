"""The attacks of the hostile benchmark: each starts a server of a kind, attacks it, and returns figures."""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

from bench.harness.clients import BrokenServerError, open_connections
from bench.harness.instrumented import Plan
from bench.harness.measure import instrumented, loading

__all__ = [
    "Attack",
    "due_at_once",
    "half_open",
    "loris",
    "never_reading",
    "paused",
    "proxy_loris",
    "starved",
]

PERIOD = 0.01  # seconds, of the server's timer
WRITE_BUFFER = 16 << 20
STARVED = 40  # descriptors
ASYNCIO_BACKLOG = 100  # its default; for each place in it, asyncio logs that it has no descriptor
TRYING = 100  # clients that compete for them
RESET = 16  # connections
SETTLE = 0.3  # seconds
PATIENCE = 30.0  # seconds
_IN_TIME = 1.1  # of a timeout: a deadline passes up to a sixteenth late

Figures = dict[str, float]
Attack = Callable[[str, argparse.Namespace], Figures]


def loris(kind: str, options: argparse.Namespace) -> Figures:
    """Slow loris: bytes too frequent for the idle timeout, and never a whole message."""
    timeout = options.read_timeout
    plan = Plan(app="owing", timeouts={"idle": timeout / 2, "read": timeout}, first=True)
    with instrumented(kind, plan) as server, loading(server, "interactive") as interactive:
        interactive.ask("observed")
        time.sleep(options.watch_seconds)
        quiet = interactive.ask("observed")
        with loading(server, "loris", options.connections, int(timeout / 4 * 1000)):
            interactive.ask("observed")
            ended, latest, end = 0, 0.0, time.perf_counter() + timeout * 1.5
            while ended < options.connections and time.perf_counter() < end:
                time.sleep(SETTLE)
                observed = server.observed()
                ended += observed["lost"].get("ReadTimeout", 0)
                latest = max(latest, observed["latest_end"])
            during = interactive.ask("observed")
    late = (latest - timeout) / timeout
    return {"ended": ended, "late": late, "quiet": quiet["p99"], "p99": during["p99"]}


def proxy_loris(kind: str, options: argparse.Namespace) -> Figures:
    """Slow loris on the PROXY header, beside a client whose header is whole."""
    timeout = options.proxy_timeout
    plan = Plan(proxy_timeout=timeout, first=True)
    number, interval = options.proxy_connections, int(timeout / 4 * 1000)
    with instrumented(kind, plan) as server, loading(server, "interactive", 1) as interactive:
        interactive.ask("observed")
        time.sleep(options.watch_seconds)
        quiet = interactive.ask("observed")
        with loading(server, "loris", number, interval, 1):
            time.sleep(timeout * _IN_TIME)
            during = interactive.ask("observed")
            ended = server.held()["ended"].get("ProxyHeaderTimeout", 0)
    return {"ended": ended, "quiet": quiet["p99"], "p99": during["p99"]}


def due_at_once(kind: str, options: argparse.Namespace) -> Figures:
    """Idle timeouts of all connections, due within a second."""
    plan = Plan(timeouts={"idle": options.idle_timeout}, timer=PERIOD, ticks=True, first=True)
    with (
        instrumented(kind, plan) as server,
        open_connections(server.port, options.idle_connections) as opened,
    ):
        started = time.perf_counter()
        for connection in opened:
            connection.send(b"x")
        for connection in opened:
            if not connection.recv(1):
                raise BrokenServerError("a connection timed out before all had spoken: raise --idle-timeout")
        spoke = time.perf_counter() - started
        server.observed()
        time.sleep(options.idle_timeout / 2)
        quiet = server.observed()
        time.sleep(options.idle_timeout)
        due = server.observed()
    figures = {
        "spoke": spoke,
        "ended": sum(due["lost"].values()),
        "late": max(due["late"]),
        "late_quiet": max(quiet["late"]),
    }
    return figures | ({"tick": due["longest_tick"]} if due["polls"] else {})


def never_reading(kind: str, options: argparse.Namespace) -> Figures:
    """Fill the write buffer of a peer that never reads, beside an interactive peer."""
    plan = Plan(app="spout", limits={"max_write_buffer": WRITE_BUFFER}, first=True)
    with instrumented(kind, plan) as server, loading(server, "interactive") as interactive:
        interactive.ask("observed")
        time.sleep(options.watch_seconds)
        quiet = interactive.ask("observed")
        server.forget_peak()
        before = server.peak_bytes()
        with socket.create_connection(("127.0.0.1", server.port)) as consumer:
            consumer.send(str(options.writes).encode())
            written = 0
            while written < options.writes:
                time.sleep(PERIOD)
                written += server.observed()["written"]
            during = interactive.ask("observed")
            peak = server.peak_bytes()
    return {"grown": peak - before, "quiet": quiet["p99"], "p99": during["p99"]}


def starved(kind: str, options: argparse.Namespace) -> Figures:
    """Connect more clients than there are descriptors, close them, and measure when service resumes."""
    with instrumented(kind, Plan(descriptors=STARVED, backlog=ASYNCIO_BACKLOG)) as server:
        with loading(server, "trying", TRYING) as trying:
            time.sleep(SETTLE)
            trying.ask("observed")
            cpu, lines = server.cpu_seconds(), len(server.process.error_lines())
            time.sleep(options.watch_seconds)
            cpu, lines = server.cpu_seconds() - cpu, len(server.process.error_lines()) - lines
            tries = trying.ask("observed")["tries"]
        again = _served_after(server.port)
    return {"cpu": cpu / options.watch_seconds, "lines": lines, "tries": tries, "again": again}


def _served_after(port: int) -> float:
    """Return the seconds until a client that retries is served."""
    started = time.perf_counter()
    while time.perf_counter() - started < PATIENCE:
        with contextlib.suppress(OSError), open_connections(port, 1) as opened:
            opened[0].send(b"x")
            if opened[0].recv(1):
                return time.perf_counter() - started
        time.sleep(PERIOD)
    raise BrokenServerError(f"no client is served {PATIENCE:g} s after the descriptors were closed")


def paused(kind: str, options: argparse.Namespace) -> Figures:
    """Reset connections that the server has paused, with bytes unread."""
    return _reset(kind, options, "paused", b"x" * 64)


def half_open(kind: str, options: argparse.Namespace) -> Figures:
    """Reset connections that are half-closed."""
    return _reset(kind, options, "half-open", b"")


def _reset(kind: str, options: argparse.Namespace, app: str, message: bytes) -> Figures:
    with instrumented(kind, Plan(app=app, ticks=True)) as server:
        with open_connections(server.port, RESET) as opened:
            for connection in opened:
                if message:
                    connection.send(message)
                else:
                    connection.shutdown(socket.SHUT_WR)
            time.sleep(SETTLE)
        time.sleep(SETTLE)
        server.observed()
        cpu, sleeps = server.cpu_seconds(), server.sleeps()
        time.sleep(options.watch_seconds)
        cpu, sleeps = server.cpu_seconds() - cpu, server.sleeps() - sleeps
        observed: dict[str, Any] = server.observed()
    woken = max(sleeps, observed["polls"])
    return {"woken": woken / options.watch_seconds, "cpu": cpu / options.watch_seconds}
