"""The send queue: bytes that were written and not accepted by the kernel, and the state of sending them.

Within a tick, small writes are gathered and leave in one system call when the tick's events are handled;
a large write, or one made outside of ticks, goes straight to the kernel. What the kernel does not accept
stays in a `SendQueue`, and the selector is asked for EVENT_WRITE until the queue is empty.

Why small writes are gathered (64 connections, one message in flight each): sending all answers of a batch one
after the other is 2 % cheaper than alternating with the reads, and 16 writes of 100 bytes cost one send
instead of 16. Why large ones are not: a batch of them exceeds the cache, which at 16 KiB halved the rate.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import Any, NamedTuple

from reactor.connection.buffers import OutboundBuffer
from reactor.connection.channel import Channel
from reactor.connection.deadlines import Deadline
from reactor.connection.rates import TokenBucket
from reactor.connection.sendfile import send_part
from reactor.errors import CloseTimeout, WriteTimeout

__all__ = ["GATHER_LIMIT", "GATHER_QUEUE", "Closing", "SendQueue", "Sending"]

#: Bytes up to which a write, and up to which a queue of gathered writes, waits for the tick's end.
GATHER_LIMIT = 4096
GATHER_QUEUE = 64 * 1024

#: Bytes of one connection after which flushing goes on with the other connections.
FLUSH_LIMIT = 1024 * 1024

#: Bytes of a queue up to which its pieces are joined for send(2), which is cheaper than sendmsg(2).
JOIN_LIMIT = 8 * 1024

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class Sending(Enum):
    """State of a connection's write side: where the bytes of the next `write` go."""

    IDLE = "idle"  # to the kernel, or, if small and within a tick, into the gathered piece
    GATHERED = "gathered"  # behind the gathered piece, which waits for the tick's end
    QUEUED = "queued"  # into the send queue
    SHUT = "shut"  # dropped: everything written before is sent, and nothing more is accepted


class Closing(NamedTuple):
    """A call of `close`: its time, its timeout in seconds, and the reason for `connection_lost`."""

    start: float
    timeout: float
    reason: BaseException | None


class SendQueue(OutboundBuffer):
    """The outbound buffer of a connection with the state of sending it.

    armed: the selector is asked for EVENT_WRITE; else the connection is in the loop's outbox, or throttled.
    throttled: `Limits.write_rate` allows no more for now; a timer resumes sending.
    room: bytes that may still be gathered in this tick, the pieces' overhead included.
    paused: `pause_writing` was called, and `resume_writing` was not.
    since: when the kernel last accepted some of it, or when it was last empty; in the clock's seconds.
    closing: the call of `close`, or None.
    rate: the token bucket of `Limits.write_rate`, or None.
    """

    __slots__ = ("armed", "closing", "paused", "rate", "room", "since", "throttled")

    def __init__(self, since: float) -> None:
        super().__init__()
        self.armed = False
        self.throttled = False
        self.paused = False
        self.since = since
        self.closing: Closing | None = None
        self.room = 0
        self.rate: TokenBucket | None = None

    def is_waiting(self) -> bool:
        """Return whether an event or a timer will resume sending, so that nothing is to be sent now."""
        return self.armed or self.throttled

    def write_deadline(self, timeout: float) -> Deadline:
        """Return the deadline for the peer to take something. timeout: in seconds."""
        message = f"the peer took none of {self.size} queued bytes for {{:g}} s"
        return Deadline(self.since, timeout, WriteTimeout, message)

    def close_deadline(self, closing: Closing, *, in_handshake: bool) -> Deadline:
        """Return the deadline of `closing`, a call of `close`."""
        message = f"{self.size} bytes not taken in the {{:g}} s that close gave them"
        if in_handshake and not self.size:
            message = "the TLS handshake was not done in the {:g} s that close gave it"
        elif self.rate is not None and self.throttled:
            sent = f"{self.size} bytes not sent in the {{:g}} s that close gave them"
            message = f"{sent}: write_rate is {self.rate.rate}"
        return Deadline(closing.start, closing.timeout, CloseTimeout, message)

    def offer(self, sock: Any, channel: Channel, now: float) -> None:
        """Send until the kernel accepts no more, or `FLUSH_LIMIT` bytes were sent.

        now: the time, in the clock's seconds. Raises OSError, BlockingIOError included; what was sent before
        is removed from the queue.
        """
        end = self.size - FLUSH_LIMIT
        more = True
        while more and self.size and self.size > end:
            limit = None if self.rate is None else self.rate.available(now)
            sent, more = self._transmit(sock, channel, limit)
            if not sent:
                return
            self.advance(sent)
            self.since = now
            if self.rate is not None:
                self.rate.take(sent)

    def _transmit(self, sock: Any, channel: Channel, limit: int | None) -> tuple[int, bool]:
        """Make one system call; return the bytes that the kernel accepted, and whether to call again."""
        pieces = self.vector(limit)
        if not pieces:
            part = self.file_part()
            if part is None or limit == 0:
                return 0, False
            return send_part(sock, *part, limit), True
        if len(pieces) == 1:
            offered, sent = len(pieces[0]), sock.send(pieces[0])
        elif self.size <= JOIN_LIMIT or not _HAS_SENDMSG:
            data = b"".join(pieces)
            offered, sent = len(data), sock.send(data)
        else:
            offered, sent = sum(map(len, pieces)), sock.sendmsg(pieces)
        return sent, channel.may_take_more(offered, sent)
