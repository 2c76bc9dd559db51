"""Reading that is not the straight way: into the protocol's own buffer, or at a rate."""

from __future__ import annotations

from selectors import EVENT_READ
from typing import TYPE_CHECKING

from reactor.connection.rates import TokenBucket

if TYPE_CHECKING:
    from reactor.connection.connection import Connection

__all__ = ["RECV_SIZE", "Intake"]

#: Bytes asked for in one recv(2): the most that one readiness may take from the others' time.
RECV_SIZE = 64 * 1024


class Intake:
    """What the loop calls for a connection that can't be read the straight way.

    rate: what measures out `Limits.read_rate`; None if only the protocol's own buffer is the reason.
    held: nothing is read for now, because the rate allows no more.
    """

    __slots__ = ("_rate", "connection", "held")

    def __init__(self, connection: Connection, rate: TokenBucket | None) -> None:
        self.connection = connection
        self.held = False
        self._rate = rate

    def on_event(self, events: int) -> None:
        """Read, or have the connection send what is queued, or both. The loop's call."""
        try:
            if events & EVENT_READ:
                self._read()
            if events & ~EVENT_READ:
                self.connection.on_event(events & ~EVENT_READ)
        except BaseException as exc:
            self.connection._interrupted(exc)
            raise

    def interest(self, events: int) -> int:
        """Return what to wait for, if the connection would wait for `events`."""
        return events & ~EVENT_READ if self.held else events

    def _read(self) -> None:
        connection, rate = self.connection, self._rate
        if rate is None:
            self._receive(RECV_SIZE)
            return
        loop = connection._loop
        most = min(rate.available(loop.now), RECV_SIZE - 1)  # all of it may become more, over TLS
        before = loop.bytes_received
        if most:
            self._receive(most)
        rate.take(loop.bytes_received - before)
        if not rate.available(loop.now):
            self._hold(True)
            loop.call_later(rate.wait(), self._hold, False)

    def _receive(self, most: int) -> None:
        if hasattr(self.connection.get_protocol(), "data_received"):
            self.connection.on_event(EVENT_READ, most)
        else:
            self.connection.receive_into(most)

    def _hold(self, held: bool) -> None:
        try:
            self.held = held
            if not self.connection.is_closing():
                self.connection._update_interest()
        except BaseException:
            self.connection.break_off()
            raise
