"""Work that is handed to a thread, the loop's or another, and the future that tells what became of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from reactor.timers import Handle

__all__ = ["Work", "fulfil"]


class Work(Handle):
    """A callback whose result or exception goes into `future`, which is cancelled with it."""

    __slots__ = ("future",)

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.future: Future[Any] = Future()
        super().__init__(fulfil, (self.future, fn, *args))

    def cancel(self) -> None:
        """Drop the callback, and cancel the future if it is not done."""
        if self.take() is not None and self.future.cancel():
            self.future.set_running_or_notify_cancel()


def fulfil(future: Future[Any], fn: Callable[..., Any], *args: Any) -> None:
    """Complete `future` with what `fn(*args)` returns or raises, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args)
    except Exception as exc:
        future.set_exception(exc)
    except BaseException as exc:
        future.set_exception(exc)
        raise
    else:
        future.set_result(result)
