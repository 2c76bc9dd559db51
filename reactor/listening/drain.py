"""Draining: let connections come to their end within a time, and report how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from reactor.connection.closing import Linger
from reactor.connection.connection import Connection, activity, awaits_first_bytes, may_end
from reactor.errors import DrainTimeout, HandedOver
from reactor.loop.loop import Loop
from reactor.loop.timers import Handle

__all__ = ["FIRST_BYTES", "Drain", "Drained"]

# Connections that are checked in one go, and the seconds between two checks of the busy ones.
_CHECKS_AT_ONCE = 256
_FIRST_PAUSE = 0.01
_LAST_PAUSE = 0.1

#: Seconds that an accepted connection has for its first bytes, counted from the beginning of the drain.
FIRST_BYTES = 5.0

# The part of the drain's time after which it waits for no first bytes any more.
_NO_FIRST_BYTES = 0.5


@attrs.frozen(kw_only=True)
class Drained:
    """How the connections of a drain ended.

    idle: closed at once, because nothing was under way. finished: came to their end in time, were closed
    after a long silence, or went on in another process. failed: were lost meanwhile. aborted: were still busy
    when the time was up.

    >>> str(Drained(idle=3, finished=1, failed=0, aborted=0))
    '3 idle, 1 finished, 0 failed, 0 aborted'
    """

    idle: int
    finished: int
    failed: int
    aborted: int

    def __str__(self) -> str:
        return f"{self.idle} idle, {self.finished} finished, {self.failed} failed, {self.aborted} aborted"


@attrs.define(eq=False, repr=False, kw_only=True)
class Drain:
    """A drain in progress, of one listener or of a reactor: it closes connections that are idle.

    It gets more insistent with time. A connection that was accepted and has received nothing is a client that
    is about to send: it has `FIRST_BYTES` seconds, and half of `timeout` at most, before it counts as idle.
    One that only waits for its peer is closed when no byte has passed for as long as is left of `timeout`:
    after half of it at the earliest, and then after ever shorter silences. So those that would hardly be done
    in time end with all that was sent to them, and not all in one moment. At the end of `timeout` what is
    still busy is aborted.

    It counts the connections that it waits for: those that `count_connections` finds when it begins, those
    that `connection_opened` adds, without those of `connection_ended`. It is done when there is none left,
    and nothing is listened on.

    loop: drives it. timeout: seconds, after which what is still open is aborted.
    connections: returns the open connections. lingering: returns their lingering closes.
    count_connections: returns the number of connections whose sockets are open, or whose `connection_lost`
        has not been called.
    is_listening: returns whether connections can still be accepted.
    stop_listening: called when the time is up.
    on_done: called with the report, once. on_end: called before that; after an interrupt in it, again.
    """

    # What it drains.
    _loop: Loop
    _timeout: float
    _connections: Callable[[], Iterable[Connection]]
    _lingering: Callable[[], Iterable[Linger]]
    _count_connections: Callable[[], int]
    _is_listening: Callable[[], bool]
    _stop_listening: Callable[[], object]
    _on_done: Callable[[Drained], object]
    _on_end: Callable[[], object] = attrs.field(default=lambda: None)

    # The connections that it waits for, and what became of the others.
    _open: int = attrs.field(init=False)
    _idle: int = attrs.field(default=0, init=False)
    _clean: int = attrs.field(default=0, init=False)  # the idle ones included
    _failed: int = attrs.field(default=0, init=False)
    _aborted: int = attrs.field(default=0, init=False)

    # The check for idle connections: those still to be checked; of those whose first bytes are waited for,
    # the time of their last byte, until there is another, or `_first_bytes_due`.
    _unchecked: list[Connection] = attrs.field(init=False)
    _silent_since: dict[Connection, float] = attrs.field(factory=dict, init=False)
    _first_bytes_due: float = attrs.field(init=False)

    # Its timers.
    _begun: float = attrs.field(init=False)
    _due: float = attrs.field(init=False)
    _deadline: Handle = attrs.field(init=False)
    _pause: float = attrs.field(default=_FIRST_PAUSE, init=False)
    _next: Handle = attrs.field(init=False)
    # True until it is whole: one that an interrupt has left half made never reports.
    _done: bool = attrs.field(default=True, init=False)

    def __attrs_post_init__(self) -> None:
        scheduler = self._loop.scheduler
        self._open = self._count_connections()
        self._unchecked = list(self._connections())
        self._begun = now = self._loop.time()
        self._due = now + self._timeout
        self._first_bytes_due = now + min(FIRST_BYTES, self._timeout * _NO_FIRST_BYTES)
        for connection in self._unchecked:
            if awaits_first_bytes(connection, now - FIRST_BYTES):
                self._silent_since[connection] = activity(connection)
        self._deadline = scheduler.call_at(self._due, self._time_out)
        self._next = scheduler.call_soon(self._check)
        self._done = False

    def connection_opened(self) -> None:
        """Wait for one more connection: it was accepted or made."""
        self._open += 1

    def connection_admitted(self, connection: Connection) -> None:
        """Give `connection`, which was in the accept queue, the chance to send before it counts as idle."""
        self._silent_since[connection] = activity(connection)

    def connection_ended(self, reason: BaseException | None) -> None:
        """Wait for one connection less: its socket is closed, and `connection_lost` was given `reason`."""
        self._open -= 1
        if reason is None or isinstance(reason, HandedOver):
            self._clean += 1
        elif isinstance(reason, DrainTimeout):
            self._aborted += 1
        else:
            self._failed += 1
        self.finish_if_empty()

    def finish_if_empty(self) -> None:
        """Report, if there is nothing left to wait for."""
        if self._done or self._open or self._is_listening():
            return
        if (
            self._loop.scheduler.notices_due()
        ):  # a `connection_lost` of a connection that was counted as ended
            self._next.cancel()
            self._next = self._loop.scheduler.call_soon(self.finish_if_empty)
            return
        self._report(self.so_far())

    def so_far(self) -> Drained:
        """Return how connections have ended until now."""
        finished = max(0, self._clean - self._idle)  # an idle one is counted before its end is
        return Drained(idle=self._idle, finished=finished, failed=self._failed, aborted=self._aborted)

    def _report(self, report: Drained) -> None:
        """Call `on_done`, if that was not done before."""
        if self._done:
            return
        called = None
        try:
            self.cancel()
            self._on_end()
            self._on_done(called := report)
        except Exception as exc:
            self._loop.scheduler.report(exc, getattr(self._on_done, "__qualname__", repr(self._on_done)))
        except BaseException:
            if called is None:
                self._done = False
                self._loop.scheduler.post_notice(self._report, report)
            raise

    def cancel(self) -> None:
        """Close nothing more, and report nothing."""
        self._done = True
        self._deadline.cancel()
        self._next.cancel()
        self._silent_since.clear()

    def is_done(self) -> bool:
        """Return whether it has reported, or was cancelled."""
        return self._done

    def recover(self) -> None:
        """Count and check anew, after an interrupt anywhere before the report."""
        self._done = False
        self._open = self._count_connections()
        self._deadline.cancel()
        self._deadline = self._loop.scheduler.call_at(self._due, self._time_out)
        self._next.cancel()
        self._next = self._loop.scheduler.call_soon(self._check_all)

    def _check(self) -> None:
        if self._done:
            return
        for connection in self._unchecked[-_CHECKS_AT_ONCE:]:
            if not connection.is_closing() and self._is_idle(connection):
                self._idle += self._pause == _FIRST_PAUSE  # not found busy before
                connection.close(self._timeout)
        del self._unchecked[-_CHECKS_AT_ONCE:]
        if self._unchecked:
            self._next = self._loop.scheduler.call_soon(self._check)
            return
        for lingering in self._lingering():
            if lingering.is_delivered():
                lingering.close()
        self.finish_if_empty()
        if not self._done:
            self._next = self._loop.scheduler.call_later(self._pause, self._check_all)
            self._pause = min(self._pause * 2, _LAST_PAUSE)

    def _check_all(self) -> None:
        self._unchecked = list(self._connections())
        self._check()

    def _is_idle(self, connection: Connection) -> bool:
        now, active = self._loop.time(), activity(connection)
        silent = active == self._silent_since.get(connection) and connection.is_reading()
        if silent and now < self._first_bytes_due:
            return False
        return may_end(connection, late=now - max(active, self._begun) > self._due - now)

    def _time_out(self) -> None:
        if self._done:
            return
        for connection in self._connections():
            connection.abort(DrainTimeout(f"still open after the {self._timeout:g} s of the drain"))
        self._stop_listening()
        for lingering in self._lingering():
            lingering.close()
        self.finish_if_empty()
