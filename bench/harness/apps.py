"""What the watched servers do: protocols for all three kinds, and the book that they write in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["APPS", "Book"]


@attrs.define
class Book:
    """What the server has seen since it was asked last.

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
        """Return everything, and begin anew."""
        told = attrs.asdict(self)
        fresh = Book()
        for name in told:
            setattr(self, name, getattr(fresh, name))
        return told

    def timed(self, poll: Callable[..., Any]) -> Callable[..., Any]:
        """Return `poll` with the time between two of its calls noted: a tick without its wait."""
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
        """Note from now on how late a timer of `period` seconds comes, by a clock that is not the loop's."""

        def tick(due: float) -> None:
            now = time.perf_counter()
            self.late.append(now - due)
            loop.call_later(period, tick, now + period)

        loop.call_later(period, tick, time.perf_counter() + period)


class Echo:
    """Sends back what comes, and takes no more while the peer takes nothing."""

    __slots__ = ("book", "loop", "made", "transport")

    def __init__(self, book: Book, loop: Any) -> None:
        self.book = book
        self.loop = loop

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self.transport = transport
        self.made = time.perf_counter()
        self.book.accepted += 1

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)

    def eof_received(self) -> bool | None:
        """Let the connection close when everything has gone back."""

    def pause_writing(self) -> None:
        """Let the kernel hold the peer."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note why."""
        self.book.lost[type(exc).__name__] += 1
        if isinstance(exc, TimeoutError):
            self.book.latest_end = max(self.book.latest_end, time.perf_counter() - self.made)


class Owing(Echo):
    """As `Echo`; the peer owes some bytes to begin with, within `timeouts["read"]`."""

    OWED = 16

    __slots__ = ("owed",)

    def connection_made(self, transport: Any) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self.owed = self.OWED

    def data_received(self, data: bytes) -> None:
        """Send it back; when nothing more is owed, the peer may take its time."""
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
    """Goes on when the peer's direction has ended."""

    __slots__ = ()

    def eof_received(self) -> bool | None:
        """Keep ours open."""
        return True


class Spout(Echo):
    """As `Echo`; but to whom sends a number it writes so many KiB, whether or not they are taken.

    A slice of them in each tick, as a producer that has other things to do.
    """

    SLICE = 64

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Begin to write, or send it back."""
        if data.isdigit():
            self.spout(int(data))
        else:
            super().data_received(data)

    def spout(self, left: int) -> None:
        """Write a slice, each piece bytes of its own."""
        for _ in range(min(left, self.SLICE)):
            self.transport.write(bytes(1024))
        self.book.written += min(left, self.SLICE)
        if left > self.SLICE:
            self.loop.call_soon(self.spout, left - self.SLICE)

    def pause_writing(self) -> None:
        """Pay no heed."""


APPS: dict[str, type[Echo]] = {
    "echo": Echo,
    "owing": Owing,
    "paused": Paused,
    "half-open": HalfOpen,
    "spout": Spout,
}
