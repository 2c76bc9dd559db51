"""Futures of `Reactor.submit` and `run_in_executor`: calls handed to the loop's thread or to another."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from reactor.errors import ReactorError, UsageError
from reactor.loop.system import System
from reactor.loop.timers import Handle
from reactor.loop.workers import Workers

__all__ = ["AwaitableFuture", "LoopExecutor", "Work", "fulfil"]

# Threads for `run_in_executor` without an executor.
_THREADS = 32

P = ParamSpec("P")
T = TypeVar("T")


class AwaitableFuture(Future[T]):
    """A `concurrent.futures.Future` that tasks of `reactor.streams` can await."""

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for its result, as `reactor.streams.wait` does. Raises UsageError in other coroutines."""
        if not self.done():
            try:
                yield self
            except (RuntimeError, TypeError) as exc:  # raised by asyncio and trio for a yield of another loop
                if isinstance(exc, ReactorError):
                    raise
                raise UsageError(
                    "only tasks of reactor.streams can await this: asyncio.wrap_future(future) is for asyncio"
                ) from exc
        return self.result()


class Work(Handle):
    """A callback whose result or exception is set on `future`, which is cancelled with it.

    KeyboardInterrupt and SystemExit are set on the future and raised as well, as from other callbacks.
    """

    __slots__ = ("future",)

    def __init__(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.future: AwaitableFuture[Any] = AwaitableFuture()
        super().__init__(self._fulfil, (fn, args, kwargs))

    def _fulfil(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        exc = fulfil(self.future, fn, *args, **kwargs)
        if not (exc is None or isinstance(exc, Exception)):
            raise exc

    def broken_off(self, exc: BaseException) -> None:
        """Set `exc` as the future's exception, unless the future is done."""
        if not self.future.done():
            self.future.set_exception(exc)

    def cancel(self) -> None:
        """Drop the callback, and cancel the future if it is not done."""
        if not self.cancelled():
            self.clear()
            _cancel(self.future)


class LoopExecutor:
    """The calls of `Reactor.run_in_executor`: threads for them, and their futures until these are done.

    system: makes the threads, when they are first needed.
    call_soon_threadsafe: the loop's; a future is completed on the loop's thread.
    """

    def __init__(self, system: System, call_soon_threadsafe: Callable[..., object]) -> None:
        self._system = system
        self._call_soon_threadsafe = call_soon_threadsafe
        self._workers: Workers | None = None
        self._futures: set[Future[Any]] = set()

    def run(
        self, executor: Executor | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AwaitableFuture[T]:
        """Run `fn(*args, **kwargs)` in `executor`, or on the loop's threads if it is None; return its future.

        Raises what the executor's `submit` raises.
        """
        future: AwaitableFuture[T] = AwaitableFuture()
        submit = self._submit if executor is None else executor.submit
        elsewhere = submit(fn, *args, **kwargs)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        future.add_done_callback(lambda done: elsewhere.cancel())
        elsewhere.add_done_callback(lambda done: self._follow_soon(future, done))
        return future

    def cancel(self) -> None:
        """Cancel the futures that are not done: the loop is being closed."""
        for future in list(self._futures):
            _cancel(future)

    def end_threads(self) -> None:
        """End the loop's threads when their calls are done, without waiting for them."""
        if self._workers is not None:
            self._workers.close(timeout=0)

    def _submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._workers is None:
            self._workers = self._system.workers(_THREADS, "reactor-worker")
        future: Future[T] = Future()
        self._workers.submit(partial(fulfil, future, fn, *args, **kwargs))
        return future

    def _follow_soon(self, future: Future[T], other: Future[T]) -> None:
        try:
            self._call_soon_threadsafe(_follow, future, other)
        except UsageError:
            _cancel(future)  # the loop was closed meanwhile


def _cancel(future: Future[Any]) -> None:
    """Cancel `future` unless its call has begun, and wake up what waits for it."""
    if not future.cancelled() and future.cancel():
        future.set_running_or_notify_cancel()


def fulfil(
    future: Future[Any], fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
) -> BaseException | None:
    """Complete `future` with the result or exception of `fn(*args, **kwargs)`, unless it was cancelled.

    Returns the exception, or None.
    """
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(fn(*args, **kwargs))
    except BaseException as exc:
        if not future.done():
            future.set_exception(exc)
        return exc
    return None


def _follow(future: Future[Any], other: Future[Any]) -> None:
    """Complete `future` with the result or exception of `other`, which is done."""
    if not future.set_running_or_notify_cancel():
        return
    exc = CancelledError() if other.cancelled() else other.exception()
    if exc is not None:
        future.set_exception(exc)
    else:
        future.set_result(other.result())
