"""What is asked for to be run, when it runs, and what becomes of its exceptions."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from reactor.errors import UsageError
from reactor.loop.futures import AwaitableFuture, Work, cancel, follow, fulfil
from reactor.loop.log import LimitedLog, caller
from reactor.loop.stats import Counters
from reactor.loop.system import KERNEL, System
from reactor.loop.timers import Handle, TimerHandle, TimerHeap
from reactor.loop.workers import Workers
from reactor.options import check_callable, number

__all__ = ["SENDING", "Callbacks", "ErrorHandler"]

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

#: What one tick runs at most of each kind, so that none starves the others.
TIMERS_PER_TICK = 256
CALLBACKS_PER_TICK = 256

# Threads for `run_in_executor`, where nothing else is given.
_WORKERS = 32

# What runs in a tick besides its callbacks: it may call some of the protocols'.
SENDING = "pause_writing or resume_writing of what was written in the tick"

ErrorHandler = Callable[[BaseException, str, Any], object]


class Callbacks(ABC):
    """The half of the loop that knows no descriptor.

    clock: seconds that never go back. on_error, slow_callback, debug: as `Loop` says.
    """

    #: The time of this tick, in the clock's seconds.
    now: float
    #: What sockets, names and threads come from. A subclass for tests sets its own before `__init__`.
    system: System = KERNEL

    def __init__(
        self,
        clock: Callable[[], float],
        on_error: ErrorHandler | None,
        slow_callback: float | None,
        *,
        debug: bool,
    ) -> None:
        check_callable("clock", clock)
        check_callable("on_error", on_error, optional=True)
        self.counters = Counters()
        self.log = LimitedLog(self.call_later)
        self.now = clock()
        self._clock = clock
        self._on_error = on_error
        self._slow_callback = slow_callback
        self._debug = debug
        self._timers = TimerHeap()
        self._ready: deque[Handle] = deque()
        self._driver: int | None = None
        self._hosted = False
        self._closing = False
        self._closed = False
        self._disowned = False
        self._workers: Workers | None = None
        self._elsewhere: set[Future[Any]] = set()
        self._lap = self.now

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _wake(self) -> None: ...

    @abstractmethod
    def _tell_host(self) -> None:
        """Let a host that waits for `fileno` know what is due. Called only if there is one."""

    def time(self) -> float:
        """Return the time that `call_at` counts in, seconds. From any thread."""
        return self._clock()

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """Run `callback(*args)` in the next tick, after what was asked for before. Cancellable."""
        check_callable("callback", callback)
        self._check_open()
        if self._debug:
            self.check_thread("call_soon")
        handle = Handle(callback, args)
        self._ready.append(handle)
        if self._hosted:
            self._tell_host()
        return handle

    def post_notice(self, callback: Callable[..., object], *args: Any) -> None:
        """As `call_soon`, for what must be told exactly once: `close` runs it if no tick did before."""
        self._ready.append(_Notice(callback, args))
        if self._hosted:
            self._tell_host()

    def notices_due(self) -> list[tuple[Callable[..., object], tuple[Any, ...]]]:
        """Return the callbacks, with their arguments, of the notices that have been posted and not run."""
        handles = [handle for handle in list(self._ready) if isinstance(handle, _Notice)]
        return [due for handle in handles if (due := handle.pending()) is not None]

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> TimerHandle:
        """Run `callback(*args)` in `delay` seconds, never earlier. Cancellable.

        A delay below 0 is none; an infinite one never passes.
        Raises TypeError if `delay` is not a number, ValueError if it is NaN.
        """
        return self._set_timer(self._clock() + number("delay", delay), callback, args)

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> TimerHandle:
        """Run `callback(*args)` when `time()` has reached `when`. Cancellable.

        Raises TypeError if `when` is not a number, ValueError if it is NaN.
        """
        return self._set_timer(number("when", when), callback, args)

    def _set_timer(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> TimerHandle:
        check_callable("callback", callback)
        self._check_open()
        if self._debug:
            self.check_thread("call_at or call_later")
        handle = self._timers.add(when, callback, *args)
        if self._hosted:
            self._tell_host()
        return handle

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """As `call_soon`, from any thread or signal handler; gets the loop out of its wait.

        A burst of calls costs one system call.
        """
        check_callable("callback", callback)
        handle = Handle(callback, args)
        self._post(handle)
        return handle

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AwaitableFuture[T]:
        """Run `fn(*args, **kwargs)` on the thread that drives the loop; the future has what comes of it.

        From any thread. The future is cancelled if the loop is closed before; waiting for it on the thread
        that drives the loop would wait for ever. Raises TypeError if `fn` can't be called.
        """
        check_callable("fn", fn)
        work = Work(fn, *args, **kwargs)
        self._post(work)
        return work.future

    def run_in_executor(
        self, executor: Executor | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AwaitableFuture[T]:
        """Run `fn(*args, **kwargs)` on a thread of `executor`; None: on one of the loop's own, 32 at most.

        The future is completed on the thread that drives the loop, so that is where its callbacks run. From
        any thread. It is cancelled if the loop is closed before; cancelling it withdraws what has not begun.
        Raises TypeError if `executor` is no executor or `fn` can't be called, RuntimeError if the loop has no
        thread yet and the system allows none.
        """
        check_callable("fn", fn)
        self._check_open()
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be a concurrent.futures.Executor or None, not {executor!r}")
        future: AwaitableFuture[T] = AwaitableFuture()
        elsewhere: Future[T]
        if executor is not None:
            elsewhere = executor.submit(fn, *args, **kwargs)
        else:
            if self._workers is None:
                self._workers = self.system.workers(_WORKERS, "reactor-worker")
            elsewhere = Future()
            self._workers.submit(partial(fulfil, elsewhere, fn, *args, **kwargs))
        self._elsewhere.add(future)
        future.add_done_callback(self._elsewhere.discard)
        future.add_done_callback(lambda done: elsewhere.cancel())
        elsewhere.add_done_callback(lambda done: self._bring(future, done))
        return future

    def _bring(self, future: Future[T], other: Future[T]) -> None:
        try:
            self.call_soon_threadsafe(follow, future, other)
        except UsageError:
            cancel(future)  # the loop was closed meanwhile

    def _post(self, handle: Handle) -> None:
        if self._closed or self._disowned:
            self._check_open()
        self._ready.append(handle)  # what a deque does to be safe between threads is enough
        self._wake()
        if self._closed:  # just now, on another thread
            _cancel_all(self._ready)

    # Running

    def _run_timers(self, end: float | None) -> int:
        for count in range(TIMERS_PER_TICK):
            handle = self._timers.first_due(self.now)
            if handle is None:
                return count
            self._run(handle)  # it leaves the heap when it has been taken: an interrupt does not lose it
            if end is not None and self._clock() >= end:
                return count + 1
        return TIMERS_PER_TICK

    def _run_ready(self, end: float | None) -> int:
        ready = self._ready
        most = min(len(ready), CALLBACKS_PER_TICK)  # what these callbacks add runs in the next tick
        for count in range(most):
            if not ready:
                return count  # a callback forked, and this is the child
            self._run(ready[0])  # it leaves the queue when it has been taken: an interrupt does not lose it
            if ready:
                ready.popleft()
            if end is not None and self._clock() >= end:
                return count + 1
        return most

    def _run(self, handle: Handle) -> None:
        timed = self._slow_callback is not None
        if timed:
            self._end_lap(SENDING, self._clock())
        pending = called = None
        try:
            pending = handle.pending()
            if pending is None:
                return
            callback, args = pending
            handle.clear()
            callback(*(called := args))
        except Exception as exc:
            self.report(exc, _name(callback))
        except BaseException as exc:
            if pending is not None and (called is None or isinstance(handle, _Notice)):
                handle.put_back(*pending)
            elif pending is not None:
                handle.broken_off(exc)
            raise
        if timed:
            self._end_lap(_name(callback), self._clock())

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` now; an exception is reported, and does not come out."""
        try:
            callback(*args)
        except Exception as exc:
            self.report(exc, _name(callback))

    def report(self, exc: BaseException, callback: str, connection: Any = None) -> None:
        """Hand an exception that left a callback to `on_error`, or log it with its traceback.

        callback: the callback's name. connection: the connection that it was called for, or None.
        """
        self.counters.handler_errors += 1
        if self._on_error is not None:
            try:
                self._on_error(exc, callback, connection)
                return
            except Exception as problem:
                told = "on_error itself failed; what it was told of follows"
                self.log.log(logging.ERROR, ("on_error", *_identity(problem)), told, exc_info=problem)
        subject = f"{callback} of {connection}" if connection is not None else callback
        key = (callback, *_identity(exc))
        self.log.log(logging.ERROR, key, "exception in %s", subject, exc_info=exc)

    def check_thread(self, callback: str) -> None:
        """Warn if this is not the thread that drives the loop; `callback` was called. For debug mode."""
        if self._driver is None or self._driver == threading.get_ident():
            return
        # Not a limited log, whose timer would be another call from the wrong thread.
        logging.getLogger("reactor").warning(
            "%s was called on thread %s, and another drives the reactor: use call_soon_threadsafe, at %s",
            callback,
            threading.current_thread().name,
            caller(),
        )

    def _end_lap(self, callback: str, now: float) -> None:
        """Begin a new lap of the clock, and warn if `callback` was slow in the one that ends."""
        took, self._lap = now - self._lap, now
        if self._slow_callback is not None and took > self._slow_callback:
            told = "slow callback: %s took %.3f s, and everything else waited"
            self.log.log(logging.WARNING, ("slow", callback), told, callback, took)

    def _drop_all(self) -> None:
        _cancel_all(self._ready)
        for future in list(self._elsewhere):
            cancel(future)
        self._timers = TimerHeap()

    def _run_notices(self) -> None:
        for handle in list(self._ready):
            if isinstance(handle, _Notice):
                self._run(handle)


def _cancel_all(queue: deque[Handle]) -> None:
    # Two threads may be at it: each handle is taken out by one of them.
    while True:
        try:
            handle = queue.popleft()
        except IndexError:
            return
        handle.cancel()


class _Notice(Handle):
    """What `close` runs, and does not drop; after an interrupt in it, it is run again."""

    __slots__ = ()


def _identity(exc: BaseException) -> tuple[type[BaseException], int]:
    """Return what tells an exception from others of its callback: its type, and the line that raised it."""
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return type(exc), 0 if at is None else at.tb_lineno


def _name(callback: Callable[..., object]) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)
