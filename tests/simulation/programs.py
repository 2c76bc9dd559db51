"""What the peers of a simulated server do: each follows a plan that its random has drawn."""

from __future__ import annotations

from random import Random

import attrs

from reactor.testing.endpoint import Endpoint
from reactor.testing.network import Network
from tests.simulation.peers import Peer

__all__ = ["PLANS", "STREAM", "Plan", "Program"]

#: What everybody sends: a part of it, from the start on, so that each byte tells its place.
STREAM = Random(9092).randbytes(1 << 17)

_HOUR = 3600.0


@attrs.frozen
class Plan:
    """What a peer does.

    bursts: seconds to wait, and bytes to send then. chunk: bytes that are received at a time, with
    `pause` seconds between two times; no bytes: it never receives. ending: what it does when all is
    sent. patience: seconds after which it goes away, with a reset where it is `rude`.
    """

    bursts: tuple[tuple[float, int], ...] = ()
    chunk: int = 1 << 16
    pause: float = 0.0
    ending: str = "half close"
    patience: float = 12 * _HOUR
    rude: bool = False


def good(random: Random) -> Plan:
    bursts = [(_seconds(random), random.randint(1, 4000)) for _ in range(random.randint(1, 5))]
    return Plan(tuple(bursts), patience=100 * _HOUR)


def slow_reader(random: Random) -> Plan:
    chunk = random.choice([10, 100, 1000])
    bursts = ((0.0, random.randint(1, chunk * 20)),)
    return Plan(bursts, chunk=chunk, pause=_seconds(random, 100.0), patience=24 * _HOUR)


def dribbler(random: Random) -> Plan:
    pause = _seconds(random, 1000.0)
    return Plan(tuple((pause, 1) for _ in range(random.randint(10, 80))))


def never_reader(random: Random) -> Plan:
    return Plan(((0.0, random.randint(1, 30_000)),), chunk=0, patience=_seconds(random, 10 * _HOUR))


def resetter(random: Random) -> Plan:
    return Plan(((_seconds(random), random.randint(1, 5000)),), ending="reset")


def half_closer(random: Random) -> Plan:
    return Plan(((0.0, random.choice([0, 1, 3000])),))


def flooder(random: Random) -> Plan:
    bursts = tuple((0.001, 4000) for _ in range(random.randint(2, 10)))
    return Plan(bursts, pause=_seconds(random, 10.0), rude=True, patience=_seconds(random, _HOUR))


def silent(random: Random) -> Plan:
    return Plan(ending="stay", patience=_seconds(random, 24 * _HOUR), rude=random.random() < 0.5)


def vanisher(random: Random) -> Plan:
    return Plan(ending=random.choice(["reset", "close"]))


PLANS = {
    plan.__name__: plan
    for plan in (
        good,
        slow_reader,
        dribbler,
        never_reader,
        resetter,
        half_closer,
        flooder,
        silent,
        vanisher,
    )
}


def _seconds(random: Random, limit: float = _HOUR) -> float:
    """Return from a millisecond to `limit` seconds, as often short as long."""
    return 0.001 * (limit / 0.001) ** random.random()


class Program(Peer):
    """A peer that follows a plan.

    left: it has closed before it saw the end of file, so that bytes may have been lost by its doing.
    """

    def __init__(self, network: Network, end: Endpoint, plan: Plan) -> None:
        super().__init__(end)
        self.left = False
        self._network = network
        self._plan = plan
        self._planned = 0
        self._bursts = list(reversed(plan.bursts))
        self.chunk = plan.chunk
        self.reading = plan.chunk > 0
        network.at(network.clock() + plan.patience, self._lose_patience)
        self._wait_for_next_burst()

    def _wait_for_next_burst(self) -> None:
        if self._bursts:
            delay, size = self._bursts.pop()
            self._network.at(self._network.clock() + delay, lambda: self._burst(size))
        else:
            self.half_close = self._plan.ending == "half close"
            self._end()

    def _burst(self, size: int) -> None:
        self.outgoing += STREAM[self._planned : self._planned + size]
        self._planned += size
        self._wait_for_next_burst()

    def _end(self) -> None:
        if self._plan.ending in ("reset", "close"):
            self.leave(reset=self._plan.ending == "reset")

    def _lose_patience(self) -> None:
        self.leave(reset=self._plan.rude)

    def leave(self, *, reset: bool = False) -> None:
        """Go away, whatever the server still wants to say."""
        if not self.over:
            self.left = True
            self.close(reset=reset)

    def receive(self) -> bool:
        """Receive a chunk, then pause."""
        before = len(self.received)
        moved = super().receive()
        if self._plan.pause and len(self.received) > before:
            self.reading = False
            self._network.at(self._network.clock() + self._plan.pause, self._receive_again)
        return moved

    def _receive_again(self) -> None:
        self.reading = True

    def outcome(self) -> tuple[object, ...]:
        """Return how it has gone."""
        return self.sent, bytes(self.received), self.at_eof, self.error, self.ended_at
