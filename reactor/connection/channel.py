"""Channels: the ways in which a connection's bytes get from and to the socket.

`CLEAR` is the straight one: bytes as they are, at any rate, for a protocol with `data_received`. It has no
state, so all connections share it. `LimitedChannel` is the slow path of the others in clear. The channel of a
connection over TLS is in `secure_channel`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from reactor.connection.deadlines import Deadline
from reactor.connection.rates import TokenBucket
from reactor.options import Timeouts

__all__ = ["CLEAR", "RECV_SIZE", "Channel", "Kind", "LimitedChannel"]

#: Bytes asked for in one recv(2), and the limit of what one readiness may take from the others' time.
RECV_SIZE = 64 * 1024


class Kind(Enum):
    """The kinds of channels, by which a connection handles its events."""

    CLEAR = "clear"
    LIMITED = "limited"
    SECURE = "secure"
    BLOCKING_HANDSHAKE = "blocking handshake"

    __hash__ = object.__hash__  # Enum's own is a Python function, and this one is asked for each connection


class Channel:
    """A channel in clear.

    buffered: the protocol is read into its own buffer. rate: the token bucket of `Limits.read_rate`, or None.
    held: nothing is read for now, because the rate allows no more.
    """

    __slots__ = ()

    kind = Kind.CLEAR
    buffered: bool = False
    rate: TokenBucket | None = None
    held: bool = False

    def interest(self, events: int) -> int:
        """Return the events to wait for, if the connection by itself would wait for `events`."""
        return events

    def has_input(self) -> bool:
        """Return whether there is input that no selector knows of."""
        return False

    def has_output(self) -> bool:
        """Return whether there is output beside the connection's queue that the kernel has not taken."""
        return False

    def may_take_more(self, offered: int, sent: int) -> bool:
        """Return whether it is worth offering more, when of `offered` bytes `sent` were taken."""
        return sent == offered

    def is_busy(self) -> bool:
        """Return whether it is in the middle of a handshake or of a record."""
        return False

    def handshake_deadline(self, timeouts: Timeouts) -> Deadline | None:
        """Return the deadline of a handshake that is under way, which is then the only one; else None."""
        return None

    def can_end_one_direction(self) -> bool:
        """Return whether our direction can be ended while the peer's goes on."""
        return True

    def is_half_done(self) -> bool:
        """Return whether a handshake is under way of which the peer's side may be done."""
        return False

    def end(self) -> bool:
        """Send what goes before our end of file; return whether the kernel has all of it."""
        return True

    def bare(self, sock: Any) -> Any:
        """Return the kernel's socket of `sock`."""
        return sock

    def detach(self, sock: Any) -> Any:
        """Return the kernel's socket of `sock`, which is not used through this channel any more."""
        return sock

    def fact(self, name: str) -> Any:
        """Return a fact of TLS, as `Connection.get_extra_info` has it, or None."""
        return None


CLEAR = Channel()


class LimitedChannel(Channel):
    """A channel in clear for a `BufferedProtocol`, or with a limit of the rate of reading."""

    __slots__ = ("buffered", "held", "rate")

    kind = Kind.LIMITED

    def __init__(self, rate: TokenBucket | None, *, buffered: bool) -> None:
        self.rate = rate
        self.buffered = buffered
        self.held = False

    def interest(self, events: int) -> int:
        """Return `events` without EVENT_READ while it is held."""
        return events & ~1 if self.held else events
