"""Peers of every kind, good and bad: `python -m bench.harness.peers KIND PORT NUMBER SOURCE`.

NUMBER threads of one kind visit the server from the address SOURCE, one connection after the other. When
standard input ends they leave after the visit they are at, and their counters are printed as a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable

import attrs

from bench.harness.clients import reset_at_close

__all__ = ["PEERS"]

_PATIENCE = 20.0  # seconds; a server that keeps a good peer waiting for longer has lost its bytes
_SLICE = 0.2  # seconds between two looks at whether it is time to leave
_NOISE = random.randbytes(1 << 20)


@attrs.define
class Tally:
    """Counters of the peers of one kind.

    lost: bytes that came back wrong, or not at all on a connection that both sides closed in order.
    ended: connections that the server ended first. broken: connections of peers that keep the rules, which
    ended in another way than in order.
    """

    connections: int = 0
    messages: int = 0
    sent: int = 0
    received: int = 0
    lost: int = 0
    ended: int = 0
    broken: int = 0
    why: str = ""


class ShortError(ConnectionError):
    """The server closed in order before everything had come back; `missing` bytes had not."""

    def __init__(self, missing: int) -> None:
        super().__init__(f"closed by the server {missing} bytes before the end")
        self.missing = missing


@attrs.define
class Visitor:
    """One thread of peers: where they connect to, what they saw, and when they leave."""

    port: int
    source: str
    leaving: threading.Event
    tally: Tally = attrs.field(factory=Tally)

    def connect(self) -> socket.socket:
        """Return a new connection."""
        connection = socket.create_connection(
            ("127.0.0.1", self.port), timeout=_PATIENCE, source_address=(self.source, 0)
        )
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tally.connections += 1
        return connection

    def send(self, connection: socket.socket, data: bytes) -> None:
        """Send all of `data`."""
        connection.sendall(data)
        self.tally.messages += 1
        self.tally.sent += len(data)

    def expect(
        self, connection: socket.socket, expected: bytes, piece: int = 1 << 16, pause: float = 0
    ) -> None:
        """Receive `expected`, `piece` bytes each `pause` seconds; what differs is lost."""
        got = 0
        while got < len(expected):
            more = connection.recv(min(piece, len(expected) - got))
            if not more:
                raise ShortError(len(expected) - got)
            self.tally.received += len(more)
            if more != expected[got : got + len(more)]:
                self.tally.lost += len(more)
            got += len(more)
            time.sleep(pause)

    def expect_end(self, connection: socket.socket) -> None:
        """Receive the end of file; a byte before it is one that was not sent."""
        while more := connection.recv(1 << 16):
            self.tally.lost += len(more)

    def wait_for_end(self, connection: socket.socket) -> None:
        """Wait until the server ends the connection, or it is time to leave; what comes is dropped."""
        connection.settimeout(_SLICE)
        while not self.leaving.is_set():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1 << 16):
                    self.tally.ended += 1
                    return


def good(visitor: Visitor) -> None:
    """Send messages of all sizes, look at every byte that comes back, and close in order."""
    with visitor.connect() as connection:
        for _ in range(random.randint(1, 100)):
            message = _piece(1, 1 << random.randint(4, 16))
            visitor.send(connection, message)
            visitor.expect(connection, message)
        connection.shutdown(socket.SHUT_WR)
        visitor.expect_end(connection)


def half_closing(visitor: Visitor) -> None:
    """Send everything and the end of file at once, then receive it all."""
    with visitor.connect() as connection:
        message = _piece(1, 1 << 18)
        visitor.send(connection, message)
        connection.shutdown(socket.SHUT_WR)
        visitor.expect(connection, message)
        visitor.expect_end(connection)


def slow(visitor: Visitor) -> None:
    """Receive 4 KiB at a time, through a small window."""
    with visitor.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        message = _piece(1 << 16, 1 << 18)
        visitor.send(connection, message)
        visitor.expect(connection, message, piece=4096, pause=0.01)
        connection.shutdown(socket.SHUT_WR)
        visitor.expect_end(connection)


def resetting(visitor: Visitor) -> None:
    """Reset the connection with answers on their way."""
    with visitor.connect() as connection:
        for _ in range(random.randint(1, 5)):
            visitor.send(connection, _piece(1, 1 << 16))
        connection.recv(random.randint(1, 1 << 16))
        reset_at_close(connection)


def garbage(visitor: Visitor) -> None:
    """Send noise as fast as it is taken, receive some, and close with the rest unread."""
    with visitor.connect() as connection:
        connection.setblocking(False)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                visitor.tally.sent += connection.send(_piece(1, 1 << 16))
                visitor.tally.messages += 1
                visitor.tally.received += len(connection.recv(1 << 15))
            except BlockingIOError:
                time.sleep(0.001)


def silent(visitor: Visitor) -> None:
    """Send nothing, until the server closes the connection."""
    with visitor.connect() as connection:
        visitor.wait_for_end(connection)


def vanishing(visitor: Visitor) -> None:
    """Connect and close at once: in order, with a reset, or with a message unread."""
    with visitor.connect() as connection:
        if random.random() < 0.5:
            reset_at_close(connection)
        if random.random() < 0.5:
            visitor.send(connection, _piece(1, 1 << 12))
    time.sleep(0.002)


def never_reading(visitor: Visitor) -> None:
    """Send until the socket is full, read nothing, and stay until the server closes the connection."""
    with visitor.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.settimeout(_SLICE)
        while not visitor.leaving.is_set():
            try:
                visitor.tally.sent += connection.send(_piece(1, 1 << 16))
                visitor.tally.messages += 1
            except TimeoutError:
                pass
            except ConnectionError:
                visitor.tally.ended += 1
                return


def crowding(visitor: Visitor) -> None:
    """Open more connections than `max_per_ip` allows: some are served, the others refused."""
    with visitor.connect() as connection:
        try:
            for _ in range(5):
                message = _piece(1, 1 << 10)
                visitor.send(connection, message)
                visitor.expect(connection, message)
                time.sleep(_SLICE)
        except ConnectionError:
            visitor.tally.ended += 1
            time.sleep(_SLICE)


def dripping(visitor: Visitor) -> None:
    """Send a byte now and then, and never a whole message."""
    with visitor.connect() as connection:
        while not visitor.leaving.is_set():
            try:
                visitor.send(connection, b"x")
            except ConnectionError:
                visitor.tally.ended += 1
                return
            time.sleep(_SLICE)


def stopping(visitor: Visitor) -> None:
    """Exchange messages; the benchmark stops the process with SIGSTOP, and lets it go on.

    The server may end the connection meanwhile. What comes must be right all the same.
    """
    with visitor.connect() as connection:
        while not visitor.leaving.is_set():
            message = _piece(1, 1 << 16)
            try:
                visitor.send(connection, message)
                visitor.expect(connection, message)
            except ConnectionError:
                visitor.tally.ended += 1
                return


#: The name that is shown, what a visit is, and whether it keeps the rules: whether the server owes it the
#: bytes and an end in order.
PEERS: dict[str, tuple[str, Callable[[Visitor], None], bool]] = {
    "good": ("good", good, True),
    "half": ("half-closing", half_closing, True),
    "slow": ("slow reader", slow, True),
    "reset": ("resetting", resetting, False),
    "garbage": ("noise", garbage, False),
    "silent": ("silent", silent, False),
    "vanish": ("vanishing", vanishing, False),
    "never": ("never reading", never_reading, False),
    "drip": ("dripping", dripping, False),
    "crowd": ("crowding", crowding, False),
    "stop": ("SIGSTOPped", stopping, False),
}


def _piece(low: int, high: int) -> bytes:
    size = random.randint(low, high)
    start = random.randint(0, len(_NOISE) - size)
    return _NOISE[start : start + size]


def _visit(visitor: Visitor, visit: Callable[[Visitor], None], keeps_rules: bool) -> None:
    tally = visitor.tally
    while not visitor.leaving.is_set():
        try:
            visit(visitor)
        except OSError as exc:
            if not keeps_rules:
                tally.ended += 1
                continue
            tally.broken += 1
            tally.why = str(exc)
            if isinstance(exc, ShortError):
                tally.lost += exc.missing


def _sum(tallies: list[Tally]) -> dict[str, int | str]:
    counters = [attrs.asdict(tally) for tally in tallies]
    numbers = [name for name in counters[0] if name != "why"]
    return {
        **{name: sum(one[name] for one in counters) for name in numbers},
        "why": max(one["why"] for one in counters),
    }


def main() -> None:
    """Run the peers named on the command line."""
    _, kind, port, number, source = sys.argv
    _, visit, keeps_rules = PEERS[kind]
    leaving = threading.Event()
    visitors = [Visitor(int(port), source, leaving) for _ in range(int(number))]
    threads = [
        threading.Thread(target=_visit, args=(visitor, visit, keeps_rules), daemon=True)
        for visitor in visitors
    ]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for thread in threads:
        thread.start()
    sys.stdin.read()
    leaving.set()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(_sum([visitor.tally for visitor in visitors])) + "\n")


if __name__ == "__main__":
    main()
