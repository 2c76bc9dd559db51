"""Deadlines: the monitor that looks at connections when one may have passed, and the search for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from reactor.errors import ReactorError
from reactor.loop.loop import Loop
from reactor.loop.timers import Bucket, Handle, Wheel, round_up

__all__ = ["CHECKS_AT_ONCE", "Deadline", "DeadlineMonitor", "first_passed"]

#: Connections that are looked at in one go; a tick has two at most, as timer and as callback.
CHECKS_AT_ONCE = 256

# Seconds after which the others wait for the next tick.
_LONGEST_SWEEP = 0.01


class Deadline(NamedTuple):
    """The error that ends a connection `timeout` seconds after `start`.

    start: in the clock's seconds. error, message: the exception's type and text, in which `{:g}` stands for
    the timeout.
    """

    start: float
    timeout: float
    error: type[ReactorError]
    message: str


def first_passed(
    deadlines: Iterable[Deadline], now: float, lag_since: Callable[[float], float]
) -> tuple[ReactorError | None, float]:
    """Return the error of a deadline that has passed at `now`, or None, and when to look again.

    lag_since: returns the seconds by which a time since `start` may have been read too early: a tick's
        events all bear the time of its beginning. A deadline is put off by as much, and never early.
    """
    again = math.inf
    for start, timeout, error, message in deadlines:
        due = start + timeout
        if due <= now:
            due += lag_since(start)
        if due <= now:
            return error(message.format(timeout)), now
        again = min(again, round_up(due, timeout))
    return None, again


class DeadlineMonitor:
    """Calls a function for each member when one of its deadlines may have passed.

    check: called as `check(member, now)`; it adds the member again if there is more to wait for.

    One timer serves all members, and putting a deadline off costs nothing: a member is looked at when its
    earliest possible deadline comes, and then moves on.
    """

    def __init__(self, loop: Loop, check: Callable[[Any, float], object]) -> None:
        self._loop = loop
        self._check = check
        self._wheel: Wheel[Any] = Wheel()
        self._timer: Handle | None = None
        self._due = 0.0

    def add(self, member: Any, bucket: Bucket | None, when: float) -> Bucket | None:
        """Check `member` at `when`, if not before; in the clock's seconds, infinity for never.

        bucket: what the last call for this member returned, or None. Returns what is to be given to the next.
        `when` should come from `round_up`, so that many have one in common.
        """
        if when == math.inf:
            return bucket
        bucket = self._wheel.add(member, when, bucket)
        if self._timer is None or when < self._due:
            self._schedule()
        return bucket

    def discard(self, member: Any, bucket: Bucket | None) -> None:
        """Check `member` no more."""
        if bucket is None:
            return
        bucket.discard(member)
        if not bucket and bucket.due == self._due:
            self._schedule()

    def recover(self) -> None:
        """Schedule anew, after an interrupt anywhere."""
        self._wheel.recover()
        self._schedule()

    def _schedule(self) -> None:
        due = self._wheel.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is None:
            return
        self._due = due
        if due <= self._loop.now:
            self._timer = self._loop.scheduler.call_soon(self._sweep)  # the rest, a slice at a time
        else:
            self._timer = self._loop.scheduler.call_at(due, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.now
        try:
            for member in self._wheel.take_due(now, CHECKS_AT_ONCE):
                self._check(member, now)
                if self._loop.time() - now > _LONGEST_SWEEP:
                    break
        finally:
            self._schedule()
