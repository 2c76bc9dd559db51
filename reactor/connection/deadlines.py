"""Deadlines of connections, and the deadline monitor that checks them when they may have passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from reactor.loop.loop import Loop
from reactor.loop.timers import Bucket, Handle, Wheel, round_up

__all__ = ["CHECKS_AT_ONCE", "Deadline", "DeadlineMonitor", "first_passed"]

#: Members checked per sweep; a tick has at most two sweeps, one as timer and one as callback.
CHECKS_AT_ONCE = 256

# Seconds after which a sweep leaves the remaining members to the next tick. Ending a connection takes 0.05 to
# 0.1 ms: when thousands of slow clients pass their deadline at once, others wait for so long at most.
_LONGEST_SWEEP = 0.0005


class Deadline(NamedTuple):
    """A deadline `timeout` seconds after `start`, and the error that ends the connection when it passes.

    start: in the clock's seconds. error, message: the exception's type and message, in which `{:g}` stands
    for the timeout.
    """

    start: float
    timeout: float
    error: type[Exception]
    message: str


def first_passed(
    deadlines: Iterable[Deadline], now: float, longest_tick_since: Callable[[float], float]
) -> tuple[Exception | None, float]:
    """Return the error of a deadline that has passed at `now`, or None, and when to look again.

    longest_tick_since: returns the seconds that the longest tick since `start` took. A timestamp may be too
        early by as much, because all events of a tick have the time of its start; a deadline is extended by
        it, so that it never fires early.
    """
    again = math.inf
    for start, timeout, error, message in deadlines:
        due = start + timeout
        if due <= now:
            due += longest_tick_since(start)
        if due <= now:
            return error(message.format(timeout)), now
        again = min(again, round_up(due, timeout))
    return None, again


class DeadlineMonitor:
    """A deadline monitor: calls a function for each member when one of its deadlines may have passed.

    check: called as `check(member, now)`; it adds the member again if it has another deadline.

    One timer serves all members, and extending a deadline costs nothing: a member is checked when its
    earliest possible deadline passes, and then added again for the next.
    """

    def __init__(self, loop: Loop, check: Callable[[Any, float], object]) -> None:
        self._loop = loop
        self._check = check
        self._wheel: Wheel[Any] = Wheel()
        self._timer: Handle | None = None
        self._due = 0.0

    def add(self, member: Any, bucket: Bucket | None, when: float) -> Bucket | None:
        """Schedule a check of `member` at `when`, in the clock's seconds; infinity for none.

        bucket: the result of the last call for this member, or None; an earlier check that it stands for is
        kept. Returns the bucket for the next call. `when` should come from `round_up`, so that many members
        share a bucket.
        """
        if when == math.inf:
            return bucket
        bucket = self._wheel.add(member, when, bucket)
        if self._timer is None or when < self._due:
            self._schedule()
        return bucket

    def discard(self, member: Any, bucket: Bucket | None) -> None:
        """Cancel the check of `member`."""
        if bucket is None:
            return
        bucket.discard(member)
        if not bucket and bucket.due == self._due:
            self._schedule()

    def recover(self) -> None:
        """Restore the schedule after an interrupt, wherever it came."""
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
        loop = self._loop
        now = loop.now
        end = min(loop.time() + _LONGEST_SWEEP, loop.slice_end)
        try:
            for member in self._wheel.take_due(now, CHECKS_AT_ONCE):
                self._check(member, now)
                if loop.time() >= end:
                    break
        finally:
            self._schedule()
