"""The scheduler: the ready queue, the timers, and the reporting of what their callbacks raise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple

from reactor.loop.lifetime import Lifetime
from reactor.loop.log import LimitedLog
from reactor.loop.stats import Counters
from reactor.loop.system import System
from reactor.loop.timers import Handle, TimerHandle, TimerHeap
from reactor.options import check_callable, number

if TYPE_CHECKING:  # imported with the first scheduler
    from concurrent.futures import Executor

    from reactor.loop.futures import AwaitableFuture

__all__ = ["CALLBACKS_PER_TICK", "SENDING", "TIMERS_PER_TICK", "ErrorHandler", "Scheduler"]

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

#: Limits of the timers and callbacks of one tick, so that they don't starve other events.
TIMERS_PER_TICK = 256
CALLBACKS_PER_TICK = 256

#: The name, in warnings, of the flush at the end of a tick, which may call these methods.
SENDING = "pause_writing or resume_writing of what was written in the tick"

ErrorHandler = Callable[[BaseException, str, Any], object]


class Scheduler:
    """The ready queue and the timers of a loop. It has no descriptors and does not wait.

    clock: seconds that never go back.
    lifetime, system, counters: the loop's.
    wake: ends the loop's wait; called on any thread.
    check_thread: called with a method's name; logs a warning if that is not the loop's thread. None: no
        check.
    on_error, slow_callback: as `Reactor` has them.

    ready: the callbacks of the next tick. timers: the deadlines. log: the rate-limited log.
    on_added: called when a callback or timer was added on the loop's thread, or None.
    lap: when the callback at hand began, if callbacks are timed.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        lifetime: Lifetime,
        system: System,
        counters: Counters,
        wake: Callable[[], object],
        check_thread: Callable[[str], object] | None,
        on_error: ErrorHandler | None,
        slow_callback: float | None,
    ) -> None:
        # Not at their first use: there may be no descriptor left for an import then.
        from reactor.loop.futures import LoopExecutor, Work  # noqa: PLC0415

        self.ready: deque[Handle] = deque()
        self.timers = TimerHeap()
        self.log = LimitedLog(self.call_later)
        self.on_added: Callable[[], object] | None = None
        self.lap = clock()
        self._clock = clock
        self._lifetime = lifetime
        self._system = system
        self._counters = counters
        self._wake = wake
        self._check_thread = check_thread
        self._on_error = on_error
        self._slow_callback = slow_callback
        self._work_type = Work
        self._executor = LoopExecutor(system, self.call_soon_threadsafe)

    # Adding callbacks and timers

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """As `Reactor.call_soon`."""
        check_callable("callback", callback)
        self._lifetime.check_open()
        if self._check_thread is not None:
            self._check_thread("call_soon")
        handle = Handle(callback, args)
        self.ready.append(handle)
        if self.on_added is not None:
            self.on_added()
        return handle

    def post_notice(self, callback: Callable[..., object], *args: Any) -> None:
        """Schedule a callback that must run exactly once: `close` runs it if no tick did."""
        self.ready.append(_Notice(callback, args))
        if self.on_added is not None:
            self.on_added()

    def post_notice_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """As `post_notice`, from any thread or signal handler; ends the loop's wait.

        Raises UsageError if the loop is closed.
        """
        self._post(_Notice(callback, args))

    def notices_due(self) -> list[tuple[Callable[..., object], tuple[Any, ...]]]:
        """Return the callbacks and arguments of the notices that are due."""
        handles = [handle for handle in list(self.ready) if isinstance(handle, _Notice)]
        return [due for handle in handles if (due := handle.pending()) is not None]

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> TimerHandle:
        """As `Reactor.call_later`."""
        return self._set_timer(self._clock() + number("delay", delay), callback, args)

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> TimerHandle:
        """As `Reactor.call_at`."""
        return self._set_timer(number("when", when), callback, args)

    def _set_timer(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> TimerHandle:
        check_callable("callback", callback)
        self._lifetime.check_open()
        if self._check_thread is not None:
            self._check_thread("call_at or call_later")
        handle = self.timers.add(when, callback, *args)
        if self.on_added is not None:
            self.on_added()
        return handle

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """As `Reactor.call_soon_threadsafe`."""
        check_callable("callback", callback)
        handle = Handle(callback, args)
        self._post(handle)
        return handle

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AwaitableFuture[T]:
        """As `Reactor.submit`."""
        check_callable("fn", fn)
        work = self._work_type(fn, *args, **kwargs)
        self._post(work)
        return work.future

    def run_in_executor(
        self, executor: Executor | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AwaitableFuture[T]:
        """As `Reactor.run_in_executor`."""
        check_callable("fn", fn)
        self._lifetime.check_open()
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be a concurrent.futures.Executor or None, not {executor!r}")
        return self._executor.run(executor, fn, *args, **kwargs)

    def _post(self, handle: Handle) -> None:
        self._lifetime.check_open()
        self.ready.append(handle)  # a deque is thread-safe enough
        self._wake()
        if self._lifetime.closed:  # meanwhile, by another thread
            _cancel_all(self.ready)

    # Running them, called by the loop

    def run_timers(self, now: float, end: float | None) -> int:
        """Run the timers that are due at `now`, up to `TIMERS_PER_TICK`, and return how many.

        end: stop after the callback with which the clock reaches it; None for no such time.
        """
        for count in range(TIMERS_PER_TICK):
            handle = self.timers.first_due(now)
            if handle is None:
                return count
            self.run(handle)  # it stays in the heap meanwhile: an interrupt does not lose it
            if end is not None and self._clock() >= end:
                return count + 1
        return TIMERS_PER_TICK

    def run_ready(self, end: float | None) -> int:
        """Run ready callbacks, up to `CALLBACKS_PER_TICK`, and return how many. end: as `run_timers`."""
        ready = self.ready
        limit = min(len(ready), CALLBACKS_PER_TICK)  # callbacks that these add run in the next tick
        for count in range(limit):
            if not ready:
                return count  # a callback forked, and this is the child
            self.run(ready[0])  # it stays in the queue meanwhile: an interrupt does not lose it
            if ready:
                ready.popleft()
            if end is not None and self._clock() >= end:
                return count + 1
        return limit

    def run(self, handle: Handle) -> None:
        """Run one callback; an exception is reported, not raised."""
        timed = self._slow_callback is not None
        if timed:
            self.end_lap(SENDING, self._clock())
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
            self.end_lap(_name(callback), self._clock())

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` now; an exception is reported, not raised."""
        try:
            callback(*args)
        except Exception as exc:
            self.report(exc, _name(callback))

    def report(self, exc: BaseException, callback: str, connection: Any = None) -> None:
        """As `Reactor.report`."""
        self._counters.handler_errors += 1
        if self._on_error is not None:
            try:
                self._on_error(exc, callback, connection)
                return
            except Exception as problem:
                message = "on_error itself failed; what it was called with follows"
                self.log.traceback(problem, ("on_error", *_identity(problem)), message)
        subject = f"{callback} of {connection}" if connection is not None else callback
        key = (callback, *_identity(exc))
        self.log.traceback(exc, key, "exception in %s", subject)

    def end_lap(self, callback: str, now: float) -> None:
        """Begin a new lap of the clock, and warn if `callback` was slow in the one that ends."""
        took, self.lap = now - self.lap, now
        if self._slow_callback is not None and took > self._slow_callback:
            message = "slow callback: %s took %.3f s, and everything else waited"
            self.log.warning(("slow", callback), message, callback, took)

    # The end

    def run_notices(self) -> None:
        """Run the notices that are due: the loop is being closed."""
        for handle in list(self.ready):
            if isinstance(handle, _Notice):
                self.run(handle)

    def close(self) -> None:
        """Cancel every callback and timer. To be called when `Lifetime.closed` is set."""
        self.on_added = None
        self.log.flush()
        _cancel_all(self.ready)
        self._executor.cancel()
        self.timers = TimerHeap()

    def end_threads(self) -> None:
        """End the threads of `run_in_executor` when their calls are done, without waiting."""
        self._executor.end_threads()

    def detach(self) -> None:
        """Detach after fork: drop every callback and timer.

        No future is cancelled: a thread that does not exist in the child may have held its lock.
        """
        self.on_added = None
        self.ready.clear()
        self.timers = TimerHeap()


def _cancel_all(queue: deque[Handle]) -> None:
    # Two threads may do this: each handle is removed by one of them.
    while True:
        try:
            handle = queue.popleft()
        except IndexError:
            return
        handle.cancel()


class _Notice(Handle):
    """A callback that `close` runs instead of dropping it, and that runs again after an interrupt in it."""

    __slots__ = ()


def _identity(exc: BaseException) -> tuple[type[BaseException], int]:
    """Return what distinguishes the exceptions of a callback: the type, and the line that raised it."""
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return type(exc), 0 if at is None else at.tb_lineno


def _name(callback: Callable[..., object]) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)
