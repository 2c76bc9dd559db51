"""The server's protocols in a simulated world: each follows a policy, and checks its calls."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

import attrs

from reactor import BufferedProtocol, Connection, Protocol, ReactorError
from reactor.errors import CloseTimeout, DrainTimeout, IdleTimeout, ReadTimeout, WriteTimeout
from tests.simulation.programs import STREAM

if TYPE_CHECKING:
    from tests.simulation.world import Door, Link, World

__all__ = ["ROUNDING", "Broken", "BufferedServed", "Policy", "Served", "draw_policy"]

#: A timer may be late by this part of its time; a sum in seconds is rounded.
_LATE = 1.1
ROUNDING = 1e-6

#: Bytes that a protocol writes at most, so that every world comes to an end.
_MOST_WRITTEN = 40_000


class Broken(Exception):
    """The exception that a protocol raises where its policy says so."""


@attrs.frozen
class Policy:
    """What a protocol does.

    meddling, fidgets: how often it ends another connection, and changes its timeouts, when it gets
    something.
    greeting: bytes written at once. answer: what it does with what it gets. reply: bytes for each
    piece that it gets, where it replies. obedient: reads no more while it may not write.
    last: what it does when it has received `after` bytes. keep_open: goes on after the peer's end of
    file, for `linger` seconds. nap: how often it stops reading for a while after a piece.
    """

    greeting: int
    answer: str
    reply: int
    obedient: bool
    last: str
    after: int
    keep_open: bool
    linger: float
    nap: float
    meddling: float
    fidgets: float


def draw_policy(random: Random) -> Policy:
    """Return a policy, two thirds of them of an honest echo."""
    return Policy(
        greeting=random.choice([0, 0, 0, 1, 5000]),
        answer=random.choice(["echo", "echo", "echo", "lines", "late", "discard", "reply"]),
        reply=random.choice([10, 3000]),
        obedient=random.random() < 0.7,
        last=random.choice(["nothing"] * 8 + ["close", "close", "abort", "write_eof", "raise"]),
        after=random.randint(1, 6000),
        keep_open=random.random() < 0.3,
        linger=random.choice([0.0, 0.5, 100.0]),
        nap=random.choice([0.0, 0.0, 0.05]),
        meddling=random.choice([0.0] * 4 + [0.05]),
        fidgets=random.choice([0.0, 0.5]),
    )


class _Model:
    """What is known of a connection from outside, and the checks that only this needs.

    written: what was accepted for sending. reason: the argument of connection_lost.
    closing_at: when the connection began to close. breaks: whether it ends because a callback raised.
    """

    def __init__(self, world: World, door: Door, number: int) -> None:
        self.world = world
        self.door = door
        self.random = world.fork()
        self.policy = draw_policy(self.random)
        self.trace = world.tracer(f"protocol {number}")
        self.names: list[str] = []
        self.link: Link | None = None
        self.received = 0
        self.written = bytearray()
        self.reason: BaseException | None = None
        self.made_at = self.lost_at = self.closing_at = math.inf
        self.close_timeout = door.timeouts.close
        self.idle = door.timeouts.idle
        self.owed: tuple[float, float] | None = None
        self.written_at = -math.inf
        self.largest = 0
        self.write_ended = False
        self.at_eof = False
        self.finished = False
        self.breaks = False
        self.paused = False
        self.stopped_at: float | None = None  # when this side stopped reading
        self.resumed_at = -math.inf
        self.should_be_gone = False

    def check(self, holds: object, what: str) -> None:
        if not holds:
            self.world.complain(f"{what}: {self.names[-8:]}, {self.policy}, {self.link}")

    def note_call(self, name: str, detail: object = None) -> None:
        self.trace(name, detail)
        self.check("connection_lost" not in self.names, f"{name} after connection_lost")
        self.names.append(name)
        self.check(self.names[0] == "connection_made", f"{name} before connection_made")
        self.check(self.names.count("connection_made") == 1, "connection_made twice")

    # Called by the reactor

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self.end = connection.get_extra_info("socket").end
        self.link = self.world.links[connection.get_extra_info("peername")]
        self.check(self.link.served is None, "two connections for one peer")
        self.link.served = self
        self.made_at = self.world.clock.now
        self.owes(self.door.timeouts.read)
        self.note_call("connection_made")
        self.door.let_in(self)
        self.write(STREAM[: self.policy.greeting])

    def took(self, data: bytes) -> None:
        self.note_call("data", len(data))
        sent = STREAM[self.received : self.received + len(data)]
        self.check(data == sent, "received other bytes than were sent")
        self.check(not self.at_eof, "data after the end of file")
        self.check(math.isinf(self.closing_at), "data while closing")
        self.received += len(data)
        self.check_rate(self.received, self.door.limits.read_rate)
        self.answer(data)
        if self.random.random() < self.policy.fidgets:
            self.fidget()
        if self.received >= self.policy.after and not self.finished:
            self.finished = True
            getattr(self, f"do_{self.policy.last}")()
        if self.random.random() < self.policy.meddling:
            self.world.meddle(self.random)
        if self.random.random() < self.policy.nap:
            self.stop_reading()
            self.later(self.random.uniform(0.0, 5.0), self.resume_reading)

    def eof_received(self) -> bool:
        self.note_call("eof_received")
        self.check(not self.at_eof, "two ends of file")
        self.at_eof = True
        self.check(self.received == self.link.program.sent, "end of file before all was received")
        keep = self.policy.keep_open and not self.write_ended
        if keep:
            self.later(self.policy.linger, self.close)
        else:
            self.begins_to_close()
        return keep

    def pause_writing(self) -> None:
        self.note_call("pause_writing")
        self.check(not self.paused, "paused twice")
        self.paused = True
        high = self.connection.get_write_buffer_limits()[1]
        self.check(self.connection.get_write_buffer_size() > high, "paused below the high-water mark")
        if self.policy.obedient:
            self.stop_reading()

    def resume_writing(self) -> None:
        self.note_call("resume_writing")
        self.check(self.paused, "resumed without a pause")
        self.paused = False
        low = self.connection.get_write_buffer_limits()[0]
        self.check(self.connection.get_write_buffer_size() <= low, "resumed above the low-water mark")
        if self.policy.obedient:
            self.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note_call("connection_lost", type(exc).__name__)
        self.reason = exc
        self.check(self.link.program.left or self.is_ours(exc), f"ended for {exc!r}, and the peer is there")
        self.check(isinstance(exc, Broken) == self.breaks, f"ended for {exc!r}, and breaks: {self.breaks}")
        self.lost_at = self.world.clock.now
        self.door.live.discard(self)
        self.world.reasons[type(exc)] += 1
        self.check_rate(self.end.sent, self.door.limits.write_rate)
        if isinstance(exc, IdleTimeout):
            self.check_peer_deadline(self.last_active(), self.idle)
        elif isinstance(exc, ReadTimeout):
            self.check_peer_deadline(*self.owed)
        elif isinstance(exc, WriteTimeout):
            self.check_not_early(self.end.sent_at, self.door.timeouts.write)
        elif isinstance(exc, CloseTimeout):
            self.check_deadline(self.closing_at, self.close_timeout)
        elif isinstance(exc, DrainTimeout):
            self.check_deadline(self.world.drained_at, self.world.drain_timeout)

    def is_ours(self, reason: BaseException | None) -> bool:
        """Return whether this side has ended the connection."""
        return reason is None or isinstance(reason, (ReactorError, Broken))

    def is_live(self) -> bool:
        """Return whether the connection is made and not lost."""
        return self in self.door.live

    # Deadlines

    def last_active(self) -> float:
        return max(self.made_at, self.end.active, self.resumed_at)

    def stop_reading(self) -> None:
        if self.stopped_at is None:
            self.stopped_at = self.world.clock.now
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        if self.stopped_at is not None:
            self.resumed_at = self.world.clock.now
            if self.owed is not None:
                start, seconds = self.owed
                self.owed = start + self.resumed_at - max(start, self.stopped_at), seconds
            self.stopped_at = None
        self.connection.resume_reading()

    def check_deadline(self, since: float, seconds: float) -> None:
        self.check_not_early(since, seconds)
        self.check_not_late(since, seconds)

    def check_peer_deadline(self, since: float, seconds: float) -> None:
        """Check a deadline that does not count while this side has stopped reading."""
        self.check(self.stopped_at is None, "the peer is blamed while reading is stopped")
        self.check_not_early(since, seconds)
        self.check_peer_not_late(since, seconds)

    def check_peer_not_late(self, since: float, seconds: float | None) -> None:
        limits = self.door.limits
        if self.stopped_at is None and limits.read_rate is None and limits.write_rate is None:
            self.check_not_late(since, seconds)

    def check_not_early(self, since: float, seconds: float) -> None:
        late = self.world.clock.now - since
        self.check(late >= seconds - ROUNDING, f"a timeout of {seconds} s came after {late} s")

    def check_not_late(self, since: float, seconds: float | None) -> None:
        if seconds is not None:
            late = self.world.clock.now - since
            self.check(late <= seconds * _LATE + ROUNDING, f"a timeout of {seconds} s not after {late} s")

    def check_deadlines(self) -> None:
        """Check that no deadline has passed."""
        self.check_peer_not_late(self.last_active(), self.idle)
        self.check_not_late(self.closing_at, self.close_timeout)
        self.check_not_late(self.world.drained_at, self.world.drain_timeout)
        if self.owed is not None and not self.at_eof and math.isinf(self.closing_at):
            self.check_peer_not_late(*self.owed)
        queued = self.connection.get_write_buffer_size()
        if queued and self.door.limits.write_rate is None:
            self.check_not_late(max(self.end.sent_at, self.written_at), self.door.timeouts.write)
        limit = self.door.limits.max_write_buffer
        self.check(limit is None or queued <= limit + self.largest, "more than max_write_buffer")

    def check_lingering(self) -> None:
        """Check that what was closed is given back in time, and at once when the peer has ended too."""
        if not self.end.orphan:
            self.check_not_late(self.closing_at, self.close_timeout)
            self.check(not self.should_be_gone, "kept after the peer's end of file")
            self.should_be_gone = self.end.at_eof

    def check_rate(self, passed: int, rate: int | None) -> None:
        if rate is not None:
            seconds = self.world.clock.now - self.made_at
            self.check(passed <= rate * (seconds + 1) + 1, f"{passed} bytes passed in {seconds} s")

    def owes(self, seconds: float | None) -> None:
        self.owed = None if seconds is None else (self.world.clock.now, seconds)

    def fidget(self) -> None:
        """Ask for other timeouts, and for a message from now on or none."""
        if self.random.random() < 0.5:
            self.idle = self.random.choice([None, 5.0, 500.0])
            self.connection.set_timeouts(idle=self.idle)
        else:
            self.owes(self.random.choice([None, 2.0, 2000.0]))
            self.connection.set_timeouts(read=self.owed and self.owed[1])

    # Actions of the protocol

    def later(self, seconds: float, action: object) -> None:
        self.world.later(seconds, action)

    def begins_to_close(self) -> None:
        self.closing_at = min(self.closing_at, self.world.clock.now)

    def write(self, data: bytes, pieces: int = 1) -> None:
        data = bytes(data[: max(0, _MOST_WRITTEN - len(self.written))])
        if self.connection.is_closing():
            self.check(self.connection.write(data) is False, "took more while closing")
        elif data and not self.write_ended:
            self.written += data
            self.written_at = self.world.clock.now
            self.largest = max(self.largest, len(data))
            self.send(data, pieces)

    def send(self, data: bytes, pieces: int) -> None:
        if pieces == 1:
            self.connection.write(data)
        else:
            size = -(-len(data) // pieces)
            self.connection.writelines([data[at : at + size] for at in range(0, len(data), size)])

    def answer(self, data: bytes) -> None:
        if self.policy.answer == "echo":
            self.write(data)
        elif self.policy.answer == "lines":
            self.write(data, self.random.randint(2, 9))
        elif self.policy.answer == "late":
            self.later(self.random.uniform(0.0, 2.0), lambda: self.write(data))
        elif self.policy.answer == "reply":
            self.write(STREAM[: self.policy.reply])

    def do_nothing(self) -> None:
        """Resume reading."""

    def do_close(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.connection.is_closing():
            self.trace("close")
            self.begins_to_close()
            self.connection.close()

    def abort(self) -> None:
        self.trace("abort")
        self.connection.abort()

    def do_abort(self) -> None:
        self.connection.abort()

    def do_write_eof(self) -> None:
        self.write_ended = True
        self.connection.write_eof()

    def do_raise(self) -> None:
        self.world.raised += 1
        # An answer that could not be sent has ended the connection before, and that stays the reason.
        self.breaks = not self.connection.is_closing()
        raise Broken


class Served(_Model, Protocol):
    """A protocol with `data_received`."""

    def data_received(self, data: bytes) -> None:
        self.took(data)


class BufferedServed(_Model, BufferedProtocol):
    """A protocol that receives into its own buffer."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(self.random.choice([1, 100, 4096]))
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.took(bytes(self.buffer[:nbytes]))
