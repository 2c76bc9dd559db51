"""Loads as processes: `python -m bench.harness.loads NAME PORT [NUMBER]`, with a name in `LOADS`.

They go on until standard input ends. Each line there is answered with a line of JSON: the figures since the
last one. The interactive peer measures; it runs at a higher priority than the floods, which share its core,
and reports how late it woke up itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

from bench.harness.clients import raise_descriptor_limit, reset_at_close, run_first

__all__ = ["LOADS"]

_MESSAGE = b"x" * 64
_HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n"
_ENDLESS_HEADER = b"PROXY UNKNOWN "  # up to 107 bytes before its CR LF
_PAUSES = (0.001, 0.005)  # seconds between two messages; evenly spread, so as not to march with a timer
_PIECE = bytes(1 << 16)
_CONNECTS = 10_000  # asked for in a second
_BURST = 64  # connects in one go
_WAIT = 10.0


class Load(Protocol):
    """One load."""

    def step(self) -> None:
        """Do a few milliseconds of it."""

    def take(self) -> dict[str, float]:
        """Return the figures since the last call."""


class Interactive:
    """One small message in flight, one each few milliseconds: the round trips, and its own lateness.

    proxied: whether it begins with a PROXY header.
    """

    message = _MESSAGE
    answer = len(_MESSAGE)  # bytes

    def __init__(self, port: int, proxied: int = 0) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=_WAIT)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxied:
            self._connection.sendall(_HEADER)
        self._trips: list[float] = []
        self._late: list[float] = []
        run_first()

    def step(self) -> None:
        """Sleep, send and receive."""
        due = time.perf_counter() + random.uniform(*_PAUSES)
        time.sleep(due - time.perf_counter())
        started = time.perf_counter()
        self._connection.sendall(self.message)
        left = self.answer
        while left:
            more = self._connection.recv(left)
            if not more:
                raise ConnectionError("the server closed the interactive peer's connection")
            left -= len(more)
        self._trips.append(time.perf_counter() - started)
        self._late.append(started - due)

    def take(self) -> dict[str, float]:
        """Return the percentiles, in seconds; of one trip at least."""
        if not self._trips:
            self.step()
        trips, self._trips = self._trips, []
        late, self._late = self._late, []
        return {
            "messages": len(trips),
            "p50": statistics.median(trips),
            "p99": percentile(trips, 99),
            "max": max(trips),
            "own_p99": percentile(late, 99),
        }


class Page(Interactive):
    """The same with requests for a page, whose answers all have one length."""

    message = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._connection.sendall(self.message)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._connection.recv(1 << 16)
        head, _, body = answer.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < size:
            body += self._connection.recv(1 << 16)
        self.answer = len(head) + 4 + size


class Probe(Page):
    """The same with requests to a status page."""

    message = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Talk:
    """One connection that sends and receives as fast as the server lets it."""

    def __init__(self, port: int) -> None:
        os.nice(19)
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=_WAIT)
        self._connection.setblocking(False)
        self._bytes = 0

    def step(self) -> None:
        """Receive what is there, and send what is taken."""
        select.select([self._connection], [self._connection], [], 0.01)
        with contextlib.suppress(BlockingIOError):
            self._bytes += len(self._connection.recv(len(_PIECE)))
        with contextlib.suppress(BlockingIOError):
            self._connection.send(_PIECE)

    def take(self) -> dict[str, float]:
        """Return the bytes that came back."""
        taken, self._bytes = self._bytes, 0
        return {"bytes": taken}


class Connects:
    """Connects and closes at a steady rate, whether or not the server keeps up."""

    def __init__(self, port: int) -> None:
        os.nice(19)
        self._port = port
        self._sources = count()
        self._due = time.perf_counter()
        self._connects = 0

    def step(self) -> None:
        """Connect as often as the time that has passed asks for; no more than a burst."""
        now = time.perf_counter()
        wanted = min(_BURST, int((now - self._due) * _CONNECTS))
        if not wanted:
            time.sleep(0.0005)
            return
        # Connects missed for lack of time are not made up for.
        self._due = max(self._due + wanted / _CONNECTS, now - _BURST / _CONNECTS)
        source = (f"127.0.2.{1 + next(self._sources) % 200}", 0)
        for number in range(wanted):
            with socket.socket() as connection:
                connection.setblocking(False)
                connection.bind(source)
                connection.connect_ex(("127.0.0.1", self._port))
                if number % 8:  # as churn: a port that is closed in order rests for a minute
                    reset_at_close(connection)
            self._connects += 1

    def take(self) -> dict[str, float]:
        """Return how many there were."""
        taken, self._connects = self._connects, 0
        return {"connects": taken}


class Loris:
    """Connections that send a byte each `interval` milliseconds, and never a whole message.

    proxied: whether they begin with a PROXY header, which never ends.
    """

    def __init__(self, port: int, number: int, interval: int, proxied: int = 0) -> None:
        self._every = interval / 1000 / number
        self._open: list[socket.socket] = []
        for _ in range(number):
            self._open.append(socket.create_connection(("127.0.0.1", port), timeout=_WAIT))
            if proxied:
                self._open[-1].send(_ENDLESS_HEADER)
        self._next = 0
        self._due = time.perf_counter()

    def step(self) -> None:
        """Send a byte on each connection that is due."""
        time.sleep(0.002)
        now = time.perf_counter()
        while self._open and self._due < now:
            self._due += self._every
            self._next = (self._next + 1) % len(self._open)
            try:
                self._open[self._next].send(b"x")
            except OSError:
                self._open.pop(self._next).close()
                self._next = 0

    def take(self) -> dict[str, float]:
        """Return how many are open."""
        return {"open": len(self._open)}


class Trying:
    """Clients that reconnect after half a second without an answer, and stay once they are served."""

    PATIENCE = 0.5

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._tries = 0
        self._served = 0
        self._waiting: dict[socket.socket, float] = {}
        self._staying: list[socket.socket] = []
        for _ in range(number):
            self._try()

    def _try(self) -> None:
        self._tries += 1
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self._port))
        with contextlib.suppress(OSError):
            connection.send(_MESSAGE)
        self._waiting[connection] = time.perf_counter() + self.PATIENCE

    def step(self) -> None:
        """Keep the connections that were answered, and retry those that timed out."""
        for connection in select.select(list(self._waiting), [], [], 0.01)[0]:
            with contextlib.suppress(OSError):
                if connection.recv(len(_MESSAGE)):
                    self._served += 1
                    self._staying.append(connection)
                    del self._waiting[connection]
                    continue
            self._waiting[connection] = 0.0
        now = time.perf_counter()
        for connection in [one for one, until in self._waiting.items() if until <= now]:
            del self._waiting[connection]
            connection.close()
            self._try()

    def take(self) -> dict[str, float]:
        """Return how many tries there were, and how many were answered."""
        tries, self._tries = self._tries, 0
        served, self._served = self._served, 0
        return {"tries": tries, "served": served}


LOADS: dict[str, Any] = {
    "interactive": Interactive,
    "page": Page,
    "probe": Probe,
    "talk": Talk,
    "connects": Connects,
    "loris": Loris,
    "trying": Trying,
}


def percentile(values: Sequence[float], which: float) -> float:
    """Return the percentile `which` of `values`; of fewer than two, the highest."""
    if len(values) < 2:
        return max(values, default=0.0)
    return statistics.quantiles(values, n=1000, method="inclusive")[round(which * 10) - 1]


def main() -> None:
    """Run the load named on the command line."""
    _, name, port, *numbers = sys.argv
    raise_descriptor_limit()
    load: Load = LOADS[name](int(port), *map(int, numbers))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        load.step()
        if not select.select([0], [], [], 0)[0]:
            continue
        if not os.read(0, 4096):
            return
        sys.stdout.write(json.dumps(load.take()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
