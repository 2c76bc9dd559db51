"""The tasks of a request that a coroutine handles."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from reactor.connection.connection import Connection
from reactor.errors import StreamClosed
from reactor.streams.stream import LIMIT, Stream
from reactor.streams.task import Task

__all__ = ["Scope"]


class Scope(Stream):
    """The scope of a coroutine: ends its waits with the connection, from which it reads nothing itself.

    connection: that of the request. on_end: called with the result, and None or the exception.
    """

    __slots__ = ("_on_end",)

    def __init__(
        self, connection: Connection, on_end: Callable[[object, BaseException | None], object]
    ) -> None:
        super().__init__(None, LIMIT)
        self.connection = connection
        self._on_end = on_end

    def start(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run the coroutine to its first wait."""
        self._main = Task(self, coroutine)
        self._main.step()

    def task_ended(self, task: Task, exc: BaseException) -> None:
        """Pass on the result of the coroutine. exc: StopIteration if it returned."""
        if task is not self._main:
            self.release(task)
            return
        self._main = None
        if isinstance(exc, StopIteration):
            self._on_end(exc.value, None)
        elif not (isinstance(exc, StreamClosed) and self.is_lost()):
            self._on_end(None, exc)
