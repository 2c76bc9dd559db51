"""`Ledger`: the counters of all workers there have been, so that totals go on when processes are replaced."""

from __future__ import annotations

import attrs

from reactor.status.snapshot import Counters, Snapshot, add_counters

__all__ = ["Ledger"]


@attrs.define(eq=False)
class Ledger:
    """Counters by the worker's index: of processes that have ended, and the last known of those that run.

    A process that is killed takes what it counted after its last snapshot with it; a sum never goes back.
    """

    # By index, of processes that have ended.
    _ended: dict[int, Counters] = attrs.field(factory=dict)
    # By process number, of those that run: the index and the last counters.
    _running: dict[int, tuple[int, Counters]] = attrs.field(factory=dict)

    def update(self, index: int, snapshot: Snapshot) -> None:
        """Keep what a running process, the worker of `index`, has counted until now."""
        self._running[snapshot.pid] = (index, snapshot.counters)

    def end(self, pid: int) -> None:
        """Keep the last counters of a process for ever: it has ended."""
        if pid in self._running:
            index, counters = self._running.pop(pid)
            self.count(index, counters)

    def count(self, index: int, counters: Counters) -> None:
        """Add to the counters of the worker of `index` for ever."""
        add_counters(self._ended.setdefault(index, {}), counters)

    def by_worker(self) -> dict[int, Counters]:
        """Return the sums by index."""
        sums = {index: dict(counters) for index, counters in self._ended.items()}
        for index, counters in self._running.values():
            add_counters(sums.setdefault(index, {}), counters)
        return dict(sorted(sums.items()))
