"""One connection: receive, send, flow control and the ways to end it.

In: the selector reports the socket, `on_event` reads once and hands the bytes to the protocol.
Out: within a tick, small writes are gathered and leave in one system call when the tick's events are
handled; a large write, or one made outside of ticks, goes straight to the kernel. What the kernel does
not take waits in an `OutboundBuffer`, and EVENT_WRITE is asked for as long as it does.

Why gathered (64 connections, one message in flight each): sending all answers of a batch one after the
other is 2 % cheaper than in turn with the reads, and 16 writes of 100 bytes cost one send instead of 16.
Why not the large ones: a batch of them no longer fits the cache, and at 16 KiB that halved the rate.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import attrs

from reactor.address import Address, pack_sockaddr, unpack_sockaddr
from reactor.buffers import OutboundBuffer
from reactor.errors import CloseTimeout, ConnectionAborted, UsageError
from reactor.loop import Loop
from reactor.registry import EventHandler
from reactor.state import ENDED, READABLE, WRITABLE, Event, State, after
from reactor.terms import Terms
from reactor.timers import TimerHandle

__all__ = ["Connection", "connection_of", "flush_connections"]

#: Bytes asked for in one recv(2): the most that one readiness may take from the others' time.
RECV_SIZE = 64 * 1024

#: Bytes up to which a write within a tick waits for the tick's end, and a gathered queue for its send.
GATHER_MOST = 4096
GATHER_QUEUE = 64 * 1024

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close(2) sends a reset, socket(7)
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class _Queue(OutboundBuffer):
    """What is queued, and what only a connection with a queue has to know.

    armed: EVENT_WRITE is asked for; else the connection is in the loop's outbox.
    paused: the protocol was told to pause.
    deadline: the timer that ends a `close` whose queue the peer does not take.
    """

    __slots__ = ("armed", "deadline", "paused")

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.paused = False
        self.deadline: TimerHandle | None = None


#: Stands in `Connection._out` when nothing is queued and nothing more is taken, so that `write` has one
#: question to ask instead of two.
_SHUT = _Queue()


class _BufferedInput:
    """What the loop calls for a connection whose protocol receives into its own buffer."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def on_event(self, events: int) -> None:
        if events & EVENT_READ:
            self.connection.receive_into()
        if events & EVENT_WRITE:
            self.connection.on_event(EVENT_WRITE)


@attrs.define(eq=False, repr=False, init=False)
class Connection:
    """A connected stream socket, with the protocol that it serves.

    Made by `Reactor.listen`, `connect` and `adopt`, and handed to `connection_made`. Its methods have
    the names and the meaning of asyncio's transports; they are called on the thread that drives the
    reactor. None of them raises for what the peer does: that reaches `connection_lost`, once.
    """

    _loop: Loop
    _sock: socket.socket
    _protocol: Any
    _terms: Terms
    _peer: bytes | str | None
    _state: State
    # None: nothing. Bytes: the one piece gathered in this tick. Queue: more, or what the kernel left;
    # or `_SHUT`.
    _out: bytes | _Queue | None
    _reading: bool
    last_active: float
    spoke: int

    def __init__(
        self, loop: Loop, sock: socket.socket, protocol: Any, terms: Terms, sockaddr: Any = None
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._terms = terms
        self._peer = pack_sockaddr(sockaddr)
        self._state = State.OPENING
        self._out = None
        self._reading = True
        self.last_active = loop.now
        self.spoke = 0
        self._protocol = protocol

    def __repr__(self) -> str:
        peer = self.get_extra_info("peername")
        where = "" if peer is None else f" {Address.from_sockaddr(peer)}"
        return f"<Connection{where} {self._state.value}>"

    def open(self) -> None:
        """Watch the socket, which must not block, and tell the protocol. Called once, by the maker.

        Raises OSError if the selector does not take the socket, which is then still the maker's.
        """
        self._loop.registry.register(self._sock.fileno(), EVENT_READ, self._handler())
        self._move(Event.MADE)
        if self._terms.idle is not None:
            self._terms.idle.add(self)
        try:
            self._protocol.connection_made(self)
        except Exception as exc:
            self._broke(exc, "connection_made")

    def _handler(self) -> EventHandler:
        return self if hasattr(self._protocol, "data_received") else _BufferedInput(self)

    def _move(self, event: Event) -> None:
        self._state = after(self._state, event)
        if self._out is None and self._state not in WRITABLE:
            self._out = _SHUT

    # The byte's way

    def on_event(self, events: int) -> None:
        """Read once, or send what is queued, or both. The loop's call."""
        if events != 1:  # EVENT_READ, whose name would cost a look-up for each message
            if events & EVENT_READ:
                self.on_event(EVENT_READ)
            if isinstance(self._out, _Queue) and self._out.armed:
                self._flush(self._out)
            return
        try:
            data = self._sock.recv(RECV_SIZE)
        except (BlockingIOError, InterruptedError):
            return  # not readable after all: select(2), "Bugs"
        except OSError as exc:
            self.fail(exc)
            return
        if data:
            self.last_active = self._loop.now
            try:
                self._protocol.data_received(data)
            except Exception as exc:
                self._broke(exc, "data_received")
        else:
            self._receive_eof()

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Send `data` after all that was written before; never blocks.

        A bytearray or memoryview is copied, and may be changed afterwards.
        Returns False once more than the high-water mark is queued, and when the connection is closing
        or closed, where `data` is dropped. A small piece that waits for the tick's end counts as
        queued when the kernel has refused it. Raises TypeError for anything else than bytes, UsageError
        after `write_eof`.
        """
        if self._out is None and type(data) is bytes:
            outbox = self._loop.outbox
            if outbox is not None and len(data) <= GATHER_MOST:
                self._out = data
                outbox.append(self)
                return True
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self.fail(exc)
                return False
            self.last_active = self._loop.now
            return sent == len(data) or self._keep(data, sent)
        return self.writelines((data,))

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
        """Send the pieces one after the other, in one system call if the kernel takes them; as `write`."""
        frozen = [_frozen(piece) for piece in pieces]
        if self._state not in WRITABLE:
            if self._state is State.WRITE_CLOSED:
                raise UsageError("write after write_eof: our direction has ended")
            return False
        outbox = self._loop.outbox
        queue = self._queue()
        for piece in frozen:
            queue.append(piece)
        if not queue.armed:
            if outbox is None or queue.size > min(GATHER_QUEUE, self._terms.limits.high_water):
                self._flush(queue)
            else:
                outbox.append(self)
        return self._check_high_water()

    # What the kernel did not take

    def _queue(self) -> _Queue:
        out = self._out
        if isinstance(out, _Queue):
            return out
        queue = self._out = _Queue()
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

    def _arm(self, queue: _Queue) -> None:
        queue.armed = True
        self._update_interest()

    def _flush(self, queue: _Queue) -> None:
        try:
            sent = self._transmit(queue)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self.fail(exc)
            return
        if sent:
            self.last_active = self._loop.now
            queue.advance(sent)
        if queue.size:
            if not queue.armed:
                self._arm(queue)
        else:
            self._out = None
            if queue.armed:
                self._update_interest()
            if self._state not in WRITABLE:
                self._drained()
        if queue.paused and queue.size <= self._terms.limits.low_water and self._state in WRITABLE:
            queue.paused = False
            try:
                self._protocol.resume_writing()
            except Exception as exc:
                self._broke(exc, "resume_writing")

    def _transmit(self, queue: _Queue) -> int:
        pieces = queue.vector()
        if len(pieces) <= 1:
            return self._sock.send(pieces[0]) if pieces else 0
        if _HAS_SENDMSG:
            return self._sock.sendmsg(pieces)
        return self._sock.send(b"".join(pieces) if queue.size <= GATHER_QUEUE else pieces[0])

    def _check_high_water(self) -> bool:
        queue = self._out
        if not isinstance(queue, _Queue):
            return self._state in WRITABLE
        if queue.size <= self._terms.limits.high_water:
            return self._state in WRITABLE  # `_SHUT` is empty too
        if not queue.paused:
            queue.paused = True
            try:
                self._protocol.pause_writing()
            except Exception as exc:
                self._broke(exc, "pause_writing")
        return False

    def _drained(self) -> None:
        self._out = _SHUT
        if self._state is State.CLOSING:
            self._cut(None)
        elif self._state is State.WRITE_CLOSED:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as exc:
                self.fail(exc)

    # Receiving, off the straight way

    def receive_into(self) -> None:
        """Read once into the protocol's buffer. The loop's call."""
        try:
            buffer = self._protocol.get_buffer(RECV_SIZE)
            if not len(buffer):
                raise UsageError("get_buffer returned an empty buffer: return at least one byte")
        except Exception as exc:
            self._broke(exc, "get_buffer")
            return
        try:
            nbytes = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.fail(exc)
            return
        if not nbytes:
            self._receive_eof()
            return
        self.last_active = self._loop.now
        try:
            self._protocol.buffer_updated(nbytes)
        except Exception as exc:
            self._broke(exc, "buffer_updated")

    def _receive_eof(self) -> None:
        self._move(Event.PEER_EOF)
        self._update_interest()
        if self._state in ENDED:
            return
        both_ended = self._state is State.CLOSING
        try:
            keep = self._protocol.eof_received()
        except Exception as exc:
            self._broke(exc, "eof_received")
            return
        if both_ended and self._state is State.CLOSING:
            self._finish(self._terms.timeouts.close)
        elif self._state is State.READ_CLOSED and not keep:
            self.close()

    def _update_interest(self) -> None:
        events = EVENT_READ if self._reading and self._state in READABLE else 0
        if isinstance(self._out, _Queue) and self._out.armed:
            events |= EVENT_WRITE
        try:
            self._loop.registry.modify(self._sock.fileno(), events)
        except OSError as exc:
            self.fail(exc)

    # Ending

    def write_eof(self) -> None:
        """Send our end of file after what was written; the peer may go on sending.

        More than once, or when closing or closed, does nothing.
        """
        if self._state not in WRITABLE:
            return
        self._move(Event.WRITE_EOF)
        if self._state is State.CLOSING:
            self._finish(self._terms.timeouts.close)
        elif self._out is _SHUT:
            self._drained()
        else:
            self._flush(self._queue())

    def can_write_eof(self) -> bool:
        """Return True: a stream socket's directions can be closed one by one."""
        return True

    def close(self, timeout: float | None = None) -> None:
        """Send what is queued, then close; nothing more is received.

        timeout: seconds that the peer has to take it; None for `Timeouts.close`. Then the connection
        ends with `CloseTimeout`. `connection_lost` comes later, never from inside this call. When the
        connection is closing or closed it does nothing.
        """
        if self._state in ENDED or self._state is State.CLOSING:
            return
        self._move(Event.CLOSE)
        self._finish(self._terms.timeouts.close if timeout is None else timeout)

    def abort(self, exc: BaseException | None = None) -> None:
        """Drop what is queued and reset the connection at once; `connection_lost` comes later.

        exc: the reason that `connection_lost` is given; None for `ConnectionAborted`.
        """
        if self._state in ENDED:
            return
        reason = ConnectionAborted("aborted by this side") if exc is None else exc
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError as problem:
            reason.add_note(f"closed without a reset: {problem}")
        self._cut(reason)

    def fail(self, exc: BaseException) -> None:
        """End the connection for the reason `exc`; what is queued is dropped."""
        if self._state not in ENDED:
            self._cut(exc)

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._state is State.CLOSING or self._state in ENDED

    def _finish(self, timeout: float) -> None:
        if self._out is _SHUT:
            self._cut(None)
            return
        queue = self._queue()
        if not queue.armed:
            self._flush(queue)
        if self._state is State.CLOSING:
            self._update_interest()
            queue.deadline = self._loop.call_later(timeout, self._close_timed_out, timeout)

    def _close_timed_out(self, timeout: float) -> None:
        queued = self.get_write_buffer_size()
        self.abort(CloseTimeout(f"{queued} bytes not taken in the {timeout:g} s that close gave them"))

    def _broke(self, exc: Exception, callback: str) -> None:
        self._loop.report(exc, f"{type(self._protocol).__qualname__}.{callback}", self)
        self.fail(exc)

    def _cut(self, reason: BaseException | None) -> None:
        if isinstance(self._out, _Queue) and self._out.deadline is not None:
            self._out.deadline.cancel()
        self._out = None
        self._move(Event.CUT)
        if self._terms.idle is not None:
            self._terms.idle.discard(self)
        self._loop.registry.unregister(self._sock.fileno())
        try:
            self._sock.close()
        except OSError:
            pass  # the descriptor is given back all the same: close(2), "Dealing with error returns"
        self._loop.post_notice(self._tell, reason)

    def _tell(self, reason: BaseException | None) -> None:
        self._move(Event.TOLD)
        protocol, self._protocol = self._protocol, None
        try:
            protocol.connection_lost(reason)
        except Exception as exc:
            self._loop.report(exc, f"{type(protocol).__qualname__}.connection_lost", self)
        finally:
            self._terms.on_lost(self)

    # Flow control

    def pause_reading(self) -> None:
        """Call `data_received` no more until `resume_reading`; the kernel then holds the peer back."""
        self._set_reading(False)

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._set_reading(True)

    def is_reading(self) -> bool:
        """Return whether bytes of the peer would be received now."""
        return self._reading and self._state in READABLE

    def _set_reading(self, reading: bool) -> None:
        if self._reading is not reading:
            self._reading = reading
            if self._state not in ENDED:
                self._update_interest()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set this connection's water marks, in bytes; asyncio's rules for what is left out.

        high: None is four times `low`, or what the listener's limits say. low: None is a quarter of
        `high`. Raises ValueError if low is above high or one is negative.
        """
        limits = self._terms.limits
        if high is None:
            high = limits.high_water if low is None else 4 * low
        limits = attrs.evolve(limits, high_water=high, low_water=high // 4 if low is None else low)
        self._terms = attrs.evolve(self._terms, limits=limits)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark, in bytes."""
        return self._terms.limits.low_water, self._terms.limits.high_water

    def get_write_buffer_size(self) -> int:
        """Return how many bytes were written and not taken by the kernel."""
        out = self._out
        return out.size if isinstance(out, _Queue) else len(out or b"")

    # Facts

    def get_protocol(self) -> Any:
        """Return the protocol; None after `connection_lost`."""
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        """Hand all further calls to `protocol`, which is not told of `connection_made`."""
        self._protocol = protocol
        if self._state not in ENDED:
            self._loop.registry.replace(self._sock.fileno(), self._handler())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection, or `default` where it is not known.

        "peername": the peer's socket address; known to the end, even after a reset.
        "sockname": our own; while the socket is open. "socket": the socket itself, not to be read,
        written or closed.
        """
        if name == "socket":
            return self._sock
        if name == "peername":
            return default if self._peer is None else unpack_sockaddr(self._peer)
        if name == "sockname" and self._state not in ENDED:
            return self._sock.getsockname()
        return default


def flush_connections(outbox: list[Connection], now: float) -> None:
    """Send what the callbacks of a tick have written on these connections.

    now: the tick's time, in the clock's seconds. One function for all of them, because a call for each
    costs as much as what gathering saves.
    """
    for connection in outbox:
        out = connection._out
        if type(out) is bytes:
            try:
                sent = connection._sock.send(out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                connection.fail(exc)
                continue
            connection.last_active = now
            if sent == len(out):
                connection._out = None
            else:
                connection._keep(out, sent)
        elif isinstance(out, _Queue) and out.size and not out.armed:
            connection._flush(out)


def connection_of(handler: EventHandler) -> Connection | None:
    """Return the connection that a registered handler stands for, or None if it is something else."""
    if isinstance(handler, _BufferedInput):
        return handler.connection
    return handler if isinstance(handler, Connection) else None


def _frozen(piece: bytes | bytearray | memoryview) -> bytes:
    if type(piece) is bytes:
        return piece
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"write takes bytes, bytearray or memoryview, not {type(piece).__name__}")
