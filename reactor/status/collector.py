"""`Collector`: one overview for all that ask at about the same time, and the one before it, for rates."""

from __future__ import annotations

from collections.abc import Callable

from reactor.status.overview import Overview
from reactor.status.page import Rates

__all__ = ["Collect", "Collector"]

#: Calls its argument with an overview, now or soon.
Collect = Callable[[Callable[[Overview], object]], object]

# Seconds for which an overview is not made anew: whoever asks all the time asks the workers ten times a second.
_FRESH = 0.1

# Seconds that two overviews must be apart for a rate.
_APART = 0.5


class Collector:
    """Collects overviews as they are asked for.

    collect: makes one. time: the clock, seconds.
    """

    def __init__(self, collect: Collect, time: Callable[[], float]) -> None:
        self._collect = collect
        self._time = time
        self._latest: Overview | None = None
        self._before: Overview | None = None
        self._waiting: list[Callable[[Overview, Rates], object]] = []

    def ask(self, on_done: Callable[[Overview, Rates], object]) -> None:
        """Call `on_done` with an overview of the last tenth of a second, and the rates since the one before."""
        if self._latest is not None and self._time() - self._latest.at < _FRESH:
            on_done(self._latest, Rates(self._latest, self._before))
            return
        self._waiting.append(on_done)
        if len(self._waiting) == 1:
            self._collect(self._done)

    def _done(self, overview: Overview) -> None:
        latest = self._latest
        if latest is not None and (self._before is None or overview.at - self._before.at >= 2 * _APART):
            self._before = latest
        self._latest = overview
        waiting, self._waiting = self._waiting, []
        for on_done in waiting:
            on_done(overview, Rates(overview, self._before))
