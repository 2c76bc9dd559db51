"""Protocols of the instrumented servers, for all three kinds, and the observations that they record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["APPS", "Observations"]


@attrs.define
class Observations:
    """Observations since the last question.

    lost: connections that ended, by the name of their reason. latest_end: of those that timed out, the
    longest time from `connection_made` to `connection_lost`.
    """

    accepted: int = 0
    lost: Counter[str] = attrs.field(factory=Counter)
    latest_end: float = 0.0
    late: list[float] = attrs.field(factory=list)
    polls: int = 0
    longest_tick: float = 0.0
    written: int = 0

    def take(self) -> dict[str, Any]:
        """Return all observations, and reset them."""
        observed = attrs.asdict(self)
        fresh = Observations()
        for name in observed:
            setattr(self, name, getattr(fresh, name))
        return observed

    def timed(self, poll: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `poll` to measure the time between two of its calls: a tick without its wait."""
        returned = time.perf_counter()

        def timing(*args: Any) -> Any:
            nonlocal returned
            self.longest_tick = max(self.longest_tick, time.perf_counter() - returned)
            self.polls += 1
            events = poll(*args)
            returned = time.perf_counter()
            return events

        return timing

    def watch_clock(self, loop: Any, period: float) -> None:
        """Record from now on how late a timer of `period` seconds is, by a clock that is not the loop's."""

        def tick(due: float) -> None:
            now = time.perf_counter()
            self.late.append(now - due)
            loop.call_later(period, tick, now + period)

        loop.call_later(period, tick, time.perf_counter() + period)


class Echo:
    """Sends back what it receives; reads nothing while writing is paused."""

    __slots__ = ("loop", "made", "observations", "transport")

    def __init__(self, observations: Observations, loop: Any) -> None:
        self.observations = observations
        self.loop = loop

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport
        self.made = time.perf_counter()
        self.observations.accepted += 1

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)

    def eof_received(self) -> bool | None:
        """Return None: the connection closes once everything is sent."""

    def pause_writing(self) -> None:
        """Stop reading."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self.transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Record the reason."""
        self.observations.lost[type(exc).__name__] += 1
        if isinstance(exc, TimeoutError):
            self.observations.latest_end = max(self.observations.latest_end, time.perf_counter() - self.made)


class Owing(Echo):
    """As `Echo`; the read deadline covers the peer's first bytes: `OWED` within `timeouts["read"]`."""

    OWED = 16

    __slots__ = ("owed",)

    def connection_made(self, transport: Any) -> None:
        """Start the count."""
        super().connection_made(transport)
        self.owed = self.OWED

    def data_received(self, data: bytes) -> None:
        """Send it back; end the read deadline after `OWED` bytes."""
        if self.owed > 0:
            self.owed -= len(data)
            if self.owed <= 0:
                self.transport.set_timeouts(read=None)
        super().data_received(data)


class Paused(Echo):
    """Reads nothing."""

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        """Pause at once."""
        super().connection_made(transport)
        transport.pause_reading()


class HalfOpen(Echo):
    """Keeps its own direction open after the peer's end of file."""

    __slots__ = ()

    def eof_received(self) -> bool | None:
        """Return True: the connection stays open."""
        return True


class Spout(Echo):
    """As `Echo`; a number is answered with as many KiB, whether or not the peer reads them.

    A slice in each tick, like a producer that has other work.
    """

    SLICE = 64

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Write as asked, or echo."""
        if data.isdigit():
            self.spout(int(data))
        else:
            super().data_received(data)

    def spout(self, left: int) -> None:
        """Write a slice, each KiB a new bytes object."""
        for _ in range(min(left, self.SLICE)):
            self.transport.write(bytes(1024))
        self.observations.written += min(left, self.SLICE)
        if left > self.SLICE:
            self.loop.call_soon(self.spout, left - self.SLICE)

    def pause_writing(self) -> None:
        """Ignore it."""


APPS: dict[str, type[Echo]] = {
    "echo": Echo,
    "owing": Owing,
    "paused": Paused,
    "half-open": HalfOpen,
    "spout": Spout,
}
