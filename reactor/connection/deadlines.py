"""The deadlines of a connection: how long it may be silent, owe a message, take nothing, or close."""

from __future__ import annotations

import math
from collections.abc import Iterator
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import attrs

from reactor.connection.linger import is_quiet
from reactor.connection.sender import Outbound, Sender
from reactor.connection.state import ENDED, READABLE, State
from reactor.errors import (
    CloseTimeout,
    IdleTimeout,
    ReactorError,
    ReadTimeout,
    TLSHandshakeTimeout,
    WriteTimeout,
)
from reactor.loop.timers import round_up
from reactor.options import Timeouts, seconds
from reactor.tls.secure_socket import SecureSocket, bare

__all__ = ["ERROR_LOOK", "Timed"]

#: In `set_timeouts`: leave it as it is.
_KEEP: Any = object()

#: Seconds between looks at a connection of which the selector is asked nothing, and would not report a reset.
ERROR_LOOK = 0.5

# Reads before a deadline ends a connection: a receive buffer of 4 MiB. A flooding peer is not read for ever.
_LAST_READS = 64


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
        Raises ValueError, naming the argument, for a number that is not positive, and TypeError for what is
        no number; then nothing is changed.
        """
        self._loop.check_process()
        new = {"idle": idle, "write": write, "close": close}
        changed: dict[str, Any] = {name: value for name, value in new.items() if value is not _KEEP}
        terms = self._terms
        if changed:
            terms = attrs.evolve(terms, timeouts=attrs.evolve(terms.timeouts, **changed))
        if read is not _KEEP:
            self._owe(None if read is None else seconds("read", read))
        if changed:
            self._terms = terms
            if self._state not in ENDED:
                self._look_later()

    def _owe(self, timeout: float | None) -> None:
        if timeout is None:
            self._owed = None
            return
        start = self._loop.time()
        self._owed = (start, timeout)
        if self._state in READABLE:
            self._terms.watch.add(self, start, timeout)

    def check_deadlines(self, now: float) -> float | None:
        """End the connection if a deadline has passed; else return when to look again. The watch's call."""
        if self._is_unwatched():
            self._check_error()
        passed, again = self._first_deadline(now)
        if passed is not None:
            self._last_look()
            passed, again = self._first_deadline(now)
        if self._state in ENDED:
            return None
        if passed is not None:
            self._time_out(passed)
            return None
        if self._is_unwatched():
            again = min(again, round_up(now + ERROR_LOOK, ERROR_LOOK))
        return None if again == math.inf else again

    def _first_deadline(self, now: float) -> tuple[ReactorError | None, float]:
        """Return the error of a deadline that has passed, or None, and when to look again."""
        again = math.inf
        for start, timeout, kind, message in self._deadlines():
            due = start + timeout
            if due <= now:
                due += self._loop.tick_times.longest_since(start)
            if due <= now:
                return kind(message.format(timeout)), now
            again = min(again, round_up(due, timeout))
        return None, again

    def _last_look(self) -> None:
        """Receive what the kernel holds, and offer it what is queued, before a deadline ends the connection.

        After a long callback, or when the process was stopped, the peer may have done all that it owes.
        """
        for _ in range(_LAST_READS):
            if not self._is_watched_for(EVENT_READ) or is_quiet(bare(self._sock)):
                break
            self._dispatch(EVENT_READ)
        if self._is_watched_for(EVENT_WRITE):
            self._dispatch(EVENT_WRITE)

    def _is_unwatched(self) -> bool:
        return self._state not in ENDED and not self._loop.registry.interest(self._sock.fileno())

    def _is_watched_for(self, event: int) -> bool:
        return self._state not in ENDED and bool(self._loop.registry.interest(self._sock.fileno()) & event)

    def _dispatch(self, event: int) -> None:
        handler = self._loop.registry.handler_of(self._sock.fileno())
        assert handler is not None
        handler.on_event(event)

    def _deadlines(self) -> Iterator[tuple[float, float, type[ReactorError], str]]:
        timeouts, out, sock = self._terms.timeouts, self._out, self._sock
        shaking = "the TLS handshake was not done within {:g} s"
        if self._state is State.OPENING and not isinstance(sock, SecureSocket):  # the protocol does it
            yield self.last_active, timeouts.handshake, TLSHandshakeTimeout, shaking
        elif not isinstance(sock, SecureSocket) or sock.established:
            yield from self._deadlines_of_data()
        elif not sock.clear_left:
            yield sock.since, timeouts.handshake, TLSHandshakeTimeout, shaking
        elif timeouts.write is not None:
            message = "the peer took none of what was written before start_tls for {:g} s"
            yield sock.since, timeouts.write, WriteTimeout, message
        if isinstance(out, Outbound) and out.closing is not None:
            message = f"{out.size} bytes not taken in the {{:g}} s that close gave them"
            if not out.size and isinstance(sock, SecureSocket) and not sock.established:
                message = "the TLS handshake was not done in the {:g} s that close gave it"
            yield out.closing.start, out.closing.timeout, CloseTimeout, message

    def _deadlines_of_data(self) -> Iterator[tuple[float, float, type[ReactorError], str]]:
        timeouts, out = self._terms.timeouts, self._out
        if timeouts.idle is not None:
            yield self.last_active, timeouts.idle, IdleTimeout, "no byte in either direction for {:g} s"
        if self._owed is not None and self._state in READABLE:
            yield *self._owed, ReadTimeout, "the peer did not send what it owes within {:g} s"
        if isinstance(out, Outbound) and out.armed and timeouts.write is not None:
            message = f"the peer took none of {out.size} queued bytes for {{:g}} s"
            yield out.since, timeouts.write, WriteTimeout, message

    def _look_later(self) -> None:
        for start, timeout, _, _ in self._deadlines():
            self._terms.watch.add(self, start, timeout)

    def _time_out(self, exc: ReactorError) -> None:
        sock = self._sock
        if self.get_write_buffer_size() or (isinstance(sock, SecureSocket) and sock.has_output()):
            self.abort(exc)  # what is queued can't be delivered, and must not seem to be
        else:
            self.fail(exc)
