"""The watch over deadlines: who is looked at when, and that it holds nobody and no timer after that."""

import gc
import weakref
from itertools import pairwise

import attrs
import pytest

from reactor import Connection, Limits, Reactor, Timeouts
from reactor.connection.settings import LOOKS_AT_ONCE, Terms, Watch
from reactor.testing import ManualClock
from reactor.tls.secure_socket import Bios


class Member:
    """Has a deadline of ten seconds after it was active."""

    def __init__(self, now):
        self.last_active = now
        self.bucket = None
        self.looks = 0
        self.ended_at = None

    def check_deadlines(self, now):
        self.looks += 1
        if self.last_active + 10 <= now:
            self.ended_at = now
            return None
        return self.last_active + 10


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def reactor(clock):
    with Reactor(clock=clock) as made:
        yield made


@pytest.fixture
def watch(reactor):
    return Watch(reactor)


def test_silent_member_is_ended_when_its_time_has_come(watch, reactor, clock):
    member = Member(clock.now)
    watch.add(member, clock.now, 10)
    clock.advance(9.99)
    reactor.run_once()
    assert member.ended_at is None
    clock.advance(1)
    reactor.run_once()
    assert member.ended_at == clock.now
    assert reactor.next_timeout() is None


def test_loop_wakes_for_the_wheel_alone(watch, reactor, clock):
    assert reactor.next_timeout() is None
    watch.add(Member(clock.now), clock.now, 10)
    assert 10 <= reactor.next_timeout() <= 10 + 10 / 16


def test_earlier_deadline_wakes_the_loop_earlier(watch, reactor, clock):
    member = Member(clock.now)
    watch.add(member, clock.now, 10)
    watch.add(member, clock.now, 1)
    assert 1 <= reactor.next_timeout() <= 1 + 1 / 16
    watch.add(member, clock.now, 100)
    assert 1 <= reactor.next_timeout() <= 1 + 1 / 16
    clock.advance(2)
    reactor.run_once()
    assert (member.looks, member.ended_at) == (1, None)
    assert 8 <= reactor.next_timeout() <= 8 + 10 / 16


def test_active_member_is_looked_at_about_once_per_timeout(watch, reactor, clock):
    member = Member(clock.now)
    watch.add(member, clock.now, 10)
    for _ in range(1000):
        clock.advance(0.1)
        member.last_active = clock.now
        reactor.run_once()
    assert member.ended_at is None
    assert 9 <= member.looks <= 12


def test_many_are_looked_at_in_slices(watch, reactor, clock):
    members = [Member(clock.now) for _ in range(LOOKS_AT_ONCE * 4 + 1)]
    for member in members:
        watch.add(member, clock.now, 10)
    clock.advance(11)
    ended = [0]
    while reactor.next_timeout() is not None:
        reactor.run_once()
        ended.append(sum(member.ended_at is not None for member in members))
    assert ended[-1] == len(members)
    assert max(after - before for before, after in pairwise(ended)) <= LOOKS_AT_ONCE * 2


def test_member_that_left_is_not_held(watch, reactor, clock):
    gc.disable()
    try:
        staying, leaving = Member(clock.now), Member(clock.now)
        watch.add(staying, clock.now, 10)
        watch.add(leaving, clock.now, 10)
        watch.discard(leaving)
        alive = weakref.ref(leaving)
        del leaving
        assert alive() is None
        watch.discard(staying)
        watch.discard(staying)
        assert reactor.next_timeout() is None
    finally:
        gc.enable()


def test_terms_change_for_one_connection_and_not_for_the_others(watch):
    terms = Terms(Limits(), Timeouts(), watch, "adopted", None, print, Connection, Bios())
    changed = attrs.evolve(terms, limits=Limits(high_water=1, low_water=1))
    assert terms.limits == Limits()
    assert changed.timeouts is terms.timeouts
