"""`asyncore`: unchanged programs on the reactor beside the standard module, or `pyasyncore` after it.

`python -m bench.cases.asyncore KIND PROGRAM CORE NUMBER` runs one: echo (dispatchers without predicates),
chat (`async_chat` on a reactor), ready (passes in which some of 64 connections are ready, beside NUMBER idle
ones), asked (NUMBER dispatchers with predicates of their own), or lines (`async_chat`). The first two
announce themselves and end as `bench.harness.servers` do; the others answer each line on standard input with
figures.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from rich.progress import Progress

from bench.harness.clients import echo, exchange, open_connections
from bench.harness.compare import Measurement, compare, talking
from bench.harness.measure import SERVER_CORE, Server, core
from bench.harness.options import add_rounds, add_seconds
from bench.harness.process import Child, child
from bench.harness.report import Report, ratio
from bench.harness.servers import BACKLOG, RECV_SIZE, announce, run_on

__all__ = ["add_options", "run"]

KINDS = ["reactor", "standard"]
ACTIVE = 64  # connections that talk
SIZE = 64  # bytes of their messages
READY = (1, 8, 64)  # connections that have a message in a pass
_TIMES = 5  # of which the shortest is taken
_STEP = 250  # connections opened at a time
_MAIN = "bench.cases.asyncore"

#: Bytes of a line with its end, and how many of them.
LINES = {"64 KiB lines": (65536, (64, 256)), "short lines in one receive": (60, (2500, 10_000))}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser, 7)
    add_seconds(parser)
    parser.add_argument("--idle-connections", type=int, default=5000, metavar="N", help="beside the echo")
    parser.add_argument("--connections", type=int, default=15_000, metavar="N", help="idle, on a reactor")
    parser.add_argument("--dispatchers", type=int, default=5000, metavar="N", help="with predicates")
    parser.add_argument("--watch-seconds", type=float, default=5.0, metavar="S", help="for system calls")


def run(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    """Measure echo, idle connections, lines, and passes over predicates."""
    _compare_echo(options, report, progress)
    _watch_idle(options, report)
    _compare_ready(options, report, progress)
    _compare_lines(options, report, progress)
    _compare_passes(options, report, progress)


def _compare_echo(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    number = options.idle_connections
    title = f"echo by dispatchers: {ACTIVE} connections, {SIZE} B; alone, and beside {number:,} idle ones"
    with ExitStack() as stack:
        names = [*KINDS, *(f"{kind}, beside idle" for kind in KINDS)]
        servers = {name: stack.enter_context(_serving(name.partition(",")[0], "echo")) for name in names}
        for name in names[len(KINDS) :]:
            for first in range(0, number, _STEP):  # the standard one accepts slowly
                some = min(number - first, _STEP)
                opened = stack.enter_context(open_connections(servers[name].port, some))
                exchange(opened[-1:], echo(SIZE), 0.001)
        for server in servers.values():
            os.kill(server.pid, signal.SIGSTOP)
        measure = _by_itself(talking(ACTIVE, echo(SIZE), options.seconds))
        compare(report, progress, title, servers, options.rounds, measure)


def _by_itself(measure: Measurement) -> Measurement:
    """Have the server run only while it is measured: the standard ones never wait."""

    def measured(server: Server) -> tuple[float, float]:
        os.kill(server.pid, signal.SIGCONT)
        try:
            return measure(server)
        finally:
            os.kill(server.pid, signal.SIGSTOP)

    return measured


def _watch_idle(options: argparse.Namespace, report: Report) -> None:
    number, watched = options.connections, options.watch_seconds
    title = f"system calls in {watched:g} s, {number:,} idle async_chat on a reactor"
    with (
        _serving("reactor", "chat") as server,
        open_connections(server.port, number) as opened,
    ):
        exchange(opened[-1:], (b"hello\n", b"hello\n"), 0.01)
        calls, how = server.system_calls(watched)
    report.raw.append({"title": title, "calls": calls})
    report.table(title, ["", "system calls", "counted by"]).add_row("reactor", str(calls), how)


def _compare_ready(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    title = f"passes in which some of {ACTIVE} connections are ready: CPU µs for each echoed message"
    table = report.table(title, ["", *(f"{ready} ready" for ready in READY)])
    for number in (0, options.idle_connections):
        name = f"{title}, beside {number:,} idle ones"
        figures = _figures("ready", number, options, name, progress)
        report.raw.append({"title": name, "seconds": figures})
        for kind in KINDS:
            costs = (median(each[index] for each in figures[kind]) for index in range(len(READY)))
            beside = f", beside {number:,} idle" if number else ""
            table.add_row(kind + beside, *(f"{cost * 1e6:.2f}" for cost in costs))


def _compare_lines(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    title = "lines to async_chat: CPU ms, and the growth for four times as many (linear: 4)"
    figures = _figures("lines", 0, options, title, progress)
    report.raw.append({"title": title, "seconds": figures})
    table = report.table(title, ["", *KINDS, *(f"{kind}, growth" for kind in KINDS)])
    for name, (_, counts) in LINES.items():
        few, many = ({kind: [each[name][i] for each in figures[kind]] for kind in KINDS} for i in (0, 1))
        table.add_row(
            f"{counts[1]:,} {name}",
            *(f"{median(many[kind]) * 1e3:.2f}" for kind in KINDS),
            *(f"{ratio(many[kind], few[kind]):.1f}" for kind in KINDS),
        )


def _compare_passes(options: argparse.Namespace, report: Report, progress: Progress) -> None:
    title = f"passes over {options.dispatchers:,} dispatchers with predicates of their own"
    figures = _figures("asked", options.dispatchers, options, title, progress)
    report.raw.append({"title": title, "passes_per_second": figures})
    table = report.table(title, ["", "passes in a CPU second", "ours / its"])
    for kind in KINDS:
        its = ratio(figures[KINDS[0]], figures[kind])
        table.add_row(kind, f"{median(figures[kind]):,.0f}", f"{its:.2f}")


def _figures(
    program: str, number: int, options: argparse.Namespace, title: str, progress: Progress
) -> dict[str, list[Any]]:
    """Return what a program of each kind answers in each round."""
    figures: dict[str, list[Any]] = defaultdict(list)
    with ExitStack() as stack:
        running = {kind: stack.enter_context(_running(kind, program, number)) for kind in KINDS}
        for process in running.values():
            process.line()
        for _ in progress.track(range(options.rounds), description=title):
            for kind, process in running.items():
                figures[kind].append(process.ask(str(options.seconds)))
    return figures


@contextmanager
def _running(kind: str, program: str, number: int = 0) -> Iterator[Child]:
    with child(kind, _MAIN, kind, program, core(SERVER_CORE), str(number)) as process:
        yield process


@contextmanager
def _serving(kind: str, program: str) -> Iterator[Server]:
    with _running(kind, program) as process:
        yield Server(kind, int(process.line()), process.pid)


# The programs


def _modules(kind: str) -> tuple[Any, Any]:
    if kind == "reactor":
        from reactor.compat import asynchat, asyncore

        return asyncore, asynchat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import asynchat as standard_asynchat
        import asyncore as standard_asyncore
    return standard_asyncore, standard_asynchat


def _listen(asyncore: Any, handler: Callable[[socket.socket], Any]) -> None:
    class Listening(asyncore.dispatcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.create_socket()
            self.bind(("127.0.0.1", 0))
            self.listen(BACKLOG)

        def handle_accepted(self, sock: socket.socket, addr: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handler(sock)

    announce(Listening().socket.getsockname()[1])


def _echo(asyncore: Any, asynchat: Any, number: int) -> None:
    class Echo(asyncore.dispatcher):  # type: ignore[misc]
        def handle_read(self) -> None:
            data = self.recv(8192)  # as the module's own documents have it
            if data:
                self.send(data)

        def handle_close(self) -> None:
            self.close()

    _listen(asyncore, Echo)
    asyncore.loop(use_poll=True)


def _chat(asyncore: Any, asynchat: Any, number: int) -> None:
    from reactor import Reactor

    class Chat(asynchat.async_chat):  # type: ignore[misc]
        def __init__(self, sock: socket.socket) -> None:
            super().__init__(sock)
            self.set_terminator(b"\n")
            self.collect_incoming_data = self._collect_incoming_data

        def found_terminator(self) -> None:
            self.push(self._get_data() + b"\n")

    with Reactor() as reactor, asyncore.attach(reactor):
        _listen(asyncore, Chat)
        reactor.run()


def _ready(asyncore: Any, asynchat: Any, number: int) -> None:
    class Echo(asyncore.dispatcher):  # type: ignore[misc]
        def handle_read(self) -> None:
            data = self.recv(8192)
            if data:
                self.send(data)

    pairs = [socket.socketpair() for _ in range(ACTIVE + number)]
    for ours, _ in pairs:
        Echo(ours)
    message = bytes(SIZE)

    def passes(peers: list[socket.socket], seconds: float) -> float:
        started, messages = time.process_time(), 0
        while (took := time.process_time() - started) < seconds:
            for peer in peers:
                peer.send(message)
            asyncore.poll2()
            for peer in peers:
                peer.recv(SIZE)
            messages += len(peers)
        return took / messages

    def figures(seconds: float) -> list[float]:
        active = [theirs for _, theirs in pairs[:ACTIVE]]
        return [
            min(passes(active[:ready], seconds / _TIMES / len(READY)) for _ in range(_TIMES))
            for ready in READY
        ]

    _answer(figures)


def _asked(asyncore: Any, asynchat: Any, number: int) -> None:
    class Asked(asyncore.dispatcher):  # type: ignore[misc]
        output = b""

        def readable(self) -> bool:
            return True

        def writable(self) -> bool:
            return len(self.output) > 0

    pairs = [socket.socketpair() for _ in range(number)]
    for ours, _ in pairs:
        Asked(ours)

    def passes(seconds: float) -> float:
        started, count = time.process_time(), 0
        while (took := time.process_time() - started) < seconds:
            asyncore.loop(0, use_poll=True, count=10)
            count += 10
        return count / took

    _answer(passes)


class _Given:
    """A socket with the input that it is given."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def recv(self, size: int) -> bytes:
        return self._pieces.pop()


def _lines(asyncore: Any, asynchat: Any, number: int) -> None:
    class Counting(asynchat.async_chat):  # type: ignore[misc]
        lines = 0

        def collect_incoming_data(self, data: bytes) -> None:
            pass

        def found_terminator(self) -> None:
            self.lines += 1

    def measure(size: int, count: int, pieces: int) -> float:
        data = (b"x" * (size - 2) + b"\r\n") * count
        step = -(-len(data) // pieces)
        chat = Counting(map={})
        chat.socket = _Given([data[at : at + step] for at in range(0, len(data), step)][::-1])
        chat.ac_in_buffer_size = step
        chat.set_terminator(b"\r\n")
        started = time.process_time()
        for _ in range(pieces):
            chat.handle_read()
        took = time.process_time() - started
        if chat.lines != count:
            raise AssertionError(f"{chat.lines} of {count} lines")
        return took

    def figures(seconds: float) -> dict[str, list[float]]:
        return {
            name: [
                min(measure(size, count, count if size >= RECV_SIZE else 1) for _ in range(_TIMES))
                for count in counts
            ]
            for name, (size, counts) in LINES.items()
        }

    _answer(figures)


def _answer(measure: Callable[[float], Any]) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(measure(float(line))) + "\n")
        sys.stdout.flush()


PROGRAMS = {"echo": _echo, "chat": _chat, "ready": _ready, "asked": _asked, "lines": _lines}


def main() -> None:
    """Run the program named on the command line."""
    _, kind, program, number, many = sys.argv
    run_on(number, lambda: PROGRAMS[program](*_modules(kind), int(many)))


if __name__ == "__main__":
    main()
