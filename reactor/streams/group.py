"""Several awaits at once."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, NoReturn

from reactor.streams.task import Place, Task, Wait, is_mistake, suspend

__all__ = ["first", "gather"]


@types.coroutine
def gather(*awaitables: Awaitable[Any]) -> Generator[Place, None, list[Any]]:
    """Wait for all of `awaitables` at once; return their results, in the order of the arguments.

    Each runs as a task of the stream of the task that waits, and they begin in that order. When one fails,
    the others are ended, their `finally` blocks run, and what it has raised is raised here. They are all
    ended when this wait is, by a timeout or with the connection. A task that is ended can't wait any more:
    what it awaits in its `finally` blocks is ended at once.
    In any task of `reactor.streams`. Raises UsageError for what can't be awaited.
    """
    results = (yield from _Group(awaitables, len(awaitables)).wait()) if awaitables else {}
    return [results[number] for number in range(len(awaitables))]


@types.coroutine
def first(*awaitables: Awaitable[Any]) -> Generator[Place, None, tuple[int, Any]]:
    """Wait for the first of `awaitables` that is done; return its place among the arguments, and its result.

    The others are then ended, as `gather` does it. What they wait for is not lost: bytes that came stay with
    the stream, an item with its queue; a future that they wait for is cancelled. If the first that is done
    has failed, what it raises is raised here.

        match await first(stream.receive(), queue.get()):
            case 0, data: ...
            case 1, item: ...

    In any task of `reactor.streams`. Raises UsageError for what can't be awaited, ValueError for nothing.
    """
    if not awaitables:
        raise ValueError("first needs something to wait for")
    ((number, result),) = (yield from _Group(awaitables, 1).wait()).items()
    return number, result


class _Ended(BaseException):
    """Ends the waits of a task whose group is over; not for handlers to catch."""


class _Group(Wait):
    """A wait for so many tasks of its own as are `enough`, or for the first of them that fails."""

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
        """Run them; return the results of those that are done, by their numbers."""
        try:
            yield from suspend(self)
        finally:
            for each in self._awaitables:
                if isinstance(each, (Coroutine, Generator)):
                    each.close()  # it may not have begun
        if self._failure is not None:
            raise self._failure
        return self._results

    def park(self, task: Task) -> bool:
        """As `Place.park`."""
        super().park(task)
        self._children = [_Child(task, self, number, each) for number, each in enumerate(self._awaitables)]
        task.stream.depend(*self._children)
        for child in self._children:
            if not self.over:
                child.begin()
        self._starting = False
        return self.over

    def unpark(self) -> None:
        """As `Place.unpark`: end the tasks that are not done."""
        self.over = True
        assert self.task is not None
        self.task.stream.release(*self._children)
        for child in self._children:
            child.end()

    def child_ended(self, child: _Child, exc: BaseException) -> None:
        """Go on, if that is enough. StopIteration: it has returned."""
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
        """As `Task.check_open`."""
        super().check_open()
        if self._group.over:
            raise _Ended

    def end(self) -> None:
        """End its wait: the group is over."""
        self.throw(self.stream.closed() if self.stream.is_lost() else _Ended())

    def stop(self, exc: BaseException) -> None:
        """Take note that it has returned, or raised `exc`."""
        self.place = None
        if not self._group.over:
            self._group.child_ended(self, exc)
        elif is_mistake(exc):
            self.stream.reactor().report(exc, self.name, self.stream.connection)
        elif not isinstance(exc, (Exception, _Ended)):
            self.stream.reactor().call_soon(_raise, exc)  # out of `run`, when the others have been ended


def _raise(exc: BaseException) -> NoReturn:
    raise exc
