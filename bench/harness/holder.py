"""A process that holds idle connections: `python -m bench.harness.holder PORT SOURCE`.

Each line of input is answered with a line of JSON, the seconds that it took: `open N` connects N more, and
ends when they are accepted; `talk` sends a byte on each and receives it; `wait` closes each when the server
has, and ends when none is left; `close` closes all. SOURCE is the address that they come from.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

from bench.harness.clients import connect_from, raise_descriptor_limit, talk_once
from bench.harness.process import Child, child

__all__ = ["holding"]

_WAIT = 60.0  # seconds that a server may take
_sources = count(1)


@contextmanager
def holding(ports: list[int]) -> Iterator[list[Child]]:
    """Run a holder for each of these ports, each from an address of its own."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                child("holder", "bench.harness.holder", str(port), f"127.0.4.{next(_sources) % 250 + 1}")
            )
            for port in ports
        ]


def _open(held: list[socket.socket], port: int, source: str, number: int) -> None:
    held.extend(connect_from(source, port) for _ in range(number))
    talk_once(held[-1], b"x")  # answered: all before it are accepted


def _talk(held: list[socket.socket]) -> None:
    for connection in held:
        connection.sendall(b"x")
    for connection in held:
        if not connection.recv(1):
            sys.exit("a connection timed out before all had talked")


def _wait(held: list[socket.socket]) -> None:
    with select.epoll() as poller:
        left = {connection.fileno(): connection for connection in held}
        for fd in left:
            poller.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
        while left:
            ready = poller.poll(_WAIT, 256)
            if not ready:
                sys.exit(f"the server has not closed {len(left)} connections")
            for fd, _ in ready:
                left.pop(fd).close()
    held.clear()


def _close(held: list[socket.socket]) -> None:
    for connection in held:
        connection.close()
    held.clear()


def main() -> None:
    """Answer the lines of input."""
    _, port, source = sys.argv
    raise_descriptor_limit()
    held: list[socket.socket] = []
    for line in sys.stdin:
        word, *numbers = line.split()
        started = time.perf_counter()
        if word == "open":
            _open(held, int(port), source, int(numbers[0]))
        else:
            {"talk": _talk, "wait": _wait, "close": _close}[word](held)
        sys.stdout.write(json.dumps(time.perf_counter() - started) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
