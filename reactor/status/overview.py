"""`Overview`: all processes of a server at one moment: what `/metrics`, `/ready` and the page show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum

import attrs

from reactor.status.snapshot import Counters, Snapshot, add_counters

__all__ = ["Overview", "Phase", "Worker", "overview_of"]


class Phase(Enum):
    """The state of a server as a whole."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"  # SIGHUP: its workers are replaced one by one
    REPLACING = (
        "replacing"  # SIGUSR2: another supervisor is starting, or the one of before has workers that drain
    )
    DRAINING = "draining"


@attrs.frozen(kw_only=True)
class Worker:
    """A process that serves.

    index: its number among the workers; two processes have the same one while one replaces the other.
    phase: "starting", "serving" or "draining". answers: False if it did not answer in time.
    snapshot: the last one; None if there is none yet.
    """

    index: int
    pid: int
    phase: str
    answers: bool
    snapshot: Snapshot | None

    @property
    def current(self) -> Snapshot | None:
        """The snapshot, if it is of now."""
        return self.snapshot if self.answers else None


@attrs.frozen(kw_only=True)
class Overview:
    """All processes of a server at one moment.

    phase: what it is doing. workers: its processes. target: how many are to serve; None: one process alone,
        without a supervisor. replaced: of how many workers the restart has replaced.
    by_worker: counters by the worker's index, those of processes that have ended included.
    name: of the program, for the page's title. at: monotonic time, seconds, for rates.
    """

    phase: Phase
    workers: list[Worker]
    target: int | None
    by_worker: Mapping[int, Counters]
    name: str = "reactor"
    replaced: int = 0
    at: float = attrs.field(factory=time.monotonic)

    def totals(self) -> Counters:
        """Return the counters of all workers together."""
        totals: Counters = {}
        for counters in self.by_worker.values():
            add_counters(totals, counters)
        return totals

    def gauge(self, name: str) -> int:
        """Return the sum of a gauge over the processes that answer."""
        return sum(snapshot.gauges[name] for snapshot in self.current())

    def current(self) -> list[Snapshot]:
        """Return the snapshots of the processes that answer."""
        return [worker.current for worker in self.workers if worker.current is not None]

    def problems(self) -> list[str]:
        """Return why the server is not ready; nothing: it is.

        A worker that has not started, or drains while another serves, takes nothing away. One that serves and
        hangs, accepts nothing, or has a check that fails, does: the kernel may give it the next connection.
        """
        if self.phase in {Phase.STARTING, Phase.DRAINING}:
            return [f"{self.name} is {self.phase.value}"]
        serving = [worker for worker in self.workers if worker.phase == "serving"]
        if not serving:
            return ["no worker serves"]
        return [problem for worker in serving for problem in self._problems_of(worker)]

    def _problems_of(self, worker: Worker) -> list[str]:
        where = "" if self.target is None else f"worker {worker.index}: "
        if worker.current is None:
            return [f"{where}no answer"]
        holds = [
            f"{where}{listener.address} accepts nothing: {hold}"
            for listener in worker.current.listeners
            for hold in listener.holds
            if hold != "handover"  # takes a moment, in which connections wait and are not lost
        ]
        return holds + [f"{where}{name}: {text}" for name, text in worker.current.problems.items()]


def overview_of(snapshot: Snapshot, name: str = "reactor") -> Overview:
    """Return the overview of one process alone."""
    draining = snapshot.draining
    worker = Worker(
        index=0,
        pid=snapshot.pid,
        phase="draining" if draining else "serving",
        answers=True,
        snapshot=snapshot,
    )
    return Overview(
        phase=Phase.DRAINING if draining else Phase.RUNNING,
        workers=[worker],
        target=None,
        by_worker={0: snapshot.counters},
        name=name,
    )
