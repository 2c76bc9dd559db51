"""`Monitor`: asks the workers for snapshots, and adds their counters up across all replacements.

    collect -> "status" to each worker -> "snapshot" from each, or the time is up -> an `Overview`

Nothing is asked while nobody looks. A supervisor that is being replaced gives its successor the sums, and
answers its questions until its own workers have drained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from reactor.deploy.channel import Channel, Message
from reactor.loop.timers import Handle
from reactor.reactor import Reactor
from reactor.status.ledger import Ledger
from reactor.status.overview import Overview, Phase, Worker
from reactor.status.snapshot import Counters, Snapshot

__all__ = ["Member", "Monitor", "State"]

#: Seconds that a worker has to answer. One that takes longer is shown as one that hangs.
_TIMEOUT = 0.5

#: The supervisor of before, among those that are asked.
_BEFORE = 0


@attrs.frozen
class Member:
    """A worker process. phase: "starting", "serving" or "draining"."""

    index: int
    pid: int
    phase: str
    channel: Channel


@attrs.frozen
class State:
    """The state of a supervisor: its phase, how many workers it is to have, and how many are replaced."""

    phase: Phase
    target: int
    replaced: int


class Monitor:
    """The snapshots of a supervisor's workers, and the sums of their counters.

    members: returns the worker processes. state: returns what the supervisor is doing. name: the program's.
    """

    def __init__(
        self,
        reactor: Reactor,
        members: Callable[[], Iterable[Member]],
        state: Callable[[], State],
        name: str,
    ) -> None:
        self._reactor = reactor
        self._members = members
        self._state = state
        self._name = name
        self._ledger = Ledger()
        self._snapshots: dict[int, Snapshot] = {}
        self._looked: dict[int, float] = {}  # when, by process, unless it has said what it counted to its end
        # A question under way: its deadline, what it is for, and the processes that it waits for.
        self._deadline = Handle(self._finish, ())
        self._on_done: list[Callable[[Overview], object]] = []
        self._expected: set[int] = set()
        self._answered: set[int] = set()
        self._owing: set[int] = set()  # they are not asked again before they have answered
        # The supervisor of before, whose workers drain, and those workers; the successor, and what it knows.
        self._before: Channel | None = None
        self._left: list[Worker] = []
        self._arriving: list[Worker] = []
        self._successor: Channel | None = None
        self._reported: dict[int, Counters] = {}

    def collect(self, on_done: Callable[[Overview], object]) -> None:
        """Ask all workers; call `on_done` with an overview when they have answered, or after half a second.

        A question that is under way answers this one too.
        """
        self._on_done.append(on_done)
        if len(self._on_done) > 1:
            return
        self._answered.clear()
        asked = {
            member.pid: member.channel
            for member in self._members()
            if member.phase != "starting" and member.pid not in self._owing
        }
        if self._before is not None and _BEFORE not in self._owing:
            asked[_BEFORE] = self._before
        self._expected = {number for number, channel in asked.items() if channel.send("status")}
        self._owing |= self._expected
        self._deadline = self._reactor.call_later(_TIMEOUT if self._expected else 0, self._finish)

    def began(self, pid: int) -> None:
        """Note that a worker serves, and counts, from now on."""
        self._looked[pid] = self._reactor.time()

    def answer(self, index: int, pid: int, message: Message) -> None:
        """Keep the snapshot of a worker; it comes when it was asked, and at its end."""
        snapshot = Snapshot.from_json(message.fields["snapshot"])
        self._snapshots[pid] = snapshot
        if message.fields.get("last"):
            self._looked.pop(pid, None)
        else:
            self._looked[pid] = self._reactor.time()
        self._ledger.update(index, snapshot)
        self._arrived(pid)

    def count(self, index: int, name: str) -> None:
        """Add one to a counter of the worker of `index`."""
        self._ledger.count(index, {name: 1})

    def ended(self, pid: int) -> float:
        """Keep what a worker has counted: it has ended.

        Returns of how many seconds, until now, its counts are lost; 0 if it has sent them at its end.
        """
        now = self._reactor.time()
        unseen = now - self._looked.pop(pid, now)
        self._ledger.end(pid)
        self._snapshots.pop(pid, None)
        self._report()
        self._arrived(pid)
        return unseen

    def _arrived(self, number: int) -> None:
        self._owing.discard(number)
        self._answered.add(number)
        self._expected.discard(number)
        if self._on_done and not self._expected:
            self._finish()

    def _finish(self) -> None:
        self._deadline.cancel()
        self._expected.clear()
        waiting, self._on_done = self._on_done, []
        overview = self._overview()
        for on_done in waiting:
            on_done(overview)

    def _overview(self) -> Overview:
        state = self._state()
        workers = [
            Worker(
                index=member.index,
                pid=member.pid,
                phase=member.phase,
                answers=member.pid in self._answered,
                snapshot=self._snapshots.get(member.pid),
            )
            for member in self._members()
        ]
        replacing = state.phase is Phase.RUNNING and self._before is not None
        return Overview(
            phase=Phase.REPLACING if replacing else state.phase,
            workers=sorted([*workers, *self._left], key=lambda worker: (worker.index, worker.pid)),
            target=state.target,
            replaced=state.replaced,
            by_worker=self._ledger.by_worker(),
            name=self._name,
        )

    # Over to the next supervisor

    def hand_over(self, successor: Channel) -> None:
        """Give the sums to the supervisor that replaces this one; later ones follow as workers end."""
        self._successor = successor
        self._report()

    def report_to_successor(self) -> None:
        """Answer a question of the successor: the workers that are left, and what they have counted."""
        self.collect(self._describe)

    def _describe(self, overview: Overview) -> None:
        assert self._successor is not None
        for worker in overview.workers:
            fields = attrs.asdict(worker)
            self._successor.send("worker", **fields)
        self._report()
        self._successor.send("status")

    def _report(self) -> None:
        """Send what was counted since the last time, by worker."""
        if self._successor is None:
            return
        for index, counters in self._ledger.by_worker().items():
            known = self._reported.get(index, {})
            more = {
                name: count - known.get(name, 0)
                for name, count in counters.items()
                if count != known.get(name, 0)
            }
            if more and self._successor.send("counters", index=index, counters=more):
                self._reported[index] = counters

    # From the supervisor of before

    def follow(self, before: Channel) -> None:
        """Ask the supervisor of before too, until it ends."""
        self._before = before
        self._reactor.add_reader(before, self._read_before)

    def receive(self, message: Message) -> None:
        """Handle a message of the supervisor of before."""
        if message.kind == "counters":
            self._ledger.count(message.fields["index"], message.fields["counters"])
        elif message.kind == "worker":
            self._arriving.append(_worker(message.fields))
        elif message.kind == "status":
            self._left, self._arriving = self._arriving, []
            self._arrived(_BEFORE)

    def _read_before(self) -> None:
        assert self._before is not None
        try:
            while (message := self._before.receive()) is not None:
                self.receive(message)
        except EOFError:
            self.close()
            self._left = []
            self._arrived(_BEFORE)

    def close(self) -> None:
        """Forget the supervisor of before."""
        if self._before is not None:
            self._reactor.remove_reader(self._before)
            self._before.close()
            self._before = None


def _worker(fields: dict[str, Any]) -> Worker:
    snapshot = fields["snapshot"]
    return Worker(
        index=fields["index"],
        pid=fields["pid"],
        phase=fields["phase"],
        answers=fields["answers"],
        snapshot=None if snapshot is None else Snapshot.from_json(snapshot),
    )
