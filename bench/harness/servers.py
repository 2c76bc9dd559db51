"""What every server does at its start and end: its core, its descriptors, its port on standard output."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable

from bench.harness import missing
from bench.harness.clients import raise_descriptor_limit

__all__ = [
    "BACKLOG",
    "NO_COLLECTOR",
    "RECV_SIZE",
    "announce",
    "end_with_input",
    "run_on",
    "warm_up_allocator",
]

BACKLOG = 4096
RECV_SIZE = 65536
NO_COLLECTOR = "BENCH_NO_COLLECTOR"  # in the environment of a server: its garbage collector stays off


def warm_up_allocator() -> None:
    """Free one large block, as every program of some size has done.

    Until then glibc gets each of asyncio's 256 KiB receive buffers from mmap(2), and asyncio runs at a
    quarter of its speed: mallopt(3), M_MMAP_THRESHOLD.
    """
    large = bytes(1 << 20)
    del large


def announce(port: int) -> None:
    """Print the port: connections are accepted from now on."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def end_with_input() -> None:
    """End the process when its standard input ends: for loops that watch no descriptor but sockets."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def run_on(core: str, serve: Callable[[], None]) -> None:
    """Serve on the core of this number, or on "any"."""
    if hasattr(os, "sched_setaffinity") and core != "any":
        os.sched_setaffinity(0, {int(core)})
    raise_descriptor_limit()
    warm_up_allocator()
    if NO_COLLECTOR in os.environ:
        gc.disable()
    try:
        serve()
    except ImportError as exc:
        sys.exit(missing(exc))
