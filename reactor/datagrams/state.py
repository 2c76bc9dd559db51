"""`EndpointState`, and `Core`: the state that the two sides of an endpoint share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import attrs

from reactor.address import Address
from reactor.datagrams.limits import DatagramLimits
from reactor.datagrams.opening import SocketSettings
from reactor.loop.loop import Loop

__all__ = ["ENDED", "SENDS", "Core", "EndpointState"]

# Seconds after which the rest of a batch is left to the next tick.
_LONGEST_BATCH = 0.002

# Seconds of a tick after which every endpoint receives one datagram only, however many endpoints are ready.
_LONGEST_TICK = 0.01


class EndpointState(Enum):
    """The states of an endpoint, in the order in which they come; OPENING and CLOSING may be left out.

    In OPENING and CLOSING it only sends what is queued: its name is being resolved, or `close` was called.
    """

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"  # the socket is closed, and `connection_lost` not called yet
    LOST = "lost"


_OPEN = EndpointState.OPEN

#: The states in which datagrams are taken to be sent, and those in which the socket is closed.
SENDS = frozenset({EndpointState.OPENING, EndpointState.OPEN})
ENDED = frozenset({EndpointState.CLOSED, EndpointState.LOST})


@attrs.define(eq=False, kw_only=True)
class Core:
    """The state that an endpoint shares with its sending and its receiving side.

    endpoint: itself, for log records and error handlers. end: ends it, for a reason. target: the address of
    `connect_datagram`.
    sock: None before it is open. peer: the socket address that it is connected to. is_unix: of which kind.
    protocol: None before `connection_made`, and after `connection_lost`.
    direct: whether a datagram can go to the kernel at once. armed: whether it waits until the socket is
    writable. deaf: whether it receives no more, though it is open.
    """

    endpoint: Any
    loop: Loop
    limits: DatagramLimits
    settings: SocketSettings
    end: Callable[[BaseException | None], None]
    target: Address | None = None

    state: EndpointState = EndpointState.OPENING
    sock: Any = None
    peer: Any = None
    is_unix: bool = False
    protocol: Any = None
    direct: bool = False
    armed: bool = False
    deaf: bool = False

    # Counted for `stats`.
    received: int = 0
    bytes_received: int = 0
    sent: int = 0
    bytes_sent: int = 0
    failed: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter)
    refused: Counter[str] = attrs.field(factory=Counter)

    def batch_end(self) -> float:
        """Return when a batch that begins now is to end, in the clock's seconds."""
        loop = self.loop
        return min(loop.time() + _LONGEST_BATCH, loop.now + _LONGEST_TICK, loop.slice_end)

    def update_interest(self) -> None:
        """Wait for the events that the state asks for; the end, if the selector fails."""
        receives = self.state is _OPEN and not self.deaf
        events = (EVENT_READ if receives else 0) | (EVENT_WRITE if self.armed else 0)
        try:
            self.loop.registry.modify(self.sock.fileno(), events)
        except (OSError, ValueError) as exc:
            self.end(exc)

    def callback_failed(self, exc: Exception, callback: str) -> None:
        """Report what a callback of the protocol has raised."""
        self.loop.scheduler.report(exc, f"{type(self.protocol).__qualname__}.{callback}", self.endpoint)

    def interrupted(self, exc: BaseException) -> None:
        """Mark the loop, so that it recovers the endpoint before the next tick: something is half done."""
        self.loop.unsure = True
