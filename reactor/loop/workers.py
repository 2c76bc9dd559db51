"""`Workers`: a thread pool with a limit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue

from reactor.loop.log import logger

__all__ = ["Workers"]

Work = Callable[[], object]


# Seconds that a thread waits for work before it ends: a busy server starts no new ones, and a program that
# ends does not wait long for threads that are no daemons.
_IDLE = 1.0


class Workers:
    """A thread pool whose threads start when there is work for them, at most `limit`.

    name: prefix of the threads' names, before a number. daemon: the interpreter does not wait for them at its
        end.
    on_done: called on the thread when a piece of work is done and no longer counted.

    An exception of work is passed to `threading.excepthook`, as that of a thread; the pool's thread goes on.
    """

    def __init__(
        self, limit: int, name: str, *, daemon: bool, on_done: Callable[[], object] = lambda: None
    ) -> None:
        self._limit = limit
        self._name = name
        self._daemon = daemon
        self._on_done = on_done
        self._queue: SimpleQueue[Work | None] = SimpleQueue()  # None ends the thread that takes it
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._ending = 0  # threads that `close` has asked to end
        self._numbers = count(1)
        self._unfinished: set[Work] = set()
        self._start_failed = False

    def submit(self, work: Work) -> None:
        """Run `work()` on a thread, after work submitted before. From any thread.

        If the system allows no further thread, the existing ones do it. Raises RuntimeError, and drops
        `work`, if there is none. The next call tries to start one again.
        """
        with self._lock:
            available = len(self._threads) - self._ending
            if len(self._unfinished) >= available < self._limit:
                self._start(available)
            job = partial(work)  # one object for each call
            self._queue.put(job)
            self._unfinished.add(job)  # after that: what an interrupt leaves uncounted is done nevertheless

    def unfinished(self) -> int:
        """Return the number of pieces of work that are not done. From any thread."""
        return len(self._unfinished)

    def threads(self) -> list[threading.Thread]:
        """Return the threads, busy and idle. From any thread."""
        with self._lock:
            return list(self._threads)

    def close(self, timeout: float | None = None) -> bool:
        """End the threads when all submitted work is done; return whether they have ended.

        timeout: seconds to wait for each; None for no limit. Not to be called on one of the threads.
        """
        with self._lock:
            threads = tuple(self._threads)
            asked, self._ending = len(threads) - self._ending, len(threads)
            for _ in range(asked):
                self._queue.put(None)
        for thread in threads:
            thread.join(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        return not any(thread.is_alive() for thread in threads)

    def _start(self, available: int) -> None:
        thread = threading.Thread(
            target=self._run, name=f"{self._name}-{next(self._numbers)}", daemon=self._daemon
        )
        try:
            self._threads.add(thread)
            thread.start()
        except BaseException as exc:
            self._threads.discard(thread)
            if not (available and isinstance(exc, RuntimeError)):
                raise
            if not self._start_failed:
                message = "%s: %s: %d do the work, and the rest waits for them"
                logger().warning(message, self._name, exc, available)
            self._start_failed = True
        else:
            self._start_failed = False

    def _run(self) -> None:
        with self._lock:
            self._threads.add(threading.current_thread())  # again, if an interrupt came when it had started
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException as exc:
                _tell_excepthook(exc)
            finally:
                with self._lock:
                    self._unfinished.discard(work)
                self._on_done()
            del work  # its objects are not kept until the next work arrives

    def _next(self) -> Work | None:
        """Return the next work; None, and the thread is not counted any more, if it must end."""
        while True:
            try:
                work = self._queue.get(timeout=_IDLE)
            except Empty:
                with self._lock:  # held by `submit` and `close` when they put something
                    if self._queue.empty():
                        self._leave()
                        return None
            else:
                return self._end_or_go_on() if work is None else work

    def _end_or_go_on(self) -> Work | None:
        """Return work that was submitted after `close` asked a thread to end; None: this thread ends."""
        with self._lock:
            try:
                work = self._queue.get_nowait()
            except Empty:
                work = None
            else:
                self._queue.put(None)  # behind the work, for another thread
            if work is None:
                self._ending -= 1
                self._leave()
            return work

    def _leave(self) -> None:
        self._threads.discard(threading.current_thread())
        self._ending = min(self._ending, len(self._threads))  # `close` may have been interrupted


def _tell_excepthook(exc: BaseException) -> None:
    """Pass an exception to `threading.excepthook`, as `threading.Thread` does when it ends."""
    args = threading.ExceptHookArgs((type(exc), exc, exc.__traceback__, threading.current_thread()))
    try:
        threading.excepthook(args)
    except BaseException as problem:
        sys.excepthook(type(problem), problem, problem.__traceback__)
