"""Work that is handed to a thread, the loop's or another, and the future that tells what became of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from typing import Any, ParamSpec, TypeVar

from reactor.errors import ReactorError, UsageError
from reactor.loop.timers import Handle

__all__ = ["AwaitableFuture", "Work", "cancel", "follow", "fulfil"]

P = ParamSpec("P")
T = TypeVar("T")


class AwaitableFuture(Future[T]):
    """A `concurrent.futures.Future` that tasks of `reactor.streams` can await."""

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for its result, as `reactor.streams.wait` does. Raises UsageError in other coroutines."""
        if not self.done():
            try:
                yield self
            except (RuntimeError, TypeError) as exc:  # asyncio's and trio's word for a yield they don't know
                if isinstance(exc, ReactorError):
                    raise
                raise UsageError(
                    "only tasks of reactor.streams can await this: asyncio.wrap_future(future) is for asyncio"
                ) from exc
        return self.result()


class Work(Handle):
    """A callback whose result or exception goes into `future`, which is cancelled with it.

    Like other callbacks it lets KeyboardInterrupt and SystemExit pass, when the future has them.
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
            cancel(self.future)


def cancel(future: Future[Any]) -> None:
    """Cancel `future` if nobody has begun with it, and tell who waits."""
    if not future.cancelled() and future.cancel():
        future.set_running_or_notify_cancel()


def fulfil(
    future: Future[Any], fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
) -> BaseException | None:
    """Complete `future` with what `fn(*args, **kwargs)` returns or raises, unless it was cancelled.

    Returns what it has raised.
    """
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(fn(*args, **kwargs))
    except BaseException as exc:
        if not future.done():
            future.set_exception(exc)
        return exc
    return None


def follow(future: Future[Any], other: Future[Any]) -> None:
    """Complete `future` as `other` was, which is done."""
    if not future.set_running_or_notify_cancel():
        return
    exc = CancelledError() if other.cancelled() else other.exception()
    if exc is not None:
        future.set_exception(exc)
    else:
        future.set_result(other.result())
