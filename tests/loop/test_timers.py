"""Timers against models: a sorted list for the heap, plain deadlines for the wheel."""

import gc
import math
import tracemalloc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.loop.timers import Handle, TickTimes, TimerHandle, TimerHeap, Wheel, round_up


class HeapMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.heap = TimerHeap()
        self.model = []  # (when, order, handle), in the order in which they are due
        self.set = 0

    @rule(when=st.integers(0, 20))
    def add(self, when):
        self.set += 1
        self.model.append((when, self.set, self.heap.add(when, list)))
        self.model.sort(key=lambda entry: entry[:2])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data):
        entry = data.draw(st.sampled_from(self.model))
        entry[2].cancel()
        entry[2].cancel()
        assert entry[2].cancelled()
        self.model.remove(entry)

    @rule(now=st.integers(0, 20))
    def take_due(self, now):
        handle = self.heap.first_due(now)
        if self.model and self.model[0][0] <= now:
            assert handle is self.model.pop(0)[2]
            assert self.heap.first_due(now) is handle, "it has not been taken"
            assert handle.pending() == (list, ())
            handle.clear()
            handle.cancel()  # one that is due does not count
        else:
            assert handle is None

    @rule()
    def add_and_cancel_many(self):
        for handle in [self.heap.add(10, list) for _ in range(100)]:
            handle.cancel()

    @invariant()
    def next_is_the_earliest(self):
        assert self.heap.next_due() == (self.model[0][0] if self.model else None)
        assert len(self.heap) == len(self.model)


TestHeap = HeapMachine.TestCase


def test_cancelled_timer_frees_its_callback():
    class Something:
        pass

    held = Something()
    alive = weakref.ref(held)
    handle = TimerHeap().add(1, print, held)
    del held
    handle.cancel()
    assert alive() is None


@pytest.mark.slow
def test_timers_that_are_set_and_cancelled_leave_memory_flat():
    heap = TimerHeap()
    heap.add(0, list)
    tracemalloc.start()
    try:
        for number in range(100_000):
            heap.add(number, list).cancel()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(heap) == 1
    assert kept < 50_000


def alive():
    return sum(isinstance(one, TimerHandle) for one in gc.get_objects())


@pytest.mark.parametrize(("live", "kept"), [(1, 63), (10, 54), (100, 100)])
def test_heap_is_compacted_when_more_than_half_is_cancelled(live, kept):
    gc.collect()
    gc.freeze()  # other objects need not be scanned each time
    before = alive()
    heap = TimerHeap()
    handles = [heap.add(-1, list) for _ in range(live)]  # at the top a cancelled one leaves at once
    counts = []
    for number in range(300):
        heap.add(number, list).cancel()
        counts.append(alive() - before)
    assert counts == [live + number % (kept + 1) for number in range(1, 301)]
    assert len(heap) == len(handles) == live


def test_timer_taken_before_a_compaction_is_not_counted_later():
    heap = TimerHeap()
    running = heap.add(0, list)
    others = [heap.add(1, list) for _ in range(100)]
    assert heap.first_due(0) is running
    running.clear()
    for other in others[:90]:
        other.cancel()
    running.cancel()
    assert heap.next_due() == 1
    assert len(heap) == 10


def test_time_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a timer's time must be a number of seconds, not nan"):
        TimerHeap().add(float("nan"), list)


def test_handle_is_taken_once():
    handle = Handle(print, (1,))
    assert handle.pending() == (print, (1,))
    handle.clear()
    assert handle.pending() is None
    assert handle.cancelled()


class Member:
    """A member of the wheel that keeps its bucket, as the wheel's callers do."""

    def __init__(self, wheel):
        self.wheel = wheel
        self.bucket = None

    def add(self, when):
        self.bucket = self.wheel.add(self, when, self.bucket)

    def discard(self):
        if self.bucket is not None:
            self.bucket.discard(self)


@given(start=st.floats(min_value=0), timeout=st.floats(min_value=0, exclude_min=True))
def test_any_time_and_timeout_can_be_rounded(start, timeout):
    when = start + timeout
    rounded = round_up(when, timeout)
    assert when <= rounded <= when + timeout / 8 or rounded == math.inf


@given(when=st.floats(0, 1e9, allow_subnormal=False), timeout=st.floats(0.001, 1e6))
def test_rounding_is_up_by_a_sixteenth_at_most(when, timeout):
    rounded = round_up(when, timeout)
    assert when <= rounded <= when + timeout / 16


def test_many_times_round_to_few():
    assert len({round_up(1000 + 60 * i / 1000, 60) for i in range(1000)}) <= 33


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "put off", "discard", "take"]),
            st.integers(0, 5),
            st.floats(0, 100),
            st.integers(1, 4),
        ),
        max_size=60,
    )
)
def test_wheel_returns_each_member_by_its_time_and_not_before_its_bucket(steps):
    wheel = Wheel()
    members = [Member(wheel) for _ in range(6)]
    inside = {}  # the time by which each is due
    now = 0.0
    for action, number, seconds, limit in steps:
        member = members[number]
        if action == "add":
            due = round_up(now + seconds, 10)
            inside[member] = min(due, inside.get(member, due))
            member.add(due)
        elif action == "put off":
            if member in inside:
                member.add(inside[member] + seconds)
        elif action == "discard":
            inside.pop(member, None)
            member.discard()
        else:
            now += seconds
            taken = list(wheel.take_due(now, limit))
            assert len(taken) == min(limit, sum(due <= now for due in inside.values()))
            for member in taken:
                assert inside.pop(member) <= now
        assert len(wheel) == len(inside)
        assert wheel.next_due() == (min(inside.values()) if inside else None)


def test_member_is_due_at_its_time():
    wheel = Wheel()
    member = Member(wheel)
    member.add(1.0)
    assert list(wheel.take_due(0.999, 10)) == []
    assert list(wheel.take_due(1.0, 10)) == [member]


def test_members_may_be_removed_while_others_are_taken():
    wheel = Wheel()
    members = [Member(wheel) for _ in range(4)]
    for member in members:
        member.add(1)
    taken = []
    for member in wheel.take_due(2, 10):
        taken.append(member)
        for other in members:
            other.discard()
    assert len(taken) == 1
    assert len(wheel) == 0
    assert wheel.next_due() is None


def test_empty_buckets_are_removed():
    wheel = Wheel()
    member = Member(wheel)
    for _ in range(10_000):
        member.add(5)
        member.discard()
    assert len(wheel._dues) == len(wheel._buckets) == 1
    assert wheel.next_due() is None
    assert not wheel._dues


@given(ticks=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3)), max_size=60))
def test_longest_tick_since_is_not_underestimated(ticks):
    """The estimate is not much too long either, and few ticks are kept."""
    times, known, now = TickTimes(), [], 0.0
    for pause, took in ticks:
        now += pause
        known.append((now, took))
        now += took
        if took > times.usual:
            times.add(now, took)
    for start, _ in known:
        longest = max(took for began, took in known if began >= start)
        assert longest <= times.longest_since(start) <= max(longest * 17 / 16, TickTimes.SHORT)


def test_few_of_many_long_ticks_are_kept():
    times = TickTimes()
    tracemalloc.start()
    try:
        for number in range(20_000):
            times.add(number * 10.0, 9.0 - number * 0.0004)
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()
