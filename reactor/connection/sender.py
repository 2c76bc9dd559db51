"""The sending half of a connection: what is written, when it leaves, and what happens when it can't.

Within a tick, small writes are gathered and leave in one system call when the tick's events are handled;
a large write, or one made outside of ticks, goes straight to the kernel. What the kernel does not take
waits in an `OutboundBuffer`, and EVENT_WRITE is asked for as long as it does.

Why gathered (64 connections, one message in flight each): sending all answers of a batch one after the
other is 2 % cheaper than in turn with the reads, and 16 writes of 100 bytes cost one send instead of 16.
Why not the large ones: a batch of them no longer fits the cache, and at 16 KiB that halved the rate.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple

import attrs

from reactor.connection.buffers import PIECE_OVERHEAD, FilePart, OutboundBuffer
from reactor.connection.rates import TokenBucket
from reactor.connection.sendfile import send_part
from reactor.connection.settings import Terms
from reactor.connection.state import WRITABLE, State
from reactor.errors import SlowConsumer, UsageError
from reactor.loop.loop import Loop
from reactor.loop.timers import Bucket
from reactor.tls.secure_socket import SecureSocket

__all__ = ["SHUT", "Closing", "Outbound", "Sender", "flush_senders"]

#: Bytes up to which a write within a tick waits for the tick's end, and a gathered queue for its send.
GATHER_MOST = 4096
GATHER_QUEUE = 64 * 1024

#: Bytes of one connection that are offered to the kernel at least before others have their turn.
FLUSH_MOST = 1024 * 1024

#: Bytes of a queue up to which its pieces are joined and sent by send(2): cheaper than sendmsg(2) takes
#: them one by one.
JOIN_MOST = 8 * 1024

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class Closing(NamedTuple):
    """When `close` was called, the seconds that the peer has then, and the reason for the protocol."""

    start: float
    timeout: float
    reason: BaseException | None


class Outbound(OutboundBuffer):
    """What is queued, and what only a connection with a queue has to know.

    armed: EVENT_WRITE is asked for; else the connection is in the loop's outbox, or throttled.
    throttled: a timer will go on, because `Limits.write_rate` allows no more now.
    room: bytes that may be gathered still, until the tick ends, counted with what the pieces take.
    paused: the protocol was told to pause.
    since: when the peer last took something of it, or when it last was empty.
    closing: what `close` was called with; None before.
    rate: what measures out `Limits.write_rate`, or None.
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


#: Stands in `Sender._out` when nothing is queued and nothing more is taken, so that `write` has one
#: question to ask instead of two.
SHUT = Outbound(0.0)


class Sender(ABC):
    """What `Connection` builds on, and says of its fields what they are."""

    __slots__ = ("_loop", "_out", "_protocol", "_sock", "_state", "_terms", "bucket", "last_active")

    _loop: Loop
    _sock: socket.socket | SecureSocket
    _protocol: Any
    _terms: Terms
    _state: State
    _out: bytes | Outbound | None
    last_active: float
    bucket: Bucket | None

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Send `data` after all that was written before; never blocks.

        A bytearray or memoryview is copied, and may be changed afterwards.
        Returns False once more than the high-water mark is queued, and when the connection is closing
        or closed, where `data` is dropped. A small piece that waits for the tick's end counts as
        queued when the kernel has refused it. Raises TypeError for anything else than bytes, UsageError
        after `write_eof`.
        """
        out = self._out
        if out is None and type(data) is bytes and data:
            outbox = self._loop.outbox
            if outbox is not None and len(data) <= GATHER_MOST:
                self._out = data
                outbox.append(self)
                return True
            if outbox is None:
                self._loop.touch()
            try:
                try:
                    sent = self._sock.send(data)
                except (BlockingIOError, InterruptedError):
                    return self._keep(data, 0)
                except OSError as exc:
                    self.fail(exc)
                    return False
                self.last_active = self._loop.now
                self._loop.bytes_sent += sent
                return sent == len(data) or self._keep(data, sent)
            except BaseException as exc:
                self._interrupted(exc)
                raise
        if type(out) is Outbound and type(data) is bytes and 0 < len(data) <= out.room:
            out.room -= len(data) + PIECE_OVERHEAD
            out.size += len(data)
            out.pieces.append(data)
            return True
        return self.writelines((data,))

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
        """Send the pieces one after the other, in one system call if the kernel takes them; as `write`."""
        return self._add([_frozen(piece) for piece in pieces])

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> bool:
        """Send bytes of `file` after all that was written before, without reading them into memory.

        file: a file of the file system, opened for reading as binary and unbuffered or not, but not read
            from any more: it is the connection's now, which closes it when it was sent, or dropped.
        offset: in the file, of the first byte. count: bytes; None for all that follow.
        Returns as `write` does; what is left of the file counts as queued, but not under
        `Limits.max_write_buffer`. If the file turns out to be shorter when it is sent, the connection is
        aborted. Raises ValueError if it is shorter now, UsageError after `write_eof`; the file is the
        caller's then. See sendfile(2).
        """
        size = os.fstat(file.fileno()).st_size
        wanted = max(0, size - offset) if count is None else count
        if offset < 0 or wanted < 0 or offset + wanted > size:
            raise ValueError(f"the file has {size} bytes, and not {wanted} from {offset} on")
        taken = self._add([FilePart(file, offset, wanted)])
        if not wanted or self._state not in WRITABLE:
            file.close()
        return taken

    def _add(self, pieces: Sequence[bytes | FilePart]) -> bool:
        if self._state not in WRITABLE:
            if self._state is State.WRITE_CLOSED:
                raise UsageError("write after write_eof: our direction has ended")
            self._dropped(sum(map(len, pieces)))
            return False
        queue = self._queue()
        most = self._terms.limits.max_write_buffer
        if most is not None and queue.size > most and queue.in_memory() > most:
            self.abort(SlowConsumer(f"{queue.size} bytes queued, and max_write_buffer is {most}"))
            return False
        for piece in pieces:
            queue.append(piece)
        if not (queue.armed or queue.throttled):
            outbox = self._loop.outbox
            held = queue.size + PIECE_OVERHEAD * len(queue.pieces)
            room = min(GATHER_QUEUE, self._terms.limits.high_water) - held
            if outbox is None or room < 0:
                self._flush(queue)
            else:
                queue.room = room
                outbox.append(self)
        else:
            queue.join_small()
        return self._check_high_water()

    # What the kernel did not take

    def _queue(self) -> Outbound:
        out = self._out
        if isinstance(out, Outbound):
            return out
        queue = self._out = Outbound(self._loop.now)
        if out is not None:
            queue.append(out)
        return queue

    def _keep(self, data: bytes, sent: int) -> bool:
        self._out = None
        queue = self._queue()
        queue.append(data)
        queue.advance(sent)
        self._arm(queue)
        return self._check_high_water()

    def _arm(self, queue: Outbound) -> None:
        queue.armed = True
        queue.since = self._loop.now
        self._update_interest()
        if queue.armed:
            self._look_later()

    def _flush(self, queue: Outbound) -> None:
        try:
            queue.room = 0
            self._loop.touch()
            queue.join_small()
            try:
                self._offer(queue)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                self.fail(exc)
                return
            if not queue.size:
                self._emptied(queue)
            elif queue.rate is not None and not queue.rate.available(self._loop.now):
                self._throttle(queue, queue.rate)
            elif not queue.armed:
                self._arm(queue)
            self._check_low_water(queue)
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _offer(self, queue: Outbound) -> None:
        """Send until the kernel takes no more, or others are to have their turn."""
        end = queue.size - FLUSH_MOST
        more = True
        while more and queue.size and queue.size > end:
            most = None if queue.rate is None else queue.rate.available(self._loop.now)
            sent, more = self._transmit(queue, most)
            if not sent:
                return
            self._took(queue, sent)

    def _transmit(self, queue: Outbound, most: int | None) -> tuple[int, bool]:
        """Make one system call; return the bytes that the kernel took, and whether it may take more."""
        pieces = queue.vector(most)
        if not pieces:
            part = queue.file_part()
            if part is None or most == 0:
                return 0, False
            return send_part(self._sock, *part, most), True
        sock = self._sock
        if len(pieces) == 1:
            offered, sent = len(pieces[0]), sock.send(pieces[0])
        elif queue.size <= JOIN_MOST or not _HAS_SENDMSG:
            data = b"".join(pieces)
            offered, sent = len(data), sock.send(data)
        else:
            offered, sent = sum(map(len, pieces)), sock.sendmsg(pieces)
        return sent, sent == offered or (isinstance(sock, SecureSocket) and not sock.has_output())

    def _took(self, queue: Outbound, sent: int) -> None:
        queue.advance(sent)
        queue.since = self.last_active = self._loop.now
        self._loop.bytes_sent += sent
        if queue.rate is not None:
            queue.rate.take(sent)

    def _throttle(self, queue: Outbound, rate: TokenBucket) -> None:
        queue.throttled = True
        if queue.armed:
            queue.armed = False
            self._update_interest()
        self._loop.call_later(rate.wait(), self._unthrottle, queue)

    def _unthrottle(self, queue: Outbound) -> None:
        queue.throttled = False
        if self._out is queue:
            self._flush(queue)

    def _emptied(self, queue: Outbound) -> None:
        if queue.rate is None:
            self._out = None
        if queue.armed:
            queue.armed = False
            self._update_interest()
        if self._state not in WRITABLE:
            self._drained(queue)

    def _check_high_water(self) -> bool:
        queue = self._out
        if not isinstance(queue, Outbound):
            return self._state in WRITABLE
        if queue.size <= self._terms.limits.high_water:
            return self._state in WRITABLE  # `SHUT` is empty too
        if not queue.paused:
            queue.paused = True
            try:
                self._protocol.pause_writing()
            except Exception as exc:
                self._broke(exc, "pause_writing")
        return False

    def _check_low_water(self, queue: Outbound) -> None:
        # After `write_eof` too: a protocol may have stopped reading until it is told.
        told = self._state in WRITABLE or self._state is State.WRITE_CLOSED
        if queue.paused and queue.size <= self._terms.limits.low_water and told:
            queue.paused = False
            try:
                self._protocol.resume_writing()
            except Exception as exc:
                self._broke(exc, "resume_writing")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set this connection's water marks, in bytes; asyncio's rules for what is left out.

        high: None is four times `low`, or what the listener's limits say. low: None is a quarter of
        `high`. What is queued already pauses or resumes the protocol at once. Raises ValueError if low
        is above high, high above `Limits.max_write_buffer`, or one is negative.
        """
        self._loop.check_process()
        limits = self._terms.limits
        if high is None:
            high = limits.high_water if low is None else 4 * low
        limits = attrs.evolve(limits, high_water=high, low_water=high // 4 if low is None else low)
        self._terms = attrs.evolve(self._terms, limits=limits)
        if isinstance(self._out, Outbound) and self._state in WRITABLE:
            self._out.room = 0
            self._check_high_water()
            self._check_low_water(self._out)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark, in bytes."""
        return self._terms.limits.low_water, self._terms.limits.high_water

    def get_write_buffer_size(self) -> int:
        """Return how many bytes were written and not taken by the kernel."""
        out = self._out
        return out.size if isinstance(out, Outbound) else len(out or b"")

    def is_paused(self) -> bool:
        """Return whether the protocol was told to pause writing."""
        return isinstance(self._out, Outbound) and self._out.paused

    # What the whole connection does

    @abstractmethod
    def fail(self, exc: BaseException) -> None:
        """End the connection for the reason `exc`."""

    @abstractmethod
    def abort(self, exc: BaseException | None = None) -> None:
        """Drop what is queued and reset the connection."""

    @abstractmethod
    def check_deadlines(self, now: float) -> float | None:
        """End the connection if a deadline has passed; else return when to look again."""

    @abstractmethod
    def _broke(self, exc: Exception, callback: str) -> None: ...

    @abstractmethod
    def _drained(self, queue: Outbound) -> None: ...

    @abstractmethod
    def _dropped(self, nbytes: int) -> None: ...

    @abstractmethod
    def _update_interest(self) -> None: ...

    @abstractmethod
    def _check_error(self) -> None: ...

    @abstractmethod
    def _interrupted(self, exc: BaseException) -> None: ...

    @abstractmethod
    def _look_later(self) -> None: ...


def flush_senders(outbox: list[Sender], now: float) -> int:
    """Send what the callbacks of a tick have written on these connections.

    now: the tick's time, in the clock's seconds. Returns the bytes that went out at the first try.
    One function for all of them, because a call for each costs as much as what gathering saves.
    """
    total = 0
    sender = outbox[0]
    try:
        for sender in outbox:
            out = sender._out
            if type(out) is bytes:
                try:
                    sender._out = None  # first: an interrupt comes when it has been sent
                    sent = sender._sock.send(out)
                except (BlockingIOError, InterruptedError):
                    sender._keep(out, 0)
                    continue
                except OSError as exc:
                    sender.fail(exc)
                    continue
                sender.last_active = now
                total += sent
                if sent != len(out):
                    sender._keep(out, sent)
            elif isinstance(out, Outbound):
                out.room = 0
                if out.size and not (out.armed or out.throttled):
                    sender._flush(out)
    except BaseException as exc:
        sender._interrupted(exc)
        raise
    return total


def _frozen(piece: bytes | bytearray | memoryview) -> bytes:
    if type(piece) is bytes:
        return piece
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"write takes bytes, bytearray or memoryview, not {type(piece).__name__}")
