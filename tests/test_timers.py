"""Timers against models: a sorted list for the heap, plain deadlines for the wheel."""

import gc
import tracemalloc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.timers import Handle, TimerHeap, Wheel


class HeapMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.heap = TimerHeap()
        self.model = []  # (when, order, handle), as they should come out
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
    def pop_due(self, now):
        handle = self.heap.pop_due(now)
        if self.model and self.model[0][0] <= now:
            assert handle is self.model.pop(0)[2]
            handle.cancel()  # one that is on its way no longer counts
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


def test_cancelled_timer_drops_what_it_held_at_once():
    class Something:
        pass

    held = Something()
    alive = weakref.ref(held)
    handle = TimerHeap().add(1, print, held)
    del held
    handle.cancel()
    assert alive() is None


def test_a_million_timers_set_and_cancelled_leave_memory_flat():
    heap = TimerHeap()
    heap.add(0, list)
    tracemalloc.start()
    try:
        for number in range(1_000_000):
            heap.add(number, list).cancel()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(heap) == 1
    assert kept < 50_000


def test_a_time_that_is_no_number():
    with pytest.raises(ValueError, match="a timer's time must be a number of seconds, not nan"):
        TimerHeap().add(float("nan"), list)


def test_handle_is_taken_once():
    handle = Handle(print, (1,))
    assert handle.take() == (print, (1,))
    assert handle.take() is None
    assert handle.cancelled()


class Member:
    def __init__(self, now):
        self.last_active = now
        self.spoke = 0


@given(
    timeout=st.floats(0.001, 1e4),
    start=st.floats(0, 1e9),
    steps=st.lists(st.tuples(st.floats(0, 2), st.sets(st.integers(0, 5)), st.integers(1, 10)), max_size=40),
)
def test_wheel_is_never_early_and_late_by_a_spoke_at_most(timeout, start, steps):
    wheel = Wheel(timeout)
    now = start
    members = [Member(now) for _ in range(6)]
    for member in members:
        wheel.add(member)
    waiting = set(members)
    spoke = timeout / Wheel.SPOKES
    rounding = 1e-9 * max(now, timeout) + 1e-9
    for step, active, most in steps:
        now += step * timeout
        for number in active:
            members[number].last_active = now
        expired = list(wheel.expired(now, most))
        assert len(expired) <= most
        for member in expired:
            assert member in waiting
            assert member.last_active + timeout <= now
            waiting.remove(member)
        if len(expired) < most and most > len(members):
            for member in waiting:
                assert member.last_active + timeout + spoke + rounding >= now
    while (due := wheel.next_due()) is not None:
        now = max(now, due) + spoke
        for member in wheel.expired(now, 3):
            waiting.remove(member)
    assert waiting == set()
    assert len(wheel) == 0


def test_wheel_that_is_told_of_a_departure_forgets_it():
    wheel = Wheel(1)
    staying, leaving = Member(0), Member(0)
    wheel.add(staying)
    wheel.add(leaving)
    wheel.discard(leaving)
    wheel.discard(leaving)
    assert len(wheel) == 1
    assert list(wheel.expired(2, 10)) == [staying]
    wheel.discard(staying)
    assert wheel.next_due() is None


def test_members_may_leave_while_others_are_told():
    wheel = Wheel(1)
    members = [Member(0) for _ in range(4)]
    for member in members:
        wheel.add(member)
    told = []
    for member in wheel.expired(2, 10):
        told.append(member)
        for other in members:
            wheel.discard(other)
    assert len(told) == 1
    assert len(wheel) == 0
