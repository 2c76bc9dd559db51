"""Timers: a heap of deadlines that may be cancelled, and a coarse wheel for timeouts of many.

Neither reads a clock: the time, in seconds of whatever clock the caller keeps, is passed in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Bucket", "Handle", "TickTimes", "TimerHandle", "TimerHeap", "Wheel", "round_up"]


class Handle:
    """A callback that is due, and can be cancelled until it runs."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Drop the callback and its arguments at once. More than once, or after it ran, does nothing."""
        self.clear()

    def cancelled(self) -> bool:
        """Return whether there is nothing left to run: it was cancelled, or it ran."""
        return self._callback is None

    def broken_off(self, exc: BaseException) -> None:
        """Note that KeyboardInterrupt or the like has ended the callback, or come before it began."""

    def pending(self) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """Return the callback with its arguments; None when there is nothing to run."""
        return None if self._callback is None else (self._callback, self._args)

    def put_back(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Undo `clear`: an interrupt came before the callback was called."""
        self._callback, self._args = callback, args

    def clear(self) -> None:
        """Forget the callback and its arguments: it is about to run."""
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
        """Leave the heap; return whether it was counted there as cancelled."""
        counted, self._heap = self._heap is None, None
        return counted


class TimerHeap:
    """Deadlines, earliest first, equal ones in the order they were set.

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
        """Set `callback(*args)` for `when`. Raises ValueError for a time that is not a number."""
        if math.isnan(when):
            raise ValueError("a timer's time must be a number of seconds, not nan")
        handle = TimerHandle(when, callback, args, self)
        self._count += 1
        self.due = min(self.due, when)
        heapq.heappush(self._heap, (when, self._count, handle))
        return handle

    def next_due(self) -> float | None:
        """Return the earliest deadline, or None when there is none."""
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

        It leaves the heap when it has been taken.
        """
        due = self.next_due()
        return None if due is None or due > now else self._heap[0][2]

    def forget_cancelled(self) -> None:
        """Count a timer that was cancelled; remove them when they are more than half."""
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
    """Members of a wheel that are looked at together, at `due`."""

    __slots__ = ("due",)

    def __init__(self, due: float) -> None:
        super().__init__()
        self.due = due


Member = TypeVar("Member")


class Wheel(Generic[Member]):
    """Members that are to be looked at by a time, in buckets of equal times.

    Meant for deadlines that are put off all the time: that costs nothing here, because a member is only
    looked at when its bucket comes up, and is then put where its deadline says. Times are to be rounded
    with `round_up`, so that there are few of them.
    """

    __slots__ = ("_buckets", "_dues")

    def __init__(self) -> None:
        self._buckets: dict[float, Bucket] = {}
        self._dues: list[float] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, member: Member, when: float, bucket: Bucket | None = None) -> Bucket:
        """Look at `member` at `when`, or earlier if it is in a bucket that comes up before.

        bucket: the one that it is in, or None. Returns the one that it is in now, which the caller keeps.
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
        """Make whole what an interrupt in the middle of `add` or `next_due` has left."""
        self._dues = sorted(self._buckets)

    def next_due(self) -> float | None:
        """Return when the earliest bucket with a member comes up, or None when there is none."""
        while self._dues:
            due = self._dues[0]
            if self._buckets[due]:
                return due
            heapq.heappop(self._dues)
            del self._buckets[due]
        return None

    def take_due(self, now: float, most: int) -> Iterator[Member]:
        """Take out and yield members whose time is `now` or before, `most` of them at most."""
        while most and (due := self.next_due()) is not None and due <= now:
            member = self._buckets[due].pop()
            most -= 1
            yield member


class TickTimes:
    """How long ticks took: what a time that was read at a tick's start may be behind.

    Reading the clock for each event would cost 1 % of a small message, so what happens in a tick bears the
    time of its start. A deadline that counts from such a time must be as much later as that tick took.

    usual: the longest tick of those that are too short to be kept, seconds.
    """

    #: Ticks up to this long, seconds, are not kept one by one.
    SHORT = 0.001

    __slots__ = ("_long", "usual")

    def __init__(self) -> None:
        self.usual = 0.0
        # The end and the length of long ones, each longer than all that came after it.
        self._long: list[tuple[float, float]] = []

    def add(self, ended: float, took: float) -> None:
        """Note a tick of `took` seconds that ended at `ended`. To be called if it is longer than `usual`."""
        if took <= self.SHORT:
            self.usual = took
            return
        self.usual = self.SHORT
        took = round_up(took, took)  # so that there are few different ones
        while self._long and self._long[-1][1] <= took:
            self._long.pop()
        self._long.append((ended, took))

    def longest_since(self, start: float) -> float:
        """Return the length of the longest tick that ended after `start`, seconds; up to a sixteenth more."""
        return next((took for ended, took in self._long if ended > start), self.usual)


def round_up(when: float, timeout: float) -> float:
    """Return `when`, rounded up by less than a sixteenth of `timeout`, to a time that many have in common.

    The steps are a power of two, so that those of different timeouts fall together.
    """
    if when == math.inf:
        return when
    step = max(math.ldexp(1.0, math.frexp(timeout)[1] - 5), math.ulp(when))  # no less than `when` can tell
    return math.ceil(when / step) * step
