"""Deploy: connections lost at restarts, how soon a killed worker is replaced, and two workers beside one.

The server is `python -m reactor serve --workers`, with real signals. Losses are counted by clients that
connect at a steady rate, each for one exchange, one in five after a second of silence, and with `--udp` by
numbered datagrams from 64 ports. Those that found a receive buffer full, because a process did not run for so
long, are counted by the kernel: no restart has lost them. The capacity of two workers is counted in messages
per CPU second of the servers, so that it depends neither on the load's own cores nor on what else the machine
does; it is that of an even load, and the busiest worker's part stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from rich.progress import Progress

from bench.harness.clients import raise_descriptor_limit
from bench.harness.deployment import TIMEOUT, Deployment, deployed
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

SUBJECT = "reactor"
LOST = "refused, reset or unanswered"
FULL = Metric("receive buffer full", "datagrams", "lower")
REPLACED = Metric("time of one", "s", "lower")
CONNECT_AGAIN = Metric("until a new one accepts", "s", "lower")
OTHERS_LOST = Metric("connections of others lost", "connections", "lower")
CAPACITY = Metric("capacity beside one worker", "1", "higher")
BUSIEST = Metric("the busiest worker's part, of an even one", "1", "lower")
MEMORY = Metric("supervisor beyond the interpreter", "B", "lower")
CALLS = Metric("system calls while idle", "calls", "lower")

_SILENCE = 1.0
_MESSAGE = b"x" * 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rate", type=float, default=200, metavar="N", help="connections a second")
    parser.add_argument("--datagrams", type=float, default=5000, metavar="N", help="datagrams a second")
    parser.add_argument("--restarts", type=int, default=20, metavar="N", help="SIGHUP, under load")
    parser.add_argument("--replacements", type=int, default=5, metavar="N", help="SIGUSR2, under load")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="workers ended by SIGKILL")
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="of echo for each of the capacities"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the capacities")
    parser.add_argument("--watch-seconds", type=float, default=5.0, metavar="S", help="of idleness")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure each in turn."""
    raise_descriptor_limit()
    steps = [_losses, _datagrams, _kills, _capacities, _idleness]
    for step in progress.track(steps, description="deploying"):
        step(options, result)


# Losses


class _Load(ABC):
    """A load at a steady rate, while it is entered.

    lost: an error for each of `count` without an answer. figures: what else it has counted.
    """

    def __init__(self, address: tuple[str, int], rate: float) -> None:
        self.lost: list[str] = []
        self.figures: dict[Metric, float] = {}
        self.count = 0
        self._address = address
        self._rate = rate
        self._ended = threading.Event()
        self._driver = threading.Thread(target=self._drive)

    @abstractmethod
    def _drive(self) -> None:
        """Send until `_ended`, and wait for the answers."""

    def __enter__(self) -> Self:
        self._driver.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._driver.join()


class _Clients(_Load):
    """Clients, of which each connects, asks and leaves."""

    def _drive(self) -> None:
        begun = time.monotonic()
        threads: list[threading.Thread] = []
        while not self._ended.wait(max(0.0, begun + self.count / self._rate - time.monotonic())):
            self.count += 1
            thread = threading.Thread(target=self._exchange, args=(self.count,))
            thread.start()
            threads = [thread, *filter(threading.Thread.is_alive, threads)]
        for thread in threads:
            thread.join()

    def _exchange(self, number: int) -> None:
        try:
            with socket.create_connection(self._address, TIMEOUT) as client:
                if number % 5 == 0:
                    time.sleep(_SILENCE)
                client.sendall(b"%d" % number)
                if client.recv(100) != b"%d" % number:
                    self.lost.append("no answer")
        except OSError as exc:
            self.lost.append(str(exc))


class _Datagrams(_Load):
    """Numbered datagrams, from 64 ports."""

    def __init__(self, address: tuple[str, int], rate: float) -> None:
        super().__init__(address, rate)
        self._answered: set[int] = set()
        self._sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(64)]
        for sock in self._sockets:
            sock.connect(address)

    def _drive(self) -> None:
        begun, dropped = time.monotonic(), _dropped(self._address[1])
        with contextlib.ExitStack() as opened:
            for sock in self._sockets:
                opened.enter_context(sock)
            while not self._ended.is_set():
                while self.count < (time.monotonic() - begun) * self._rate:
                    self._sockets[self.count % len(self._sockets)].send(b"%d" % self.count)
                    self.count += 1
                self._receive(0.001)
            end = time.monotonic() + _SILENCE
            while len(self._answered) < self.count and time.monotonic() < end:
                self._receive(0.1)
            dropped = _dropped(self._address[1]) - dropped
        self.figures[FULL] = dropped
        self.lost = ["no answer"] * (self.count - len(self._answered) - dropped)

    def _receive(self, timeout: float) -> None:
        for sock in select.select(self._sockets, [], [], timeout)[0]:
            self._answered.add(int(sock.recv(100)))


def _dropped(port: int) -> int:
    """Return what the sockets at a port and its clients have dropped, their receive buffers being full.

    The supervisor keeps the sockets over all restarts, and with them their "drops", proc(5).
    """
    dropped = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        _, local, peer, *_, drops = line.split()
        if port in {int(address.partition(":")[2], 16) for address in (local, peer)}:
            dropped += int(drops)
    return dropped


def _losses(options: argparse.Namespace, result: Result) -> None:
    _lose(options, result, "connections", options.rate, _Clients)


def _datagrams(options: argparse.Namespace, result: Result) -> None:
    _lose(options, result, "datagrams", options.datagrams, _Datagrams, "--udp")


def _lose(
    options: argparse.Namespace,
    result: Result,
    what: str,
    rate: float,
    load: type[_Load],
    *words: str,
) -> None:
    changes = [
        ("SIGHUP", options.restarts, Deployment.restart),
        ("SIGUSR2", options.replacements, Deployment.replace),
    ]
    lost = Metric(LOST, what, "lower")
    sent = Metric(what, what)
    with deployed(2, "echo", *words) as (deployment, _):
        for name, times, change in changes:
            with load(deployment.address, rate) as clients:
                took = [_timed(change, deployment) for _ in range(times)]
            workload = f"{times} times {name}, {rate:g} {what} a second"
            for seconds in took:
                result.record(workload, SUBJECT, {REPLACED: seconds})
            result.record(
                workload, SUBJECT, {sent: clients.count, lost: len(clients.lost), **clients.figures}
            )
            result.failures += [f"{workload}: {error}" for error in sorted(set(clients.lost))]


def _timed(change: Callable[[Deployment], None], deployment: Deployment) -> float:
    begun = time.monotonic()
    change(deployment)
    return time.monotonic() - begun


# Kills


def _kills(options: argparse.Namespace, result: Result) -> None:
    workload = f"SIGKILL, {options.kills} times, one of two workers"
    with deployed(2) as (deployment, pids), contextlib.ExitStack() as opened:
        victim = pids[0]
        clients = [
            opened.enter_context(socket.create_connection(deployment.address, TIMEOUT)) for _ in range(40)
        ]
        _burst(clients)
        others: list[socket.socket] = []
        for number in range(options.kills):
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            (victim,) = deployment.workers(1)
            result.record(workload, SUBJECT, {CONNECT_AGAIN: time.monotonic() - begun})
            if number == 0:
                ended, _, _ = select.select(clients, [], [], 0)
                others = [client for client in clients if client not in ended]
        lost = sum(not _answers(client) for client in others)
        result.record(workload, SUBJECT, {OTHERS_LOST: lost})
        if lost:
            result.failures.append(
                f"{workload}: {lost} of {len(others)} connections of the other one were lost"
            )


def _answers(client: socket.socket) -> bool:
    try:
        client.sendall(_MESSAGE)
        return client.recv(100) == _MESSAGE
    except OSError:
        return False


# Capacity


def _capacities(options: argparse.Namespace, result: Result) -> None:
    workload = "echo, 64 connections in bursts, two workers"
    for _ in range(options.rounds):
        with deployed(1) as (deployment, pids):
            one, _ = _cost(deployment, pids, options.seconds)
        with deployed(2) as (deployment, pids):
            two, busiest = _cost(deployment, pids, options.seconds)
        result.record(workload, SUBJECT, {CAPACITY: 2 * one / two, BUSIEST: busiest})


def _cost(deployment: Deployment, pids: list[int], seconds: float) -> tuple[float, float]:
    """Return the CPU seconds of a message, and the busiest worker's part of the CPU time, of an even one."""
    with contextlib.ExitStack() as opened:
        clients = [
            opened.enter_context(socket.create_connection(deployment.address, TIMEOUT)) for _ in range(64)
        ]
        _burst(clients)
        before = [_cpu_seconds(pid) for pid in pids]
        end = time.monotonic() + seconds
        bursts = 0
        while time.monotonic() < end:
            _burst(clients)
            bursts += 1
        spent = [_cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
    return sum(spent) / (bursts * len(clients)), max(spent) / sum(spent) * len(pids)


def _burst(clients: list[socket.socket]) -> None:
    for client in clients:
        client.sendall(_MESSAGE)
    for client in clients:
        if client.recv(len(_MESSAGE), socket.MSG_WAITALL) != _MESSAGE:
            raise OSError("a connection was lost")


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


# Idleness


def _idleness(options: argparse.Namespace, result: Result) -> None:
    workload = f"idle for {options.watch_seconds:g} s, two workers"
    with deployed(2) as (deployment, pids), _bare_interpreter() as bare:
        result.record(workload, SUBJECT, {MEMORY: _resident(deployment.pid) - _resident(bare)})
        result.record(workload, SUBJECT, {CALLS: _calls([deployment.pid, *pids], options.watch_seconds)})


@contextlib.contextmanager
def _bare_interpreter() -> Iterator[int]:
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return int(re.search(r"Rss:\s+(\d+)", file.read())[1]) * 1024  # type: ignore[index]


def _calls(pids: list[int], seconds: float) -> int:
    """Return how many calls strace sees begin: those that wait already are shown too, and left out."""
    words = [word for pid in pids for word in ("-p", str(pid))]
    done = subprocess.run(
        ["timeout", "--signal=INT", f"{seconds}", "strace", "-f", "-q", "-e", "signal=none", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    waiting = re.compile(r"(epoll_wait|restart_syscall|futex)\(.*(unfinished|detached)")
    lines = [line for line in done.stderr.splitlines() if "(" in line and not line.startswith("strace:")]
    return sum(waiting.search(line) is None for line in lines)
