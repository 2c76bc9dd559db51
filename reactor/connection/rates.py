"""How many bytes a second: a token bucket. The time, in seconds, is passed in."""

from __future__ import annotations

import math

__all__ = ["TokenBucket"]

# The part of a second that is waited for at least, so that a slow rate is not a wake-up for each byte.
_SLICE = 0.1


class TokenBucket:
    """Grows by `rate` bytes a second, up to one second's worth, and is full at the beginning.

    So in any `t` seconds no more than `rate * (t + 1)` bytes pass.
    """

    __slots__ = ("_tokens", "_updated", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._tokens = float(rate)
        self._updated = now

    def available(self, now: float) -> int:
        """Return how many bytes may pass at `now`."""
        self._tokens = min(float(self.rate), self._tokens + (now - self._updated) * self.rate)
        self._updated = now
        return max(0, math.floor(self._tokens))

    def take(self, nbytes: int) -> None:
        """Count `nbytes` that have passed."""
        self._tokens -= nbytes

    def wait(self) -> float:
        """Return the seconds until it is worth asking again: a tenth of a second's worth, a byte at least."""
        worth = max(1.0, self.rate * _SLICE)
        return max(0.0, worth - self._tokens) / self.rate
