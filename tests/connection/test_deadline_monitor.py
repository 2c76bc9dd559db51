"""The deadline monitor: when it checks a member, and that it keeps neither member nor timer afterwards."""

import gc
import weakref
from itertools import pairwise

import pytest

from reactor import Reactor
from reactor.connection.deadlines import CHECKS_AT_ONCE, DeadlineMonitor
from reactor.loop.timers import round_up
from reactor.reactor import loop_of


class Member:
    """A member whose deadline is ten seconds after its last activity."""

    def __init__(self, now):
        self.last_active = now
        self.bucket = None
        self.looks = 0
        self.ended_at = None

    def watch(self, monitor, start, timeout):
        self.bucket = monitor.add(self, self.bucket, round_up(start + timeout, timeout))

    def check(self, monitor, now):
        self.looks += 1
        if self.last_active + 10 <= now:
            self.ended_at = now
        else:
            self.watch(monitor, self.last_active, 10)


@pytest.fixture
def reactor(clock):
    with Reactor(clock=clock) as made:
        yield made


@pytest.fixture
def monitor(reactor):
    made = DeadlineMonitor(loop_of(reactor), lambda member, now: member.check(made, now))
    return made


def test_silent_member_is_checked_at_its_deadline(monitor, reactor, clock):
    member = Member(clock.now)
    member.watch(monitor, clock.now, 10)
    clock.advance(9.99)
    reactor.run_once()
    assert member.ended_at is None
    clock.advance(1)
    reactor.run_once()
    assert member.ended_at == clock.now
    assert reactor.next_timeout() is None


def test_monitor_needs_one_timer(monitor, reactor, clock):
    assert reactor.next_timeout() is None
    Member(clock.now).watch(monitor, clock.now, 10)
    assert 10 <= reactor.next_timeout() <= 10 + 10 / 16


def test_earlier_deadline_makes_the_timer_earlier(monitor, reactor, clock):
    member = Member(clock.now)
    member.watch(monitor, clock.now, 10)
    member.watch(monitor, clock.now, 1)
    assert 1 <= reactor.next_timeout() <= 1 + 1 / 16
    member.watch(monitor, clock.now, 100)
    assert 1 <= reactor.next_timeout() <= 1 + 1 / 16
    clock.advance(2)
    reactor.run_once()
    assert (member.looks, member.ended_at) == (1, None)
    assert 8 <= reactor.next_timeout() <= 8 + 10 / 16


def test_active_member_is_checked_about_once_per_timeout(monitor, reactor, clock):
    member = Member(clock.now)
    member.watch(monitor, clock.now, 10)
    for _ in range(1000):
        clock.advance(0.1)
        member.last_active = clock.now
        reactor.run_once()
    assert member.ended_at is None
    assert 9 <= member.looks <= 12


def test_many_members_are_checked_over_several_ticks(monitor, reactor, clock):
    members = [Member(clock.now) for _ in range(CHECKS_AT_ONCE * 4 + 1)]
    for member in members:
        member.watch(monitor, clock.now, 10)
    clock.advance(11)
    ended = [0]
    while reactor.next_timeout() is not None:
        reactor.run_once()
        ended.append(sum(member.ended_at is not None for member in members))
    assert ended[-1] == len(members)
    assert max(after - before for before, after in pairwise(ended)) <= CHECKS_AT_ONCE * 2


def test_discarded_member_is_freed(monitor, reactor, clock):
    gc.disable()
    try:
        staying, leaving = Member(clock.now), Member(clock.now)
        staying.watch(monitor, clock.now, 10)
        leaving.watch(monitor, clock.now, 10)
        monitor.discard(leaving, leaving.bucket)
        alive = weakref.ref(leaving)
        del leaving
        assert alive() is None
        monitor.discard(staying, staying.bucket)
        monitor.discard(staying, staying.bucket)
        assert reactor.next_timeout() is None
    finally:
        gc.enable()
