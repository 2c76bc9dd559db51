"""Tasks: coroutines that a reactor runs, and the places at which they are suspended.

An await that must wait yields a place: an object with `park(task)` and `unpark()`, which calls
`task.wake(place)` on the reactor's thread when the wait is over.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from reactor.errors import ReactorError, StreamTimeout, UsageError
from reactor.loop.context import ContextExit
from reactor.reactor import Reactor

__all__ = ["Place", "Sleep", "Task", "Timeout", "Wait", "is_mistake", "suspend", "wait"]

T = TypeVar("T")


class Place(Protocol):
    """An object at which a task is suspended until it calls `task.wake`."""

    def park(self, task: Task) -> bool:
        """Begin the wait of `task`; return whether it is over already. The await raises what this raises."""

    def unpark(self) -> object:
        """End the wait, which is over or cancelled: the task must not be woken from here any more."""


class Task:
    """A coroutine of a stream, and the place at which it is suspended; None before start and after end.

    stream: the `Stream`, whose module is above this one.
    """

    __slots__ = ("coroutine", "place", "send", "stream")

    def __init__(self, stream: Any, awaitable: Awaitable[object]) -> None:
        self.stream = stream
        self.coroutine = _as_coroutine(awaitable)
        self.send = self.coroutine.send
        self.place: Place | None = None

    @property
    def name(self) -> str:
        """The qualified name of the coroutine."""
        return getattr(self.coroutine, "__qualname__", "task")

    def is_running(self) -> bool:
        """Return whether the task is running now, so that this is called from within it."""
        running: bool = getattr(self.coroutine, "cr_running", False) or getattr(
            self.coroutine, "gi_running", False
        )
        return running

    def check_open(self) -> None:
        """Raise the exception that ends each further wait, if the task must end."""
        if self.stream.is_lost():
            raise self.stream.closed()

    def begin(self) -> None:
        """Run to the first wait, unless the connection has ended already."""
        if self.stream.is_lost():
            self.coroutine.close()
        else:
            self.step()

    def step(self) -> None:
        """Run to the next wait."""
        self._go_on(self.send, None)

    def wake(self, place: Place) -> None:
        """Resume, if the task is still suspended at `place`."""
        if self.place is place:
            place.unpark()
            self.step()

    def throw(self, exc: BaseException) -> None:
        """Raise `exc` at the place where the task is suspended."""
        if self.place is not None:
            self.place.unpark()
            self._go_on(self.coroutine.throw, exc)

    def _go_on(self, how: Callable[[Any], Any], what: Any) -> None:
        try:
            place = how(what)
        except BaseException as exc:
            self.stop(exc)
        else:
            self.wait_at(place)

    def wait_at(self, place: Any) -> None:
        """Suspend the task at `place`; if `park` fails, the await raises its exception."""
        while True:
            how: Callable[[Any], Any] = self.send
            what = None
            try:
                if not self._park(place):
                    return
            except BaseException as exc:
                how, what = self.coroutine.throw, exc
            try:
                place = how(what)
            except BaseException as exc:
                self.stop(exc)
                return

    def _park(self, place: Any) -> bool:
        self.check_open()
        if isinstance(place, Future):
            place = _Completion(place)
        elif not hasattr(place, "park"):
            raise UsageError(f"{place!r} can't be waited for here: the reactor drives this, not asyncio")
        self.place = place
        try:
            return place.park(self)  # type: ignore[no-any-return]
        except BaseException:
            self.place = None
            raise

    def stop(self, exc: BaseException) -> None:
        """End the task. exc: what it raised; StopIteration if it returned."""
        self.place = None
        self.stream.task_ended(self, exc)
        if not isinstance(exc, Exception):
            raise exc


def _as_coroutine(awaitable: object) -> Coroutine[Any, Any, Any] | Generator[Any, Any, Any]:
    """Return a coroutine for `awaitable`, which may be a `concurrent.futures.Future`. Raises UsageError."""
    if isinstance(awaitable, (Coroutine, Generator)):  # this package's own awaitables are generators
        return awaitable
    if isinstance(awaitable, Future):
        return wait(awaitable)
    iterator = awaitable.__await__() if isinstance(awaitable, Awaitable) else None
    if not isinstance(iterator, Generator):
        raise UsageError(f"{awaitable!r} can't be run as a task: give an `async def` function")
    return iterator


def is_mistake(exc: BaseException) -> bool:
    """Return whether `exc`, which a task raised, is a mistake of the program, to be reported."""
    if isinstance(exc, ReactorError):
        return isinstance(exc, UsageError)
    return isinstance(exc, Exception) and not isinstance(exc, StopIteration)


class Wait:
    """Base class of places that serve one wait of one task."""

    __slots__ = ("task",)

    task: Task | None

    def __init__(self) -> None:
        self.task = None  # until it is parked

    def park(self, task: Task) -> bool:
        """Implement `Place.park`."""
        self.task = task
        return False

    def unpark(self) -> None:
        """Implement `Place.unpark`."""

    def wake(self) -> None:
        """Resume the task, if it is still suspended here."""
        if self.task is not None:
            self.task.wake(self)


@types.coroutine
def suspend(place: Wait) -> Generator[Place, None, None]:
    """Suspend the running task at `place`. Raises UsageError outside of this package's tasks."""
    try:
        yield place
    except Exception as exc:
        if place.task is None and not isinstance(exc, ReactorError):  # raised by another loop
            raise UsageError("this can be awaited in the tasks of reactor.streams only") from exc
        raise


class Sleep(Wait):
    """A wait for a point in time."""

    __slots__ = ("_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def park(self, task: Task) -> bool:
        """Implement `Place.park`."""
        self._timer = task.stream.reactor().call_later(self._seconds, task.wake, self)
        return super().park(task)

    def unpark(self) -> None:
        """Implement `Place.unpark`."""
        self._timer.cancel()


class _Completion(Wait):
    """A wait for the completion of a future, on whatever thread."""

    __slots__ = ("_future", "_reactor")

    _reactor: Reactor

    def __init__(self, future: Future[Any]) -> None:
        super().__init__()
        self._future = future

    def park(self, task: Task) -> bool:
        self._reactor = task.stream.reactor()
        super().park(task)
        self._future.add_done_callback(self._completed)
        return False

    def unpark(self) -> None:
        self.task = None  # the future, and so this place, may live long
        self._future.cancel()

    def _completed(self, future: Future[Any]) -> None:
        if self.task is not None:
            try:
                self._reactor.call_soon_threadsafe(self.wake)
            except UsageError:
                pass  # the reactor was closed, and has ended the task


@types.coroutine
def wait(future: Future[T]) -> Generator[Place, None, T]:
    """Wait for `future`, which any thread may complete; return its result, or raise its exception.

    For example `await wait(executor.submit(fn))`. The results of `Reactor.run_in_executor` and `submit` can
    be awaited without it.
    The future is cancelled when the wait ends early, by a timeout or with the connection of the task. A call
    that has started on another thread goes on, and its result is dropped.
    In any task of `reactor.streams`. Raises `concurrent.futures.CancelledError` if the future was cancelled.
    """
    if not future.done():
        yield from suspend(_Completion(future))
    return future.result()


class _TimeIsUp(BaseException):
    """Ends the wait within an expired `with stream.timeout()`; handlers must not catch it."""


class Timeout(ContextExit):
    """The context manager of `Stream.timeout`."""

    __slots__ = ("_seconds", "_task", "_timer", "_up")

    def __init__(self, task: Task, seconds: float) -> None:
        self._task = task
        self._seconds = seconds
        self._up: _TimeIsUp | None = None

    def __enter__(self) -> None:
        self._timer = self._task.stream.reactor().call_later(self._seconds, self._expire)

    def _leave_block(self, exc: BaseException | None) -> None:
        self._timer.cancel()
        if exc is not None and exc is self._up:
            raise StreamTimeout(f"not done within {self._seconds:g} s") from None

    def _expire(self) -> None:
        self._up = _TimeIsUp()
        self._task.throw(self._up)
