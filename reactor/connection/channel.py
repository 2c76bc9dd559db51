"""Channels: the strategies by which a connection reads from and writes to its socket.

`CLEAR` is the fast path: no TLS, no rate limit, a protocol with `data_received`. It has no state, so all
connections share it. `LimitedChannel` is the slow path without TLS: a `BufferedProtocol`, or a limited read
rate. The channel of a connection over TLS is in `secure_channel`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from reactor.connection.deadlines import Deadline
from reactor.connection.rates import TokenBucket
from reactor.options import Timeouts

__all__ = ["CLEAR", "RECV_SIZE", "Channel", "Kind", "LimitedChannel"]

#: Bytes asked of one recv(2). One event reads no more, so that no connection starves the others.
RECV_SIZE = 64 * 1024


class Kind(Enum):
    """The kinds of channels, by which a connection handles its events."""

    CLEAR = "clear"
    LIMITED = "limited"
    SECURE = "secure"
    BLOCKING_HANDSHAKE = "blocking handshake"
    PROXY_HEADER = "PROXY header"

    __hash__ = object.__hash__  # Enum's own is a Python function, and this one is asked for each connection


class Channel:
    """The channel of a connection without TLS, and the interface of all channels.

    buffered: the protocol is a `BufferedProtocol`. rate: the token bucket of `Limits.read_rate`, or None.
    throttled: reading is suspended, because the rate allows no more for now.
    ended: the peer has left before the connection began, which is no error.
    """

    __slots__ = ()

    kind = Kind.CLEAR
    buffered: bool = False
    rate: TokenBucket | None = None
    throttled: bool = False
    ended: bool = False

    def interest(self, events: int) -> int:
        """Return the selector events to wait for, where the connection itself asks for `events`."""
        return events

    def has_input(self) -> bool:
        """Return whether there is input that the selector does not report: it is decrypted already."""
        return False

    def has_output(self) -> bool:
        """Return whether there is output beside the send queue that the kernel has not accepted."""
        return False

    def may_take_more(self, offered: int, sent: int) -> bool:
        """Return whether to call send again, after it accepted `sent` of `offered` bytes."""
        return sent == offered

    def is_busy(self) -> bool:
        """Return whether a TLS handshake or the receipt of a TLS record is incomplete."""
        return False

    def handshake_deadline(self, timeouts: Timeouts) -> Deadline | None:
        """Return the deadline of the TLS handshake during it, when it replaces all others; else None."""
        return None

    def can_end_one_direction(self) -> bool:
        """Return whether half-close is possible: our direction ended, the peer's still open."""
        return True

    def is_half_done(self) -> bool:
        """Return whether the TLS handshake may be complete on the peer's side, but not yet on ours."""
        return False

    def end(self, *, half: bool) -> bool:
        """Send TLS's close_notify, where there is TLS; return whether the kernel has accepted all output.

        half: the peer's direction stays open, so that a handshake is completed first.
        """
        return True

    def bare(self, sock: Any) -> Any:
        """Return the kernel socket of `sock`."""
        return sock

    def detach(self, sock: Any) -> Any:
        """Return the kernel socket of `sock`, and stop using it through this channel."""
        return sock

    def fact(self, name: str) -> Any:
        """Return the TLS value `name` of `Connection.get_extra_info`, or None."""
        return None


CLEAR = Channel()


class LimitedChannel(Channel):
    """The channel without TLS of a `BufferedProtocol`, or of a connection with a limited read rate."""

    __slots__ = ("buffered", "rate", "throttled")

    kind = Kind.LIMITED

    def __init__(self, rate: TokenBucket | None, *, buffered: bool) -> None:
        self.rate = rate
        self.buffered = buffered
        self.throttled = False

    def interest(self, events: int) -> int:
        """Return `events`, without EVENT_READ while reading is suspended."""
        return events & ~1 if self.throttled else events
