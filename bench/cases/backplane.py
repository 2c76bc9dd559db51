"""Backplane: messages between processes over Redis: faults of the broker, latency, CPU, memory, deafness."""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from rich.progress import Progress

from bench.cases.broadcast import talk
from bench.harness.clients import open_connections, run_first
from bench.harness.measure import put_on_core
from bench.harness.metrics import CPU, P50, P99
from bench.harness.options import add_rounds, add_seconds
from bench.harness.process import Child, ChildFailedError, child
from bench.harness.rounds import side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

WORKERS = 4  # two nodes with two workers each; for the broker that is the same as four nodes
RATE = 10_000  # messages a second

RECEIVED = Metric("received", "messages", "higher")
MISSING = Metric("missing", "messages")
TOLD = Metric("reported as missing", "messages")
UNKNOWN = Metric("gaps of unknown size", "gaps")
SILENT = Metric("missing in silence", "messages", "lower")
DOUBLED = Metric("doubled", "messages", "lower")
RECOVERED = Metric("read from the history", "messages")
TOOK = Metric("time", "s", "lower")
KILLED = Metric("broker killed", "times")
STOPPED = Metric("broker stopped", "times")
CLIENTS = Metric("connections killed", "connections")
OVERRUN = Metric("subscribers cut off", "connections")
MEMORY = Metric("memory/topic", "B", "lower")
DEAF = Metric("until it knows", "s", "lower")
HEARS = Metric("until it hears again", "s", "lower")

_OVERRUN = ("CONFIG", "SET", "client-output-buffer-limit", "pubsub 4096 4096 1")
_RESTORED = ("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")
_STOPPED = 6.0  # seconds that the broker is stopped
_OVERRUN_WITHIN = 10.0  # seconds in which a subscriber must have been cut off
_WAIT = 120.0  # seconds that the workers may take to get all when the faults are over


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, default=3)
    add_seconds(parser, default=5.0)
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N", help="while the broker fails")
    parser.add_argument("--faults", type=int, default=10, metavar="N", help="of the broker")
    parser.add_argument("--topics", type=int, default=100, metavar="N")
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="members of one topic")


@attrs.frozen
class Load:
    """What is published while the broker fails: so many messages in all, and how often it fails."""

    messages: int
    topics: int
    faults: int
    history: int = 1000

    def __str__(self) -> str:
        return f"{self.messages:,} messages, {self.topics} topics, {self.faults} faults"


@attrs.define
class Broker:
    """A redis-server with an append-only file in a folder of its own."""

    folder: str
    fsync: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"unix://{self.folder}/redis.sock"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            raise ChildFailedError("redis-server is missing: install the package redis-server")
        options = ["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--logfile", "log"]
        options += ["--appendonly", "yes" if self.fsync else "no", "--appendfsync", self.fsync or "no"]
        self.process = subprocess.Popen([program, "--dir", self.folder, *options], cwd=self.folder)
        while not self._answers():
            if self.process.poll() is not None:
                raise ChildFailedError((Path(self.folder) / "log").read_text())
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return self.call("PING").startswith(b"+PONG")
        except OSError:
            return False

    def call(self, *command: str) -> bytes:
        """Send a command; return the beginning of the reply."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.folder}/redis.sock")
            parts = [f"${len(part)}\r\n{part}\r\n" for part in command]
            client.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
            return client.recv(65536)

    def subscribers(self) -> set[bytes]:
        """Return the numbers of the connections that subscribe."""
        return set(re.findall(rb"^id=(\d+)", self.call("CLIENT", "LIST", "TYPE", "pubsub"), re.MULTILINE))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextmanager
def _broker(fsync: str = "") -> Iterator[Broker]:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(folder, fsync)
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure all parts, one after the other."""
    whole = Load(options.messages, options.topics, options.faults)
    part = Load(options.messages // 25, max(1, options.topics // 5), min(4, options.faults), history=100)
    for load, fsync, note in (
        (whole, "always", ""), (whole, "everysec", ""), (part, "always", f", a history of {part.history}")
    ):  # fmt: skip
        workload = f"{load}, {fsync}{note}"
        result.record(workload, "reactor", _fail(load, fsync, progress, workload))
    with _broker() as broker:
        latency = partial(_latency, broker, options.seconds)
        workload = f"publish to receive, {RATE:,} messages/s"
        side_by_side(
            result, progress, workload, {k: k for k in ("reactor", "redis-py")}, options.rounds, latency
        )
        workload = f"to {options.connections:,} members of a topic"
        spread = partial(_spread, broker, options.connections, options.seconds)
        kinds = {"without a backplane": "direct", "RedisBackplane": "redis", "LocalBackplane": "local"}
        side_by_side(result, progress, workload, kinds, options.rounds, spread)
        for kind in ("local", "redis"):
            with _process("topics", kind, broker.url, "10000") as process:
                result.record("10,000 topics without messages", kind, {MEMORY: process.answer()["bytes"]})
        for _ in range(options.rounds):
            result.record("a broker that is stopped", "reactor", _stop(broker))


@contextmanager
def _process(*words: str) -> Iterator[Child]:
    with child(words[0], "bench.harness.backplanes", *words) as process:
        yield process


# Faults of the broker


def _kill(broker: Broker) -> dict[Metric, int]:
    broker.kill()
    broker.start()
    return {KILLED: 1}


def _hang(broker: Broker) -> dict[Metric, int]:
    broker.signal(signal.SIGSTOP)
    time.sleep(_STOPPED)
    broker.signal(signal.SIGCONT)
    return {STOPPED: 1}


def _kill_clients(broker: Broker) -> dict[Metric, int]:
    answers = [broker.call("CLIENT", "KILL", "TYPE", kind) for kind in ("pubsub", "normal")]
    return {CLIENTS: sum(int(answer.strip().removeprefix(b":")) for answer in answers)}


def _overrun(broker: Broker) -> dict[Metric, int]:
    before, end = broker.subscribers(), time.monotonic() + _OVERRUN_WITHIN
    broker.call(*_OVERRUN)
    while before <= broker.subscribers() and time.monotonic() < end:
        time.sleep(0.05)
    broker.call(*_RESTORED)
    return {OVERRUN: len(before - broker.subscribers())}


_FAULTS: tuple[Callable[[Broker], dict[Metric, int]], ...] = (_kill, _hang, _kill_clients, _overrun)


def _fail(load: Load, fsync: str, progress: Progress, workload: str) -> dict[Metric, float]:
    """Publish while the broker fails; return what all workers together have got, and what not."""
    each = load.messages // WORKERS // load.topics * load.topics
    faults: Counter[Metric] = Counter(dict.fromkeys((KILLED, STOPPED, CLIENTS, OVERRUN), 0))
    with _broker(fsync) as broker, ExitStack() as stack:
        workers = [
            stack.enter_context(
                _process("worker", broker.url, *map(str, (n, load.topics, each, load.history)))
            )
            for n in range(WORKERS)
        ]
        for worker in workers:
            worker.answer()
        time.sleep(1)
        begun = time.monotonic()
        for worker in workers:
            worker.send(b"go\n")
        for number in progress.track(range(load.faults), description=workload):
            due = load.messages * (number + 0.5) / load.faults
            while _published(workers) < due:
                time.sleep(0.05)
            faults.update(_FAULTS[number % len(_FAULTS)](broker))
        counts = _final(workers, each * WORKERS)
        return {**faults, **_figures(counts, time.monotonic() - begun)}


def _published(workers: list[Child]) -> int:
    return sum(worker.ask("report")["sent"] for worker in workers)


def _final(workers: list[Child], expected: int) -> Counter[str]:
    """Return the counts of all workers when each has got everything, or nothing comes any more."""
    end, before = time.monotonic() + _WAIT, None
    while time.monotonic() < end:
        reports = [worker.ask("report") for worker in workers]
        complete = all(report["sent"] * WORKERS == expected and not report["queued"] for report in reports)
        got = [report.get("received", 0) + report.get("doubled", 0) for report in reports]
        if complete and got == before:
            break
        before = got
        time.sleep(2)
    total: Counter[str] = Counter(recovered=sum(report["recovered"] for report in reports))
    for worker in workers:
        total.update(worker.ask("finish"))
    return total


def _figures(counts: Counter[str], took: float) -> dict[Metric, float]:
    return {
        RECEIVED: counts["received"], RECOVERED: counts["recovered"], TOLD: counts["told"],
        UNKNOWN: counts["unknown"], MISSING: counts["missing"], SILENT: counts["silent"],
        DOUBLED: counts["doubled"], TOOK: took,
    }  # fmt: skip


# The other figures


def _latency(broker: Broker, seconds: float, kind: str) -> dict[Metric, float]:
    with _process("receive", kind, broker.url) as receiver:
        receiver.answer()
        with _process("send", kind, broker.url, str(RATE), str(seconds)) as sender:
            for pid in (broker.pid, receiver.pid, sender.pid):
                run_first(pid)
            sent = sender.answer()["sent"]
        time.sleep(0.2)
        receiver.send(b"stop\n")
        answer = receiver.answer()
        if answer["received"] != sent:
            raise ChildFailedError(f"{kind}: {sent} messages were sent, {answer['received']} received")
    return {P50: answer["p50"], P99: answer["p99"], CPU: answer["cpu"] / sent}


def _spread(broker: Broker, members: int, seconds: float, kind: str) -> dict[Metric, float]:
    with _process("server", kind, broker.url) as process:
        port = process.answer()["port"]
        put_on_core(process.pid)
        with open_connections(port, members) as room:
            for member in room:
                member.setblocking(False)
            talk(room, b"x" * 256, 0.1)  # the last member is there when all have heard
            cpu = _cpu(process)
            messages, _ = talk(room, b"x" * 256, seconds)
            return {CPU: (_cpu(process) - cpu) / messages}


def _cpu(process: Child) -> float:
    return time.clock_gettime(~process.pid << 3 | 2)  # as `bench.harness.measure.Server`


def _stop(broker: Broker) -> dict[Metric, float]:
    with _process("watch", broker.url) as watcher:
        _wait_for(watcher, "up")
        stopped = time.monotonic()
        broker.signal(signal.SIGSTOP)
        deaf = _wait_for(watcher, "deaf")
        time.sleep(3)
        returned = time.monotonic()
        broker.signal(signal.SIGCONT)
        return {DEAF: deaf - stopped, HEARS: _wait_for(watcher, "up") - returned}


def _wait_for(watcher: Child, state: str) -> float:
    while True:
        change: dict[str, Any] = watcher.answer()
        if change["state"] == state:
            return float(change["at"])
