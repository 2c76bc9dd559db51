"""What tasks of different connections wait for: a queue's items, an event."""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from collections.abc import Generator
from queue import Empty, Full
from typing import Generic, TypeVar

from reactor.streams.task import Place, Task, Wait, suspend

__all__ = ["Event", "Queue"]

T = TypeVar("T")


class Event:
    """A flag that tasks wait for, those of one reactor. `asyncio.Event` has the same methods.

    `set`, `clear` and `is_set` are called on the reactor's thread: in tasks, callbacks and protocols. From
    other threads: `reactor.call_soon_threadsafe(event.set)`.
    """

    __slots__ = ("_is_set", "_line")

    def __init__(self) -> None:
        self._is_set = False
        self._line = _Line()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it. Every task that waits goes on in the next tick, even if it is cleared before."""
        self._is_set = True
        while self._line.call_next():
            pass

    def clear(self) -> None:
        """Undo `set`: from now on tasks wait."""
        self._is_set = False

    @types.coroutine
    def wait(self) -> Generator[Place, None, None]:
        """Wait until it is set. In any task of `reactor.streams`, any number at once."""
        if not self._is_set:
            yield from suspend(_Turn(self._line))


class Queue(Generic[T]):
    """Items between tasks of one reactor, first in, first out. `asyncio.Queue` has the same methods.

    maxsize: items that it holds; 0 sets no limit.

    `put_nowait`, `get_nowait` and the questions are called on the reactor's thread: in tasks, callbacks and
    protocols. From other threads: `reactor.call_soon_threadsafe(queue.put_nowait, item)`.
    Tasks that wait are served in the order in which they came. A wait that is ended, by a timeout or because
    its connection has ended, has put or taken nothing. Raises ValueError if `maxsize` is negative.
    """

    __slots__ = ("_getters", "_items", "_maxsize", "_putters")

    def __init__(self, maxsize: int = 0) -> None:
        if maxsize < 0:
            raise ValueError(f"maxsize must be 1 item or more, or 0 for no limit, not {maxsize}")
        self._maxsize = maxsize
        self._items: deque[T] = deque()
        self._getters = _Line()
        self._putters = _Line()

    def qsize(self) -> int:
        """Return how many items it holds."""
        return len(self._items)

    def empty(self) -> bool:
        """Return whether `get` would wait: no item is left to it by the tasks that came before."""
        return len(self._items) <= self._getters.called

    def full(self) -> bool:
        """Return whether `put` would wait: no room is left to it by the tasks that came before."""
        return 0 < self._maxsize <= len(self._items) + self._putters.called

    def put_nowait(self, item: T) -> None:
        """Add `item`. Raises `queue.Full` where `put` would wait."""
        if self.full():
            raise Full
        self._items.append(item)
        self._getters.call_next()

    def get_nowait(self) -> T:
        """Return the first item. Raises `queue.Empty` where `get` would wait."""
        if self.empty():
            raise Empty
        item = self._items.popleft()
        self._putters.call_next()
        return item

    @types.coroutine
    def put(self, item: T) -> Generator[Place, None, None]:
        """Wait for room, and add `item`. In any task of `reactor.streams`, any number at once."""
        if self.full():
            yield from self._putters.wait()
        self.put_nowait(item)

    @types.coroutine
    def get(self) -> Generator[Place, None, T]:
        """Wait for an item, and return it. In any task of `reactor.streams`, any number at once."""
        if self.empty():
            yield from self._getters.wait()
        return self.get_nowait()


class _Line:
    """Tasks that wait for their turn, first come, first served.

    called: how many have been called and have not gone on yet; what they were called for is theirs.
    """

    __slots__ = ("called", "waiting")

    def __init__(self) -> None:
        self.called = 0
        self.waiting: OrderedDict[_Turn, None] = OrderedDict()  # any may leave

    def call_next(self) -> bool:
        """Let the first one go on; return whether there is one."""
        if not self.waiting:
            return False
        turn, _ = self.waiting.popitem(last=False)
        self.called += 1
        turn.call()
        return True

    def wait(self) -> Generator[Place, None, None]:
        """Wait to be called. If the wait is ended after that, the next one is called instead."""
        turn = _Turn(self)
        try:
            yield from suspend(turn)
        except BaseException:
            if turn.is_called:
                self.call_next()
            raise


class _Turn(Wait):
    """The place of a task in a line."""

    __slots__ = ("_line", "is_called")

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line
        self.is_called = False

    def call(self) -> None:
        """Let the task go on in the next tick."""
        assert self.task is not None
        self.is_called = True
        self.task.stream.reactor().call_soon(self.wake)

    def park(self, task: Task) -> bool:
        """As `Place.park`."""
        self._line.waiting[self] = None
        return super().park(task)

    def unpark(self) -> None:
        """As `Place.unpark`."""
        if self.is_called:
            self._line.called -= 1
        else:
            del self._line.waiting[self]
