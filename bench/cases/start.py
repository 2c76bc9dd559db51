"""Start: importing a package, and a server until it listens, each in a new process."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys

from rich.progress import Progress

from bench.harness.options import add_peers, add_rounds
from bench.harness.rounds import present, side_by_side
from bench.results.schema import Metric, Result

__all__ = ["add_options", "run"]

_COROUTINE = "async def main(): await asyncio.get_running_loop().create_server(asyncio.Protocol, *A)\n"

#: For each, an import, and what makes a server listen on the address A after it.
PROGRAMS = {
    "reactor": ("import reactor", "with reactor.Reactor() as r: r.listen('127.0.0.1:0', reactor.Protocol)"),
    "asyncio": ("import asyncio", f"{_COROUTINE}asyncio.run(main())"),
    "uvloop": ("import asyncio, uvloop", f"{_COROUTINE}uvloop.run(main())"),
    "twisted": (
        "from twisted.internet import protocol, reactor",
        "reactor.listenTCP(0, protocol.Factory())",
    ),
    "tornado": (
        "import asyncio, tornado.tcpserver",
        "async def main(): tornado.tcpserver.TCPServer().listen(0, A[0])\nasyncio.run(main())",
    ),
    "gevent": ("import gevent.server", "gevent.server.StreamServer(A, print).start()"),
    "trio": ("import trio", "trio.run(trio.open_tcp_listeners, 0)"),
    "socketserver": (
        "import socketserver",
        "socketserver.TCPServer(A, socketserver.BaseRequestHandler)",
    ),
    "selectors": (
        "import selectors, socket",
        "s = selectors.DefaultSelector(); s.register(socket.create_server(A), 1)",
    ),
}
_ADDRESS = "A = ('127.0.0.1', 0)\n"
_SHOW_MEMORY = "\nprint(open('/proc/self/smaps_rollup').read())"

CPU_IMPORT = Metric("CPU of the import", "s", "lower", compared=True)
MEMORY_IMPORT = Metric("memory of the import", "B", "lower")
CPU_LISTEN = Metric("CPU until it listens", "s", "lower", compared=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_rounds(parser)
    add_peers(parser, PROGRAMS)


def run(options: argparse.Namespace, result: Result, progress: Progress) -> None:
    """Measure; an interpreter that imports nothing is subtracted."""
    workload = "a new process"
    kinds = {kind: kind for kind in present(result, workload, options.servers)}
    side_by_side(result, progress, workload, kinds, options.rounds, _measure)


def _measure(kind: str) -> dict[Metric, float]:
    imported, listening = PROGRAMS[kind]
    base_cpu, base_memory = _run("")
    cpu, memory = _run(imported)
    cpu_listening, _ = _run(f"{imported}\n{_ADDRESS}{listening}")
    return {
        CPU_IMPORT: cpu - base_cpu,
        MEMORY_IMPORT: memory - base_memory,
        CPU_LISTEN: cpu_listening - base_cpu,
    }


def _run(program: str) -> tuple[float, int]:
    """Return the CPU seconds and the anonymous bytes of an interpreter that runs this."""
    with subprocess.Popen(
        [sys.executable, "-c", program + _SHOW_MEMORY], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    (kilobytes,) = re.findall(r"^Anonymous: *(\d+)", output, re.MULTILINE)
    return used.ru_utime + used.ru_stime, int(kilobytes) * 1024
