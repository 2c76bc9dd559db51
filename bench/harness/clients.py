"""Connections to a server, and one message on each of them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

__all__ = [
    "BrokenServerError",
    "connect_from",
    "open_connections",
    "raise_descriptor_limit",
    "reset_at_close",
    "run_first",
    "talk_once",
]

_RESET = struct.pack("ii", 1, 0)
_WAIT = 30.0  # seconds that a server may take to answer before it counts as broken
_BATCH = 2000  # connections between two looks at the accept queue, which has room for twice as many
_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the module socket has no name for it
_sources = count()


class BrokenServerError(Exception):
    """The server answered with other bytes than it was sent, or not at all."""


def raise_descriptor_limit() -> int:
    """Raise this process's limit of descriptors as far as it may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def run_first(pid: int = 0) -> None:
    """Make a process, or this one, real-time (SCHED_FIFO) where allowed: other processes are not measured."""
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))


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
        for made in range(number):
            if made % _BATCH == _BATCH - 1:
                _wait_for_accepts(port)
            connections.append(connect_from(source, port))
        yield connections
    finally:
        for connection in connections:
            if connection.fileno() >= 0:  # TLS has not taken it over
                reset_at_close(connection)
                connection.close()


def connect_from(source: str, port: int) -> socket.socket:
    """Return a connection from this address of the loopback net to a port of 127.0.0.1.

    The kernel chooses the source port when it connects, not by the bind: it need not be free for all
    destinations then, which is slow to find among thousands in use (IP_BIND_ADDRESS_NO_PORT, ip(7)).
    """
    connection = socket.socket()
    try:
        connection.settimeout(_WAIT)
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection


def _wait_for_accepts(port: int) -> None:
    """Wait until few wait to be accepted: connections that the accept queue has no room for are lost."""
    end = time.monotonic() + _WAIT
    while _accept_queue(port) > _BATCH:
        if time.monotonic() > end:
            raise BrokenServerError("the server accepts nothing")
        time.sleep(0.01)


def _accept_queue(port: int) -> int:
    """Return how many connections wait to be accepted: the "rx_queue" of a listening socket, proc(5)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == "0A" and int(local.partition(":")[2], 16) == port:
            return int(queues.partition(":")[2], 16)
    raise BrokenServerError("the server has ended")


def talk_once(connection: socket.socket, message: bytes = b"x" * 64) -> None:
    """Send a message and receive its echo: the connection, and all before it, are accepted then.

    Raises BrokenServerError if another answer comes, or none.
    """
    connection.settimeout(_WAIT)
    connection.sendall(message)
    received = bytearray()
    while len(received) < len(message):
        more = connection.recv(len(message) - len(received))
        if not more:
            raise BrokenServerError("the server closed the connection")
        received += more
    if received != message:
        raise BrokenServerError("the server did not answer what it should")
