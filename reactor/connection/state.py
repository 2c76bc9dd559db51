"""The states of a connection, the events that move it, and the one table of moves.

Each direction ends on its own: `READ_CLOSED` is the peer's end of file, `WRITE_CLOSED` is ours, and
`ENDING` is both. What the table does not list can't happen; `after` raises for it, because it would be
a bug of ours.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["CLOSES", "ENDED", "READABLE", "TRANSITIONS", "WRITABLE", "Event", "State", "after"]


class _Singletons(Enum):
    # Enum's own hash is a Python function, and the table is asked at each step of each connection.
    __hash__ = object.__hash__


class State(_Singletons):
    """Where a connection is in its life."""

    OPENING = "opening"  # the socket is there, the protocol has not been told
    OPEN = "open"
    READ_CLOSED = "read closed"  # the peer has sent its last byte
    WRITE_CLOSED = "write closed"  # ours is sent, or queued behind what was written
    CLOSING = "closing"  # nothing more is read or taken for writing; what is queued goes out
    ENDING = "ending"  # as closing, and the peer has sent its last byte
    CLOSED = "closed"  # the socket is closed or left to linger, `connection_lost` is due
    LOST = "lost"  # `connection_lost` was called


class Event(_Singletons):
    """What moves a connection from one state to the next."""

    MADE = "made"
    PEER_EOF = "peer's end of file"
    WRITE_EOF = "our end of file"
    CLOSE = "close"
    CUT = "cut"  # the queue is empty while closing, or abort, or an error
    TOLD = "told"  # connection_lost was called
    FORKED = "forked"  # this process is a child of the one that owns it, and tells nothing


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OPENING, Event.MADE): State.OPEN,
    (State.OPENING, Event.CLOSE): State.CLOSING,  # in a TLS handshake of which the peer's side may be done
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
    (State.CLOSED, Event.TOLD): State.LOST,
    **{(state, Event.FORKED): State.LOST for state in State},
}

READABLE = frozenset({State.OPEN, State.WRITE_CLOSED})
WRITABLE = frozenset({State.OPEN, State.READ_CLOSED})
CLOSES = frozenset({State.CLOSING, State.ENDING})
ENDED = frozenset({State.CLOSED, State.LOST})


def after(state: State, event: Event) -> State:
    """Return the state that `event` leads to from `state`.

    Raises KeyError, with both names, for a move that the table does not allow.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise KeyError(f"no move from {state.name} on {event.name}") from None
