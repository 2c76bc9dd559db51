"""`Collector`: one overview for all that ask at about the same time, and the one before it, for rates."""

from __future__ import annotations

from collections.abc import Callable

from reactor.reactor import Reactor
from reactor.status.overview import Overview
from reactor.status.page import Rates

__all__ = ["FRESH", "Collect", "Collector"]

#: Calls its argument with an overview, now or soon.
Collect = Callable[[Callable[[Overview], object]], object]

#: Seconds for which an overview is not made anew: the workers are asked ten times a second at most.
FRESH = 0.1

# Seconds that two overviews are apart for a rate, at least.
_APART = 0.5

# Seconds after which an overview is asked for again: an interrupt may have broken off its making.
_LOST = 1.0


class Collector:
    """Collects overviews as they are asked for.

    collect: makes one, perhaps over several ticks. reactor: runs the answers, each as a callback of its own,
    so that those of many who wait for one overview don't make a long tick.
    """

    def __init__(self, collect: Collect, reactor: Reactor) -> None:
        self._collect = collect
        self._reactor = reactor
        self._known: list[Overview] = []  # the latest last; the first is what rates count from
        self._waiting: list[Callable[[Overview, Rates], object]] = []
        self._asked = 0.0

    def ask(self, on_done: Callable[[Overview, Rates], object]) -> None:
        """Call `on_done`, later, with an overview that is `FRESH`, and the rates since one before."""
        now = self._reactor.time()
        if self._known and now - self._known[-1].at < FRESH:
            self._reactor.call_soon(on_done, *self._answer())
            return
        self._waiting.append(on_done)
        if len(self._waiting) == 1 or now - self._asked >= _LOST:
            self._asked = now
            self._collect(self._done)

    def _done(self, overview: Overview) -> None:
        known = [*self._known, overview]
        while len(known) > 2 and overview.at - known[1].at >= _APART:
            del known[0]
        self._known = known
        waiting, self._waiting = self._waiting, []
        if self._reactor.is_closed():
            return  # while the workers were asked
        for on_done in waiting:
            self._reactor.call_soon(on_done, *self._answer())

    def _answer(self) -> tuple[Overview, Rates]:
        first, latest = self._known[0], self._known[-1]
        return latest, Rates(latest, None if first is latest else first)
