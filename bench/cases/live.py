"""Live connections through restarts under a supervisor: nothing lost, and how long a restart takes.

The server is `python -m reactor serve --workers 1`, each restart a SIGHUP. First idle members of a chat, one
in ten of whom says something meanwhile: all must be there afterwards, with name and room, and each must hear
each line of its room once. Then connections of an echo server that send at full speed: each byte must come
back once and in order. Then clients of HTTP that post on kept connections: each POST must be answered, and
handled once.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Self

import attrs
from rich.progress import Progress

from bench.harness.clients import open_connections, raise_descriptor_limit
from bench.harness.deployment import TIMEOUT, Deployment, deployed
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

SUBJECT = "reactor"
ROOM = 20  # members
TALKERS = 10  # one member of as many says something

MOVED = Metric("until all are handed over", "s", "lower", compared=True)
RESTARTED = Metric("until the old worker has exited", "s", "lower")
WRONG = Metric("lost or wrong", "connections", "lower")
ECHOED = Metric("bytes echoed", "B")
ANSWERED = Metric("answered", "POSTs")
MISSED = Metric("lost or doubled", "POSTs", "lower")

_STEPS = r"connections: (\d+) handed over, (\d+) kept|has drained: it exited with status 0"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="restarts of the chat")
    parser.add_argument("--members", type=int, default=10_000, metavar="N", help="of the chat")
    parser.add_argument("--streams", type=int, default=64, metavar="N", help="connections that echo")
    parser.add_argument("--restarts", type=int, default=20, metavar="N", help="of the echo server")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure each in turn."""
    raise_descriptor_limit()
    for step in progress.track([_chat, _echo, _posts], description="restarting"):
        step(options, result)


def _fail(result: Result, workload: str, wrong: list[str]) -> None:
    result.record(workload, SUBJECT, {WRONG: len(wrong)})
    result.failures += [f"{workload}: {problem}" for problem in wrong[:5]]


def _restart(
    deployment: Deployment, number: int, meanwhile: Callable[[], object] | None = None
) -> dict[Metric, float]:
    """Restart the worker, with `number` connections. Raises OSError if not all of them go over."""
    begun = time.monotonic()
    os.kill(deployment.pid, signal.SIGHUP)
    if meanwhile is not None:
        meanwhile()
    transfers = []
    for _ in range(3):  # the transfer as each of the two workers says it, and the end of the old one
        step = deployment.wait_for(_STEPS)
        if step[1] is not None:
            transfers.append(time.monotonic() - begun)
            if step.groups() != (str(number), "0"):
                raise OSError(f"not all were handed over: {step[0]}")
    return {MOVED: transfers[-1], RESTARTED: time.monotonic() - begun}


def _talk(members: list[socket.socket], round_: int) -> None:
    for member in members:
        member.sendall(b"round %d\r\n" % round_)


# The chat


def _chat(options: argparse.Namespace, result: Result) -> None:
    number = options.members
    workload = f"SIGHUP with {number:,} idle members of a chat"
    rooms = max(1, number // ROOM)
    with deployed(1, "chat") as (deployment, _), open_connections(deployment.address[1], number) as members:
        for index, member in enumerate(members):
            member.sendall(b"/nick m%d\r\n/join r%d\r\n" % (index, index % rooms))
        for index, member in enumerate(members):
            _hear(member, b"* m%d has joined r%d\r\n" % (index, index % rooms))
        for round_ in range(options.rounds):
            talk = partial(_talk, members[::TALKERS], round_)
            result.record(workload, SUBJECT, _restart(deployment, number, meanwhile=talk))
            _fail(result, workload, _check_members(members, rooms, round_))


def _check_members(members: list[socket.socket], rooms: int, round_: int) -> list[str]:
    """Return a line for each member that has not heard each line of its room once, or has lost its place."""
    wrong = []
    for member in members:
        member.sendall(b"/who\r\n")
    for index, member in enumerate(members):
        mates = [f"m{n}" for n in range(index % rooms, len(members), rooms)]
        try:
            heard = _hear(member, b"* in r%d: " % (index % rooms), line=True)
        except OSError as exc:
            wrong.append(f"m{index}: {exc}")
            continue
        lines = heard.decode().splitlines()
        said = sorted(line for line in lines if line.endswith(f": round {round_}"))
        expected = sorted(f"{mate}: round {round_}" for mate in mates if int(mate[1:]) % TALKERS == 0)
        present = sorted(lines[-1].partition(": ")[2].split(", "))
        if said != expected or present != sorted(mates):
            wrong.append(f"m{index} heard {said}, and is in a room with {present}")
    return wrong


def _hear(member: socket.socket, what: bytes, line: bool = False) -> bytes:
    """Return what a member received up to and with `what`, and the rest of its line if asked for."""
    member.settimeout(TIMEOUT)
    heard = b""
    while what not in heard or (line and not heard.endswith(b"\r\n")):
        data = member.recv(10_000)
        if not data:
            raise OSError("its connection has ended")
        heard += data
    return heard


# Echo


@attrs.define(eq=False)
class _Stream:
    """A client that sends at full speed, and checks that each byte comes back once and in order."""

    sock: socket.socket
    sent: int = 0
    received: int = 0
    wrong: str = ""

    def pump(self, sending: bool) -> None:
        """Send and receive what the kernel takes and has."""
        if sending:
            with contextlib.suppress(BlockingIOError):
                self.sent += self.sock.send(memoryview(_PATTERN)[self.sent % _PERIOD :])
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as exc:
            self.wrong = str(exc)
            return
        at = self.received % _PERIOD
        if not data or data != _PATTERN[at : at + len(data)]:
            self.wrong = f"wrong after {self.received} bytes" if data else "its connection has ended"
        self.received += len(data)


_PERIOD = 251  # prime, so that any loss shows
_PATTERN = bytes(range(_PERIOD)) * 300


class _Streams:
    """Streams that are pumped by a thread while this is entered; at its end, until all is back."""

    def __init__(self, socks: list[socket.socket]) -> None:
        self.streams = [_Stream(sock) for sock in socks]
        for sock in socks:
            sock.setblocking(False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pump)

    def _pump(self) -> None:
        with DefaultSelector() as selector:
            for stream in self.streams:
                selector.register(stream.sock, EVENT_READ | EVENT_WRITE, stream)
            while not self._ended.is_set():
                self._pump_once(selector, sending=True)
            end = time.monotonic() + TIMEOUT
            for stream in self.streams:
                selector.modify(stream.sock, EVENT_READ, stream)
            while any(s.sent > s.received and not s.wrong for s in self.streams) and time.monotonic() < end:
                self._pump_once(selector, sending=False)

    @staticmethod
    def _pump_once(selector: DefaultSelector, sending: bool) -> None:
        for key, _ in selector.select(0.1):
            if not key.data.wrong:
                key.data.pump(sending)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()


def _echo(options: argparse.Namespace, result: Result) -> None:
    workload = f"{options.streams} connections echoing through {options.restarts} times SIGHUP"
    with ExitStack() as stack:
        deployment, _ = stack.enter_context(deployed(1))
        socks = stack.enter_context(open_connections(deployment.address[1], options.streams))
        with _Streams(socks) as echoing:
            for _ in range(options.restarts):
                result.record(workload, SUBJECT, _restart(deployment, options.streams))
        streams = echoing.streams
        wrong = [s.wrong or "bytes are missing" for s in streams if s.wrong or s.sent != s.received]
        result.record(workload, SUBJECT, {ECHOED: sum(stream.received for stream in streams)})
        _fail(result, workload, wrong)


# HTTP

_POSTERS = 8


@attrs.define(eq=False)
class _Poster:
    """A client that posts one number after the other, and connects again only where an answer says so."""

    number: int
    answered: list[bytes] = attrs.field(factory=list)
    wrong: str = ""

    def post(self, address: tuple[str, int], path: str, ended: threading.Event) -> None:
        """Post until `ended` is set."""
        client = http.client.HTTPConnection(*address, timeout=TIMEOUT)
        try:
            while not ended.is_set():
                body = b"%d.%d\n" % (self.number, len(self.answered))
                client.request("POST", path, body)
                if client.getresponse().read() != body:
                    raise OSError("the answer is another one's")
                self.answered.append(body)
        except (OSError, http.client.HTTPException) as exc:
            self.wrong = f"client {self.number}: {exc!r}"
        finally:
            client.close()


def _posts(options: argparse.Namespace, result: Result) -> None:
    workload = f"{_POSTERS} clients posting through {options.restarts} times SIGHUP"
    posters, ended = [_Poster(number) for number in range(_POSTERS)], threading.Event()
    with tempfile.TemporaryDirectory() as folder, deployed(1, "bench.harness.posted:page") as (deployment, _):
        file = os.path.join(folder, "posted")
        arguments = (deployment.address, f"/?file={file}", ended)
        threads = [threading.Thread(target=poster.post, args=arguments) for poster in posters]
        for thread in threads:
            thread.start()
        for _ in range(options.restarts):
            deployment.restart()
            deployment.wait_for("has drained: it exited with status 0")
        ended.set()
        for thread in threads:
            thread.join()
        with open(file, "rb") as found:
            handled = Counter(found.read().splitlines(keepends=True))
    answered = Counter(body for poster in posters for body in poster.answered)
    missed = (handled - answered) + (answered - handled)
    problems = [poster.wrong for poster in posters if poster.wrong]
    result.record(workload, SUBJECT, {ANSWERED: answered.total(), MISSED: missed.total() + len(problems)})
    result.failures += [f"{workload}: {each}" for each in (*problems, *map(repr, missed))][:5]
