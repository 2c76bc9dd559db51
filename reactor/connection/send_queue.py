"""The send queue: bytes that were written and not taken by the kernel, with what is due when it takes them.

Within a tick, small writes are gathered and leave in one system call when the tick's events are handled;
a large write, or one made outside of ticks, goes straight to the kernel. What the kernel does not take
waits in a `SendQueue`, and EVENT_WRITE is asked for as long as it does.

Why gathered (64 connections, one message in flight each): sending all answers of a batch one after the
other is 2 % cheaper than in turn with the reads, and 16 writes of 100 bytes cost one send instead of 16.
Why not the large ones: a batch of them no longer fits the cache, and at 16 KiB that halved the rate.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import Any, NamedTuple

from reactor.connection.buffers import OutboundBuffer
from reactor.connection.channel import Channel
from reactor.connection.rates import TokenBucket
from reactor.connection.sendfile import send_part

__all__ = ["GATHER_LIMIT", "GATHER_QUEUE", "Closing", "SendQueue", "Sending"]

#: Bytes up to which a write within a tick waits for the tick's end, and a gathered queue for its send.
GATHER_LIMIT = 4096
GATHER_QUEUE = 64 * 1024

#: Bytes of one connection that are offered to the kernel at least before others have their turn.
FLUSH_LIMIT = 1024 * 1024

#: Bytes of a queue up to which its pieces are joined and sent by send(2): cheaper than sendmsg(2) takes
#: them one by one.
JOIN_LIMIT = 8 * 1024

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class Sending(Enum):
    """Where the bytes of the next `write` go."""

    IDLE = "idle"  # to the kernel, or into the piece that is gathered
    GATHERED = "gathered"  # behind the one piece that waits for the tick's end
    QUEUED = "queued"  # into the queue: there is one
    SHUT = "shut"  # nowhere: all that was written is sent, and nothing more is accepted


class Closing(NamedTuple):
    """A call of `close`: when it was, the seconds for the peer, and the reason for `connection_lost`."""

    start: float
    timeout: float
    reason: BaseException | None


class SendQueue(OutboundBuffer):
    """The outbound buffer of a connection that has one, with the state of sending it.

    armed: EVENT_WRITE is asked for; else the connection is in the loop's outbox, or throttled.
    throttled: a timer will go on, because `Limits.write_rate` allows no more now.
    room: bytes that may still be gathered before the tick ends, counted with what the pieces take.
    paused: `pause_writing` was called, and `resume_writing` was not.
    since: when the peer last took some of it, or when it was last empty; in the clock's seconds.
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
        """Return whether an event or a timer will go on with it, so that nothing is to be sent now."""
        return self.armed or self.throttled

    def offer(self, sock: Any, channel: Channel, now: float) -> None:
        """Send until the kernel takes no more, or others are to have their turn.

        Raises OSError, BlockingIOError included; what was sent before it is gone from the queue.
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
        """Make one system call; return the bytes that the kernel took, and whether it may take more."""
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
