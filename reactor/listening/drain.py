"""Drain: let connections come to their end within a time, and tell how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from reactor.connection.closing import Linger
from reactor.connection.connection import Connection, activity, may_end
from reactor.errors import DrainTimeout
from reactor.loop.loop import Loop

__all__ = ["Drain", "Drained"]

# Connections that are asked in one go, and how long the busy ones are let alone, seconds.
_ASKED_AT_ONCE = 256
_FIRST_PAUSE = 0.01
_LAST_PAUSE = 0.1


@attrs.frozen(kw_only=True)
class Drained:
    """How the connections of a drain ended.

    idle: closed at once, because nothing was under way. finished: came to their own end in time.
    failed: were lost meanwhile. aborted: were still busy when the time was up.

    >>> str(Drained(idle=3, finished=1, failed=0, aborted=0))
    '3 idle, 1 finished, 0 failed, 0 aborted'
    """

    idle: int
    finished: int
    failed: int
    aborted: int

    def __str__(self) -> str:
        return f"{self.idle} idle, {self.finished} finished, {self.failed} failed, {self.aborted} aborted"


class Drain:
    """One drain on its way.

    connections: returns those that are open. lingering: returns the sockets of closed ones that wait for
    their peer's end. held: returns how many descriptors have not been given back. stop_listening: is
    called when the time is up. on_done: is given the report.
    """

    def __init__(
        self,
        loop: Loop,
        timeout: float,
        *,
        connections: Callable[[], Iterable[Connection]],
        lingering: Callable[[], Iterable[Linger]],
        held: Callable[[], int],
        stop_listening: Callable[[], object],
        on_done: Callable[[Drained], object],
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._connections = connections
        self._lingering = lingering
        self._held = held
        self._stop_listening = stop_listening
        self._on_done = on_done
        self._idle = self._clean = self._failed = self._aborted = 0
        self._silent_since: dict[Connection, float] = {}
        self._to_ask = list(connections())
        self._pause = _FIRST_PAUSE
        self._done = (
            True  # until all is there: of one that an interrupt has left half made nothing is to come
        )
        self._due = loop.time() + timeout
        self._deadline = loop.call_at(self._due, self._time_out)
        self._next = loop.call_soon(self._ask)
        self._done = False

    def admitted(self, connection: Connection) -> None:
        """`connection` came out of the backlog: it has its chance to speak before it counts as idle."""
        self._silent_since[connection] = activity(connection)

    def ended(self, reason: BaseException | None) -> None:
        """A connection was given back, and told `reason`."""
        if reason is None:
            self._clean += 1
        elif isinstance(reason, DrainTimeout):
            self._aborted += 1
        else:
            self._failed += 1
        self.finish_if_empty()

    def finish_if_empty(self) -> None:
        """Report, if nothing is held any more and everybody has been told so."""
        if not self._done and not self._held():
            if self._loop.notices_due():
                self._next.cancel()
                self._next = self._loop.call_soon(self.finish_if_empty)
                return
            self.cancel()
            finished = self._clean - self._idle
            report = Drained(idle=self._idle, finished=finished, failed=self._failed, aborted=self._aborted)
            self._loop.call(self._on_done, report)

    def cancel(self) -> None:
        """Stop asking, and report nothing."""
        self._done = True
        self._deadline.cancel()
        self._next.cancel()
        self._silent_since.clear()

    def is_done(self) -> bool:
        """Return whether it has reported, or was cancelled."""
        return self._done

    def recover(self) -> None:
        """Ask everybody again, after an interrupt anywhere before the report."""
        self._done = False
        self._deadline.cancel()
        self._deadline = self._loop.call_at(self._due, self._time_out)
        self._next.cancel()
        self._next = self._loop.call_soon(self._ask_again)

    def _ask(self) -> None:
        if self._done:
            return
        for connection in self._to_ask[-_ASKED_AT_ONCE:]:
            if not connection.is_closing() and self._is_idle(connection):
                self._idle += self._pause == _FIRST_PAUSE  # not been found busy before
                connection.close(self._timeout)
        del self._to_ask[-_ASKED_AT_ONCE:]
        if self._to_ask:
            self._next = self._loop.call_soon(self._ask)
            return
        for lingering in self._lingering():
            if lingering.is_delivered():
                lingering.close()
        self.finish_if_empty()
        if not self._done:
            self._next = self._loop.call_later(self._pause, self._ask_again)
            self._pause = min(self._pause * 2, _LAST_PAUSE)

    def _ask_again(self) -> None:
        self._to_ask = list(self._connections())
        self._ask()

    def _is_idle(self, connection: Connection) -> bool:
        if activity(connection) == self._silent_since.get(connection) and connection.is_reading():
            return False
        return may_end(connection)

    def _time_out(self) -> None:
        if self._done:
            return
        for connection in self._connections():
            connection.abort(DrainTimeout(f"still open after the {self._timeout:g} s of the drain"))
        self._stop_listening()
        for lingering in self._lingering():
            lingering.close()
        self.finish_if_empty()
