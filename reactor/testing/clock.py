"""`ManualClock`: a clock that a test advances."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """A clock that only `advance` moves: `Reactor(clock=ManualClock())`.

    now: the time at which it starts, in seconds.

    >>> clock = ManualClock(now=100.0)
    >>> clock.advance(2.5)
    >>> clock()
    102.5
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock on by `seconds`. A reactor sees it in its next tick."""
        self.now += seconds
