"""One connection: receive, and the ways to end it. How it sends is in `sender`.

The selector reports the socket, `on_event` reads once and hands the bytes to the protocol.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import attrs

from reactor.address import Address, pack_sockaddr, site_of, unpack_sockaddr
from reactor.connection.deadlines import ERROR_LOOK, Timed
from reactor.connection.intake import RECV_SIZE, Intake
from reactor.connection.linger import RESET, Linger, end_direction, is_quiet, release
from reactor.connection.rates import TokenBucket
from reactor.connection.secured import Secured
from reactor.connection.sender import SHUT, Closing, Outbound
from reactor.connection.settings import Terms
from reactor.connection.state import CLOSES, ENDED, READABLE, WRITABLE, Event, State, after
from reactor.errors import (
    ConnectionAborted,
    TLSError,
    TLSHandshakeTimeout,
    TLSTruncated,
    UsageError,
    cause_of,
)
from reactor.loop.loop import Loop
from reactor.loop.registry import ERRORS, EventHandler, Registry
from reactor.loop.timers import Bucket
from reactor.options import seconds
from reactor.protocol import AnyProtocol, check_protocol
from reactor.tls.secure_socket import TLS_FACTS, Incomplete, SecureSocket, Tls, bare

__all__ = ["Connection", "connection_of", "connections_of", "untold_of"]

# Callbacks of the protocol after which a connection has nothing left to do.
_LEAVE_NOTHING_HALF_DONE = ("data_received", "buffer_updated", "pause_writing", "resume_writing")

# Who has stopped reading: `pause_reading`, and `hold_reading`.
_PAUSED, _HELD = 1, 2

# After the peer's end of file too: what came before may wait.
_WANTS_INPUT = READABLE | WRITABLE


@attrs.define(eq=False, repr=False, init=False)
class Connection(Timed):
    """A connected stream socket, with the protocol that it serves.

    Made by `Reactor.listen`, `connect` and `adopt`, and handed to `connection_made`. Its methods have
    the names and the meaning of asyncio's transports; they are called on the thread that drives the
    reactor. None of them raises for what the peer does: that reaches `connection_lost`, once.
    """

    _loop: Loop
    _sock: socket.socket | SecureSocket
    _protocol: Any
    _terms: Terms
    _peer: bytes | str | None
    _state: State
    # None: nothing. Bytes: the one piece gathered in this tick. Outbound: more, or what the kernel left;
    # always, when a rate is to be kept. Or `SHUT`.
    _out: bytes | Outbound | None
    _reading_stopped: int  # who has: nobody, or the sum of these two
    last_active: float
    # Since when, and for how many seconds at most, the peer owes something; None when it does not.
    _owed: tuple[float, float] | None
    bucket: Bucket | None

    def __init__(
        self, loop: Loop, sock: socket.socket, protocol: Any, terms: Terms, sockaddr: Any = None
    ) -> None:
        loop.touch()
        self._loop = loop
        self._sock = sock
        self._terms = terms
        self._peer = pack_sockaddr(sockaddr)
        self._state = State.OPENING
        self._out = None
        self._reading_stopped = 0
        self._owed = None
        self.bucket = None
        self.last_active = loop.now
        self._protocol = protocol

    def __repr__(self) -> str:
        peer = self.get_extra_info("peername")
        where = "" if peer is None else f" {Address.from_sockaddr(peer)}"
        protocol = "" if self._protocol is None else f", {type(self._protocol).__name__}"
        return f"<Connection{where} {self._state.value}{protocol}>"

    def open(self) -> None:
        """Watch the socket, which must not block, and tell the protocol. Called once, by the maker.

        Raises OSError if the selector does not take the socket, which is then still the maker's.
        """
        try:
            self._loop.registry.register(self._sock.fileno(), EVENT_READ, self._handler())
            if self._terms.tls is None:
                self._made()
            else:
                self._protocol.begin_tls(self, self._terms.tls, self._made)
        except Exception:
            raise
        except BaseException:
            self.break_off()
            raise

    def _made(self) -> None:
        if self.is_closing():
            self._secured()
            return
        limits, timeouts = self._terms.limits, self._terms.timeouts
        called = None
        try:
            self._move(Event.MADE)
            if limits.write_rate is not None:
                self._out = queue = Outbound(self._loop.now)
                queue.rate = TokenBucket(limits.write_rate, self._loop.now)
            if timeouts.read is not None:
                self._owed = (self._loop.now, timeouts.read)
            if timeouts.idle is not None or timeouts.read is not None:
                self._look_later()
            self._protocol.connection_made(called := self)
        except Exception as exc:
            self._broke(exc, "connection_made")
        except BaseException:
            if called is None and self._terms.tls is None:
                self._protocol = None  # nothing has been said to it, and nothing will be
            self.break_off()
            raise

    def _handler(self) -> EventHandler:
        if self._terms.limits.read_rate is not None:
            return Intake(self, self._read_bucket())
        return self if hasattr(self._protocol, "data_received") else Intake(self, None)

    def _read_bucket(self) -> TokenBucket | None:
        rate = self._terms.limits.read_rate
        return None if rate is None else TokenBucket(rate, self._loop.now)

    # TLS

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool | None = None,
        server_hostname: str | None = None,
        early: bytes = b"",
    ) -> None:
        """Go on over TLS from here; `handshake_completed` is called when both sides have come to terms.

        What was written before leaves in clear first; what is written from now on waits for the handshake.
        server_side: None says yes for a connection that was accepted. server_hostname: whose certificate a
            client expects; needed unless the context does not check it.
        early: bytes that came after the request to upgrade. They belong to the handshake: anything else that
            somebody put there in clear is no handshake, and ends the connection (CVE-2011-0411).
        A handshake that fails, or takes longer than `Timeouts.handshake`, ends the connection with
        `TLSHandshakeError`. Raises UsageError where TLS is on already, or a direction has ended, and for a
        context that does not fit.
        """
        self._loop.check_process()
        if self._state is not State.OPEN or isinstance(self._sock, SecureSocket):
            raise UsageError("start_tls needs a connection in clear of which no direction has ended")
        server = self._terms.owner is not None if server_side is None else server_side
        tls = Tls(context, self._terms.bios, server, server_hostname)
        try:
            self._secure(tls, early, self._secured)
        except Exception:
            raise
        except BaseException:
            self.break_off()
            raise

    def _secure(self, tls: Tls, early: bytes, on_established: Callable[[], None]) -> None:
        assert not isinstance(self._sock, SecureSocket)
        queue = None if self._out is None else self._queue()
        try:
            ahead = b"" if queue is None else queue.take()
        except ValueError as exc:
            raise UsageError("start_tls has to wait until the file is sent") from exc
        self._sock = sock = tls.secure(self._sock, self._loop.time, ahead)
        handler = Secured(self, self._read_bucket(), sock, on_established)
        self._loop.registry.replace(sock.fileno(), handler)
        if queue is not None:
            self._emptied(queue)
            self._check_low_water(queue)
        self._look_later()
        handler.begin(early)

    def _secured(self) -> None:
        if isinstance(self._out, Outbound):
            self._out.since = self._loop.now  # before, the peer was offered nothing of it
        self._look_later()
        if self.is_closing():
            return  # meanwhile; the close_notify can be sent now
        completed = getattr(self._protocol, "handshake_completed", None)
        try:
            if completed is not None:
                completed()
        except Exception as exc:
            self._broke(exc, "handshake_completed")

    def _move(self, event: Event) -> None:
        self._state = after(self._state, event)
        if self._out is None and self._state not in WRITABLE:
            self._out = SHUT

    # The byte's way

    def on_event(self, events: int, most: int = RECV_SIZE) -> None:
        """Read once, `most` bytes at most, or send what is queued, or both. The loop's call."""
        if events != 1:  # EVENT_READ, whose name would cost a look-up for each message
            if events == ERRORS:
                self._check_error()
                return
            if events & EVENT_READ:
                self.on_event(EVENT_READ)
            if isinstance(self._out, Outbound) and self._out.armed:
                self._flush(self._out)
            return
        try:
            try:
                data = self._sock.recv(most)
            except Incomplete:
                self.last_active = self._loop.now
                return
            except (BlockingIOError, InterruptedError):
                return  # not readable after all: select(2), "Bugs"
            except OSError as exc:
                self.fail(exc)
                return
            if data:
                loop = self._loop
                loop.bytes_received += len(data)
                self.last_active = loop.now
                self._protocol.data_received(data)
            else:
                self._receive_eof()
        except Exception as exc:
            self._broke(exc, "data_received")
        except BaseException as exc:
            self._interrupted(exc)
            raise

    # Receiving, off the straight way

    def receive_into(self, most: int) -> None:
        """Read once into the protocol's buffer, `most` bytes at most. The loop's call."""
        try:
            buffer = self._protocol.get_buffer(most)
            if not len(buffer):
                raise UsageError("get_buffer returned an empty buffer: return at least one byte")
        except Exception as exc:
            self._broke(exc, "get_buffer")
            return
        try:
            nbytes = self._sock.recv_into(buffer if len(buffer) <= most else memoryview(buffer)[:most])
        except Incomplete:
            self.last_active = self._loop.now
            return
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.fail(exc)
            return
        except (TypeError, ValueError) as exc:  # nothing can be written to it
            self._broke(exc, "get_buffer")
            return
        if not nbytes:
            self._receive_eof()
            return
        self._loop.bytes_received += nbytes
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
        both_ended = self._state is State.ENDING
        try:
            keep = self._protocol.eof_received()
        except Exception as exc:
            self._broke(exc, "eof_received")
            return
        if both_ended and self._state is State.ENDING:
            self._finish(self._terms.timeouts.close)
        elif self._state is State.READ_CLOSED and not keep:
            self.close()

    def _update_interest(self) -> None:
        registry, fd = self._loop.registry, self._sock.fileno()
        events = EVENT_READ if self.is_reading() else 0
        if isinstance(self._out, Outbound) and self._out.armed:
            events |= EVENT_WRITE
        handler = registry.handler_of(fd)
        if isinstance(handler, Intake):
            events = handler.interest(events)
        try:
            registry.modify(fd, events or ERRORS)
        except OSError as exc:
            self.fail(exc)
            return
        except BaseException:
            self._loop.unsure = True
            raise
        held = isinstance(handler, Intake) and handler.held  # it will be read again soon
        if not (events or held or registry.reports_errors):
            self._terms.watch.add(self, self._loop.now, ERROR_LOOK)

    def _check_error(self) -> None:
        """End the connection if the socket has an error: a reset, while nothing is read or sent."""
        try:
            number = bare(self._sock).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as exc:
            self.fail(exc)
            return
        if number:
            self.fail(OSError(number, os.strerror(number)))

    # Ending

    def write_eof(self) -> None:
        """Send our end of file after what was written; the peer may go on sending.

        More than once, or when closing or closed, does nothing. Raises UsageError unless `can_write_eof`.
        """
        if self._state not in WRITABLE:
            self._loop.check_process()
            return
        if not self.can_write_eof():
            raise UsageError("this TLS connection can't end one direction alone: close it")
        try:
            self._move(Event.WRITE_EOF)
            if self._state is State.ENDING:
                self._finish(self._terms.timeouts.close)
            elif self._out is SHUT:
                self._drained(SHUT)
            else:
                self._flush(self._queue())
        except BaseException:
            self.break_off()
            raise

    def can_write_eof(self) -> bool:
        """Return whether the directions can be closed one by one: not before TLS 1.3, RFC 8446, 6.1."""
        return not isinstance(self._sock, SecureSocket) or self._sock.ssl.version() == "TLSv1.3"

    def close(self, timeout: float | None = None, *, reason: BaseException | None = None) -> None:
        """Send what is queued, then close; nothing more is received.

        timeout: seconds that the peer has to take it; None for `Timeouts.close`, infinity for as long as it
            takes. Then the connection ends with `CloseTimeout`.
        reason: what `connection_lost` is told when all is sent; None for a clean end.
        `connection_lost` comes later, never from inside this call. When the connection is closing or
        closed it does nothing.

        Our direction is ended first, and the socket kept for the rest of that time until the peer ends
        its own, so that its unread input can't turn the close into a reset that cuts off what was sent.
        Over TLS a close_notify goes before that (RFC 8446, 6.1). In a handshake of which the peer's side may
        be done already, ours is done first, within the same time.
        Raises ValueError for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        if timeout is not None:
            timeout = seconds("timeout", timeout, zero=True)
        if self._state in ENDED or self._state in CLOSES:
            self._loop.check_process()
            return
        if self._state is State.OPENING:
            reason = ConnectionAborted("closed during the TLS handshake") if reason is None else reason
            if not (isinstance(self._sock, SecureSocket) and self._sock.is_half_done()):
                self.fail(reason)
                return
        try:
            self._move(Event.CLOSE)
            self._finish(self._terms.timeouts.close if timeout is None else timeout, reason)
        except BaseException:
            self.break_off()
            raise

    def abort(self, exc: BaseException | None = None) -> None:
        """Drop what is queued and reset the connection at once; `connection_lost` comes later.

        exc: the reason that `connection_lost` is given; None for `ConnectionAborted`.
        """
        if self._state in ENDED:
            self._loop.check_process()
            return
        reason = ConnectionAborted("aborted by this side") if exc is None else exc
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError as problem:
            reason.add_note(f"closed without a reset: {problem}")
        self._cut(reason)

    def fail(self, exc: BaseException) -> None:
        """End the connection for the reason `exc`; what is queued is dropped."""
        if self._state in ENDED:
            return
        if isinstance(exc, TLSError) and not isinstance(exc, TLSTruncated | TLSHandshakeTimeout):
            self._part(Closing(self._loop.time(), self._terms.timeouts.close, exc))  # with an alert
        else:
            self._cut(exc)

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._state in CLOSES or self._state in ENDED

    def _finish(self, timeout: float, reason: BaseException | None = None) -> None:
        closing = Closing(self._loop.time(), timeout, reason)
        if self._out is SHUT:
            if self._has_ended_tls():
                self._end(closing)
                return
            self._out = Outbound(self._loop.now)
        queue = self._queue()
        queue.closing = closing
        if not (queue.armed or queue.throttled):
            self._flush(queue)
        if self._state in CLOSES:
            self._update_interest()
            self._terms.watch.add(self, closing.start, timeout)

    def _has_ended_tls(self) -> bool:
        return not isinstance(self._sock, SecureSocket) or self._sock.end()

    def _drained(self, queue: Outbound) -> None:
        if not self._has_ended_tls():
            self._out = queue = Outbound(self._loop.now) if queue is SHUT else queue
            self._arm(queue)
            return
        self._out = SHUT
        if self._state is State.WRITE_CLOSED:
            try:
                end_direction(bare(self._sock))
            except OSError as exc:
                self.fail(exc)
        elif self._state in CLOSES:
            self._end(queue.closing or Closing(self._loop.time(), self._terms.timeouts.close, None))

    def _end(self, closing: Closing) -> None:
        if self._state is State.ENDING:
            self._cut(closing.reason)
        else:
            self._part(closing)

    def _part(self, closing: Closing) -> None:
        sock = self._sock.detach() if isinstance(self._sock, SecureSocket) else self._sock
        try:
            end_direction(sock)
            self._loop.registry.modify(sock.fileno(), EVENT_READ)
        except OSError as exc:
            self._cut(closing.reason or exc)
            return
        try:
            self._leave(closing.reason)
            Linger(self._loop, sock, self._terms, site_of(self._peer), closing.start, closing.timeout)
            self._loop.post_notice(self._tell, closing.reason, False)
        except BaseException:
            self._complete_end(closing.reason)
            raise

    def _broke(self, exc: Exception, callback: str) -> None:
        self._loop.report(exc, f"{type(self._protocol).__qualname__}.{callback}", self)
        self.abort(exc)  # half an answer must not look whole

    def _cut(self, reason: BaseException | None) -> None:
        try:
            self._leave(reason)
            release(self._loop, self._sock)
            self._loop.post_notice(self._tell, reason, True)
        except BaseException:
            self._complete_end(reason)
            raise

    def _leave(self, reason: BaseException | None) -> None:
        if isinstance(self._out, Outbound):
            self._out.drop()
        self._out = None
        self._move(Event.CUT)
        self._terms.watch.discard(self)
        self._loop.counters.closed[cause_of(reason)] += 1

    def _tell(self, reason: BaseException | None, gone: bool) -> None:
        if self._state is State.LOST:
            return  # an interrupt came at the end of the first call
        protocol, called = self._protocol, False
        try:
            try:
                if protocol is not None:
                    protocol.connection_lost((called := True) and reason)
            except Exception as exc:
                self._loop.report(exc, f"{type(protocol).__qualname__}.connection_lost", self)
            self._told(reason, gone)
        except BaseException:
            if called:
                self._protocol = None  # it is not told again; the rest is done when this is run again
            raise

    def _told(self, reason: BaseException | None, gone: bool) -> None:
        self._protocol = None
        self._move(Event.TOLD)
        if gone:
            self._terms.on_gone(site_of(self._peer), reason)

    def _complete_end(self, reason: BaseException | None) -> None:
        """Do what an interrupt has left of `_cut` and `_part`."""
        if self._state not in ENDED:
            self._leave(reason)
        self._terms.watch.discard(self)
        handler = self._loop.registry.handler_of(self._sock.fileno())
        lingers = handler is not None and connection_of(handler) is None
        if not lingers:
            release(self._loop, self._sock)
        if not any(getattr(callback, "__self__", None) is self for callback, _ in self._loop.notices_due()):
            self._loop.post_notice(self._tell, reason, not lingers)

    def _interrupted(self, exc: BaseException) -> None:
        """See to it that nothing is left half done, when KeyboardInterrupt or the like passes.

        If it comes out of the protocol, what was received has been handed over, and all is as it was.
        """
        self._loop.unsure = True
        methods = (getattr(self._protocol, name, None) for name in _LEAVE_NOTHING_HALF_DONE)
        handed_over = {getattr(method, "__code__", None) for method in methods}
        at = exc.__traceback__
        while at is not None and at.tb_frame.f_code not in handed_over:
            at = at.tb_next
        if at is None or self._state not in READABLE:
            self.break_off()

    def break_off(self) -> None:
        """End the connection: an interrupt came in the middle of a step that can't be gone on with."""
        self._loop.unsure = True
        if self._state is State.OPENING and self._terms.tls is None:
            self._protocol = None  # it has not been told that there is a connection
        if self._state not in ENDED:
            self.abort(ConnectionAborted("an interrupt came in the middle of what it did"))

    def recover(self) -> None:
        """Have the connection moved by its events and deadlines again, after an interrupt anywhere."""
        if self._state is State.OPENING and self._terms.tls is None:
            self.break_off()
        if self._state in ENDED:
            return
        self._terms.watch.discard(self)
        self._look_later()
        self._update_interest()
        out, outbox = self._out, self._loop.outbox
        if outbox is not None and out is not None and not self._waits_to_send(out):
            outbox.append(self)

    @property
    def owner(self) -> Any:
        """The listener that accepted it, or None."""
        return self._terms.owner

    @property
    def site(self) -> bytes | None:
        """What tells the peer's site from others'; None if that is not counted."""
        return site_of(self._peer)

    def _waits_to_send(self, out: bytes | Outbound) -> bool:
        return isinstance(out, Outbound) and (not out.size or out.armed or out.throttled)

    def disown(self) -> socket.socket:
        """Come to an end without a word, and return the socket: this is a child process of its owner's."""
        if isinstance(self._out, Outbound):
            self._out.drop()
        self._out = SHUT
        self._move(Event.FORKED)
        return bare(self._sock)

    def _dropped(self, nbytes: int) -> None:
        self._loop.check_process()
        self._loop.counters.dropped_writes += 1

    # For a drain

    def may_end(self) -> bool:
        """Return whether nothing is under way, as far as this side can know. For a drain.

        There is no unread input, and nothing queued; the peer owes no message; and the protocol, if it
        has a method `draining`, does not say that it is busy.
        """
        if isinstance(self._sock, SecureSocket) and (self._sock.in_record or not self._sock.established):
            return False
        if (self._owed is not None and self._state in READABLE) or self.get_write_buffer_size():
            return False
        draining = getattr(self._protocol, "draining", None)
        try:
            if draining is not None and draining():
                return False
        except Exception as exc:
            self._broke(exc, "draining")
            return False
        return self._state not in READABLE or is_quiet(self._sock)

    # Flow control

    def pause_reading(self) -> None:
        """Call `data_received` no more until `resume_reading`; the kernel then holds the peer back."""
        self._stop_reading(self._reading_stopped | _PAUSED)

    def resume_reading(self) -> None:
        """Undo `pause_reading`, and call the protocol's `reading_resumed`, if it has that method."""
        self._stop_reading(self._reading_stopped & ~_PAUSED)
        resumed = getattr(self._protocol, "reading_resumed", None)
        if resumed is not None:
            resumed()

    def hold_reading(self, held: bool) -> None:
        """Read nothing while `held`, whatever `resume_reading` says.

        For a protocol that has still to hand on what it has received, and leaves `pause_reading` to others.
        """
        stopped = self._reading_stopped
        self._stop_reading(stopped | _HELD if held else stopped & ~_HELD)

    def is_reading(self) -> bool:
        """Return whether bytes of the peer would be received now."""
        return not self._reading_stopped and self._state in READABLE

    def wants_input(self) -> bool:
        """Return whether what was received is to be handed on: not after `pause_reading` or `close`."""
        return self._state in _WANTS_INPUT and not self._reading_stopped & _PAUSED

    def _stop_reading(self, stopped: int) -> None:
        self._loop.check_process()
        try:
            before, self._reading_stopped = self._reading_stopped, stopped
            if bool(before) is not bool(stopped) and self._state not in ENDED:
                self._update_interest()
        except BaseException:
            self._loop.unsure = True
            raise

    # Facts

    def get_protocol(self) -> Any:
        """Return the protocol; None after `connection_lost`."""
        return self._protocol

    def set_protocol(self, protocol: AnyProtocol) -> None:
        """Hand all further calls to `protocol`, which is not told of `connection_made`.

        Raises TypeError for what is no protocol: it has neither `data_received` nor `get_buffer`.
        """
        check_protocol(protocol, "set_protocol was given")
        self.hold_reading(False)
        self._protocol = protocol
        if self._state in ENDED:
            return
        handler = self._loop.registry.handler_of(self._sock.fileno())
        if isinstance(handler, Secured):
            handler.look_at_protocol()
        elif self._terms.limits.read_rate is None:
            self._loop.registry.replace(self._sock.fileno(), self._handler())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection, or `default` where it is not known.

        "peername": the peer's socket address; known to the end, even after a reset.
        "sockname": our own; while the socket is open. "socket": the socket itself, not to be read,
        written or closed. "reactor": the `Reactor` whose it is. "listener": the `Listener` that accepted
        it, or None. "origin": where it comes from, in words. Over TLS also "ssl_object", "sslcontext",
        "cipher", "alpn_protocol", "peercert" (as `ssl.SSLSocket.getpeercert` returns it) and "sni": the host
        name that the client asked for.
        """
        terms = self._terms
        if isinstance(self._sock, SecureSocket) and name in TLS_FACTS:
            try:
                fact = TLS_FACTS[name](self._sock)
            except ValueError:
                return default  # the handshake is not done
            return default if fact is None else fact
        facts = {
            "socket": bare(self._sock), "reactor": self._loop, "listener": terms.owner, "origin": terms.origin
        }  # fmt: skip
        if name in facts:
            return facts[name]
        if name == "peername":
            return default if self._peer is None else unpack_sockaddr(self._peer)
        if name == "sockname" and self._state not in ENDED:
            return self._sock.getsockname()
        return default


def connections_of(registry: Registry) -> list[Connection]:
    """Return the connections that are registered, in the order of their descriptors."""
    return [found for found in map(connection_of, registry.handlers()) if found is not None]


def untold_of(loop: Loop) -> set[Connection]:
    """Return the connections that have closed their sockets and not yet told their protocols."""
    found = set()
    for callback, args in loop.notices_due():
        connection = getattr(callback, "__self__", None)
        if isinstance(connection, Connection) and connection._state is not State.LOST and args[1]:
            found.add(connection)
    return found


def connection_of(handler: EventHandler) -> Connection | None:
    """Return the connection that a registered handler stands for, or None if it is something else."""
    if isinstance(handler, Intake):
        return handler.connection
    return handler if isinstance(handler, Connection) else None
