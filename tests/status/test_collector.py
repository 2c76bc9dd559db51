"""Collecting: one overview for all that ask together, and rates over half a second or more."""

import pytest

from reactor import Reactor
from reactor.status.collector import FRESH, Collector
from reactor.status.overview import Overview, Phase
from reactor.testing import ManualClock


class Source:
    """Makes overviews when the test says so; a thousand connections are accepted each second."""

    def __init__(self, reactor, clock):
        self.reactor = reactor
        self.clock = clock
        self.asked = []
        self.collector = Collector(self.asked.append, reactor)

    def ask(self, on_done):
        self.collector.ask(on_done)

    def answer(self):
        """Answer what was asked, and run the callbacks."""
        now = self.clock.now
        counters = {0: {"accepted": now * 1000}}
        found = Overview(phase=Phase.RUNNING, workers=[], target=1, by_worker=counters, at=now)
        asked, self.asked[:] = list(self.asked), []
        for on_done in asked:
            on_done(found)
        self.reactor.run_once(0)


@pytest.fixture
def source():
    clock = ManualClock(now=0.0)
    with Reactor(clock=clock) as reactor:
        yield Source(reactor, clock)


def asked_at(source, *times):
    """Ask at some times; return the rates that the answers have."""
    rates = []
    for now in times:
        source.clock.now = now
        source.ask(lambda overview, found: rates.append(found.total("accepted")))
        source.answer()
    return rates


def test_those_that_ask_together_get_the_same_overview(source):
    answers = []
    for _ in range(3):
        source.ask(lambda overview, rates: answers.append(overview))
    assert len(source.asked) == 1
    source.answer()
    assert len(answers) == 3
    source.clock.advance(FRESH / 2)
    source.ask(lambda overview, rates: answers.append(overview))
    source.reactor.run_once(0)
    assert (source.asked, len(answers), len(set(map(id, answers)))) == ([], 4, 1)
    source.clock.advance(FRESH * 2)
    source.ask(lambda overview, rates: answers.append(overview))
    assert len(source.asked) == 1


def test_each_answer_is_a_callback_of_its_own(source):
    answers = []
    for number in range(3):
        source.ask(lambda overview, rates, number=number: answers.append(number))
    source.asked.pop()(Overview(phase=Phase.RUNNING, workers=[], target=1, by_worker={}, at=0.0))
    source.ask(lambda overview, rates: answers.append(3))  # it is new enough
    for count in range(4):
        assert answers == list(range(count))
        source.reactor.run_once(0, budget=0)
    assert answers == [0, 1, 2, 3]


def test_overview_that_does_not_come_is_asked_for_again(source):
    answers = []
    for name in ("lost", "early", "late"):
        source.ask(lambda overview, rates, name=name: answers.append(name))
        source.clock.advance(0.5)
    assert len(source.asked) == 2
    source.answer()
    assert answers == ["lost", "early", "late"]


def test_overview_that_comes_after_the_end_is_dropped(source):
    answers = []
    source.ask(lambda overview, rates: answers.append(overview))
    source.reactor.close()
    source.asked.pop()(Overview(phase=Phase.RUNNING, workers=[], target=1, by_worker={}, at=0.0))
    assert answers == []


def test_rates_are_known_from_the_second_time_on(source):
    assert asked_at(source, 0, 1, 2, 3) == [None, 1000, 1000, 1000]


def test_rates_count_from_half_a_second_ago_or_more(source):
    spans = []
    for step in range(50):
        source.clock.now = step * 0.15
        source.ask(lambda overview, rates: spans.append(rates._passed))
        source.answer()
    assert all(0.5 <= span < 0.8 for span in spans[5:])


def test_rates_over_a_long_time_are_none(source):
    assert asked_at(source, 0, 60, 61) == [None, None, 1000]
