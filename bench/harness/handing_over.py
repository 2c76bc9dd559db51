"""A worker process that takes connections of `chat` over, and hands them over.

Arguments: the descriptor of a listening socket, and those of two ends of channels, to take over from and to
hand over to, or -1. It answers lines on standard input with JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

from reactor import Reactor
from reactor.apps.chat import Hall
from reactor.deploy import Transfer, hand_over, take_over

__all__ = ["main"]


def main() -> None:
    """Serve until standard input ends."""
    listening, taking, giving = map(int, sys.argv[1:])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the benchmark has pinned itself
    begun = time.process_time()

    def done(transfer: Transfer) -> None:
        _say(moved=transfer.moved, at=time.monotonic(), cpu=time.process_time() - begun)

    def on_command() -> None:
        nonlocal begun
        word = sys.stdin.readline().strip()
        if not word:
            reactor.stop()
        elif word == "hand over":
            _say(at=time.monotonic())
            begun = time.process_time()
            hand_over(reactor, socket.socket(fileno=giving), timeout=60, on_done=done)

    with Reactor() as reactor:
        listener = reactor.listen(socket.socket(fileno=listening), Hall())
        reactor.add_reader(sys.stdin, on_command)
        if taking >= 0:
            listener.pause()
            take_over(reactor, socket.socket(fileno=taking), timeout=60, on_done=done)
        _say(ready=True)
        reactor.run()


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
