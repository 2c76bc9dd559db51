"""A handover: idle members of a chat go from one process to another, and how long that takes."""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
from contextlib import ExitStack

from rich.progress import Progress

from bench.harness.clients import open_connections
from bench.harness.options import add_rounds
from bench.harness.process import Child, program
from bench.harness.report import Report

__all__ = ["add_options", "run"]

ROOM = 20  # members

_COMMAND = (sys.executable, "-m", "bench.harness.handing_over")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, default=5)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="members of the chat")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Hand over once a round."""
    rounds = [
        _measure(options.connections)
        for _ in progress.track(range(options.rounds), description="handing over")
    ]
    report.raw.append({"title": "handover", "rounds": rounds})
    table = report.table(
        f"{options.connections:,} idle members of a chat handed over",
        ["", "from the command to the last one served", "CPU of the old process", "of the new one"],
    )
    medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
    table.add_row("seconds", *(f"{median:.2f}" for median in medians))


def _measure(number: int) -> tuple[float, float, float]:
    """Return the seconds that it took, and the CPU seconds of the old process and of the new one."""
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
        return arrived["at"] - begun, left["cpu"], arrived["cpu"]


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
