"""A handover: idle members of a chat go from one process to another, and how long that takes."""

from __future__ import annotations

import argparse
import socket
import sys
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.clients import open_connections
from bench.harness.options import add_rounds
from bench.harness.process import Child, program
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

ROOM = 20  # members

TIME = Metric("time", "s", "lower", compared=True)
OLD_CPU = Metric("CPU of the old process", "s", "lower", compared=True)
NEW_CPU = Metric("CPU of the new process", "s", "lower", compared=True)

_COMMAND = (sys.executable, "-m", "bench.harness.handing_over")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, default=5)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="members of the chat")


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Hand over once a round."""
    workload = f"{options.connections:,} idle members of a chat handed over"
    for _ in progress.track(range(options.rounds), description="handing over"):
        result.record(workload, "reactor", _measure(options.connections))


def _measure(number: int) -> dict[Metric, float]:
    """Return the time from the command to the last connection served, and the CPU time of both processes."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listening.setblocking(False)
        ours, theirs = map(stack.enter_context, socket.socketpair())
        old = _worker(stack, listening, giving=ours)
        ours.close()
        new = _worker(stack, listening, taking=theirs)
        theirs.close()
        members = stack.enter_context(open_connections(listening.getsockname()[1], number))
        for index, member in enumerate(members):
            member.send(b"/join room%d\r\n" % (index // ROOM))
        for member in members:
            heard = b""
            while b"has joined room" not in heard:
                heard += member.recv(4096)
        begun = old.ask("hand over")["at"]
        arrived, left = new.answer(), old.answer()
        assert arrived["moved"] == left["moved"] == number
        return {TIME: arrived["at"] - begun, OLD_CPU: left["cpu"], NEW_CPU: arrived["cpu"]}


def _worker(
    stack: ExitStack,
    listening: socket.socket,
    taking: socket.socket | None = None,
    giving: socket.socket | None = None,
) -> Child:
    passed = [listening, *(sock for sock in (taking, giving) if sock is not None)]
    numbers = (str(-1 if sock is None else sock.fileno()) for sock in (listening, taking, giving))
    worker = stack.enter_context(
        program("worker", *_COMMAND, *numbers, descriptors=[sock.fileno() for sock in passed])
    )
    assert worker.answer() == {"ready": True}
    return worker
