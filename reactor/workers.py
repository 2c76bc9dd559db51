"""A bounded number of threads that take work from a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue

__all__ = ["Workers"]

Work = Callable[[], object]


# Seconds that a thread waits for more work before it ends: a busy server starts none, and a program that
# ends is not held up by threads that are no daemons.
_IDLE = 1.0


class Workers:
    """Threads, made when there is work for them, at most `most`; `name` is what they are called.

    daemon: the interpreter does not wait for them when it ends.
    on_done: called, on the thread, when something is done and no longer counted.
    """

    def __init__(
        self, most: int, name: str, *, daemon: bool, on_done: Callable[[], object] = lambda: None
    ) -> None:
        self._most = most
        self._name = name
        self._daemon = daemon
        self._on_done = on_done
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._numbers = count(1)
        self._unfinished = 0

    def submit(self, work: Work) -> None:
        """Run `work()` on a thread, after what was submitted before; it must not raise. From any thread."""
        with self._lock:
            self._unfinished += 1
            self._queue.put(work)
            if self._unfinished > len(self._threads) < self._most:
                name = f"{self._name}-{next(self._numbers)}"
                thread = threading.Thread(target=self._run, name=name, daemon=self._daemon)
                self._threads.add(thread)
                thread.start()

    def unfinished(self) -> int:
        """Return how much was submitted and is not done. From any thread."""
        return self._unfinished

    def close(self, timeout: float | None = None) -> bool:
        """Let the threads end once all that was submitted is done; return whether they have.

        timeout: seconds to wait for each; None waits as long as it takes. Not from one of the threads.
        """
        with self._lock:
            threads = tuple(self._threads)
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            finally:
                with self._lock:
                    self._unfinished -= 1
                self._on_done()
            del work  # what it refers to is not kept until the next comes

    def _next(self) -> Work | None:
        """Return what to do next; None, and the thread is not counted any more, if it is to end."""
        try:
            work = self._queue.get(timeout=_IDLE)
        except Empty:
            with self._lock:  # under which `submit` counts the threads
                work = None if self._queue.empty() else self._queue.get_nowait()
                if work is None:
                    self._threads.discard(threading.current_thread())
            return work
        if work is None:
            with self._lock:
                self._threads.discard(threading.current_thread())
        return work
