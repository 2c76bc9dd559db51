"""What the connections of one listener or connector have in common, and who watches their deadlines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from reactor.loop.loop import Loop
from reactor.loop.timers import Handle, Wheel, WheelMember, round_up
from reactor.options import Limits, Timeouts

if TYPE_CHECKING:
    from reactor.connection.connection import Connection
    from reactor.tls.secure_socket import Bios, Tls

__all__ = ["Terms", "Watch", "Watched"]

#: Connections that are looked at in one go; a tick has two at most, as timer and as callback.
LOOKS_AT_ONCE = 256

# Seconds after which the others wait for the next tick.
_LONGEST_SWEEP = 0.01


class Watched(WheelMember, Protocol):
    """What has deadlines."""

    def check_deadlines(self, now: float) -> float | None:
        """End if one has passed at `now`; else return when to look again, or None for never."""


class Watch:
    """Looks at each connection of a reactor when one of its deadlines may have passed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._wheel: Wheel[Watched] = Wheel()
        self._timer: Handle | None = None
        self._due = 0.0

    def add(self, member: Watched, start: float, timeout: float) -> None:
        """Look at `member` once `timeout` seconds from `start` have passed, if not before.

        start: in the clock's seconds. It comes up to a sixteenth of `timeout` late, never early. An infinite
        `timeout` never passes.
        """
        when = round_up(start + timeout, timeout)
        if when != math.inf:
            self._put(member, when)

    def _put(self, member: Watched, when: float) -> None:
        self._wheel.add(member, when)
        if self._timer is None or when < self._due:
            self._schedule()

    def recover(self) -> None:
        """Make whole what an interrupt has left."""
        self._wheel.recover()
        self._schedule()

    def discard(self, member: Watched) -> None:
        """Look at it no more."""
        bucket = member.bucket
        self._wheel.discard(member)
        if bucket is not None and not bucket and bucket.due == self._due:
            self._schedule()

    def _schedule(self) -> None:
        due = self._wheel.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is None:
            return
        self._due = due
        if due <= self._loop.now:
            self._timer = self._loop.call_soon(self._sweep)  # the rest, a slice at a time
        else:
            self._timer = self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.now
        try:
            for member in self._wheel.take_due(now, LOOKS_AT_ONCE):
                again: float | None = now  # where an interrupt leaves it
                try:
                    again = member.check_deadlines(now)
                finally:
                    if again is not None:
                        self._wheel.add(member, again)
                if self._loop.time() - now > _LONGEST_SWEEP:
                    break
        finally:
            self._schedule()


@attrs.frozen(eq=False)
class Terms:
    """What the connections of one listener, connector or adoption have in common.

    origin: where they come from, for people. owner: the listener, or None.
    on_gone: called as `on_gone(site, reason)` when the descriptor of a connection is given back, with what
        `site_of` says of its peer.
    connection_type: what is made of each socket; another one in debug mode.
    bios: for TLS, all connections of a reactor have the same. tls: how they begin with it; None: in clear.
    """

    limits: Limits
    timeouts: Timeouts
    watch: Watch
    origin: str
    owner: Any
    on_gone: Callable[[bytes | None, BaseException | None], object]
    connection_type: type[Connection]
    bios: Bios
    tls: Tls | None = None
