"""`Connection`: one connected socket with its protocol: receiving, sending, deadlines, closing.

The loop reports the socket, `_on_event` reads once and passes the bytes to the protocol. `write` sends, or
gathers small writes, which `flush_connections` sends at the tick's end. The other modules of this package
have the parts: `channel` and `secure_channel` how bytes are read and written, `send_queue` what the kernel
did not accept, `deadlines` their checks, `closing` the end of a socket, `state` the table of states.

The functions at the end are for the packages above this one; users call the methods.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from selectors import EVENT_READ, EVENT_WRITE
from typing import IO, TYPE_CHECKING, Any

import attrs

from reactor.address import Address, client_prefix, pack_sockaddr, unpack_sockaddr
from reactor.connection.buffers import PIECE_OVERHEAD, FilePart, frozen
from reactor.connection.channel import CLEAR, RECV_SIZE, Channel, Kind, LimitedChannel
from reactor.connection.closing import (
    Linger,
    bytes_received,
    is_quiet,
    release,
    reset_on_close,
    shut_down_writing,
)
from reactor.connection.deadlines import Deadline, first_passed
from reactor.connection.interface import AnyProtocol, check_protocol, takes_buffers
from reactor.connection.interrupts import Step, came_out_of
from reactor.connection.rates import TokenBucket
from reactor.connection.send_queue import GATHER_LIMIT, GATHER_QUEUE, Closing, Sending, SendQueue
from reactor.connection.sendfile import FileEnded, part_of
from reactor.connection.settings import Settings
from reactor.connection.state import (
    CLOSES,
    ENDED,
    FROZEN,
    HELD,
    LENT,
    PAUSED,
    READABLE,
    TRANSITIONS,
    WRITABLE,
    Event,
    State,
    after,
)
from reactor.errors import (
    ConnectionAborted,
    IdleTimeout,
    Incomplete,
    ReadTimeout,
    SlowConsumer,
    TLSError,
    TLSHandshakeTimeout,
    TLSTruncated,
    UsageError,
    cause_of,
)
from reactor.loop.loop import Loop
from reactor.loop.registry import ERRORS, Registry
from reactor.loop.stats import Gauges
from reactor.loop.timers import Bucket, round_up
from reactor.options import Timeouts, seconds

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    import ssl

    from reactor.framing.proxy_header import ProxyHeader
    from reactor.tls.secure_socket import SecureSocket, Tls

__all__ = [
    "Connection", "activity", "await_header", "awaits_first_bytes", "begin", "begin_blocking_handshake",
    "begin_handshake", "check_deadlines", "connections_of", "detach", "fail", "flush_connections",
    "gauges_of", "identify", "interrupted", "is_frozen", "lend_reading", "may_end", "note_activity",
    "open_connection", "prefix_of", "recover", "unnotified_of",
]  # fmt: skip

# After the peer's end of file too: the protocol may still hold what came before.
_WANTS_INPUT = READABLE | WRITABLE

_NO_HALF_CLOSE = "TLS before 1.3 can't end one direction alone: close the connection instead of write_eof"

#: Default of the parameters of `set_timeouts`: leave that timeout unchanged.
_KEEP: Any = object()

#: Seconds between checks of SO_ERROR while a connection waits for no event, so that no reset is reported.
ERROR_LOOK = 0.5

# Reads before a deadline ends a connection, enough for a receive buffer of 4 MiB; a limit for flooding peers.
_LAST_READS = 64

# What every connection needs: a look-up in an enum's class takes 90 ns on Python 3.11.
_IDLE, _GATHERED, _QUEUED, _SHUT = Sending.IDLE, Sending.GATHERED, Sending.QUEUED, Sending.SHUT
_OPENING, _READ_CLOSED, _ENDING, _LOST = State.OPENING, State.READ_CLOSED, State.ENDING, State.LOST
_MADE, _PEER_EOF, _CUT, _NOTIFIED = Event.MADE, Event.PEER_EOF, Event.CUT, Event.NOTIFIED


@attrs.define(eq=False, repr=False, init=False)
class Connection:
    """A connected stream socket and its protocol; what asyncio calls a transport.

    Made by `Reactor.listen`, `connect` and `adopt`, and passed to `connection_made`. Its methods have
    the names and semantics of asyncio's transports, and are called on the thread that drives the
    reactor. None of them raises for a fault of the peer: that goes to `connection_lost`, once.

    >>> from reactor import Protocol
    >>> class Greet(Protocol):
    ...     def connection_made(self, connection):
    ...         connection.write(b"hello")
    ...         connection.close()  # when that is sent
    >>> from reactor.testing import MemoryReactor, Recorder
    >>> with MemoryReactor() as reactor:
    ...     _, client = reactor.pair(Greet, Recorder)
    ...     recorder = client.get_protocol()
    ...     reactor.run_out()
    >>> recorder.received, recorder.reason
    (b'hello', None)
    """

    # Settings, socket, protocol and state.
    _settings: Settings
    _sock: Any  # a socket, or a `SecureSocket` from the beginning of a TLS handshake on
    _protocol: Any  # None after `connection_lost`
    _peer: bytes | str | None  # its socket address, packed
    _state: State

    # Receiving.
    _channel: Channel
    _reading_stopped: int  # a sum of those above

    # Sending.
    _sending: Sending
    _piece: bytes  # while GATHERED
    _queue: SendQueue | None  # while QUEUED

    # Deadlines.
    _last_active: float  # the last byte in either direction, in the clock's seconds
    _reading_changed: float  # this side last stopped reading, or resumed it
    _owed: tuple[float, float] | None  # start, seconds to read in
    _bucket: Bucket | None  # the deadline monitor's

    # Not by attrs, which would look up each default.
    def __init__(self, settings: Settings, sock: Any, protocol: Any, peer: Any) -> None:
        loop = settings.loop
        if loop.outbox is None:
            loop.touch()
        self._settings = settings
        self._sock = sock
        self._protocol = protocol
        self._peer = pack_sockaddr(peer)
        self._state = _OPENING
        self._channel = CLEAR
        self._reading_stopped = 0
        self._sending = _IDLE
        self._piece = b""
        self._queue = self._owed = self._bucket = None
        self._last_active = self._reading_changed = loop.now

    def __repr__(self) -> str:
        peer = self.get_extra_info("peername")
        where = "" if peer is None else f" {Address.from_sockaddr(peer)}"
        protocol = "" if self._protocol is None else f", {type(self._protocol).__name__}"
        return f"<Connection{where} {self._state.value}{protocol}>"

    # Opening

    def _made(self) -> None:
        if self._state is not _OPENING:
            self._handshake_completed()  # during which `close` was called
            return
        settings = self._settings
        limits, timeouts, now = settings.limits, settings.timeouts, settings.loop.now
        called = None
        try:
            self._move(_MADE)
            if limits.write_rate is not None:
                queue = self._queued()
                queue.rate = TokenBucket(limits.write_rate, now)
            if timeouts.read is not None:
                self._owed = (now, timeouts.read)
                self._watch_deadlines()
            elif timeouts.idle is not None:
                self._watch_deadlines()
            self._protocol.connection_made(called := self)
        except Exception as exc:
            self._callback_failed(exc, "connection_made")
        except BaseException:
            if called is None and settings.tls is None:
                self._protocol = None  # `connection_made` was not called, so `connection_lost` must not be
            self._break_off()
            raise

    def _clear_channel(self) -> Channel:
        """Return the channel for this protocol and rate, in clear."""
        buffered = takes_buffers(self._protocol)
        if buffered or self._settings.limits.read_rate is not None:
            return LimitedChannel(self._read_bucket(), buffered=buffered)
        return CLEAR

    def _read_bucket(self) -> TokenBucket | None:
        rate = self._settings.limits.read_rate
        return None if rate is None else TokenBucket(rate, self._settings.loop.now)

    def _event_method(self) -> Callable[[Connection, int], None]:
        """Return what the loop calls for this channel."""
        return _EVENT_METHODS[self._channel.kind]

    def _set_channel(self, channel: Channel) -> None:
        self._channel = channel
        self._settings.loop.registry.replace(self._sock.fileno(), self._event_method(), self)

    def _move(self, event: Event) -> None:
        try:
            self._state = TRANSITIONS[self._state, event]
        except KeyError:
            after(self._state, event)  # raises the same, with both names

    def _end_writing(self, event: Event) -> None:
        """Move on `event`, and accept nothing more to send."""
        self._move(event)
        if self._sending is _IDLE:
            self._sending = _SHUT

    # Receiving

    def _on_event(self, events: int, limit: int = RECV_SIZE) -> None:
        """Read once, up to `limit` bytes, or send what is queued, or both. The loop's callback."""
        if events != 1:  # EVENT_READ, whose name would cost a look-up for each message
            self._on_other_event(events)
            return
        try:
            try:
                data = self._sock.recv(limit)
            except Incomplete:
                self._last_active = self._settings.loop.now
                return
            except (BlockingIOError, InterruptedError):
                return  # not readable after all: select(2), "Bugs"
            except OSError as exc:
                self._fail(exc)
                return
            if data:
                loop = self._settings.loop
                loop.bytes_received += len(data)
                self._last_active = loop.now
                self._protocol.data_received(data)
            else:
                self._receive_eof()
        except Exception as exc:
            self._callback_failed(exc, "data_received")
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _on_other_event(self, events: int) -> None:
        if events == ERRORS:
            self._check_error()
            return
        if events & EVENT_READ:
            self._on_event(EVENT_READ)
        self._on_writable()

    def _on_writable(self) -> None:
        if self._queue is not None and self._queue.armed:
            self._flush(self._queue)

    def _on_limited_event(self, events: int) -> None:
        """Read within a `LimitedChannel`'s limits, or send what is queued, or both. The loop's callback."""
        try:
            if events & EVENT_READ:
                self._receive()
            if events & ~EVENT_READ:
                self._on_other_event(events & ~EVENT_READ)
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _receive(self) -> None:
        """Read once, up to as many bytes as the rate allows."""
        channel, loop = self._channel, self._settings.loop
        rate = channel.rate
        if rate is None:
            self._receive_up_to(RECV_SIZE)
            return
        limit = min(rate.available(loop.now), RECV_SIZE - 1)  # over TLS, RECV_SIZE asks for more
        before = loop.bytes_received
        if limit:
            self._receive_up_to(limit)
        rate.take(loop.bytes_received - before)
        if not rate.available(loop.now):
            self._throttle_reading(True)
            loop.scheduler.call_later(rate.wait(), self._throttle_reading, False)

    def _throttle_reading(self, throttled: bool) -> None:
        with Step(self._break_off):
            self._note_reading(self._reading_stopped, throttled)
            if isinstance(self._channel, LimitedChannel):
                self._channel.throttled = throttled
            if not self.is_closing():
                self._update_interest()

    def _receive_up_to(self, limit: int) -> None:
        if self._channel.buffered:
            self._receive_into(limit)
        else:
            self._on_event(EVENT_READ, limit)

    def _receive_into(self, limit: int) -> None:  # noqa: PLR0911 - each step may end it
        """Read once into the protocol's buffer, up to `limit` bytes."""
        protocol = self._protocol
        try:
            buffer = protocol.get_buffer(limit)
            if not len(buffer):
                raise UsageError("get_buffer returned an empty buffer: return at least one byte")
        except Exception as exc:
            self._callback_failed(exc, "get_buffer")
            return
        if not self.is_reading() or self._protocol is not protocol:
            return  # since that call
        loop = self._settings.loop
        try:
            nbytes = self._sock.recv_into(buffer if len(buffer) <= limit else memoryview(buffer)[:limit])
        except Incomplete:
            self._last_active = loop.now
            return
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._fail(exc)
            return
        except (TypeError, ValueError) as exc:  # the buffer is not writable
            self._callback_failed(exc, "get_buffer")
            return
        if not nbytes:
            self._receive_eof()
            return
        loop.bytes_received += nbytes
        self._last_active = loop.now
        try:
            self._protocol.buffer_updated(nbytes)
        except Exception as exc:
            self._callback_failed(exc, "buffer_updated")

    def _receive_eof(self) -> None:
        self._move(_PEER_EOF)
        both_ended = self._state is _ENDING
        try:
            keep = self._protocol.eof_received()
        except Exception as exc:
            self._callback_failed(exc, "eof_received")
            return
        if self._state is _READ_CLOSED and not keep:
            if self._sending is _IDLE and self._channel is CLEAR:
                self._close_now(None)  # as `close` does when nothing is left to send, in one step
            else:
                self.close()
        elif both_ended and self._state is _ENDING:
            self._begin_close(self._settings.timeouts.close, None)
        elif self._state not in ENDED:
            self._update_interest()

    def _update_interest(self) -> None:
        """Register with the selector the events that this connection waits for now."""
        channel, queue, loop = self._channel, self._queue, self._settings.loop
        events = EVENT_READ if self.is_reading() else 0
        if queue is not None and queue.armed:
            events |= EVENT_WRITE
        events = channel.interest(events)
        if not events and loop.registry.reports_errors:
            events = ERRORS
        try:
            loop.registry.modify(self._sock.fileno(), events)
        except OSError as exc:
            self._fail(exc)
            return
        except BaseException:
            loop.unsure = True
            raise
        if channel.has_input() and self.is_reading() and not channel.throttled:
            loop.scheduler.call_soon(self._deliver)
        if not (events or channel.throttled):
            self._watch(loop.now, ERROR_LOOK)

    def _check_error(self) -> None:
        """End the connection if SO_ERROR is set, as by a reset while nothing is read or sent."""
        try:
            number = self._channel.bare(self._sock).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as exc:
            self._fail(exc)
            return
        if number:
            self._fail(OSError(number, os.strerror(number)))

    # TLS

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool | None = None,
        server_hostname: str | None = None,
        early: bytes = b"",
    ) -> None:
        """Upgrade the connection to TLS; `handshake_completed` is called when the handshake is complete.

        Bytes written before are sent in clear first, under the same limits and deadlines as ever; bytes
        written from now on wait in the same queue for the handshake.
        server_side: whether this side is TLS's server; None: if the connection was accepted.
        server_hostname: the host name that the peer's certificate must have; required on the client's side
            unless the context does not check it.
        early: bytes received after the request to upgrade: the beginning of the peer's handshake. Clear text
            injected there by a third party is no handshake, and ends the connection (CVE-2011-0411).
        A handshake that fails, or takes longer than `Timeouts.handshake`, ends the connection with
        `TLSHandshakeError`. Raises UsageError if TLS is on already, if a direction has ended, and for a
        context of the wrong side.
        """
        settings = self._settings
        settings.loop.lifetime.check_process()
        if self._state is not State.OPEN or self._channel.kind is Kind.SECURE:
            raise UsageError("start_tls needs a connection without TLS, with both directions open")
        server = settings.listener is not None if server_side is None else server_side
        tls = settings.make_tls(context, server, server_hostname)
        with Step(self._break_off):
            self._begin_handshake(tls, early, self._handshake_completed)

    def _begin_handshake(self, tls: Tls, early: bytes, on_established: Callable[[], None]) -> None:
        from reactor.connection.secure_channel import SecureChannel  # noqa: PLC0415 - imports ssl

        queue = None if self._sending is _IDLE else self._queued()
        clear_left = 0 if queue is None else queue.size
        self._sock = sock = tls.secure(self._sock, self._settings.loop.time, clear_left)
        before, buffered = self._channel, takes_buffers(self._protocol)
        channel = SecureChannel(sock, before.rate or self._read_bucket(), on_established, buffered=buffered)
        channel.throttled = before.throttled
        self._set_channel(channel)
        if queue is not None and clear_left and not queue.is_waiting():
            self._flush(queue)
            if self._state in ENDED:
                return
        self._watch_deadlines()
        if early or not sock.ssl.server_side:
            self._go_on_with_handshake(lambda: sock.go_on(early))
        if self._state is not State.OPENING:
            self._attend()  # other events than before the upgrade

    def _handshake_completed(self) -> None:
        if self._queue is not None:
            self._queue.since = self._settings.loop.now  # nothing of it could be sent before
        self._watch_deadlines()
        if self._state is State.WRITE_CLOSED and not self.can_write_eof():
            self.close(reason=UsageError(_NO_HALF_CLOSE))
        if self.is_closing():
            return  # `close` was called during the handshake; the close_notify can be sent now
        completed = getattr(self._protocol, "handshake_completed", None)
        try:
            if completed is not None:
                completed()
        except Exception as exc:
            self._callback_failed(exc, "handshake_completed")

    def _on_secure_event(self, events: int) -> None:
        """Continue the handshake; after it read, or send, or both. The loop's callback."""
        channel, sock = self._channel, self._sock
        try:
            if events == EVENT_READ and not (sock.needs_slow_path or channel.buffered or channel.rate):
                self._on_event(EVENT_READ)
                if sock.needs_slow_path:
                    self._attend()
            elif events == ERRORS:
                self._check_error()
            elif sock.established:
                self._on_secure_bytes(events, sock)
            else:
                if events & EVENT_WRITE:
                    self._try(sock.flush)
                    self._on_writable()  # `close` may wait for nothing else
                    self._watch_deadlines()  # the handshake's deadline starts when the clear bytes are sent
                    self._attend()
                if events & EVENT_READ and self._state not in ENDED:
                    self._go_on_with_handshake(sock.handshake)
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _on_secure_bytes(self, events: int, sock: SecureSocket) -> None:
        if events & EVENT_READ:
            if sock.stalled:
                self._try(sock.take_in)
                if not sock.stalled:
                    self._on_writable()
            if self.is_reading() and not self._channel.throttled:
                self._receive()
        if events & EVENT_WRITE:
            self._try(sock.flush)
            self._on_writable()
        self._attend()

    def _attend(self) -> None:
        """Deliver input that is decrypted already, and update the events to wait for."""
        self._deliver()
        self._sock.look_again()
        if self._state not in ENDED:
            self._update_interest()

    def _deliver(self) -> None:
        """Deliver input that is decrypted already, which the selector does not report."""
        while self._channel.has_input() and self.is_reading() and not self._channel.throttled:
            self._receive()

    def _go_on_with_handshake(self, step: Callable[[], bool]) -> None:
        channel: Any = self._channel
        try:
            if self._try(step):
                self._last_active = self._settings.loop.now
                channel.on_established()
                self._attend()
            elif channel.has_output():
                self._attend()
        except BaseException:
            self.abort()  # an interrupt: the handshake can be neither continued nor repeated
            raise

    def _try(self, step: Callable[[], object]) -> object:
        """Return the result of `step()`; None if it would block, or failed, which ends the connection."""
        try:
            return step()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            self._fail(exc)
            return None

    def _on_opening(self, events: int) -> None:
        """Go on with what comes before `connection_made`: a `PendingHeader` or `BlockingHandshake`."""
        channel: Any = self._channel
        try:
            if self._try(channel.step):
                self._last_active = self._settings.loop.now
                channel.on_done(self, channel)
            elif channel.ended:
                self._close_now(None)
            elif self._state not in ENDED:
                self._update_interest()
        except BaseException:
            self.abort()  # an interrupt: the step can be neither continued nor repeated
            raise

    def _blocking_handshake_done(self, channel: Channel) -> None:
        self._set_channel(self._clear_channel())
        self._update_interest()
        self._made()

    # Sending

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Send `data` after everything that was written before; never blocks.

        A bytearray or memoryview is copied, and may be changed afterwards.
        Returns False if more than the high-water mark is queued then, and if the connection is closing
        or closed, when `data` is dropped; else True. A small piece that waits for the tick's end counts as
        queued only once the kernel has refused it. Raises TypeError if `data` is not bytes-like, UsageError
        after `write_eof`.
        """
        if self._sending is _IDLE:
            if type(data) is bytes and data:
                loop = self._settings.loop
                outbox = loop.outbox
                if outbox is not None and len(data) <= GATHER_LIMIT:
                    self._piece = data
                    self._sending = _GATHERED
                    outbox.append(self)
                    return True
                return self._send(loop, data)
        elif self._sending is _QUEUED and type(data) is bytes:
            queue = self._queue
            if 0 < len(data) <= queue.room:  # type: ignore[union-attr]
                queue.room -= len(data) + PIECE_OVERHEAD  # type: ignore[union-attr]
                queue.size += len(data)  # type: ignore[union-attr]
                queue.pieces.append(data)  # type: ignore[union-attr]
                return True
        return self.writelines((data,))

    def _send(self, loop: Loop, data: bytes) -> bool:
        if loop.outbox is None:
            loop.touch()
        try:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                return self._keep(data, 0)
            except OSError as exc:
                self._fail(exc)
                return False
            self._last_active = loop.now
            loop.bytes_sent += sent
            return sent == len(data) or self._keep(data, sent)
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
        """Send the pieces in order, by one system call if the kernel accepts them all; else as `write`."""
        return self._add([frozen(piece) for piece in pieces])

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> bool:
        """Send bytes of `file` after everything that was written before, without reading them into memory.

        file: a regular file opened for reading in binary mode. The connection takes it over, and closes it
            when it was sent or dropped; the caller must not use it any more.
        offset: position of the first byte. count: number of bytes; None for all up to the end.
        Returns as `write` does; bytes of the file count as queued, but not towards
        `Limits.max_write_buffer`. If the file is shorter when it is sent, the connection is
        aborted. Raises ValueError if it is shorter now, UsageError after `write_eof`; then the caller keeps
        the file. See sendfile(2).
        """
        part = part_of(file, offset, count)
        accepted = self._add([part])
        if not len(part) or self._state not in WRITABLE:
            file.close()
        return accepted

    def _add(self, pieces: Sequence[bytes | FilePart]) -> bool:
        if self._state not in WRITABLE:
            if self._state is State.WRITE_CLOSED:
                raise UsageError("write after write_eof: our direction has ended")
            self._settings.loop.lifetime.check_process()
            self._settings.loop.counters.dropped_writes += 1
            return False
        if not any(map(len, pieces)):
            return self._check_high_water()
        queue, limits = self._queued(), self._settings.limits
        limit = limits.max_write_buffer
        if limit is not None and queue.size > limit and queue.in_memory() > limit:
            self.abort(SlowConsumer(f"{queue.size} bytes queued, and max_write_buffer is {limit}"))
            return False
        for piece in pieces:
            queue.append(piece)
        if queue.is_waiting():
            queue.join_small()
        else:
            outbox = self._settings.loop.outbox
            memory = queue.size + PIECE_OVERHEAD * len(queue.pieces)
            room = min(GATHER_QUEUE, limits.high_water) - memory
            if outbox is None or room < 0:
                self._flush(queue)
            else:
                queue.room = room
                outbox.append(self)
        return self._check_high_water()

    def _queued(self) -> SendQueue:
        """Return the send queue; if there is none, a new one with the gathered piece."""
        queue = self._queue
        if queue is None:
            queue = self._queue = SendQueue(self._settings.loop.now)
            if self._sending is _GATHERED:
                queue.append(self._piece)
                self._piece = b""
            self._sending = _QUEUED
        return queue

    def _keep(self, data: bytes, sent: int) -> bool:
        """Queue `data` without the `sent` bytes that the kernel accepted."""
        queue = self._queued()
        queue.append(data)
        queue.advance(sent)
        self._arm(queue)
        return self._check_high_water()

    def _arm(self, queue: SendQueue) -> None:
        queue.armed = True
        queue.since = self._settings.loop.now
        self._update_interest()
        if queue.armed and self._state not in ENDED:
            self._watch_deadlines()

    def _disarm(self, queue: SendQueue) -> None:
        if queue.armed:
            queue.armed = False
            self._update_interest()

    def _flush(self, queue: SendQueue) -> None:
        loop = self._settings.loop
        try:
            queue.room = 0
            loop.touch()
            queue.join_small()
            before = queue.size
            failure = None
            try:
                queue.offer(self._sock, self._channel, loop.now)
            except (BlockingIOError, InterruptedError):
                pass
            except FileEnded as exc:
                self.abort(exc)  # a reset, so that half a file does not look complete
                return
            except OSError as exc:
                failure = exc
            except Exception as exc:  # of a file that its owner has closed, for one
                loop.scheduler.report(exc, "sendfile", self)
                self.abort(exc)
                return
            if queue.size < before:
                self._last_active = loop.now
                loop.bytes_sent += before - queue.size
            if failure is not None:
                self._fail(failure)
                return
            if not queue.size:
                self._emptied(queue)
            elif queue.rate is not None and not queue.rate.available(loop.now):
                self._throttle(queue, queue.rate)
            elif not queue.armed:
                self._arm(queue)
            self._check_low_water(queue)
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _throttle(self, queue: SendQueue, rate: TokenBucket) -> None:
        queue.throttled = True
        self._disarm(queue)
        self._settings.loop.scheduler.call_later(rate.wait(), self._unthrottle, queue)

    def _unthrottle(self, queue: SendQueue) -> None:
        queue.throttled = False
        if self._queue is queue:
            self._flush(queue)
            if self._channel.is_busy() and self._state not in ENDED:
                self._watch_deadlines()  # the last clear bytes before a handshake may be sent
                self._attend()

    def _emptied(self, queue: SendQueue) -> None:
        if queue.rate is None:
            self._queue = None
            self._sending = _IDLE
        self._disarm(queue)
        if self._state not in WRITABLE and self._state not in ENDED:
            self._write_side_done(queue.closing)

    def _check_high_water(self) -> bool:
        queue = self._queue
        if queue is None or queue.size <= self._settings.limits.high_water:
            return self._state in WRITABLE
        if not queue.paused:
            queue.paused = True
            try:
                self._protocol.pause_writing()
            except Exception as exc:
                self._callback_failed(exc, "pause_writing")
        return False

    def _check_low_water(self, queue: SendQueue) -> None:
        # After `write_eof` too: a protocol may have stopped reading until `resume_writing`.
        open_ = self._state in WRITABLE or self._state is State.WRITE_CLOSED
        if queue.paused and queue.size <= self._settings.limits.low_water and open_:
            queue.paused = False
            try:
                self._protocol.resume_writing()
            except Exception as exc:
                self._callback_failed(exc, "resume_writing")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set this connection's water marks, in bytes, with asyncio's rules for the defaults.

        high: None for four times `low`, or, if that is None too, for the present high-water mark.
        low: None for a quarter of `high`.
        The protocol is paused or resumed at once if the new marks require it. Raises ValueError if `low`
        is above `high`, `high` above `Limits.max_write_buffer`, or one is negative.
        """
        settings = self._settings
        settings.loop.lifetime.check_process()
        limits = settings.limits
        if high is None:
            high = limits.high_water if low is None else 4 * low
        limits = attrs.evolve(limits, high_water=high, low_water=high // 4 if low is None else low)
        self._settings = attrs.evolve(settings, limits=limits)
        if self._queue is not None and self._state in WRITABLE:
            self._queue.room = 0
            self._check_high_water()
            if self._queue is not None:
                self._check_low_water(self._queue)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low-water and the high-water mark, in bytes."""
        return self._settings.limits.low_water, self._settings.limits.high_water

    def get_write_buffer_size(self) -> int:
        """Return how many bytes were written and not accepted by the kernel."""
        if self._queue is not None:
            return self._queue.size
        return len(self._piece) if self._sending is _GATHERED else 0

    def is_paused(self) -> bool:
        """Return whether `pause_writing` was called, and `resume_writing` was not."""
        return self._queue is not None and self._queue.paused

    # Closing: the steps are listed in `closing`

    def write_eof(self) -> None:
        """Half-close: send our end of file after what was written; the peer may go on sending.

        During the handshake of `start_tls` it waits for its end. If that agrees on a version before TLS 1.3,
        what was written is sent, and the connection is closed with UsageError as the reason.
        Does nothing the second time, and when closing or closed. Raises UsageError unless `can_write_eof`.
        """
        if self._state not in WRITABLE:
            self._settings.loop.lifetime.check_process()
            return
        if not self.can_write_eof():
            raise UsageError(_NO_HALF_CLOSE)
        with Step(self._break_off):
            self._end_writing(Event.WRITE_EOF)
            if self._state is State.ENDING:
                self._begin_close(self._settings.timeouts.close, None)
            elif self._sending is _SHUT:
                self._write_side_done(None)
            elif not (queue := self._queued()).is_waiting():
                self._flush(queue)

    def can_write_eof(self) -> bool:
        """Return whether half-close is possible: always, but over TLS only since 1.3 (RFC 8446, 6.1).

        During a handshake: whether the context allows TLS 1.3.
        """
        return self._channel.can_end_one_direction()

    def close(self, timeout: float | None = None, *, reason: BaseException | None = None) -> None:
        """Send what is queued, then close; nothing more is received.

        timeout: seconds in which the peer must accept it, else the connection ends with `CloseTimeout`; None
            for `Timeouts.close`, infinity for no timeout.
        reason: the argument of `connection_lost` when everything was sent; None for a clean end.
        `connection_lost` is called later, never from within this call. Does nothing when the connection is
        closing or closed.

        After the queue our FIN is sent, and the socket lingers for the rest of the timeout until the peer's
        FIN: closing it earlier, with unread input, would reset the connection and cut off what was sent.
        Over TLS a close_notify is sent before the FIN (RFC 8446, 6.1). In a handshake that the peer may have
        completed already, our side is completed first, within the same timeout.
        Raises ValueError for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        if timeout is not None:
            timeout = seconds("timeout", timeout, zero=True)
        if self._state in ENDED or self._state in CLOSES:
            self._settings.loop.lifetime.check_process()
            return
        if self._state is State.OPENING:
            reason = ConnectionAborted("closed before it had begun") if reason is None else reason
            if not self._channel.is_half_done():
                self._fail(reason)
                return
        with Step(self._break_off):
            self._end_writing(Event.CLOSE)
            self._begin_close(self._settings.timeouts.close if timeout is None else timeout, reason)

    def abort(self, exc: BaseException | None = None) -> None:
        """Drop what is queued and reset the connection at once; `connection_lost` is called later.

        exc: the argument of `connection_lost`; None for `ConnectionAborted`.
        """
        if self._state in ENDED:
            self._settings.loop.lifetime.check_process()
            return
        reason = ConnectionAborted("aborted by this side") if exc is None else exc
        try:
            reset_on_close(self._sock)
        except OSError as problem:
            reason.add_note(f"closed without a reset: {problem}")
        self._close_now(reason)

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._state in CLOSES or self._state in ENDED

    def _fail(self, exc: BaseException) -> None:
        """End the connection with the reason `exc`; drop what is queued."""
        if self._state in ENDED:
            return
        if isinstance(exc, TLSError) and not isinstance(exc, TLSTruncated | TLSHandshakeTimeout):
            self._linger(
                Closing(self._settings.loop.time(), self._settings.timeouts.close, exc)
            )  # with an alert
        else:
            self._close_now(exc)

    def _callback_failed(self, exc: Exception, callback: str) -> None:
        name = f"{type(self._protocol).__qualname__}.{callback}"
        self._settings.loop.scheduler.report(exc, name, self)
        self.abort(exc)  # a reset, so that half an answer does not look complete

    def _begin_close(self, timeout: float, reason: BaseException | None) -> None:
        closing = Closing(self._settings.loop.time(), timeout, reason)
        if self._sending is _SHUT:
            self._write_side_done(closing)
        else:
            queue = self._queued()
            queue.closing = closing
            if not queue.size:
                self._emptied(queue)
            elif not queue.is_waiting():
                self._flush(queue)
        if self._state in CLOSES:
            self._update_interest()
            self._watch(closing.start, timeout)

    def _write_side_done(self, closing: Closing | None) -> None:
        """End our direction, now that the queue is sent; then the connection, if it is closing."""
        self._sending, self._queue = _SHUT, None
        if not self._channel.end(half=self._state is State.WRITE_CLOSED):  # a close_notify comes first
            queue = self._queued()
            queue.closing = closing
            self._arm(queue)
        elif self._state is State.WRITE_CLOSED:
            try:
                shut_down_writing(self._channel.bare(self._sock))
            except OSError as exc:
                self._fail(exc)
        elif self._state in CLOSES:
            closing = closing or Closing(self._settings.loop.time(), self._settings.timeouts.close, None)
            if self._state is State.ENDING:
                self._close_now(closing.reason)
            else:
                self._linger(closing)

    def _linger(self, closing: Closing) -> None:
        """Send a FIN, and hand the socket over to a `Linger`."""
        settings = self._settings
        sock = self._channel.detach(self._sock)
        try:
            shut_down_writing(sock)
            settings.loop.registry.modify(sock.fileno(), EVENT_READ)
        except OSError as exc:
            self._close_now(closing.reason or exc)
            return
        try:
            self._teardown(closing.reason)
            Linger(settings, sock, prefix_of(self), closing.start, closing.timeout)
            settings.loop.scheduler.post_notice(self._notify_lost, closing.reason, False)
        except BaseException:
            self._complete_end(closing.reason)
            raise

    def _close_now(self, reason: BaseException | None) -> None:
        """Close the socket without lingering."""
        try:
            self._teardown(reason)
            loop = self._settings.loop
            release(loop, self._sock)
            loop.scheduler.post_notice(self._notify_lost, reason, True)
        except BaseException:
            self._complete_end(reason)
            raise

    def _teardown(self, reason: BaseException | None) -> None:
        """Release everything but the socket."""
        if self._queue is not None:
            self._queue.drop()
        self._queue, self._piece, self._sending = None, b"", _SHUT
        self._move(_CUT)
        settings = self._settings
        if self._bucket is not None:
            settings.deadline_monitor.discard(self, self._bucket)
        settings.loop.counters.closed[cause_of(reason)] += 1

    def _notify_lost(self, reason: BaseException | None, closed: bool) -> None:
        """Call `connection_lost`. closed: the socket is closed, not lingering."""
        if self._state is _LOST:
            return  # an interrupt at the end of the first call
        protocol, called = self._protocol, False
        try:
            try:
                if protocol is not None:
                    protocol.connection_lost((called := True) and reason)
            except Exception as exc:
                self._settings.loop.scheduler.report(
                    exc, f"{type(protocol).__qualname__}.connection_lost", self
                )
            self._protocol = None
            self._move(_NOTIFIED)
            if closed:
                self._settings.on_gone(prefix_of(self), reason)
        except BaseException:
            if called:
                self._protocol = None  # not called again; a second run of this method does the rest
            raise

    # Interrupts: KeyboardInterrupt and the like, anywhere

    def _complete_end(self, reason: BaseException | None) -> None:
        """Complete a `_close_now` or `_linger` that was interrupted."""
        loop = self._settings.loop
        if self._state not in ENDED:
            self._teardown(reason)
        self._settings.deadline_monitor.discard(self, self._bucket)
        lingers = isinstance(loop.registry.owner_of(self._sock.fileno()), Linger)
        if not lingers:
            release(loop, self._sock)
        if not any(
            getattr(callback, "__self__", None) is self for callback, _ in loop.scheduler.notices_due()
        ):
            loop.scheduler.post_notice(self._notify_lost, reason, not lingers)

    def _interrupted(self, exc: BaseException) -> None:
        """Abort the connection, if KeyboardInterrupt or the like came in the middle of a step of ours.

        If it came out of the protocol, no step was interrupted, and the connection goes on.
        """
        self._settings.loop.unsure = True
        if self._state not in READABLE or not came_out_of(self._protocol, exc):
            self._break_off(exc)

    def _break_off(self, exc: BaseException | None = None) -> None:
        """Abort the connection: `exc`, an interrupt, came in the middle of a step that can't be continued."""
        self._settings.loop.unsure = True
        if self._state is State.OPENING and self._settings.tls is None:
            self._protocol = None  # `connection_made` was not called
        if self._state not in ENDED:
            name = "an interrupt" if exc is None else type(exc).__name__
            self.abort(ConnectionAborted(f"{name} came in the middle of what it did"))

    # Deadlines

    def get_timeouts(self) -> Timeouts:
        """Return this connection's timeouts."""
        return self._settings.timeouts

    def set_timeouts(
        self,
        *,
        idle: float | None = _KEEP,
        read: float | None = _KEEP,
        write: float | None = _KEEP,
        close: float = _KEEP,
    ) -> None:
        """Change this connection's timeouts, in seconds; None for none. Omitted ones stay unchanged.

        read: starts the read deadline anew: the peer must complete a message within `read` seconds, else the
            connection ends with `ReadTimeout`. Call it again when the message is complete. None clears it.
        idle, write, close: as in `Timeouts`.
        Raises ValueError, naming the argument, for a number that is not positive, TypeError for anything but
        a number; then nothing is changed.
        """
        settings = self._settings
        settings.loop.lifetime.check_process()
        new = {"idle": idle, "write": write, "close": close}
        changed: dict[str, Any] = {name: value for name, value in new.items() if value is not _KEEP}
        if changed:
            settings = attrs.evolve(settings, timeouts=attrs.evolve(settings.timeouts, **changed))
        if read is not _KEEP:
            self._owe(None if read is None else seconds("read", read))
        if changed:
            self._settings = settings
            if self._state not in ENDED:
                self._watch_deadlines()

    def _owe(self, timeout: float | None) -> None:
        if timeout is None:
            self._owed = None
            return
        self._owed = start, _ = self._settings.loop.time(), timeout
        if self._state in READABLE:
            self._watch(start, timeout)

    def _watch(self, start: float, timeout: float) -> None:
        """Check the deadlines `timeout` seconds after `start`, or earlier."""
        self._watch_at(round_up(start + timeout, timeout))

    def _watch_at(self, when: float) -> None:
        if self._state not in ENDED:
            self._bucket = self._settings.deadline_monitor.add(self, self._bucket, when)

    def _watch_deadlines(self) -> None:
        for start, timeout, _, _ in self._deadlines():
            self._watch(start, timeout)

    def _check_deadlines(self, now: float) -> None:
        if self._is_unwatched():
            self._check_error()
        longest_tick_since = self._settings.loop.tick_times.longest_since
        passed, again = first_passed(self._deadlines(), now, longest_tick_since)
        if passed is not None:
            self._look_once_more()
            passed, again = first_passed(self._deadlines(), now, longest_tick_since)
        if self._state in ENDED:
            return
        if passed is not None:
            self._time_out(passed)
            return
        if self._is_unwatched():
            again = min(again, round_up(now + ERROR_LOOK, ERROR_LOOK))
        self._watch_at(again)

    def _deadlines(self) -> Iterator[Deadline]:
        timeouts, queue = self._settings.timeouts, self._queue
        handshake = self._channel.handshake_deadline(timeouts)
        if handshake is not None:
            yield handshake
        else:
            if timeouts.idle is not None:
                message = "no byte in either direction for {:g} s"
                yield Deadline(self._idle_since(), timeouts.idle, IdleTimeout, message)
            if self._owed is not None and self._state in READABLE and not self._holds_back():
                yield Deadline(*self._owed, ReadTimeout, "the peer did not send what it owes within {:g} s")
            if queue is not None and queue.armed and timeouts.write is not None:
                yield queue.write_deadline(timeouts.write)
        if queue is not None and queue.closing is not None:
            yield queue.close_deadline(queue.closing, in_handshake=handshake is not None)

    def _idle_since(self) -> float:
        if self._holds_back() or (self._queue is not None and self._queue.throttled):
            return self._settings.loop.now  # no fault of the peer: it is looked at again later
        return max(self._last_active, self._reading_changed)

    def _look_once_more(self) -> None:
        """Receive what the kernel holds, and send what is queued, before a deadline ends the connection.

        After a long callback, or when the process was stopped, the peer may have met the deadline already.
        """
        registry, sock = self._settings.loop.registry, self._channel.bare(self._sock)
        for _ in range(_LAST_READS):
            if not self._waits_for(EVENT_READ) or self._is_quiet(sock):
                break
            registry.dispatch(sock.fileno(), EVENT_READ)
        if self._waits_for(EVENT_WRITE):
            registry.dispatch(sock.fileno(), EVENT_WRITE)

    def _is_quiet(self, sock: Any) -> bool:
        """Return whether there is nothing to be read; an error ends the connection."""
        try:
            return is_quiet(sock)
        except OSError as exc:
            self._fail(exc)
            return True

    def _is_unwatched(self) -> bool:
        return self._state not in ENDED and not self._interest()

    def _waits_for(self, event: int) -> bool:
        return self._state not in ENDED and bool(self._interest() & event)

    def _interest(self) -> int:
        return self._settings.loop.registry.interest(self._sock.fileno())

    def _time_out(self, exc: Exception) -> None:
        if isinstance(exc, ReadTimeout) and self._is_answered(exc):
            return
        if self.get_write_buffer_size() or self._channel.has_output():
            self.abort(exc)  # a reset, because what is queued is not delivered
        else:
            self._fail(exc)

    def _is_answered(self, exc: ReadTimeout) -> bool:
        """Return whether the protocol's `timed_out` keeps the connection, or ends it itself."""
        timed_out = getattr(self._protocol, "timed_out", None)
        if timed_out is None:
            return False
        self._owed = None
        try:
            if not timed_out(exc):
                return False
        except Exception as failure:
            self._callback_failed(failure, "timed_out")
        self._watch_deadlines()
        return True

    # Flow control

    def pause_reading(self) -> None:
        """Stop receiving until `resume_reading`; TCP's flow control then stops the peer.

        Meanwhile neither `Timeouts.idle` nor `Timeouts.read` counts.
        """
        self._stop_reading(self._reading_stopped | PAUSED)

    def resume_reading(self) -> None:
        """Resume receiving, and call the protocol's `reading_resumed`, if it has that method."""
        self._stop_reading(self._reading_stopped & ~PAUSED)
        resumed = getattr(self._protocol, "reading_resumed", None)
        if resumed is not None:
            resumed()

    def hold_reading(self, held: bool) -> None:
        """Stop receiving while `held` is True, independently of `pause_reading` and `resume_reading`.

        For a protocol that buffers what it has received, as `FramedProtocol`, and leaves those two to its
        subclasses.
        """
        stopped = self._reading_stopped
        self._stop_reading(stopped | HELD if held else stopped & ~HELD)

    def is_reading(self) -> bool:
        """Return whether bytes of the peer are received: reading is not stopped, and no end was reached."""
        return not self._reading_stopped and self._state in READABLE

    def wants_input(self) -> bool:
        """Return whether to process what was received already: not after `pause_reading` or `close`.

        Nor while the connection is being handed over to another process.
        """
        return self._state in _WANTS_INPUT and not self._reading_stopped & (PAUSED | FROZEN)

    def _stop_reading(self, stopped: int) -> None:
        self._settings.loop.lifetime.check_process()
        try:
            if self._owed is not None or self._settings.timeouts.idle is not None:
                self._note_reading(stopped, self._channel.throttled)
            before, self._reading_stopped = self._reading_stopped, stopped
            if bool(before) is not bool(stopped) and self._state not in ENDED:
                self._update_interest()
        except BaseException:
            self._settings.loop.unsure = True
            raise

    def _holds_back(self) -> bool:
        """Return whether this side, and not the peer, is why nothing is received."""
        return bool(self._reading_stopped & ~LENT) or self._channel.throttled

    def _note_reading(self, stopped: int, throttled: bool) -> None:
        """Stop the deadlines for what the peer sends, or let them go on, before reading stops or goes on.

        stopped, throttled: the new values of `_reading_stopped` and of the channel.
        """
        will = bool(stopped & ~LENT) or throttled
        if self._holds_back() is will:
            return
        now = self._settings.loop.time()
        if self._owed is not None and not will:
            start, timeout = self._owed
            self._owed = start + now - max(start, self._reading_changed), timeout
            self._watch(*self._owed)
        self._reading_changed = now

    # Facts

    @property
    def reactor(self) -> Any:
        """The `Reactor` that drives the connection."""
        return self._settings.reactor

    @property
    def listener(self) -> Any:
        """The `Listener` that accepted the connection; None if none did."""
        return self._settings.listener

    def get_protocol(self) -> Any:
        """Return the protocol; None after `connection_lost`."""
        return self._protocol

    def set_protocol(self, protocol: AnyProtocol) -> None:
        """Replace the protocol; `connection_made` of the new one is not called.

        Raises TypeError if it is not a protocol: it has neither `data_received` nor `get_buffer`.
        """
        check_protocol(protocol, "set_protocol was given")
        self.hold_reading(False)
        if self._state is State.LOST:
            return
        self._protocol = protocol
        if self._state is State.CLOSED:
            return
        channel = self._channel
        if isinstance(channel, LimitedChannel) and (channel.rate or channel.kind is not Kind.LIMITED):
            channel.buffered = takes_buffers(protocol)
        elif takes_buffers(protocol) or channel is not CLEAR:
            self._set_channel(self._clear_channel())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information about the connection, or `default` where it is not available.

        "peername": the peer's socket address; always available, even after a reset. Behind a proxy with the
        PROXY protocol it is the client's, and "proxy" is the `ProxyHeader` that the proxy has sent.
        "sockname": our own, while the socket is open. "socket": the socket, which must not be read,
        written or closed. "reactor" and "listener": the attributes. "origin": the listener or connector that
        made it, as text. Over TLS also "ssl_object", "sslcontext", "cipher", "alpn_protocol", "peercert" (see
        `ssl.SSLSocket.getpeercert`) and "sni", the host name that the client asked for.
        """
        fact: Any = None
        match name:
            case "peername":
                fact = None if self._peer is None else unpack_sockaddr(self._peer)
            case "sockname":
                fact = None if self._state in ENDED else self._sock.getsockname()
            case "socket":
                fact = self._channel.bare(self._sock)
            case "reactor" | "listener" | "origin":
                fact = getattr(self._settings, name)
            case "proxy":
                fact = _parse_header(self._settings.proxy_header)
            case _:
                fact = self._channel.fact(name)
        return default if fact is None else fact


#: What the loop calls for the events of a connection, by the kind of its channel.
_EVENT_METHODS = {
    Kind.CLEAR: Connection._on_event,
    Kind.LIMITED: Connection._on_limited_event,
    Kind.SECURE: Connection._on_secure_event,
    Kind.BLOCKING_HANDSHAKE: Connection._on_opening,
    Kind.PROXY_HEADER: Connection._on_opening,
}


def _parse_header(encoded: bytes | None) -> ProxyHeader | None:
    if encoded is None:
        return None
    from reactor.framing.proxy_header import ProxyHeader  # noqa: PLC0415 - few programs need it

    parsed = ProxyHeader.parse(encoded)
    return None if parsed is None else parsed[0]


# For the loop


def flush_connections(loop: Loop, now: float, outbox: list[Connection] | None) -> None:
    """Send what callbacks have written on the connections in `loop.outbox`, and replace that by `outbox`.

    now: the tick's time, in the clock's seconds.
    One function for all, because a call for each connection costs as much as gathering saves.
    """
    waiting: list[Connection] = loop.outbox or []
    connection, total = waiting[0], 0
    try:
        loop.outbox = outbox
        for connection in waiting:
            if piece := connection._piece:
                try:
                    connection._sending = _IDLE  # before sending, so that an interrupt can't send it twice
                    connection._piece = b""
                    sent = connection._sock.send(piece)
                except (BlockingIOError, InterruptedError):
                    connection._keep(piece, 0)
                    continue
                except OSError as exc:
                    connection._fail(exc)
                    continue
                connection._last_active = now
                total += sent
                if sent != len(piece):
                    connection._keep(piece, sent)
            elif (queue := connection._queue) is not None:
                queue.room = 0
                if queue.size and not queue.is_waiting():
                    connection._flush(queue)
    except BaseException as exc:
        if loop.outbox is not waiting:
            loop.outbox = waiting + (loop.outbox or [])  # the loop sends the rest when it is left
        connection._interrupted(exc)
        raise
    loop.bytes_sent += total


def check_deadlines(member: Connection | Linger, now: float) -> None:
    """End `member` if one of its deadlines has passed at `now`, else schedule the next check."""
    if isinstance(member, Linger):
        member.close()
    else:
        member._check_deadlines(now)


# For listeners, connectors and the reactor


def open_connection(connection: Connection, first: bytes = b"") -> None:
    """Register the socket, which must be non-blocking; call `connection_made`, or begin the TLS handshake.

    first: bytes to send before all others, in clear.
    Raises OSError if they can't be sent, or if the selector refuses the socket: the caller is to close it.
    """
    settings, protocol = connection._settings, connection._protocol
    connection._channel = channel = connection._clear_channel()
    try:
        rest = first and _send_first(connection, first)
        on_event, fd = _EVENT_METHODS[channel.kind], connection._sock.fileno()
        settings.loop.registry.register(fd, EVENT_READ, on_event, connection)
        if rest:
            connection._keep(rest, 0)
        if settings.tls is None:
            connection._made()
        else:
            protocol.begin_tls(connection, settings.tls, connection._made)
    except Exception:
        raise
    except BaseException:
        connection._break_off()
        raise


def _send_first(connection: Connection, data: bytes) -> bytes:
    """Send `data`, and return what the kernel has not accepted: its buffer is empty, so that this is rare."""
    try:
        sent = connection._sock.send(data)
    except (BlockingIOError, InterruptedError):
        sent = 0
    connection._settings.loop.bytes_sent += sent
    return data[sent:]


def await_header(connection: Connection) -> None:
    """Register the socket, and wait for the PROXY header; the protocol is the `PendingHeader`.

    Raises OSError as `open_connection` does.
    """
    settings = connection._settings
    connection._channel = connection._protocol
    try:
        on_event = connection._event_method()
        settings.loop.registry.register(connection._sock.fileno(), EVENT_READ, on_event, connection)
        connection._watch_deadlines()
    except Exception:
        raise
    except BaseException:
        connection._break_off()
        raise


def identify(connection: Connection, settings: Settings, peer: bytes | str | None) -> None:
    """Set what the PROXY header has shown: the settings that have it, and the client's packed address."""
    connection._settings = settings
    connection._peer = peer


def begin(connection: Connection, protocol: Any) -> None:
    """Set the protocol after the PROXY header; call `connection_made`, or begin the TLS handshake."""
    connection._protocol = protocol
    connection._set_channel(connection._clear_channel())
    if connection._settings.tls is None:
        connection._made()
    else:
        protocol.begin_tls(connection, connection._settings.tls, connection._made)


def begin_handshake(
    connection: Connection, tls: Tls, early: bytes, on_established: Callable[[], None]
) -> None:
    """Begin a TLS handshake; `on_established` is called when it is complete. early: received bytes of it."""
    connection._begin_handshake(tls, early, on_established)


def begin_blocking_handshake(connection: Connection, sock: ssl.SSLSocket) -> None:
    """Begin the handshake of `sock`, a non-blocking duplicate; `connection_made` comes at its end."""
    from reactor.connection.secure_channel import BlockingHandshake  # noqa: PLC0415 - imports ssl

    done = Connection._blocking_handshake_done
    connection._set_channel(BlockingHandshake(sock, connection._last_active, done))
    connection._watch_deadlines()
    if not sock.server_side:
        connection._on_opening(EVENT_WRITE)


def fail(connection: Connection, exc: BaseException) -> None:
    """End the connection with the reason `exc`; drop what is queued."""
    connection._fail(exc)


def recover(connection: Connection) -> None:
    """Restore the connection's events and deadlines after an interrupt, wherever it came."""
    settings = connection._settings
    headless = connection._channel.kind is Kind.PROXY_HEADER
    if connection._state is State.OPENING and settings.tls is None and not headless:
        connection._break_off()
    if connection._state in ENDED:
        return
    connection._watch_deadlines()
    connection._update_interest()
    resumed = getattr(connection._protocol, "reading_resumed", None)
    if resumed is not None and connection.wants_input():
        settings.loop.scheduler.call_soon(resumed)
    queue, outbox = connection._queue, settings.loop.outbox
    unsent = connection._sending is _GATHERED if queue is None else queue.size and not queue.is_waiting()
    if outbox is not None and unsent:
        outbox.append(connection)


def detach(connection: Connection) -> socket.socket:
    """Detach after fork: stop using kernel objects shared with the parent. Returns the socket."""
    if connection._queue is not None:
        connection._queue.drop()
    connection._queue, connection._sending = None, _SHUT
    connection._move(Event.FORKED)
    sock: socket.socket = connection._channel.bare(connection._sock)
    return sock


def interrupted(connection: Connection, exc: BaseException) -> None:
    """Abort the connection, unless `exc`, an interrupt, came out of a callback that may be interrupted."""
    connection._interrupted(exc)


def may_end(connection: Connection, *, late: bool = False) -> bool:
    """Return whether the connection is idle, so that a drain may close it.

    It is idle if nothing is queued or unread, no read deadline is running, and the protocol's `draining`, if
    it has that method, returns False.
    late: what this side waits for does not count: that the peer takes the queue, or sends what it owes.
    """
    if connection._channel.is_busy() or (connection.get_write_buffer_size() and not late):
        return False
    draining = getattr(connection._protocol, "draining", None)
    try:
        if draining is not None and draining():
            return False
    except Exception as exc:
        connection._callback_failed(exc, "draining")
        return False
    if not late and connection._owed is not None and connection._state in READABLE:
        return False  # asked after `draining`, which may have cleared it
    if connection._state not in READABLE:
        return True
    return connection._is_quiet(connection._sock) and connection._state not in ENDED


def awaits_first_bytes(connection: Connection, since: float) -> bool:
    """Return whether the peer of an accepted connection may be about to send its first bytes.

    since: a time of the clock; a peer that has been silent since then is not, and has got nothing either.
    Only clear TCP counts what was received, in the kernel; elsewhere any byte after `since` may be the first.
    """
    if connection.listener is None or connection._last_active < since or connection._state not in READABLE:
        return False
    sock = connection._sock
    if isinstance(sock, socket.socket) and isinstance(connection._peer, bytes):
        return bytes_received(sock) <= len(connection._settings.proxy_header or b"")
    return True


def prefix_of(connection: Connection) -> bytes | None:
    """Return the client prefix that `Limits.max_per_ip` counts it by; None if that is not limited."""
    limited = connection._settings.limits.max_per_ip is not None
    return client_prefix(connection._peer) if limited else None


def activity(connection: Connection) -> float:
    """Return when the last byte passed in either direction, in the clock's seconds."""
    return connection._last_active


def is_frozen(connection: Connection) -> bool:
    """Return whether the connection is being handed over to another process."""
    return bool(connection._reading_stopped & FROZEN)


def lend_reading(connection: Connection) -> None:
    """Stop receiving for good: a duplicate of the socket is read elsewhere, and the deadlines go on."""
    connection._stop_reading(LENT)


def note_activity(connection: Connection, now: float) -> None:
    """Restart the idle timeout at `now`: a byte has passed on a duplicate of the socket. From any thread."""
    connection._last_active = now


def connections_of(registry: Registry) -> list[Connection]:
    """Return the connections in the registry, in the order of their descriptors."""
    return [owner for owner in registry.owned() if isinstance(owner, Connection)]


def gauges_of(owners: Iterable[Any]) -> Gauges:
    """Return the sums over the connections and lingering closes among `owners`, of descriptors."""
    open_ = paused = lingering = queued = 0
    for owner in owners:
        if isinstance(owner, Connection):
            open_ += 1
            if owner._sending is _IDLE:
                continue  # most of them: nothing else of them is looked at
            queue = owner._queue
            if queue is not None:
                queued += queue.size
                paused += queue.paused
            else:
                queued += len(owner._piece)
        elif owner is not None and isinstance(owner, Linger):
            lingering += 1
    return Gauges(open=open_, paused=paused, lingering=lingering, queued_bytes=queued)


def unnotified_of(loop: Loop) -> set[Connection]:
    """Return the connections whose socket is closed and whose `connection_lost` is still due."""
    found = set()
    for callback, args in loop.scheduler.notices_due():
        connection = getattr(callback, "__self__", None)
        if isinstance(connection, Connection) and connection._state is not State.LOST and args[1]:
            found.add(connection)
    return found
