"""A clock for tests."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """A clock that goes when it is told to: `Reactor(clock=ManualClock())`.

    now: seconds, from which it starts.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. A reactor sees it when it is driven next."""
        self.now += seconds
