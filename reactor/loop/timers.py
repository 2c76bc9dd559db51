"""Timers: a heap of timers that can be cancelled, and a coarse wheel for the timeouts of many members.

Neither reads a clock: the caller passes the time, in its clock's seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Bucket", "Handle", "TickTimes", "TimerHandle", "TimerHeap", "Wheel", "round_up"]


class Handle:
    """A scheduled callback, which can be cancelled until it runs."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Drop the callback and its arguments at once. More than once, or after it ran, does nothing."""
        self.clear()

    def cancelled(self) -> bool:
        """Return whether the callback was cancelled or has run."""
        return self._callback is None

    def broken_off(self, exc: BaseException) -> None:
        """Called when an interrupt has ended the callback, or came before it; does nothing here."""

    def pending(self) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """Return the callback with its arguments; None if it was cancelled or has run."""
        return None if self._callback is None else (self._callback, self._args)

    def put_back(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Undo `clear`, because an interrupt came before the callback was called."""
        self._callback, self._args = callback, args

    def clear(self) -> None:
        """Drop the callback and its arguments, because it is about to run."""
        self._callback = None
        self._args = ()


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
            heap.forget_cancelled()

    def leave_heap(self) -> bool:
        """Leave the heap; return whether the heap counted it as cancelled."""
        counted, self._heap = self._heap is None, None
        return counted


class TimerHeap:
    """A heap of timers, earliest first, equal ones in the order in which they were set.

    A cancelled timer drops its callback at once and its place in the heap when it comes to the top,
    or when cancelled ones are more than half of a heap of more than `_COMPACT_ABOVE`.

    due: the earliest deadline, or an earlier time; infinity when there is none.
    """

    _COMPACT_ABOVE = 64

    __slots__ = ("_cancelled", "_count", "_heap", "due")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TimerHandle]] = []
        self._count = 0
        self._cancelled = 0
        self.due = math.inf

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def add(self, when: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Add a timer that calls `callback(*args)` at `when`. Raises ValueError for NaN."""
        if math.isnan(when):
            raise ValueError("a timer's time must be a number of seconds, not nan")
        handle = TimerHandle(when, callback, args, self)
        self._count += 1
        self.due = min(self.due, when)
        heapq.heappush(self._heap, (when, self._count, handle))
        return handle

    def next_due(self) -> float | None:
        """Return the time of the earliest timer, or None if there is none."""
        heap = self._heap
        while heap:
            when, _, handle = heap[0]
            if not handle.cancelled():
                self.due = when
                return when
            heapq.heappop(heap)
            if handle.leave_heap():
                self._cancelled -= 1
        self.due = math.inf
        return None

    def first_due(self, now: float) -> TimerHandle | None:
        """Return the earliest timer whose time is `now` or before, or None if there is none.

        It leaves the heap when its callback is taken.
        """
        due = self.next_due()
        return None if due is None or due > now else self._heap[0][2]

    def forget_cancelled(self) -> None:
        """Count a cancelled timer; remove cancelled timers when they are more than half."""
        self._cancelled += 1
        if len(self._heap) > self._COMPACT_ABOVE and self._cancelled * 2 > len(self._heap):
            for _, _, handle in self._heap:
                if handle.cancelled():
                    handle.leave_heap()
            heap = [entry for entry in self._heap if not entry[2].cancelled()]
            heapq.heapify(heap)
            self._heap, self._cancelled = heap, 0
        if self._heap and self._heap[0][2].cancelled():
            self.next_due()


class Bucket(set[Any]):
    """The members of a wheel that are checked together, at `due`."""

    __slots__ = ("due",)

    def __init__(self, due: float) -> None:
        super().__init__()
        self.due = due


Member = TypeVar("Member")


class Wheel(Generic[Member]):
    """A timing wheel: members that must be checked by a time, in buckets of equal times.

    For deadlines that are extended all the time, which costs nothing here, because a member is only
    checked when its bucket is due, and then added again for its deadline. Times are to be rounded with
    `round_up`, so that there are few buckets.
    """

    __slots__ = ("_buckets", "_dues")

    def __init__(self) -> None:
        self._buckets: dict[float, Bucket] = {}
        self._dues: list[float] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, member: Member, when: float, bucket: Bucket | None = None) -> Bucket:
        """Add `member`, to be checked at `when`, or earlier if its bucket is due before.

        bucket: its bucket, or None. Returns its new bucket, which the caller keeps.
        """
        if bucket is not None:
            if bucket.due <= when and member in bucket:
                return bucket
            bucket.discard(member)
        bucket = self._buckets.get(when)
        if bucket is None:
            bucket = self._buckets[when] = Bucket(when)
            heapq.heappush(self._dues, when)
        bucket.add(member)
        return bucket

    def recover(self) -> None:
        """Repair the wheel after an interrupt in the middle of `add` or `next_due`."""
        self._dues = sorted(self._buckets)

    def next_due(self) -> float | None:
        """Return the time of the earliest bucket with a member, or None if there is none."""
        while self._dues:
            due = self._dues[0]
            if self._buckets[due]:
                return due
            heapq.heappop(self._dues)
            del self._buckets[due]
        return None

    def take_due(self, now: float, limit: int) -> Iterator[Member]:
        """Remove and yield members whose time is `now` or before, up to `limit` of them."""
        while limit and (due := self.next_due()) is not None and due <= now:
            member = self._buckets[due].pop()
            limit -= 1
            yield member


class TickTimes:
    """The durations of long ticks, by which a time read at a tick's start may be behind.

    Reading the clock for each event would cost 1 % of a small message, so all events of a tick have the
    time of its start. A deadline that counts from such a time must be extended by the duration of that tick.

    usual: the longest of the ticks that are not kept, seconds.
    """

    #: Ticks up to this duration, seconds, are not kept.
    SHORT = 0.001

    __slots__ = ("_long", "usual")

    def __init__(self) -> None:
        self.usual = 0.0
        # The end and the duration of long ticks, each longer than all after it.
        self._long: list[tuple[float, float]] = []

    def add(self, ended: float, took: float) -> None:
        """Add a tick of `took` seconds that ended at `ended`. To be called if it is longer than `usual`."""
        if took <= self.SHORT:
            self.usual = took
            return
        self.usual = self.SHORT
        took = round_up(took, took)  # so that there are few different durations
        while self._long and self._long[-1][1] <= took:
            self._long.pop()
        self._long.append((ended, took))

    def longest_since(self, start: float) -> float:
        """Return the seconds of the longest tick that ended after `start`; up to a sixteenth more."""
        return next((took for ended, took in self._long if ended > start), self.usual)


def round_up(when: float, timeout: float) -> float:
    """Return `when`, rounded up by less than a sixteenth of `timeout`, to a time that many have in common.

    The steps are a power of two, so that those of different timeouts fall together.
    """
    if when == math.inf:
        return when
    # The second is the precision of `when`.
    step = max(math.ldexp(1.0, math.frexp(timeout)[1] - 5), math.ulp(when))
    return math.ceil(when / step) * step
