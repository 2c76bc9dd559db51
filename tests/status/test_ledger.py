"""Sums over processes that come and go: they never go back, and each process counts once."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reactor.status.ledger import Ledger
from reactor.status.snapshot import Snapshot


def snapshot(pid, **counters):
    return Snapshot(pid=pid, counters=counters)


class Deployment(RuleBasedStateMachine):
    """Processes that count and end; a model that adds up whatever was last known of each."""

    def __init__(self):
        super().__init__()
        self.ledger = Ledger()
        self.known = {}  # by process: its index, and the last count
        self.running = set()
        self.before = Counter()

    @rule(index=st.integers(0, 2), counted=st.integers(0, 100))
    def start(self, index, counted):
        pid = len(self.known)
        self.known[pid] = (index, counted)
        self.running.add(pid)
        self.ledger.update(index, snapshot(pid, accepted=counted))

    @rule(data=st.data(), more=st.integers(0, 100))
    def count(self, data, more):
        if self.running:
            pid = data.draw(st.sampled_from(sorted(self.running)))
            index, counted = self.known[pid]
            self.known[pid] = (index, counted + more)
            self.ledger.update(index, snapshot(pid, accepted=counted + more))

    @rule(data=st.data())
    def end(self, data):
        if self.known:
            pid = data.draw(st.sampled_from(sorted(self.known)))
            self.running.discard(pid)
            self.ledger.end(pid)
            self.ledger.end(pid)  # more than once counts once

    @invariant()
    def sums_are_those_of_all_processes(self):
        sums = Counter()
        for index, counted in self.known.values():
            sums[index] += counted
        found = Counter({index: counters["accepted"] for index, counters in self.ledger.by_worker().items()})
        assert found == sums
        assert all(found[index] >= before for index, before in self.before.items())
        self.before = found


TestDeployment = Deployment.TestCase


def test_what_is_returned_does_not_change_later():
    ledger = Ledger()
    ledger.count(1, {"starts": 1})
    first = ledger.by_worker()
    ledger.update(1, snapshot(7, starts=2))
    assert first == {1: {"starts": 1}}
    assert ledger.by_worker() == {1: {"starts": 3}}
