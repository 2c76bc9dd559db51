"""Collecting: one overview for all that ask together, and rates over half a second or more."""

from reactor.status.collector import FRESH, Collector
from reactor.status.overview import Overview, Phase


class Source:
    """Makes overviews when the test says so; a thousand connections are accepted each second."""

    def __init__(self):
        self.now = 0.0
        self.asked = []

    def collect(self, on_done):
        self.asked.append(on_done)

    def answer(self):
        counters = {0: {"accepted": self.now * 1000}}
        found = Overview(phase=Phase.RUNNING, workers=[], target=1, by_worker=counters, at=self.now)
        asked, self.asked = self.asked, []
        for on_done in asked:
            on_done(found)


def asked_at(*times):
    """Ask at some times; return the rates that the answers have."""
    source, rates = Source(), []
    collector = Collector(source.collect, lambda: source.now)
    for now in times:
        source.now = now
        collector.ask(lambda overview, found: rates.append(found.total("accepted")))
        source.answer()
    return rates


def test_those_that_ask_together_get_the_same_overview():
    source, answers = Source(), []
    collector = Collector(source.collect, lambda: source.now)
    for _ in range(3):
        collector.ask(lambda overview, rates: answers.append(overview))
    assert len(source.asked) == 1
    source.answer()
    assert len(answers) == 3
    source.now = FRESH / 2
    collector.ask(lambda overview, rates: answers.append(overview))
    assert (source.asked, len(set(map(id, answers)))) == ([], 1)
    source.now = FRESH * 2
    collector.ask(lambda overview, rates: answers.append(overview))
    assert len(source.asked) == 1


def test_rates_are_known_from_the_second_time_on():
    assert asked_at(0, 1, 2, 3) == [None, 1000, 1000, 1000]


def test_rates_count_from_half_a_second_ago_or_more():
    source = Source()
    collector = Collector(source.collect, lambda: source.now)
    spans = []
    for step in range(50):
        source.now = step * 0.15
        collector.ask(lambda overview, rates: spans.append(rates._passed))
        source.answer()
    assert all(0.5 <= span < 0.8 for span in spans[5:])


def test_rates_over_a_long_time_are_none():
    assert asked_at(0, 60, 61) == [None, None, 1000]
