"""Rate limits in bytes per second: a token bucket, which is passed the time in seconds."""

from __future__ import annotations

import math

__all__ = ["TokenBucket"]

# Seconds of tokens to wait for, so that a slow rate does not cause a wake-up for each byte.
_SLICE = 0.1

# The least wait, seconds: what the rounding of sums of seconds leaves is too little for a clock to show.
_LEAST = 0.001


class TokenBucket:
    """A token bucket: fills with `rate` bytes per second, up to one second's worth, and starts full.

    So in any `t` seconds no more than `rate * (t + 1)` bytes pass.
    """

    __slots__ = ("_tokens", "_updated", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._tokens = float(rate)
        self._updated = now

    def available(self, now: float) -> int:
        """Return how many bytes may pass at `now`, in the clock's seconds."""
        self._tokens = min(float(self.rate), self._tokens + (now - self._updated) * self.rate)
        self._updated = now
        return max(0, math.floor(self._tokens))

    def fill(self, tokens: float) -> None:
        """Set the tokens, of a bucket of another process; a smaller bucket is full."""
        self._tokens = min(float(self.rate), tokens)

    def level(self, now: float) -> float:
        """Return the tokens at `now`, less than 0 for a debt."""
        self.available(now)
        return self._tokens

    def take(self, nbytes: int) -> None:
        """Remove `nbytes` tokens, for bytes that have passed."""
        self._tokens -= nbytes

    def wait(self) -> float:
        """Return the seconds until a tenth of a second's worth of tokens, at least 1 byte, is available."""
        missing = max(1.0, self.rate * _SLICE) - self._tokens
        return max(_LEAST, missing / self.rate) if missing > 0 else 0.0
