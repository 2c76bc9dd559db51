"""The load of `load.c` in Python, where there is no C compiler: the same arguments, input and result.

It does as little as Python can for a message, a read and a write, and is still slower than some servers.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import sys
import time
from collections import Counter, deque
from itertools import count
from pathlib import Path

import attrs

__all__ = ["main"]

_WAIT = 10.0  # seconds that a server may take to answer before it counts as broken
_READ = 1 << 18
_PER_SOURCE = 8192  # connections from one address of the loopback net, which has as many ports three times
_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_sources = count(os.getpid() * 16 * _PER_SOURCE)


@attrs.define
class Plan:
    """The arguments, as `load.c` has them."""

    port: int = attrs.field(converter=int)
    connections: int = attrs.field(converter=int)
    size: int = attrs.field(converter=int)
    depth: int = attrs.field(converter=int)
    seconds: float = attrs.field(converter=float)
    rate: float = attrs.field(converter=float)
    mode: str
    tls: str


@attrs.define(eq=False)
class Peer:
    """One connection; `due` has the time at which each message without an answer was to be sent."""

    socket: socket.socket
    due: deque[float] = attrs.field(factory=deque)
    received: int = 0
    unsent: bytes = b""
    waits: bool = False


@attrs.define
class Load:
    """The peers of one server, and what they have counted."""

    plan: Plan
    message: bytes
    answer: bytes
    poller: select.epoll = attrs.field(factory=select.epoll)
    peers: dict[int, Peer] = attrs.field(factory=dict)
    latencies: Counter[int] = attrs.field(factory=Counter)
    answered: int = 0
    end: float = 0.0

    def connect(self) -> socket.socket:
        """Return a new connection, from an address that has free ports."""
        source = next(_sources) // _PER_SOURCE % 0xEFFFF + 1
        address = f"127.{16 + (source >> 16)}.{source >> 8 & 255}.{source & 255}"
        made = socket.create_connection(("127.0.0.1", self.plan.port), _WAIT, (address, 0))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.plan.tls == "0":
            return made
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the server is ours
        context.minimum_version = context.maximum_version = getattr(
            ssl.TLSVersion, f"TLSv{self.plan.tls.replace('.', '_')}"
        )
        return context.wrap_socket(made, server_hostname="localhost")

    def verify(self, connection: socket.socket) -> None:
        """Receive the answer to the first message, and compare each of its bytes."""
        got = b""
        while len(got) < len(self.answer):
            more = connection.recv(_READ)
            if not more:
                sys.exit("the server closed the connection")
            got += more
        if got != self.answer:
            sys.exit("the server did not answer what it should")

    def add(self, connection: socket.socket) -> Peer:
        """Watch a connection from now on."""
        connection.setblocking(False)
        self.poller.register(connection, select.EPOLLIN)
        peer = self.peers[connection.fileno()] = Peer(connection)
        return peer

    def send(self, peer: Peer, due: float, number: int = 1) -> None:
        """Send `number` messages that were due then; what does not fit goes later."""
        peer.due.extend([due] * number)
        peer.unsent += self.message * number
        self.flush(peer)

    def flush(self, peer: Peer) -> None:
        """Send what is due."""
        try:
            peer.unsent = peer.unsent[peer.socket.send(peer.unsent) :] if peer.unsent else b""
        except _BLOCKED:
            pass
        if bool(peer.unsent) is not peer.waits:
            peer.waits = not peer.waits
            self.poller.modify(peer.socket, select.EPOLLIN | (select.EPOLLOUT if peer.waits else 0))

    def receive(self, peer: Peer, *, again: bool) -> None:
        """Receive; with `again` send as many messages as were answered, until the end."""
        try:
            got = len(peer.socket.recv(_READ))
        except _BLOCKED:
            return
        if not got:
            sys.exit("the server closed a connection")
        now = time.perf_counter()
        answers, peer.received = divmod(peer.received + got, len(self.answer))
        if answers > len(peer.due):
            sys.exit("the server answered too much")
        for _ in range(answers):
            latency = now - peer.due.popleft()
            if now < self.end or self.plan.rate:  # a message that was due is counted, however late
                self.latencies[round(latency * 1e9)] += 1
        self.answered += answers
        if again and answers and now < self.end:
            self.send(peer, now, answers)

    def step(self, timeout: float, *, again: bool) -> None:
        """Handle the events of the next `timeout` seconds."""
        for fd, event in self.poller.poll(timeout, max(1, len(self.peers))):
            peer = self.peers[fd]
            if event & select.EPOLLOUT:
                self.flush(peer)
            if event & ~select.EPOLLOUT:
                self.receive(peer, again=again)

    def run(self) -> float:
        """Run, then wait for the answers that are missing; return the seconds that it ran."""
        started = time.perf_counter()
        self.end = started + self.plan.seconds
        {"echo": self.closed_loop, "churn": self.churn}[self.plan.mode]() if not self.plan.rate else (
            self.open_loop(started)
        )
        took = time.perf_counter() - started
        while any(peer.due for peer in self.peers.values()):
            before = self.answered
            self.step(_WAIT, again=False)
            if self.answered == before and time.perf_counter() > self.end + _WAIT:
                sys.exit("the server stopped answering")
        return took

    def closed_loop(self) -> None:
        """Keep `depth` messages in flight on each connection."""
        for peer in self.peers.values():
            self.send(peer, time.perf_counter(), self.plan.depth)
        while time.perf_counter() < self.end:
            self.step(_WAIT, again=True)

    def open_loop(self, started: float) -> None:
        """Send `rate` messages a second, one connection after the other."""
        peers = list(self.peers.values())
        sent = 0
        total = round(self.plan.rate * self.plan.seconds)
        while (now := time.perf_counter()) < self.end or sent < total:
            while (due := started + sent / self.plan.rate) <= now and sent < total:
                self.send(peers[sent % len(peers)], due)
                sent += 1
            self.step(max(0.0, min(due, self.end) - time.perf_counter()), again=False)

    def churn(self) -> None:
        """Connect, send, receive and close, again and again, `connections` at a time."""
        for _ in range(self.plan.connections):
            self.begin_cycle()
        while time.perf_counter() < self.end:
            self.step(_WAIT, again=False)
            for peer in [peer for peer in self.peers.values() if not peer.due]:
                del self.peers[peer.socket.fileno()]
                peer.socket.close()
                if time.perf_counter() < self.end:
                    self.begin_cycle()

    def begin_cycle(self) -> None:
        """Connect and send."""
        now = time.perf_counter()
        self.send(self.add(self.connect()), now)


def kept_waiting() -> float:
    """Return the seconds in which this process was ready to run and another had its core."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def main() -> None:
    """Run the load of the command line."""
    try:
        _main()
    except OSError as exc:
        sys.exit(f"the server does not answer: {exc.strerror or exc}")


def _main() -> None:
    plan = Plan(*sys.argv[1:])
    message, answer = sys.stdin.buffer.read(plan.size), sys.stdin.buffer.read(plan.size)
    load = Load(plan, message, answer)
    connections = [load.connect() for _ in range(plan.connections)]
    for connection in connections:
        connection.sendall(message)
    for connection in connections:
        load.verify(connection)
        if plan.mode == "churn":
            connection.close()
        else:
            load.add(connection)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.readline()
    waited = kept_waiting()
    took = load.run()
    result = {
        "messages": load.latencies.total(),
        "answered": load.answered,
        "seconds": took,
        "waited_seconds": kept_waiting() - waited,
        "latencies": sorted(load.latencies.items()),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
