"""Structured concurrency: `gather` and `first` await several awaitables at once."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, NoReturn

from reactor.streams.task import Place, Task, Wait, is_mistake, suspend

__all__ = ["first", "gather"]


@types.coroutine
def gather(*awaitables: Awaitable[Any]) -> Generator[Place, None, list[Any]]:
    """Wait for all of `awaitables` at once; return their results, in the order of the arguments.

    Each runs as a task of the same stream as the caller, and they start in that order. When one fails,
    the others are cancelled, their `finally` blocks run, and its exception is raised here. All are
    cancelled when this wait ends early, by a timeout or with the connection. A cancelled task can't wait any
    more: an await in its `finally` blocks ends at once.
    In any task of `reactor.streams`. Raises UsageError for an argument that can't be awaited.
    """
    results = (yield from _Group(awaitables, len(awaitables)).wait()) if awaitables else {}
    return [results[number] for number in range(len(awaitables))]


@types.coroutine
def first(*awaitables: Awaitable[Any]) -> Generator[Place, None, tuple[int, Any]]:
    """Wait until the first of `awaitables` completes; return its index among the arguments, and its result.

    The others are then cancelled, as by `gather`. Nothing is lost with them: received bytes stay in the
    stream, an item stays in its queue; a future that they wait for is cancelled. If the first one fails,
    its exception is raised here.

        match await first(stream.receive(), queue.get()):
            case 0, data: ...
            case 1, item: ...

    In any task of `reactor.streams`. Raises UsageError for an argument that can't be awaited, ValueError
    without arguments.
    """
    if not awaitables:
        raise ValueError("first needs something to wait for")
    ((number, result),) = (yield from _Group(awaitables, 1).wait()).items()
    return number, result


class _Ended(BaseException):
    """Cancels a task whose group is over; handlers must not catch it."""


class _Group(Wait):
    """A wait for `enough` tasks of a group to complete, or for the first one that fails."""

    __slots__ = ("_awaitables", "_children", "_enough", "_failure", "_results", "_starting", "over")

    def __init__(self, awaitables: tuple[Awaitable[Any], ...], enough: int) -> None:
        super().__init__()
        self._awaitables = awaitables
        self._children: list[_Child] = []
        self._enough = enough
        self._failure: BaseException | None = None
        self._results: dict[int, Any] = {}
        self._starting = True
        self.over = False

    def wait(self) -> Generator[Place, None, dict[int, Any]]:
        """Run the tasks; return the results of those that completed, by index."""
        try:
            yield from suspend(self)
        finally:
            for each in self._awaitables:
                if isinstance(each, (Coroutine, Generator)):
                    each.close()  # it may not have started
        if self._failure is not None:
            raise self._failure
        return self._results

    def park(self, task: Task) -> bool:
        """Implement `Place.park`."""
        super().park(task)
        self._children = [_Child(task, self, number, each) for number, each in enumerate(self._awaitables)]
        task.stream.depend(*self._children)
        for child in self._children:
            if not self.over:
                child.begin()
        self._starting = False
        return self.over

    def unpark(self) -> None:
        """Implement `Place.unpark`: cancel the tasks that have not completed."""
        self.over = True
        assert self.task is not None
        self.task.stream.release(*self._children)
        for child in self._children:
            child.end()

    def child_ended(self, child: _Child, exc: BaseException) -> None:
        """End the group's wait, if it is over. exc: what ended the child; StopIteration if it returned."""
        if isinstance(exc, StopIteration):
            self._results[child.number] = exc.value
            if len(self._results) < self._enough:
                return
        else:
            self._failure = exc
        self.unpark()
        if not self._starting:
            self.wake()


class _Child(Task):
    """A task of a group."""

    __slots__ = ("_group", "number")

    def __init__(self, parent: Task, group: _Group, number: int, awaitable: Awaitable[object]) -> None:
        super().__init__(parent.stream, awaitable)
        self._group = group
        self.number = number

    def check_open(self) -> None:
        """Implement `Task.check_open`."""
        super().check_open()
        if self._group.over:
            raise _Ended

    def end(self) -> None:
        """Cancel the task: the group is over."""
        self.throw(self.stream.closed() if self.stream.is_lost() else _Ended())

    def stop(self, exc: BaseException) -> None:
        """Report its result to the group. exc: what it raised; StopIteration if it returned."""
        self.place = None
        if not self._group.over:
            self._group.child_ended(self, exc)
        elif is_mistake(exc):
            self.stream.reactor().report(exc, self.name, self.stream.connection)
        elif not isinstance(exc, (Exception, _Ended)):
            self.stream.reactor().call_soon(_raise, exc)  # out of `run`, when the others were cancelled


def _raise(exc: BaseException) -> NoReturn:
    raise exc
