"""The watch for silence: who is ended when, and that it holds nobody and no timer after that."""

import gc
import weakref
from itertools import pairwise

import attrs
import pytest

from reactor import IdleTimeout, Limits, Reactor, Timeouts
from reactor.terms import EXPIRED_AT_ONCE, IdleWatch, Terms
from tests.helpers import ManualClock


class Member:
    def __init__(self, now):
        self.last_active = now
        self.spoke = 0
        self.reasons = []

    def fail(self, exc):
        self.reasons.append(exc)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def reactor(clock):
    with Reactor(clock=clock) as made:
        yield made


@pytest.fixture
def watch(reactor):
    return IdleWatch(reactor, 10)


def test_silent_member_is_ended_with_its_reason(watch, reactor, clock):
    member = Member(clock.now)
    watch.add(member)
    clock.advance(9.99)
    reactor.run_once()
    assert member.reasons == []
    clock.advance(1)
    reactor.run_once()
    (reason,) = member.reasons
    assert isinstance(reason, IdleTimeout)
    assert str(reason) == "no byte in either direction for 10 s"
    assert reactor.next_timeout() is None


def test_loop_wakes_for_the_wheel_alone(watch, reactor, clock):
    assert reactor.next_timeout() is None
    watch.add(Member(clock.now))
    assert 10 <= reactor.next_timeout() <= 10 + 10 / 32


def test_active_member_is_looked_at_about_once_per_timeout(watch, reactor, clock):
    member = Member(clock.now)
    watch.add(member)
    wakes = 0
    for _ in range(1000):
        clock.advance(0.1)
        member.last_active = clock.now
        wakes += reactor.run_once()
    assert member.reasons == []
    assert wakes <= 12


def test_many_are_ended_in_slices(watch, reactor, clock):
    members = [Member(clock.now) for _ in range(EXPIRED_AT_ONCE * 4 + 1)]
    for member in members:
        watch.add(member)
    clock.advance(11)
    ended = [0]
    while reactor.next_timeout() is not None:
        reactor.run_once()
        ended.append(sum(len(member.reasons) for member in members))
    assert ended[-1] == len(members)
    assert max(after - before for before, after in pairwise(ended)) <= EXPIRED_AT_ONCE * 2


def test_member_that_left_is_not_held(watch, reactor, clock):
    gc.disable()
    try:
        staying, leaving = Member(clock.now), Member(clock.now)
        watch.add(staying)
        watch.add(leaving)
        watch.discard(leaving)
        alive = weakref.ref(leaving)
        del leaving
        assert alive() is None
        watch.discard(staying)
        assert reactor.next_timeout() is None
    finally:
        gc.enable()


def test_terms_change_for_one_connection_and_not_for_the_others():
    terms = Terms(Limits(), Timeouts(), None, print)
    changed = attrs.evolve(terms, limits=Limits(high_water=1, low_water=1))
    assert terms.limits == Limits()
    assert changed.timeouts is terms.timeouts
