"""Clients that keep one message in flight on each connection.

They do as little as Python can for a message, a read and a write, so that the server is measured.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

__all__ = [
    "connect_and_close",
    "echo",
    "exchange",
    "open_connections",
    "raise_descriptor_limit",
    "reset_at_close",
    "run_first",
]

_RESET = struct.pack("ii", 1, 0)
_WAIT = 10.0  # seconds that a server may take to answer before it counts as broken
_BATCH = 256  # the limit of connections in the accept queue: below the listener's backlog
_IN_ORDER = 8  # of so many connections one is closed in order, and its port rests for a minute
_sources = count()


class BrokenServerError(Exception):
    """The server answered with other bytes than it was sent, or not at all."""


def raise_descriptor_limit() -> int:
    """Raise this process's limit of descriptors as far as it may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def run_first() -> None:
    """Make this process real-time (SCHED_FIFO) where that is allowed: other processes are not measured."""
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def reset_at_close(connection: socket.socket) -> None:
    """Set SO_LINGER so that closing `connection` resets it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


@contextmanager
def open_connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Open `number` connections to `port`, and reset them at the end, so that none stays in TIME_WAIT.

    Each set comes from another address of the loopback net, which has its own ports.
    """
    source = f"127.0.0.{2 + next(_sources) % 200}"
    connections: list[socket.socket] = []
    try:
        for _ in range(number):
            connection = socket.create_connection(
                ("127.0.0.1", port), timeout=_WAIT, source_address=(source, 0)
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.append(connection)
        yield connections
    finally:
        for connection in connections:
            if connection.fileno() >= 0:  # TLS has not taken it over
                reset_at_close(connection)
                connection.close()


def echo(size: int) -> tuple[bytes, bytes]:
    """Return a message of `size` bytes and the answer to it, which is the same."""
    message = bytes(i * 7 % 251 for i in range(size))
    return message, message


def exchange(
    connections: list[socket.socket], talk: tuple[bytes, bytes], seconds: float
) -> tuple[int, float]:
    """Keep one message in flight on each connection for `seconds`.

    talk: the message, and its answer.
    Returns the number of messages that were answered and the seconds it took.
    Raises BrokenServerError if an answer is missing or too long, or wrong the first time.
    """
    _verify(connections, talk)
    message, answer = talk
    size = len(answer)
    waiting = {}
    with select.epoll() as poller:
        for connection in connections:
            connection.setblocking(False)
            waiting[connection.fileno()] = size
            poller.register(connection, select.EPOLLIN)
        messages = 0
        started = time.perf_counter()
        end = started + seconds
        read, write, clock, poll = os.read, os.write, time.perf_counter, poller.poll
        for connection in connections:
            connection.send(message)
        while clock() < end:
            events = poll(_WAIT, len(connections))
            if not events:
                raise BrokenServerError("the server stopped answering")
            for fd, _ in events:
                got = len(read(fd, 65536))
                left = waiting[fd] - got
                if left:
                    if not got or left < 0:
                        raise BrokenServerError("the server answered too much, or closed the connection")
                    waiting[fd] = left
                else:
                    waiting[fd] = size
                    messages += 1
                    write(fd, message)
        took = clock() - started
    _collect(connections, waiting)
    return messages, took


def connect_and_close(port: int, times: int) -> float:
    """Connect and close `times` times, seven of eight with a reset to spare ports; return the seconds.

    The last connection of each batch waits for an echo: all before it are accepted then.
    """
    started = time.perf_counter()
    for first in range(0, times, _BATCH):
        source = (f"127.0.0.{2 + next(_sources) % 200}", 0)
        last = min(first + _BATCH, times) - 1
        for number in range(first, last + 1):
            with socket.socket() as connection:
                connection.settimeout(_WAIT)
                connection.bind(source)
                connection.connect(("127.0.0.1", port))
                if number == last:
                    _verify([connection], echo(64))
                if number % _IN_ORDER:
                    reset_at_close(connection)
    return time.perf_counter() - started


def _verify(connections: list[socket.socket], talk: tuple[bytes, bytes]) -> None:
    message, answer = talk
    for connection in connections:
        connection.settimeout(_WAIT)
        connection.sendall(message)
    for connection in connections:
        if _receive(connection, len(answer)) != answer:
            raise BrokenServerError("the server did not answer what it should")


def _collect(connections: list[socket.socket], waiting: dict[int, int]) -> None:
    # Every connection still has a message in flight; the next round must not find it.
    for connection in connections:
        connection.settimeout(_WAIT)
        _receive(connection, waiting[connection.fileno()])


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise BrokenServerError("the server closed the connection")
        received += more
    return bytes(received)
