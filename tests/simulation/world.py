"""A whole server with its peers in one thread; clock, network and faults come from one seed."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from errno import EAGAIN, EINTR, EIO, EMFILE, ENOENT
from random import Random
from typing import Any

import attrs

from reactor import Limits, Listener, Timeouts
from reactor.errors import UsageError
from reactor.reactor import loop_of
from reactor.testing import MemoryNetwork
from reactor.testing.drive import drive
from reactor.testing.endpoint import ListeningEndpoint
from reactor.testing.sockets import MemorySocket, listening_socket
from tests.simulation.programs import PLANS, STREAM, Program
from tests.simulation.served import ROUNDING, Broken, BufferedServed, Served

__all__ = ["Door", "Link", "World"]

#: Faults that nobody may notice, and how often one of these calls has one, where there are faults.
_FAULTS = {
    "recv": (EAGAIN, EINTR),
    "recv_into": (EAGAIN, EINTR),
    "send": (EAGAIN, EINTR),
    "sendmsg": (EAGAIN, EINTR),
    "accept": (EAGAIN, EINTR, EMFILE),
    "close": (EIO,),
    "unregister": (ENOENT,),
    "select": (EINTR,),
}
_FAULT_RATE = 0.05

_DAY = 86400.0


@attrs.define(eq=False)
class Link:
    """A peer, and the protocol that serves it once it was accepted."""

    program: Program
    kind: str
    served: Served | BufferedServed | None = attrs.field(default=None, repr=False)


@attrs.define(eq=False)
class Door:
    """A listener with the terms that its connections have; or the terms of those that are adopted.

    live: protocols that are connected. accepted: how many were, since the selector was last asked.
    """

    limits: Limits
    timeouts: Timeouts
    sock: MemorySocket | None = None
    live: set[Any] = attrs.Factory(set)
    accepted: int = 0
    listener: Listener = attrs.field(init=False)

    def let_in(self, served: Served | BufferedServed) -> None:
        """Count a connection, and check the limits on how many there are."""
        self.live.add(served)
        hosts = Counter(other.connection.get_extra_info("peername")[0] for other in self.live)
        for limit, count in (
            (self.limits.max_connections, len(self.live)),
            (self.limits.max_per_ip, max(hosts.values())),
        ):
            served.check(limit is None or count <= limit, f"{count} connections, and {limit} are allowed")


class World:
    """One simulation.

    reasons: how often connection_lost was called with each. raised, reported: exceptions that callbacks have
    raised, and that reached `on_error`. clean: how many peers have got all that they were to get.
    complaints: what went wrong, in words.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.began = self.random.uniform(0.0, 100 * _DAY)
        self.has_faults = self.random.random() < 0.3
        self.faults = self.fork()
        self.network = MemoryNetwork(
            seed=self.random.getrandbits(64),
            latency=self.random.choice([(0.0, 0.0), (0.0001, 0.01), (0.01, 0.5)]),
            choppy=self.random.choice([0.0, 0.1, 0.5]),
            fault=self._fault,
        )
        self.clock = self.network.clock
        self.clock.now = self.began
        self.reactor = self.network.reactor(on_error=self._on_error)
        self.selector = loop_of(self.reactor).registry.selector
        self.complaints = self.network.complaints
        self.links: dict[Any, Link] = {}
        self._present: list[Program] = []
        self.reasons: Counter[type] = Counter()
        self.raised = 0
        self.reported = 0
        self.clean = 0
        self.drained_at = math.inf
        self.drain_timeout = math.inf
        self._timers = 0
        self._checked_at = self.began
        self._traces: dict[str, Any] = {}
        self._served = 0
        self._doors: list[Door] = []
        for _ in range(self.random.randint(1, 2)):
            self._doors.append(self._open_door())
        unlimited = attrs.evolve(self._draw_limits(), max_connections=None, max_per_ip=None)
        self._adopted = Door(unlimited, self._draw_timeouts())
        for _ in range(self.random.randint(5, 15)):
            self.network.at(self._some_time(), self._arrive)
        if self.random.random() < 0.05:
            crowded = self._some_time()
            for _ in range(80):  # more than a tick takes events
                self.network.at(crowded, self._arrive)

    def fork(self) -> Random:
        """Return a random of its own for somebody, so that the others do not depend on what it draws."""
        return Random(self.random.getrandbits(64))

    def complain(self, what: str) -> None:
        """Record a failure; reported at the end, because a reactor catches what callbacks raise."""
        self.complaints.append(f"at {self.clock.now}: {what}")

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Run `action` by a timer of the reactor, and know that there is one."""
        self._timers += 1
        self.reactor.call_later(seconds, self._run_timer, action)

    def _run_timer(self, action: Callable[[], object]) -> None:
        self._timers -= 1
        action()

    def meddle(self, random: Random) -> None:
        """End the connection of any peer, which may have an event in this very tick."""
        live = [served for served in self._all_served() if served.is_live()]
        if live:
            other = random.choice(live)
            random.choice([other.close, other.abort])()

    def _all_served(self) -> list[Any]:
        return [link.served for link in self.links.values() if link.served is not None]

    # What happened

    def tracer(self, who: str) -> Callable[..., None]:
        """Return what notes the events of `who`, in their order and with their times."""
        trace = self._traces[who] = hashlib.blake2b(digest_size=16)

        def note(*facts: object) -> None:
            trace.update(repr((self.clock.now, facts)).encode())

        return note

    def digest(self) -> str:
        """Return what tells two runs apart in which anything was different."""
        facts: list[object] = [self.clock.now, sorted(Counter(self.network.calls).items())]
        facts += [(who, trace.hexdigest()) for who, trace in self._traces.items()]
        facts += [link.program.outcome() for link in self.links.values()]
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def _on_error(self, exc: BaseException, callback: str, connection: Any) -> None:
        self.reported += 1
        if not isinstance(exc, Broken):
            self.complain(f"{callback} of {connection} raised {exc!r}")

    # What there is

    def _fault(self, name: str, index: int) -> int | None:
        if name == "select":
            for door in self._doors:
                door.accepted = 0
        if self.has_faults and name in _FAULTS and self.faults.random() < _FAULT_RATE:
            return self.faults.choice(_FAULTS[name])
        return None

    def _some_time(self) -> float:
        return self.clock.now + 0.01 * (_DAY / 0.01) ** self.random.random()

    def _open_door(self) -> Door:
        size = self.random.choice([256, 2048, 8192])
        sock = listening_socket(self.network, buffers=(size, self.random.choice([256, size])))
        door = Door(self._draw_limits(), self._draw_timeouts(), sock)
        door.listener = self.reactor.listen(
            sock, lambda: self._accept(door), limits=door.limits, timeouts=door.timeouts
        )
        if self.random.random() < 0.3:
            self.network.at(self._some_time(), lambda: self._pause(door))
        return door

    def _draw_limits(self) -> Limits:
        draw = self.random.choice
        high = draw([0, 1000, 5000])
        return Limits(
            max_connections=draw([None, None, 1, 2, 6]),
            max_per_ip=draw([None, None, 1, 3]),
            when_full=draw(["hold", "hold", "refuse"]),
            accept_batch=draw([1, 2, 64]),
            high_water=high,
            low_water=high // 4,
            max_write_buffer=draw([None, None, 5000]),
            read_rate=draw([None, None, None, 1000]),
            write_rate=draw([None, None, None, 1000]),
        )

    def _draw_timeouts(self) -> Timeouts:
        return Timeouts(
            idle=self.random.choice([None, self._seconds()]),
            read=self.random.choice([None, None, self._seconds()]),
            write=self.random.choice([None, self._seconds()]),
            close=0.5 * 7200 ** self.random.random(),
        )

    def _seconds(self) -> float:
        return _DAY ** self.random.random()

    def _accept(self, door: Door) -> Any:
        door.accepted += 1
        # A drain looks into the backlog by itself, beside what the selector reports.
        if math.isinf(self.drained_at):
            self._check(door.accepted <= door.limits.accept_batch, "accepted more than a batch")
        return self._make_protocol(door)

    def _make_protocol(self, door: Door) -> Any:
        self._served += 1
        kind = self.random.choice([Served, Served, BufferedServed])
        return kind(self, door, self._served)

    def _pause(self, door: Door) -> None:
        if not door.listener.is_closed():
            door.listener.pause()
            self.network.at(self.clock.now + self.random.uniform(0.0, 100.0), lambda: self._resume(door))

    def _resume(self, door: Door) -> None:
        try:
            door.listener.resume()
        except UsageError:
            assert door.listener.is_closed()

    def _arrive(self) -> None:
        random = self.fork()
        adopt = random.random() < 0.1 and math.isinf(self.drained_at)
        listening = ListeningEndpoint(self.network) if adopt else random.choice(self._doors).sock.end
        try:
            end = self.network.connect(listening, host=f"10.0.0.{random.randint(1, 3)}")
        except (ConnectionRefusedError, BlockingIOError):
            return
        kind = random.choice(list(PLANS))
        program = Program(self.network, end, PLANS[kind](random))
        self.links[end.sockname] = Link(program, kind)
        self._present.append(program)
        if adopt:
            self._adopt(MemorySocket(self.network, listening.accept()), self._adopted)

    def _adopt(self, sock: MemorySocket, door: Door) -> None:
        terms = {"limits": door.limits, "timeouts": door.timeouts}
        try:
            self.reactor.adopt(sock, lambda: self._make_protocol(door), **terms)
        except OSError as exc:
            self._check(sock.end.dead, f"not adopted: {exc}")
            with suppress(OSError):  # a fault; the descriptor is given back all the same
                sock.close()

    # The run

    def run(self) -> None:
        """Let all happen, then end it in one of three ways."""
        try:
            ending = self.random.choice([self._run_out, self._drain, self._close])
            ending()
        finally:
            self.reactor.close()
        self._check_what_is_left()
        for link in self.links.values():
            if link.served is not None:
                self._check_link(link, link.served)

    def _drive(self, until: float = math.inf) -> None:
        drive(self.network, self._run_peers, until)

    def _run_peers(self) -> int:
        if self._checked_at != self.clock.now:
            self._checked_at = self.clock.now
            self._check_times()
        self._present = [program for program in self._present if not program.over]
        return sum(program.step() for program in self._present)

    def _check_times(self) -> None:
        for served in self._all_served():
            if served.is_live():
                served.check_deadlines()
            else:
                served.check_lingering()
        if self._is_empty():
            # What measures out a rate may find that its connection has gone.
            left = self.reactor.next_timeout() or 0.0
            self._check(left <= 1.0, f"nobody is there, and a timer is, for {left} s")

    def _is_empty(self) -> bool:
        """Return whether nothing can have a timer: no connection, no protocol, no accept that failed."""
        listening = sum(not door.sock.end.closed for door in self._doors)
        return len(self.network.ends()) == listening and not self._timers and not self.has_faults

    def _run_out(self) -> None:
        """Let every peer go."""
        self._drive()
        self._check_quiet()
        for door in self._doors:
            self._check(not door.sock.end.backlog, "somebody was never accepted")
            door.listener.close()

    def _drain(self) -> None:
        """Ask everybody to go, at some time."""
        self._drive(self._some_time())
        self.drained_at = self.clock.now
        self.drain_timeout = self.random.uniform(1.0, 100.0)
        self.reactor.drain(self.drain_timeout)
        self._drive()
        self._check_quiet()

    def _close(self) -> None:
        """Close the reactor, at some time."""
        self._drive(self._some_time())

    # The end

    def _check(self, holds: object, what: str) -> None:
        if not holds:
            self.complain(what)

    def _check_quiet(self) -> None:
        self._check(self.reactor.connections() == [], "connections were left")
        self._check(self.reactor.next_timeout() is None, "timers were left")
        stats = self.reactor.stats()
        served = self._all_served()
        counted = (
            stats.accepted + stats.connected,
            sum(stats.closed.values()),
            stats.bytes_received,
            stats.bytes_sent,
        )
        seen = (len(served), len(served), sum(s.received for s in served), sum(s.end.sent for s in served))
        self._check(counted == seen, f"counted {counted}, and there were {seen}")
        held = (stats.open, stats.paused, stats.lingering, stats.queued_bytes)
        self._check(held == (0, 0, 0, 0), f"held at the end: {held}")
        errors = (stats.handler_errors, self.reported)
        self._check(errors == (self.raised,) * 2, f"{self.raised} errors, counted and reported: {errors}")

    def _check_what_is_left(self) -> None:
        self._check(self.network.descriptors == {}, "descriptors were left open")
        self._check(len(self.selector.left) == 1, f"registered at the end: {self.selector.left}")
        for door in self._doors:
            self._check(door.listener.connections == 0, "a listener counts connections that are none")
        self._check(
            not any(served.is_live() for served in self._all_served()), "connection_lost was not called"
        )

    def _check_link(self, link: Link, served: Served | BufferedServed) -> None:
        program = link.program
        self._check(STREAM[: program.sent].startswith(STREAM[: served.received]), "more than was sent")
        self._check(served.written.startswith(program.received), "received other bytes than were written")
        if served.reason is not None or program.left:
            return
        if program.at_eof:
            self._check(program.received == served.written, f"the end of what was written was lost: {link}")
            self.clean += 1
        elif program.error is not None:
            self._check_reset(link, served)

    def _check_reset(self, link: Link, served: Served | BufferedServed) -> None:
        """A clean end on our side may reset a peer that did not go in the time that it was given."""
        until = min(served.closing_at + served.close_timeout, self.drained_at + self.drain_timeout)
        early = until - link.program.ended_at
        self._check(early <= ROUNDING, f"reset {early} s before its time was up: {link}")
