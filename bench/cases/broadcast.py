"""Broadcast: the lines of one chat member, sent to all."""

from __future__ import annotations

import argparse
import select
import socket
import time
from functools import partial

from rich.progress import Progress

from bench.harness.clients import BrokenServerError, open_connections
from bench.harness.measure import Server
from bench.harness.metrics import CPU, RATE
from bench.harness.options import add_peers, add_rounds, add_seconds
from bench.harness.programs import PROGRAMS
from bench.harness.rounds import serve_all
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run", "talk"]

SIZE = 256  # bytes that each member gets for each line
_WAIT = 10.0  # seconds that a server may take before it counts as broken


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_seconds(parser)
    add_peers(parser, PROGRAMS["chat"])
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="members")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure."""
    workload = f"a line of {SIZE} B to {options.connections:,} members"
    measure = partial(_measure, options.connections, options.seconds)
    serve_all(result, progress, workload, options.servers, "chat", options.rounds, measure)


def _measure(members: int, seconds: float, server: Server) -> dict[Metric, float]:
    """Send the next line when every member has received the one before."""
    with open_connections(server.port, members) as room:
        _say(room, room[-1])  # the last is accepted after all others
        name = _say(room, room[0])
        for member in room:
            member.setblocking(False)
        with server.usage() as used:
            messages, took = talk(room, b"x" * (SIZE - len(name) - 2) + b"\r\n", seconds)
    return {CPU: used.cpu / messages, RATE: messages / took, **used.shares(took)}


def _say(room: list[socket.socket], speaker: socket.socket) -> bytes:
    """Send a line as `speaker` and receive it as every member; return the prefix with the name."""
    speaker.sendall(b"hear\r\n")
    for member in room:
        heard = b""
        while not heard.endswith(b": hear\r\n"):
            more = member.recv(65536)
            if not more:
                raise BrokenServerError("the server closed a member's connection")
            heard = heard[-SIZE:] + more
    return heard.splitlines()[-1].removesuffix(b"hear")


def talk(room: list[socket.socket], line: bytes, seconds: float) -> tuple[int, float]:
    """Send `line` as the first member, again when all have received it, for `seconds`.

    Returns how many were received, and the time.
    """
    messages = 0
    nowhere = bytearray(65536)
    with select.epoll() as poller:
        receive = {}
        for member in room:
            poller.register(member, select.EPOLLIN)
            receive[member.fileno()] = partial(member.recv_into, nowhere, 65536, socket.MSG_TRUNC)
        started = time.perf_counter()
        while (took := time.perf_counter() - started) < seconds:
            room[0].send(line)
            missing = SIZE * len(room)
            while missing:
                events = poller.poll(_WAIT)
                if not events:
                    raise BrokenServerError("not every member has heard the line")
                for fd, _ in events:
                    heard = receive[fd]()
                    if not heard:
                        raise BrokenServerError("the server closed a member's connection")
                    missing -= heard
            messages += len(room)
    return messages, took
