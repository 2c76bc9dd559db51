"""Datagrams: the servers that are measured, each as its loop's documentation recommends, and their load.

A server does one thing, its WORD: "echo" sends back; "drop" receives and counts; "blast" sends datagrams of
1,200 B to whoever has sent one, until an empty one comes; "slow" takes 20 µs for each and counts. It answers
each line of input with its counts, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs

from bench.harness.clients import BrokenServerError
from bench.harness.echoes import on_asyncio, on_uvloop
from bench.harness.measure import Server
from bench.harness.native import compiled
from bench.harness.process import program
from bench.harness.servers import announce

__all__ = ["DATAGRAM_SERVERS", "Sent", "load"]

SIZE = 1200  # bytes of a datagram of "blast"
_AT_ONCE = 216  # datagrams of one callback of it: four runs of GSO
_WORK = 20e-6  # seconds that "slow" takes for each
_EVERY = 0.005  # seconds between two callbacks of the timer whose lateness is measured
_ROOM = 1 << 22  # SO_RCVBUF, of which the kernel gives as much as net.core.rmem_max


class _Counts:
    """What a server has done, and how late its timer was."""

    def __init__(self, call_later: Callable[..., object]) -> None:
        self.received = self.sent = 0
        self.late = 0.0
        self._call_later = call_later
        self._due = time.perf_counter()
        self.tick()

    def tick(self) -> None:
        now = time.perf_counter()
        self.late = max(self.late, now - self._due)
        self._due = now + _EVERY
        self._call_later(_EVERY, self.tick)

    def answer(self, **more: int) -> None:
        figures = {"received": self.received, "sent": self.sent, "late": self.late, **more}
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()
        self.late = 0.0


class _Endpoint(asyncio.DatagramProtocol):
    """A protocol for asyncio's loops and for this project, where `sendto` is called `send`."""

    def __init__(self, counts: _Counts, call_soon: Callable[..., object]) -> None:
        self.counts = counts
        self.call_soon = call_soon

    def connection_made(self, transport: Any) -> None:
        self.send = getattr(transport, "send", transport.sendto)


class _Echo(_Endpoint):
    def datagram_received(self, data: bytes, address: Any) -> None:
        self.send(data, address)


class _Drop(_Endpoint):
    def datagram_received(self, data: bytes, address: Any) -> None:
        self.counts.received += 1


class _Slow(_Endpoint):
    def datagram_received(self, data: bytes, address: Any) -> None:
        self.counts.received += 1
        end = time.perf_counter() + _WORK
        while time.perf_counter() < end:
            pass


class _Blast(_Endpoint):
    target: Any = None

    def datagram_received(self, data: bytes, address: Any) -> None:
        started, self.target = self.target is None, address if data else None
        if started and data:
            self.blast()

    def blast(self) -> None:
        if self.target is not None:
            for _ in range(_AT_ONCE):
                self.send(_PAYLOAD, self.target)
            self.counts.sent += _AT_ONCE
            self.call_soon(self.blast)


_PAYLOAD = bytes(SIZE)
_PROTOCOLS: dict[str, type[_Endpoint]] = {"echo": _Echo, "drop": _Drop, "slow": _Slow, "blast": _Blast}


def _reactor(word: str) -> None:
    from reactor import Reactor

    with Reactor() as reactor:
        counts = _Counts(reactor.call_later)
        endpoint = reactor.bind_datagram(
            "127.0.0.1:0",
            lambda: _PROTOCOLS[word](counts, reactor.call_soon),
            gro=word == "drop",
            gso=word == "blast",
            options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)],
        )

        def read() -> None:
            if not sys.stdin.readline():
                reactor.stop()
                return
            counts.answer(dropped=endpoint.stats().dropped.get("kernel", 0))

        announce(endpoint.address.port or 0)
        reactor.add_reader(0, read)
        reactor.run()


async def _asyncio(word: str) -> None:
    loop = asyncio.get_running_loop()
    counts = _Counts(loop.call_later)
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _PROTOCOLS[word](counts, loop.call_soon),
        ("127.0.0.1", 0),
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
    ended = asyncio.Event()

    def read() -> None:
        if sys.stdin.readline():
            counts.answer()
        else:
            ended.set()

    announce(transport.get_extra_info("sockname")[1])
    loop.add_reader(0, read)
    await ended.wait()


DATAGRAM_SERVERS: dict[str, Callable[..., None]] = {
    "reactor": _reactor,
    "uvloop": on_uvloop(_asyncio),
    "asyncio": on_asyncio(_asyncio),
}


@attrs.frozen
class Sent:
    """What a load has sent, received and lost in so many seconds, and the server's CPU time meanwhile."""

    sent: int
    received: int
    lost: int
    seconds: float
    cpu: float = 0.0
    waited: float = 0.0


def load(
    server: Server,
    mode: str,
    seconds: float,
    *,
    clients: int = 1,
    size: int = SIZE,
    depth: int = 1,
    rate: float = 0,
) -> Sent:
    """Run the load of `datagrams.c` for so long. Raises BrokenServerError without a C compiler."""
    native = compiled("datagrams")
    if native is None:
        raise BrokenServerError("the load needs a C compiler: install cc")
    words = map(str, (mode, server.port, clients, size, depth, seconds, rate))
    with program("the load", os.fspath(native), *words) as child:
        child.line()
        cpu, waited = server.cpu_seconds(), server.waited_seconds()
        child.send(b"\n")
        answer = child.answer(60 + seconds)
        return Sent(**answer, cpu=server.cpu_seconds() - cpu, waited=server.waited_seconds() - waited)
