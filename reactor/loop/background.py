"""The background driver: a thread that drives a loop during a `with` block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from reactor.errors import ReactorError, UsageError
from reactor.loop.context import ContextExit

__all__ = ["Background"]

# Seconds after the drain's deadline in which the thread must return from its current callback.
_GRACE = 5.0


class Drivable(Protocol):
    """The interface of a loop that can be driven in the background."""

    def run(self) -> None: ...

    def close(self) -> None: ...

    def drain(self, timeout: float) -> None: ...

    def stop(self) -> None: ...

    def call_soon_threadsafe(self, callback: Callable[..., object]) -> object: ...


Driven = TypeVar("Driven", bound=Drivable)


class Background(ContextExit, Generic[Driven]):
    """A context manager in which a thread drives `reactor`; entering it returns the reactor.

    drain_timeout: seconds that connections have to end when the block is left.
    name: the thread's.
    """

    def __init__(self, reactor: Driven, drain_timeout: float, name: str) -> None:
        self._reactor = reactor
        self._drain_timeout = drain_timeout
        self._thread = threading.Thread(target=self._run, name=name)
        self._begun = threading.Event()
        self._problem: BaseException | None = None

    def __enter__(self) -> Driven:
        self._reactor.call_soon_threadsafe(self._begun.set)
        self._thread.start()
        self._begun.wait()
        if self._problem is not None:
            self._thread.join()
            raise self._problem
        return self._reactor

    def _leave_block(self, exc: BaseException | None) -> None:
        try:
            self._reactor.drain(self._drain_timeout)
            self._thread.join(min(self._drain_timeout + _GRACE, threading.TIMEOUT_MAX))
            if self._thread.is_alive():  # a longer drain had begun before
                self._reactor.stop()
                self._thread.join(_GRACE)
        except UsageError:
            self._thread.join()  # the block has closed the reactor
        except BaseException:
            self._reactor.stop()  # an interrupt: the thread must not outlive the block
            raise
        if self._thread.is_alive():
            self._problem = ReactorError(f"the thread {self._thread.name} does not come out of its callback")
        if self._problem is None:
            return
        if exc is None:
            raise self._problem
        exc.add_note(f"And the reactor's thread broke: {self._problem!r}")

    def _run(self) -> None:
        try:
            self._reactor.run()
        except UsageError as exc:
            self._problem = exc  # closed, or driven by another thread, which keeps it
        except BaseException as exc:
            self._problem = exc
            self._reactor.close()  # nothing drives it any more: pending futures are cancelled
        finally:
            self._begun.set()
