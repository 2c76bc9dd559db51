"""The deadlines of a connection: how long it may be silent, owe a message, take nothing, or close."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs

from reactor.errors import (
    CloseTimeout,
    IdleTimeout,
    ReactorError,
    ReadTimeout,
    TLSHandshakeTimeout,
    WriteTimeout,
)
from reactor.options import Timeouts
from reactor.secure_socket import SecureSocket
from reactor.sender import Outbound, Sender
from reactor.state import ENDED, READABLE, State
from reactor.timers import round_up

__all__ = ["Timed"]

#: In `set_timeouts`: leave it as it is.
_KEEP: Any = object()


class Timed(Sender):
    """A sender that ends when one of its deadlines has passed; the fields are the connection's."""

    __slots__ = ("_owed",)

    # Since when, and for how many seconds at most, the peer owes something; None when it does not.
    _owed: tuple[float, float] | None

    def get_timeouts(self) -> Timeouts:
        """Return this connection's timeouts."""
        return self._terms.timeouts

    def set_timeouts(
        self,
        *,
        idle: float | None = _KEEP,
        read: float | None = _KEEP,
        write: float | None = _KEEP,
        close: float = _KEEP,
    ) -> None:
        """Change this connection's timeouts, in seconds, None for none; what is left out stays.

        read: the peer owes a message from now on, and the connection ends with `ReadTimeout` if the next
            call of this method with `read` is later than that. None: it owes nothing.
        idle, write, close: as in `Timeouts`.
        Raises ValueError, naming the argument, for a value that is not a positive number.
        """
        if read is not _KEEP:
            self._owe(read)
        new = {"idle": idle, "write": write, "close": close}
        changed: dict[str, Any] = {name: value for name, value in new.items() if value is not _KEEP}
        if changed:
            timeouts = attrs.evolve(self._terms.timeouts, **changed)
            self._terms = attrs.evolve(self._terms, timeouts=timeouts)
            if self._state not in ENDED:
                self._look_later()

    def _owe(self, timeout: float | None) -> None:
        if timeout is None:
            self._owed = None
            return
        if not 0 < timeout < math.inf:
            raise ValueError(f"read must be more than 0 seconds, not {timeout!r}")
        start = self._loop.time()
        self._owed = (start, timeout)
        if self._state in READABLE:
            self._terms.watch.add(self, start, timeout)

    def check_deadlines(self, now: float) -> float | None:
        """End the connection if a deadline has passed; else return when to look again. The watch's call."""
        again = math.inf
        for start, timeout, kind, told in self._deadlines():
            if start + timeout <= now:
                self._time_out(kind(told.format(timeout)))
                return None
            again = min(again, round_up(start + timeout, timeout))
        return None if again == math.inf else again

    def _deadlines(self) -> Iterator[tuple[float, float, type[ReactorError], str]]:
        timeouts, out, sock = self._terms.timeouts, self._out, self._sock
        told = "the TLS handshake was not done within {:g} s"
        if isinstance(sock, SecureSocket) and not sock.established:
            yield sock.since, timeouts.handshake, TLSHandshakeTimeout, told
        elif self._state is State.OPENING:  # the protocol sees to the handshake
            yield self.last_active, timeouts.handshake, TLSHandshakeTimeout, told
        else:
            yield from self._deadlines_of_data()
        if isinstance(out, Outbound) and out.closing is not None:
            told = f"{out.size} bytes not taken in the {{:g}} s that close gave them"
            yield out.closing.start, out.closing.timeout, CloseTimeout, told

    def _deadlines_of_data(self) -> Iterator[tuple[float, float, type[ReactorError], str]]:
        timeouts, out = self._terms.timeouts, self._out
        if timeouts.idle is not None:
            yield self.last_active, timeouts.idle, IdleTimeout, "no byte in either direction for {:g} s"
        if self._owed is not None and self._state in READABLE:
            yield *self._owed, ReadTimeout, "the peer did not send what it owes within {:g} s"
        if isinstance(out, Outbound) and out.armed and timeouts.write is not None:
            told = f"the peer took none of {out.size} queued bytes for {{:g}} s"
            yield out.since, timeouts.write, WriteTimeout, told

    def _look_later(self) -> None:
        for start, timeout, _, _ in self._deadlines():
            self._terms.watch.add(self, start, timeout)

    def _time_out(self, exc: ReactorError) -> None:
        sock = self._sock
        if self.get_write_buffer_size() or (isinstance(sock, SecureSocket) and sock.has_output()):
            self.abort(exc)  # what is queued can't be delivered, and must not seem to be
        else:
            self.fail(exc)
