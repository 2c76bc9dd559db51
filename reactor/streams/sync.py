"""Synchronization between tasks of one reactor: `Event` and `Queue`."""

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
    """A flag that tasks of one reactor wait for, with the methods of `asyncio.Event`.

    `set`, `clear` and `is_set` are called on the reactor's thread: in tasks, callbacks and protocols. On
    other threads call `reactor.call_soon_threadsafe(event.set)`.

        from reactor import streams
        from reactor.testing import MemoryReactor, Recorder

        ready = streams.Event()

        async def greet(stream):
            await ready.wait()
            await stream.send(b"ready")

        with MemoryReactor() as reactor:
            _, client = reactor.pair(streams.handler(greet), Recorder)
            recorder = client.get_protocol()
            reactor.call_later(1, ready.set)
            reactor.run_out()
        assert recorder.received == b"ready"
    """

    __slots__ = ("_is_set", "_line")

    def __init__(self) -> None:
        self._is_set = False
        self._line = _Line()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it. Every waiting task resumes in the next tick, even if it is cleared before that."""
        self._is_set = True
        while self._line.call_next():
            pass

    def clear(self) -> None:
        """Clear it: from now on `wait` waits."""
        self._is_set = False

    @types.coroutine
    def wait(self) -> Generator[Place, None, None]:
        """Wait until it is set. In any number of tasks of `reactor.streams`."""
        if not self._is_set:
            yield from suspend(_Waiter(self._line))


class Queue(Generic[T]):
    r"""A first-in, first-out queue between tasks of one reactor, with the methods of `asyncio.Queue`.

    maxsize: limit of the items that it holds; 0 for none.

    `put_nowait`, `get_nowait`, `qsize`, `empty` and `full` are called on the reactor's thread: in tasks,
    callbacks and protocols. On other threads call `reactor.call_soon_threadsafe(queue.put_nowait, item)`.
    Waiting tasks are served in order. A wait that ends early, by a timeout or with its connection, has put or
    taken nothing. Raises ValueError if `maxsize` is negative.

        from reactor import streams
        from reactor.testing import MemoryReactor, Recorder

        queue = streams.Queue(maxsize=100)

        async def produce(stream):
            async for line in stream.lines():
                await queue.put(line)

        async def consume(stream):
            await stream.send(await queue.get())

        with MemoryReactor() as reactor:
            _, producer = reactor.pair(streams.handler(produce), Recorder)
            _, consumer = reactor.pair(streams.handler(consume), Recorder)
            recorder = consumer.get_protocol()
            producer.write(b"item\n")
            producer.write_eof()
            reactor.run_out()
        assert recorder.received == b"item"
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
        """Return whether `get` would wait: all items are for tasks that waited earlier."""
        return len(self._items) <= self._getters.called

    def full(self) -> bool:
        """Return whether `put` would wait: all room is for tasks that waited earlier."""
        return 0 < self._maxsize <= len(self._items) + self._putters.called

    def put_nowait(self, item: T) -> None:
        """Add `item`. Raises `queue.Full` where `put` would wait."""
        if self.full():
            raise Full
        self._items.append(item)
        self._getters.call_next()

    def get_nowait(self) -> T:
        """Remove and return the first item. Raises `queue.Empty` where `get` would wait."""
        if self.empty():
            raise Empty
        item = self._items.popleft()
        self._putters.call_next()
        return item

    @types.coroutine
    def put(self, item: T) -> Generator[Place, None, None]:
        """Wait for room, and add `item`. In any number of tasks of `reactor.streams`."""
        if self.full():
            yield from self._putters.wait()
        self.put_nowait(item)

    @types.coroutine
    def get(self) -> Generator[Place, None, T]:
        """Wait for an item, remove it and return it. In any number of tasks of `reactor.streams`."""
        if self.empty():
            yield from self._getters.wait()
        return self.get_nowait()


class _Line:
    """A line of waiting tasks, first come, first served.

    called: tasks that were called and have not resumed yet; an item or room is reserved for each.
    """

    __slots__ = ("called", "waiting")

    def __init__(self) -> None:
        self.called = 0
        self.waiting: OrderedDict[_Waiter, None] = OrderedDict()  # any may be removed

    def call_next(self) -> bool:
        """Call the first task; return whether there was one."""
        if not self.waiting:
            return False
        waiter, _ = self.waiting.popitem(last=False)
        self.called += 1
        waiter.call()
        return True

    def wait(self) -> Generator[Place, None, None]:
        """Wait to be called. If the wait ends early after the call, the next task is called instead."""
        waiter = _Waiter(self)
        try:
            yield from suspend(waiter)
        except BaseException:
            if waiter.is_called:
                self.call_next()
            raise


class _Waiter(Wait):
    """The place of a task in a line."""

    __slots__ = ("_line", "is_called")

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line
        self.is_called = False

    def call(self) -> None:
        """Resume the task in the next tick."""
        assert self.task is not None
        self.is_called = True
        self.task.stream.reactor().call_soon(self.wake)

    def park(self, task: Task) -> bool:
        """Implement `Place.park`."""
        self._line.waiting[self] = None
        return super().park(task)

    def unpark(self) -> None:
        """Implement `Place.unpark`."""
        if self.is_called:
            self._line.called -= 1
        else:
            del self._line.waiting[self]
