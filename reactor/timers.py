"""Timers: a heap of deadlines that may be cancelled, and a coarse wheel for timeouts of many.

Neither reads a clock: the time, in seconds of whatever clock the caller keeps, is passed in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Handle", "TimerHandle", "TimerHeap", "Wheel", "WheelMember"]


class Handle:
    """A callback that is due, and can be cancelled until it runs."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Drop the callback and its arguments at once. More than once, or after it ran, does nothing."""
        self._callback = None
        self._args = ()

    def cancelled(self) -> bool:
        """Return whether there is nothing left to run: it was cancelled, or it ran."""
        return self._callback is None

    def take(self) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """Return the callback with its arguments and forget both; None when there is nothing to run."""
        callback = self._callback
        if callback is None:
            return None
        args = self._args
        self._callback = None
        self._args = ()
        return callback, args


class TimerHandle(Handle):
    """A callback that is due at `when`."""

    __slots__ = ("_heap", "when")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], heap: TimerHeap
    ) -> None:
        super().__init__(callback, args)
        self.when = when
        self._heap: TimerHeap | None = heap

    def cancel(self) -> None:
        """Drop the callback and its arguments at once. More than once, or after it ran, does nothing."""
        super().cancel()
        heap, self._heap = self._heap, None
        if heap is not None:
            heap._forget_one()

    def _leave_heap(self) -> None:
        self._heap = None


class TimerHeap:
    """Deadlines, earliest first, equal ones in the order they were set.

    A cancelled timer drops its callback at once and its place in the heap when it comes to the top,
    or when cancelled ones are more than half of a heap of more than `_COMPACT_ABOVE`.
    """

    _COMPACT_ABOVE = 64

    __slots__ = ("_cancelled", "_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TimerHandle]] = []
        self._count = 0
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def add(self, when: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Set `callback(*args)` for `when`. Raises ValueError for a time that is not a number."""
        if math.isnan(when):
            raise ValueError("a timer's time must be a number of seconds, not nan")
        handle = TimerHandle(when, callback, args, self)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, handle))
        return handle

    def next_due(self) -> float | None:
        """Return the earliest deadline, or None when there is none."""
        heap = self._heap
        while heap:
            when, _, handle = heap[0]
            if not handle.cancelled():
                return when
            heapq.heappop(heap)
            self._cancelled -= 1
        return None

    def pop_due(self, now: float) -> TimerHandle | None:
        """Take out and return the earliest timer whose time is `now` or before; None if there is none."""
        due = self.next_due()
        if due is None or due > now:
            return None
        handle = heapq.heappop(self._heap)[2]
        handle._leave_heap()
        return handle

    def _forget_one(self) -> None:
        self._cancelled += 1
        if len(self._heap) > self._COMPACT_ABOVE and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].cancelled()]
            heapq.heapify(self._heap)
            self._cancelled = 0


class WheelMember(Protocol):
    """What a wheel holds: it stamps `last_active` itself; `spoke` is the wheel's."""

    last_active: float
    spoke: int


Member = TypeVar("Member", bound=WheelMember)


class Wheel(Generic[Member]):
    """Members that share one timeout, each in the bucket of the time when it may be due.

    Activity costs the member one store to `last_active` and nothing here: a member that was active
    is found so when its bucket comes up, and moves to a later one. So each is looked at about once
    per timeout, and the answer comes between 0 and `1/SPOKES` of the timeout late, never early.
    """

    SPOKES = 32

    __slots__ = ("_buckets", "_width", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._width = timeout / self.SPOKES
        self._buckets: dict[int, set[Member]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, member: Member) -> None:
        """Put `member` in the bucket that its `last_active` says."""
        self._put(member, math.ceil((member.last_active + self.timeout) / self._width))

    def _put(self, member: Member, spoke: int) -> None:
        bucket = self._buckets.get(spoke)
        if bucket is None:
            bucket = self._buckets[spoke] = set()
        member.spoke = spoke
        bucket.add(member)

    def discard(self, member: Member) -> None:
        """Take `member` out, if it is there."""
        bucket = self._buckets.get(member.spoke)
        if bucket is not None:
            bucket.discard(member)
            if not bucket:
                del self._buckets[member.spoke]

    def next_due(self) -> float | None:
        """Return when the earliest bucket comes up, or None when the wheel is empty."""
        return min(self._buckets) * self._width if self._buckets else None

    def expired(self, now: float, most: int) -> Iterator[Member]:
        """Take out and yield each member that is due at `now`, looking at no more than `most` of them."""
        for spoke in sorted(spoke for spoke in self._buckets if spoke * self._width <= now):
            bucket = self._buckets[spoke]
            while bucket:
                if not most:
                    return
                most -= 1
                member = bucket.pop()
                if member.last_active + self.timeout <= now:
                    yield member
                else:
                    # Rounding must not put it back into the bucket that is being emptied.
                    later = math.ceil((member.last_active + self.timeout) / self._width)
                    self._put(member, max(later, spoke + 1))
            if self._buckets.get(spoke) is bucket:
                del self._buckets[spoke]
