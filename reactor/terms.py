"""What the connections of one listener or connector have in common, and who watches them for silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from reactor.errors import IdleTimeout
from reactor.loop import Loop
from reactor.options import Limits, Timeouts
from reactor.timers import Handle, Wheel, WheelMember

if TYPE_CHECKING:
    from reactor.connection import Connection

__all__ = ["IdleMember", "IdleWatch", "Terms"]

#: Idle connections that are looked at in one go; a tick has two at most, as timer and as callback.
EXPIRED_AT_ONCE = 256


class IdleMember(WheelMember, Protocol):
    """What can be watched for silence."""

    def fail(self, exc: BaseException) -> None:
        """End for the reason `exc`."""


class IdleWatch:
    """Ends the connections that share one idle timeout, in seconds, with `IdleTimeout`."""

    def __init__(self, loop: Loop, timeout: float) -> None:
        self._loop = loop
        self._wheel: Wheel[IdleMember] = Wheel(timeout)
        self._timer: Handle | None = None

    def add(self, connection: IdleMember) -> None:
        """Watch `connection` from its `last_active` on."""
        self._wheel.add(connection)
        if self._timer is None:
            self._schedule()

    def discard(self, connection: IdleMember) -> None:
        """Watch it no more."""
        self._wheel.discard(connection)
        if self._timer is not None and self._wheel.next_due() is None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        due = self._wheel.next_due()
        if due is not None and due <= self._loop.now:
            self._timer = self._loop.call_soon(self._sweep)  # the rest, a slice at a time
        else:
            self._timer = None if due is None else self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for connection in self._wheel.expired(self._loop.now, EXPIRED_AT_ONCE):
            connection.fail(IdleTimeout(f"no byte in either direction for {self._wheel.timeout:g} s"))
        if self._timer is None:
            self._schedule()


@attrs.frozen(eq=False)
class Terms:
    """What the connections of one listener or connector have in common.

    idle: watches for silence, or None. on_lost: called after `connection_lost`.
    """

    limits: Limits
    timeouts: Timeouts
    idle: IdleWatch | None
    on_lost: Callable[[Connection], object]
