"""The state machine of a connection: states, events, and the one table of transitions.

Each direction ends on its own: `READ_CLOSED` after the peer's end of file, `WRITE_CLOSED` after ours,
`ENDING` after both. A transition that the table does not list is a bug of this package: `after` raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

__all__ = [
    "CLOSES", "ENDED", "FROZEN", "HELD", "LENT", "PAUSED", "READABLE", "TRANSITIONS", "WRITABLE", "Event",
    "State", "after",
]  # fmt: skip

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class _Singletons(Enum):
    # Enum's own hash is a Python function, and each step of each connection looks in the table.
    __hash__ = object.__hash__


class State(_Singletons):
    """State of a connection, from the open socket to `connection_lost`."""

    OPENING = "opening"  # the socket is open, `connection_made` was not called
    OPEN = "open"
    READ_CLOSED = "read closed"  # the peer has sent its last byte
    WRITE_CLOSED = "write closed"  # our end of file is sent, or queued behind what was written
    CLOSING = "closing"  # reads and accepts nothing more; sends what is queued
    ENDING = "ending"  # the same, and the peer has sent its last byte
    CLOSED = "closed"  # the socket is closed or lingers, `connection_lost` is due
    LOST = "lost"  # `connection_lost` was called


class Event(_Singletons):
    """Event that moves a connection from one state to the next."""

    MADE = "made"
    PEER_EOF = "peer's end of file"
    WRITE_EOF = "our end of file"
    CLOSE = "close"
    CUT = "cut"  # the queue is empty while closing, or abort, or an error
    NOTIFIED = "notified"  # connection_lost was called
    FORKED = "forked"  # this process is a forked child: `connection_lost` is not called


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OPENING, Event.MADE): State.OPEN,
    (State.OPENING, Event.CLOSE): State.CLOSING,  # in a TLS handshake that the peer may have completed
    (State.OPENING, Event.CUT): State.CLOSED,
    (State.OPEN, Event.PEER_EOF): State.READ_CLOSED,
    (State.OPEN, Event.WRITE_EOF): State.WRITE_CLOSED,
    (State.OPEN, Event.CLOSE): State.CLOSING,
    (State.OPEN, Event.CUT): State.CLOSED,
    (State.READ_CLOSED, Event.WRITE_EOF): State.ENDING,
    (State.READ_CLOSED, Event.CLOSE): State.ENDING,
    (State.READ_CLOSED, Event.CUT): State.CLOSED,
    (State.WRITE_CLOSED, Event.PEER_EOF): State.ENDING,
    (State.WRITE_CLOSED, Event.CLOSE): State.CLOSING,
    (State.WRITE_CLOSED, Event.CUT): State.CLOSED,
    (State.CLOSING, Event.CUT): State.CLOSED,
    (State.ENDING, Event.CUT): State.CLOSED,
    (State.CLOSED, Event.NOTIFIED): State.LOST,
    **{(state, Event.FORKED): State.LOST for state in State},
}

READABLE = frozenset({State.OPEN, State.WRITE_CLOSED})
WRITABLE = frozenset({State.OPEN, State.READ_CLOSED})
CLOSES = frozenset({State.CLOSING, State.ENDING})
ENDED = frozenset({State.CLOSED, State.LOST})

#: The calls that have stopped reading: `pause_reading`, `hold_reading`, `lend_reading`, `handover.freeze`.
PAUSED, HELD, LENT, FROZEN = 1, 2, 4, 8


# The table is a default argument: a function bound to it would cost 1 % of a short connection.
def after(state: S, event: E, table: Mapping[tuple[S, E], S] = TRANSITIONS) -> S:  # type: ignore[assignment]
    """Return the state that follows `state` on `event` by `table`, which is that of a connection by default.

    Raises KeyError, with both names, for a transition that the table does not list.
    """
    try:
        return table[state, event]
    except KeyError:
        raise KeyError(f"no move from {state.name} on {event.name}") from None
