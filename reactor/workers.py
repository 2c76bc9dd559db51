"""A bounded number of threads that take work from a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Workers"]

Work = Callable[[], object]


class Workers:
    """Threads, made when there is work for them, at most `most`; `name` is what they are called.

    daemon: the interpreter does not wait for them when it ends.
    """

    def __init__(self, most: int, name: str, *, daemon: bool) -> None:
        self._most = most
        self._name = name
        self._daemon = daemon
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0

    def submit(self, work: Work) -> None:
        """Run `work()` on a thread, after what was submitted before; it must not raise. From any thread."""
        with self._lock:
            self._unfinished += 1
            if self._unfinished > len(self._threads) < self._most:
                self._start()
        self._queue.put(work)

    def unfinished(self) -> int:
        """Return how much was submitted and is not done. From any thread."""
        with self._lock:
            return self._unfinished

    def close(self, timeout: float | None = None) -> bool:
        """Let the threads end once all that was submitted is done; return whether they have.

        timeout: seconds to wait for each; None waits as long as it takes. Not from one of the threads.
        """
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in threads)

    def _start(self) -> None:
        name = f"{self._name}-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._run, name=name, daemon=self._daemon)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            finally:
                with self._lock:
                    self._unfinished -= 1
            del work  # what it refers to is not kept until the next comes
