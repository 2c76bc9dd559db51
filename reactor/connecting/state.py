"""The phases of a connector, the events that move it, and the one table of moves.

A round of attempts: the name is looked up, its addresses are tried, and over TLS the first that has answered
does the handshake. What the table does not list can't happen; `after` raises for it, because it
would be a bug of ours.
"""

from __future__ import annotations

from enum import Enum
from functools import partial

from reactor.connection import state

__all__ = ["IN_ROUND", "SHOWN", "TRANSITIONS", "ConnectorState", "Event", "Phase", "after"]


class ConnectorState(Enum):
    """The state of a connector, for programs."""

    CONNECTING = "connecting"  # looks the name up, or tries its addresses
    HANDSHAKING = "handshaking"  # over TLS
    CONNECTED = "connected"
    WAITING = "waiting"  # for the time of the next round of attempts
    DONE = "done"  # cancelled, failed for the last time, or its one connection has ended


class Phase(Enum):
    """The state of a connector, in detail."""

    WAITING = "waiting"  # for the next round, or for the first
    RESOLVING = "resolving"  # the name is looked up
    RACING = "racing"  # addresses are tried
    HANDSHAKING = "handshaking"  # over TLS
    CONNECTED = "connected"  # a connection was made, and has not ended
    DONE = "done"  # cancelled, or failed for the last time


class Event(Enum):
    """An event that moves a connector from one phase to the next."""

    BEGIN = "begin"
    RESOLVED = "resolved"
    ANSWERED = "answered"  # an address has, and TLS is to be spoken
    ARRIVED = "arrived"  # a connection has its protocol
    FAILED = "failed"  # the round, and there is another
    GAVE_UP = "gave up"  # the round has failed, and there is no other
    LOST = "lost"  # the connection has ended, and another is wanted
    INTERRUPTED = "interrupted"  # the round was left half done, and begins anew
    CANCEL = "cancel"


IN_ROUND = frozenset({Phase.RESOLVING, Phase.RACING, Phase.HANDSHAKING})

TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.WAITING, Event.BEGIN): Phase.RESOLVING,
    (Phase.RESOLVING, Event.RESOLVED): Phase.RACING,
    (Phase.RACING, Event.ANSWERED): Phase.HANDSHAKING,
    (Phase.RACING, Event.ARRIVED): Phase.CONNECTED,
    (Phase.HANDSHAKING, Event.ARRIVED): Phase.CONNECTED,
    **{(phase, Event.FAILED): Phase.WAITING for phase in IN_ROUND},
    **{(phase, Event.GAVE_UP): Phase.DONE for phase in IN_ROUND},
    **{(phase, Event.INTERRUPTED): Phase.WAITING for phase in IN_ROUND},
    # In clear the connection is there when it can turn out that nothing watches its socket.
    (Phase.CONNECTED, Event.FAILED): Phase.WAITING,
    (Phase.CONNECTED, Event.GAVE_UP): Phase.DONE,
    (Phase.CONNECTED, Event.INTERRUPTED): Phase.WAITING,
    (Phase.CONNECTED, Event.LOST): Phase.WAITING,
    **{(phase, Event.CANCEL): Phase.DONE for phase in Phase},
}

#: The state of each phase.
SHOWN = {
    Phase.WAITING: ConnectorState.WAITING,
    Phase.RESOLVING: ConnectorState.CONNECTING,
    Phase.RACING: ConnectorState.CONNECTING,
    Phase.HANDSHAKING: ConnectorState.HANDSHAKING,
    Phase.CONNECTED: ConnectorState.CONNECTED,
    Phase.DONE: ConnectorState.DONE,
}


#: Called as `after(phase, event)`: the look-up of a connection's state, in the table of a connector.
after = partial(state.after, table=TRANSITIONS)
