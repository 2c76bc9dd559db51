"""`Endpoint`: one datagram socket with its protocol: receiving, sending, flow control, errors, closing.

The loop reports the socket, `_on_event` receives what is there, up to a batch, and passes each datagram to
the protocol. `send` hands a datagram to the kernel at once; what that does not take waits in a queue, in
order and with a deadline, and goes out when the socket is writable. The other modules of this package have
the parts: `opening` makes the sockets, `queue` keeps what is to be sent, `errors` reads the kernel's queue of
ICMP errors, `control` the control messages, `limits` has the limits by client prefix.

The functions at the end are for the reactor; users call the methods.
"""

from __future__ import annotations

import math
import socket
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

import attrs

from reactor.address import Address
from reactor.connection.closing import close_quietly
from reactor.connection.interrupts import Step
from reactor.datagrams.control import (
    ANCILLARY_SIZE,
    Route,
    info_of,
    segment_size_of,
    segmented,
)
from reactor.datagrams.errors import FATAL, PASSED_ON, count_drops, queue_errors, queued_errors
from reactor.datagrams.interface import error_handler, ignore, make_protocol
from reactor.datagrams.limits import DatagramLimits, PrefixMeter
from reactor.datagrams.multicast import change_membership, interface_index, set_sending
from reactor.datagrams.opening import Opened, SocketSettings, connect_first
from reactor.datagrams.queue import RUN_BYTES, SEGMENTS, SendQueue
from reactor.errors import (
    AddressError,
    CloseTimeout,
    ConnectError,
    ConnectionAborted,
    UsageError,
    cause_of,
)
from reactor.listening.binding import UnixPath
from reactor.loop.loop import Loop
from reactor.loop.stats import DatagramStats
from reactor.loop.timers import Handle
from reactor.options import seconds

if TYPE_CHECKING:
    from reactor.loop.workers import Workers

__all__ = [
    "Endpoint", "EndpointState", "FailureHandler", "detach_endpoint", "drain_endpoint", "look_up",
    "open_endpoint", "recover_endpoint",
]  # fmt: skip

#: Called with the error of `connect_datagram`, if its name can't be resolved or there is no route.
FailureHandler = Callable[[ConnectError], object]

# Larger than any UDP datagram, and of a size that malloc(3) has at hand.
_RECV_SIZE = 65536

#: Bytes of the buffer that Unix sockets share: their datagrams can be as large as the sender's buffer, 208
#: KiB by default. asyncio takes 256 KiB as well.
SHARED_BUFFER = 256 * 1024

# Seconds after which the rest of a batch is left to the next tick.
_LONGEST_BATCH = 0.002

# Seconds of a tick after which every endpoint receives one datagram only, however many endpoints are ready.
_LONGEST_TICK = 0.01

# Errors that are read from the kernel's queue in one go, and those that wait for `error_received`.
_ERRORS_AT_ONCE = 64
_ERRORS_KEPT = 256

# Calls for one datagram that may fail with the errors of earlier ones. After each the kernel's queue of
# errors is read; a receive buffer of the default size holds less than 400.
_TRIES = 16

# Seconds until a datagram is tried again whose receiver, a Unix socket, has no room: no event tells when.
_FIRST_RETRY = 0.005
_LAST_RETRY = 0.1

# Batches that a drain receives before it takes the socket for one that never gets empty, and the seconds
# between two checks of a protocol that is busy.
_DRAINED_BATCHES = 64
_DRAIN_PAUSE = 0.05

_MAPPED = "::ffff:"  # an IPv4 address on an IPv6 socket: RFC 4291, 2.5.5.2


class EndpointState(Enum):
    """The states of an endpoint, in the order in which they come; OPENING and CLOSING may be left out.

    In OPENING and CLOSING it only sends what is queued: its name is being resolved, or `close` was called.
    """

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"  # the socket is closed, and `connection_lost` not called yet
    LOST = "lost"


_OPENING, _OPEN, _CLOSING, _CLOSED, _LOST = EndpointState
_SENDS = frozenset({_OPENING, _OPEN})
_ENDED = frozenset({_CLOSED, _LOST})


@attrs.define(eq=False, repr=False, kw_only=True)
class Endpoint:
    """A datagram socket and its protocol; what asyncio calls a datagram transport.

    Made by `Reactor.bind_datagram` and `connect_datagram`, and passed to `connection_made`. Its methods have
    the names and semantics of asyncio's datagram transports, and are called on the thread that drives the
    reactor. None of them raises for a fault of a peer or of the network: that goes to `error_received`.

    >>> from reactor.datagrams import DatagramProtocol
    >>> class Shout(DatagramProtocol):
    ...     def connection_made(self, endpoint):
    ...         self.endpoint = endpoint
    ...
    ...     def datagram_received(self, data, address, info=None):
    ...         self.endpoint.send(data.upper(), address)
    >>> from reactor.testing import DatagramRecorder, MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     server = reactor.bind_datagram("10.0.0.1:9092", Shout)
    ...     client = reactor.bind_datagram("10.0.0.1:0", DatagramRecorder)
    ...     client.send(b"hello", server.address)
    ...     reactor.run_out()
    ...     client.get_protocol().received
    True
    [b'HELLO']
    """

    # What it is made of.
    _loop: Loop
    _reactor: Any
    _limits: DatagramLimits
    _settings: SocketSettings
    _factory: Callable[[], Any]
    _shared_buffer: Callable[[], bytearray]
    _on_end: Callable[[Endpoint], object]  # for the reactor, when it is lost
    _target: Address | None = None  # of `connect_datagram`

    _state: EndpointState = attrs.field(default=_OPENING, init=False)
    _sock: Any = attrs.field(default=None, init=False)
    _path: UnixPath | None = attrs.field(default=None, init=False)
    _is_unix: bool = attrs.field(default=False, init=False)
    _own_name: Any = attrs.field(default=None, init=False)
    _peer: Any = attrs.field(default=None, init=False)  # the socket address that it is connected to
    _protocol: Any = attrs.field(default=None, init=False)  # None after `connection_lost`
    _reason: BaseException | None = attrs.field(default=None, init=False)
    # While OPENING: what the name was resolved to, or why not.
    _answer: tuple[list[Any], OSError | None] | None = attrs.field(default=None, init=False)
    _on_failure: FailureHandler | None = attrs.field(default=None, init=False)
    _local_address: Address | None = attrs.field(default=None, init=False)

    # Receiving.
    _shared: bool = attrs.field(default=False, init=False)  # other processes receive on the socket, too
    _deaf: bool = attrs.field(default=False, init=False)  # for ever, during a drain
    _drops_before: int = attrs.field(default=0, init=False)  # those that the socket had counted
    _meter: PrefixMeter | None = attrs.field(default=None, init=False)
    _receive: Callable[[], bool] = attrs.field(init=False)

    # Sending.
    _direct: bool = attrs.field(default=False, init=False)  # a `send` goes to the kernel at once
    _gso: bool = attrs.field(default=False, init=False)
    _queue: SendQueue = attrs.field(factory=SendQueue, init=False)
    _high: int = attrs.field(default=0, init=False)
    _low: int = attrs.field(default=0, init=False)
    _paused: bool = attrs.field(default=False, init=False)  # `pause_writing` was called
    _armed: bool = attrs.field(default=False, init=False)  # waits for EVENT_WRITE
    _next_flush: Handle | None = attrs.field(default=None, init=False)  # waits for a time instead
    _retry: float = attrs.field(default=_FIRST_RETRY, init=False)
    _one_by_one: int = attrs.field(default=0, init=False)  # datagrams that GSO has refused
    # With GSO: a run of datagrams of one size and address, gathered for one call, and how many more fit.
    _run: list[bytes] = attrs.field(factory=list, init=False)
    _run_address: Any = attrs.field(default=None, init=False)
    _segment: int = attrs.field(default=0, init=False)
    _room: int = attrs.field(default=0, init=False)
    _run_due: Handle | None = attrs.field(default=None, init=False)
    _deadline: Handle | None = attrs.field(default=None, init=False)  # of the first in the queue
    _close_timer: Handle | None = attrs.field(default=None, init=False)

    # Errors.
    _queues_errors: bool = attrs.field(default=False, init=False)
    _on_error: Callable[[OSError, Any], object] = attrs.field(init=False)
    _errors: deque[tuple[OSError, Any]] = attrs.field(factory=deque, init=False)
    _errors_due: Handle | None = attrs.field(default=None, init=False)

    # Counted for `stats`.
    _received: int = attrs.field(default=0, init=False)
    _bytes_received: int = attrs.field(default=0, init=False)
    _sent: int = attrs.field(default=0, init=False)
    _bytes_sent: int = attrs.field(default=0, init=False)
    _failed: int = attrs.field(default=0, init=False)
    _dropped: Counter[str] = attrs.field(factory=Counter, init=False)
    _refused: Counter[str] = attrs.field(factory=Counter, init=False)

    def __attrs_post_init__(self) -> None:
        limits = self._limits
        self._high, self._low = limits.high_water, limits.low_water
        if limits.prefix_datagrams is not None or limits.prefix_bytes is not None:
            self._meter = PrefixMeter(limits.prefix_datagrams, limits.prefix_bytes, self._loop.time())

    def __repr__(self) -> str:
        own = str(self.address) if self._own_name else ""
        target = f"to {self._target}" if self._target is not None else ""
        protocol = f", {type(self._protocol).__name__}" if self._protocol is not None else ""
        return " ".join(filter(None, ("<Endpoint", own, target, f"{self._state.value}{protocol}>")))

    # What it is

    @property
    def reactor(self) -> Any:
        """The reactor that it belongs to."""
        return self._reactor

    @property
    def state(self) -> EndpointState:
        """Its state."""
        return self._state

    @property
    def address(self) -> Address:
        """The address that it is bound to, with the real port.

        Raises UsageError while a name is resolved, and for a Unix socket without a name.
        """
        if not self._own_name:
            raise UsageError(f"{self} has no address" + (" yet" if self._state is _OPENING else ""))
        return Address.from_sockaddr(self._own_name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the socket, or `default` if there is none of that name.

        name: "sockname" or "peername" (socket addresses), or "socket" (for its options; don't close it,
            read it or write to it).
        """
        known = {"sockname": self._own_name, "peername": self._peer, "socket": self._sock}
        found = known.get(name)
        return default if found is None else found

    def get_protocol(self) -> Any:
        """Return the protocol; None before `connection_made` and after `connection_lost`."""
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        """Replace the protocol; the new one gets no `connection_made`. Raises TypeError if it is none."""
        self._protocol = make_protocol(lambda: protocol)
        self._on_error = error_handler(protocol)

    def is_closing(self) -> bool:
        """Return whether `close` or `abort` was called, or the socket has failed."""
        return self._state not in _SENDS

    def stats(self) -> DatagramStats:
        """Return its counters since it was made, and its gauges."""
        dropped = Counter(self._dropped)
        if self._sock is not None and self._state not in _ENDED:
            dropped["kernel"] += count_drops(self._sock) - self._drops_before
        return DatagramStats(
            received=self._received,
            sent=self._sent,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            dropped=+dropped,
            refused=dict(self._refused),
            errors=self._failed,
            open=int(self._state not in _ENDED),
            queued=len(self._queue),
            queued_bytes=self._queue.size,
        )

    # Opening

    def _open(self, opened: Opened) -> None:
        """Take the socket, and call `connection_made`.

        Raises what the factory raises; the socket is closed then, or the caller's again.
        """
        closing = self._state is _CLOSING
        try:
            sock = self._sock = opened.sock
            self._path, self._peer, self._shared = opened.path, opened.peer, opened.shared
            self._drops_before = count_drops(sock)
            self._own_name = sock.getsockname()
            self._queues_errors = queue_errors(sock)
            self._gso = self._settings.gso
            self._is_unix = sock.family == getattr(socket, "AF_UNIX", None)
            plain = not (self._is_unix or self._settings.info or self._settings.gro)
            self._receive = self._receive_plain if plain else self._receive_messages
            protocol = make_protocol(self._factory)
            if self._state in _ENDED:
                return  # the factory has closed it
            self._on_error = error_handler(protocol)
            self._loop.registry.register(sock.fileno(), EVENT_READ, Endpoint._on_event, self)
        except BaseException:
            if opened.given:
                self._unregister()
                self._sock = None
            self._release()
            self._give_up()
            raise
        self._made(protocol)
        if closing and self._state is _OPEN:
            self._state = _CLOSING
        if self._queue or self._state is _CLOSING:
            self._flush()

    def _made(self, protocol: Any) -> None:
        try:
            self._state, self._direct = _OPEN, not (self._gso or self._queue)
            # In one line: `connection_lost` is called of the protocol if this was, after an interrupt too.
            protocol.connection_made((setattr(self, "_protocol", protocol), self)[1])  # type: ignore[func-returns-value]
        except Exception as exc:
            self._callback_failed(exc, "connection_made")
            self.abort(exc)
        except BaseException as exc:
            self._end(ConnectionAborted(f"{type(exc).__name__} came in connection_made"))
            raise

    def _look_up(self, resolver: Workers) -> None:
        assert self._target is not None
        target = self._target
        if target.family is not None:
            self._resolve_now(target)
            self._resolved(at_once=True)
            return
        try:
            resolver.submit(lambda: self._resolve(target))
        except RuntimeError as exc:  # the system allows no thread
            self._answer = [], OSError(str(exc))
            self._loop.scheduler.call_soon(self._resolved)

    def _resolve_now(self, target: Address) -> None:
        try:
            self._answer = self._loop.system.resolve(target), None
        except OSError as exc:
            self._answer = [], exc

    def _resolve(self, target: Address) -> None:
        # On a thread of the resolver: getaddrinfo(3) may take seconds.
        self._resolve_now(target)
        try:
            self._loop.scheduler.call_soon_threadsafe(self._resolved)
        except UsageError:
            pass  # closed meanwhile

    def _resolved(self, *, at_once: bool = False) -> None:
        if self._answer is None or self._sock is not None or self._state in _ENDED:
            return
        assert self._target is not None
        places, problem = self._answer
        try:
            if problem is not None:
                cause = problem.strerror or str(problem)
                text = f"cannot connect to {self._target}: {cause}"
                raise ConnectError(text, ((str(self._target), problem),)) from problem
            opened = connect_first(
                self._target, places, self._local_address, self._settings, self._loop.system
            )
        except (ConnectError, AddressError, UsageError) as exc:
            self._not_connected(exc, at_once)
            return
        try:
            self._open(opened)
        except Exception as exc:
            if at_once:
                raise
            self._loop.scheduler.report(exc, f"the protocol factory of {self}")

    def _not_connected(self, exc: ConnectError | AddressError | UsageError, at_once: bool) -> None:
        self._give_up()
        if self._on_failure is not None and isinstance(exc, ConnectError):
            self._loop.scheduler.call_soon(self._on_failure, exc)
        elif at_once:
            raise exc
        else:
            self._loop.scheduler.report(exc, repr(self))

    def _give_up(self) -> None:
        self._state = _LOST
        self._drop_queue()
        self._cancel_timers()
        self._on_end(self)

    # Receiving

    def _on_event(self, events: int) -> None:
        """Receive a batch, or send what is queued, or both. The loop's callback."""
        if events & EVENT_READ and self._state is _OPEN:
            self._receive()
        if events & EVENT_WRITE and self._armed:
            self._flush()

    def _batch_end(self) -> float:
        """Return when a batch that begins now is to end, in the clock's seconds."""
        loop = self._loop
        return min(loop.time() + _LONGEST_BATCH, loop.now + _LONGEST_TICK, loop.slice_end)

    def _receive_plain(self) -> bool:
        """Receive a batch of UDP datagrams; return whether there may be more."""
        loop, meter, recvfrom = self._loop, self._meter, self._sock.recvfrom
        clock, end = loop.time, self._batch_end()
        count = size = 0
        try:
            for _ in range(self._limits.batch):
                try:
                    data, address = recvfrom(_RECV_SIZE)
                except BlockingIOError:
                    self._nothing_there(count)
                    return False
                except OSError as exc:
                    if self._receive_failed(exc):
                        continue
                    return False
                if meter is not None and not meter.admits(address, len(data), loop.now):
                    self._refused["prefix"] += 1
                    continue
                count += 1
                size += len(data)
                try:
                    self._protocol.datagram_received(data, address)
                except Exception as exc:
                    self._callback_failed(exc, "datagram_received")
                if self._state is not _OPEN:
                    return False
                if clock() >= end:
                    break
            return True
        finally:
            self._received += count
            self._bytes_received += size

    def _receive_messages(self) -> bool:
        """Receive a batch with control messages, joined datagrams, or of a Unix socket; else as the plain."""
        take, clock, end = self._take, self._loop.time, self._batch_end()
        before = self._received
        for _ in range(self._limits.batch):
            try:
                data, messages, flags, address = take()
            except BlockingIOError:
                self._nothing_there(self._received - before)
                return False
            except OSError as exc:
                if self._receive_failed(exc):
                    continue
                return False
            if flags & socket.MSG_TRUNC:
                self._dropped["truncated"] += 1
            else:
                self._split(data, messages, address)
            if self._state is not _OPEN:
                return False
            if clock() >= end:
                break
        return True

    def _take(self) -> tuple[bytes, list[Any], int, Any]:
        """Receive once; return the bytes, control messages, flags and the sender's address."""
        if self._is_unix:
            buffer = self._shared_buffer()
            size, messages, flags, address = self._sock.recvmsg_into([buffer])
            return bytes(memoryview(buffer)[:size]), messages, flags, address or None
        received: tuple[bytes, list[Any], int, Any] = self._sock.recvmsg(_RECV_SIZE, ANCILLARY_SIZE)
        return received

    def _split(self, joined: bytes, messages: list[Any], address: Any) -> None:
        """Deliver the datagrams that the kernel has joined, or the one that it is."""
        size = len(joined)
        segment = (segment_size_of(messages, size) if self._settings.gro else size) or 1
        extra = (info_of(messages),) if self._settings.info else ()
        meter, end = self._meter, 0
        try:
            for start in range(0, size or 1, segment):
                end = start + segment
                if meter is not None and not meter.admits(address, segment, self._loop.now):
                    self._refused["prefix"] += 1
                    self._received -= 1
                    self._bytes_received -= min(segment, size - start)
                    continue
                try:
                    # The same object, if it is all.
                    self._protocol.datagram_received(joined[start:end], address, *extra)
                except Exception as exc:
                    self._callback_failed(exc, "datagram_received")
                if self._state is not _OPEN:  # the others have come too late
                    break
        finally:
            end = min(end, size)
            self._received += -(-end // segment) or 1
            self._bytes_received += end
            if left := -((end - size) // segment):
                self._dropped["closed"] += left

    def _nothing_there(self, count: int) -> None:
        """After EAGAIN: if that was the first call, it was an error that has made the socket readable."""
        if not count:
            self._read_errors()

    def _receive_failed(self, exc: OSError) -> bool:
        """Note the error of a call that receives; return whether to go on."""
        if isinstance(exc, InterruptedError):
            return True
        if exc.errno in FATAL:
            self._end(exc)
            return False
        if not self._read_errors():
            self._note_error(exc, self._peer)
        return True

    def _callback_failed(self, exc: Exception, callback: str) -> None:
        self._loop.scheduler.report(exc, f"{type(self._protocol).__qualname__}.{callback}", self)

    # Sending

    def send(
        self, data: bytes | bytearray | memoryview, address: Any = None, source: str | None = None
    ) -> bool:
        """Send a datagram after everything that was sent before; does not block.

        Returns True if the kernel has it or it is queued, and False if it was refused or can't be sent, which
        is counted; the reason of the latter comes to `error_received`. True is no promise that it arrives.

        data: the whole datagram, which may be empty. A bytearray or memoryview may be changed afterwards.
        address: where to: what `datagram_received` was called with, an `Address`, its text, or the path of
            a Unix socket. IP addresses are numeric; `connect_datagram` looks up names. (The socket module
            looks up a name in a pair, and blocks meanwhile.) None: the address that it is connected to.
        source: the IP address of this host that it comes from, if the endpoint is bound to several: an
            answer's is `DatagramInfo.local` of the question (IP_PKTINFO, ip(7)). None: the kernel chooses by
            its routing table. One that is not this host's comes to `error_received`.
        Raises UsageError if there is no address, or another than that of a connected endpoint, or a `source`
        for such a one, AddressError for an invalid one, TypeError for data that is not bytes.
        """
        if source is not None:
            return self._send_indirectly(data, address, source)
        if not self._direct:
            fits = self._room and type(data) is bytes and len(data) == self._segment
            if fits and address == self._run_address:
                return self._gather(data)
            return self._send_indirectly(data, address)
        try:
            if self._peer is None:
                size = self._sock.sendto(data, address)
            else:
                if address is not None:
                    self._check_peer(address)
                size = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return self._enqueue(data, address)
        except (OSError, TypeError, OverflowError) as exc:
            return self._send_otherwise(exc, data, address)
        self._sent += 1
        self._bytes_sent += size
        return True

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> bool:
        """Send as `send` does, from the address that the kernel chooses; asyncio's name."""
        return self.send(data, addr)

    def _send_indirectly(
        self, data: bytes | bytearray | memoryview, address: Any, source: str | None = None
    ) -> bool:
        """Send from `source`, or while something is queued or gathered for GSO, or refuse it."""
        if self._state not in _SENDS:
            self._loop.lifetime.check_process()
            self._refused["closing"] += 1
            return False
        if self._target is not None or self._peer is not None:
            if address is not None:
                self._check_peer(address)
        elif not isinstance(address, tuple):
            address = self._sockaddr(address)
        if source is not None:
            address = self._route(source, address)
        piece = data if type(data) is bytes else bytes(memoryview(data))
        if self._direct:
            return self._send_now(piece, address)
        if self._gso and not self._queue and self._state is _OPEN:
            return self._begin_run(piece, address)
        return self._enqueue(piece, address)

    def _send_otherwise(self, exc: Exception, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send after the first try has raised `exc`: with another form of the address, or once more."""
        try:
            if _is_unix_text(address) and self._is_unix:
                return self._transmit(data, self._sockaddr(address))
            if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror):
                return self._try_again(exc, data, address)
            return self._transmit(data, address)
        except (BlockingIOError, InterruptedError):
            return self._enqueue(data, address)

    def _transmit(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send now, and return whether it could be. Raises BlockingIOError if the kernel takes nothing."""
        try:
            size = self._call(data, address)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as exc:
            return self._try_again(exc, data, address)
        self._sent += 1
        self._bytes_sent += size
        return True

    def _try_again(self, exc: OSError, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send again after `exc`, which may be about an earlier datagram; otherwise as `_transmit`."""
        if exc.errno in FATAL:
            if not self._queue:  # else it is its first one, and dropped with it
                self._dropped[cause_of(exc)] += 1
            self._end(exc)
            return False
        listed = self._read_errors()
        for _ in range(_TRIES if exc.errno in PASSED_ON else 0):
            try:
                size = self._call(data, address)
            except OSError as again:
                if isinstance(again, (BlockingIOError, InterruptedError)):
                    if not listed:
                        self._note_error(exc, self._peer)
                    raise
                exc = again
                if not self._read_errors():
                    break  # it is about this datagram
                listed = True
            else:
                if not listed:
                    self._note_error(exc, self._peer)
                self._sent += 1
                self._bytes_sent += size
                return True
        self._dropped[cause_of(exc)] += 1
        where = address.address if type(address) is Route else address
        self._note_error(exc, self._peer if where is None else where)
        return False

    def _call(self, data: bytes | bytearray | memoryview, address: Any) -> int:
        """Send, with any form of an address, and return how many bytes. Raises OSError as send(2) does."""
        sock = self._sock
        if type(address) is Route:
            return self._call_from(data, address)
        try:
            sent: int = sock.sendto(data, address) if self._peer is None else sock.send(data)
        except (TypeError, OverflowError, socket.gaierror) as exc:
            if self._peer is not None:
                raise
            sent = sock.sendto(data, self._sockaddr(address, exc))
        return sent

    def _call_from(self, data: bytes | bytearray | memoryview, route: Route) -> int:
        try:
            sent: int = self._sock.sendmsg([data], route.messages, 0, route.address)
        except (TypeError, OverflowError, socket.gaierror) as exc:
            sent = self._sock.sendmsg([data], route.messages, 0, self._sockaddr(route.address, exc))
        return sent

    def _route(self, source: str, address: Any) -> Route:
        """Return the way from `source` to a socket address. Raises UsageError where there is no choice."""
        if self._is_unix or self._target is not None or self._peer is not None:
            raise UsageError(
                f"{self} sends from one address only: `source` is for UDP that is not connected, and"
                " `connect_datagram` has `local_address`"
            )
        return Route.between(source, address)

    def _sockaddr(self, address: Any, exc: Exception | None = None) -> Any:
        """Return `address` as the socket module takes it. exc: why that form was refused, if it was tried.

        Raises UsageError without an address, AddressError for an invalid one.
        """
        if address is None:
            raise UsageError(f"{self} is connected to no address: give `send` one") from None
        family = self._sock.family
        if self._is_unix:
            where = Address.parse(address) if _is_unix_text(address) else address
            return where.path if isinstance(where, Address) and where.path is not None else where
        if isinstance(address, tuple) and not isinstance(exc, (socket.gaierror, OverflowError)):
            raise exc or AssertionError(address)  # the data is what was refused
        where = Address.of(address[:2] if isinstance(address, tuple) else address)
        if where.family not in (socket.AF_INET, socket.AF_INET6):
            raise AddressError(
                f"{where} is not numeric, and a look-up would block: connect_datagram does it on a thread"
            ) from None
        if where.family == family:
            return self._loop.system.resolve(where)[0][1]
        if family == socket.AF_INET6:
            return _MAPPED + (where.host or ""), where.port
        raise AddressError(f"{where} is an IPv6 address, and {self} is bound to an IPv4 one") from None

    def _check_peer(self, address: Any) -> None:
        """Raise UsageError if `address` is not the one that the endpoint is connected to."""
        peer = self._peer if self._target is None else self._target
        if address in (peer, self._peer):
            return
        if isinstance(address, tuple) and isinstance(self._peer, tuple) and address[:2] == self._peer[:2]:
            return
        raise UsageError(f"{self} is connected, and {address!r} is another address: bind one for it")

    # The queue

    def _enqueue(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        with Step(self._interrupted):
            return self._append(data, address)

    def _interrupted(self, exc: BaseException) -> None:
        """Mark the loop, so that it calls `_recover` before the next tick: something is left half done."""
        self._loop.unsure = True

    def _append(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        limits, queue = self._limits, self._queue
        piece = data if type(data) is bytes else bytes(memoryview(data))
        if len(queue) >= limits.max_queued_datagrams or queue.size + len(piece) > limits.max_queued_bytes:
            self._refused["queue_full"] += 1
            return False
        queue.append(piece, address, self._loop.time() + limits.queue_timeout)
        self._direct = False
        if self._sock is not None and not (self._armed or self._next_flush):
            self._wait()
        self._watch_deadline()
        self._pause_if_above()
        return True

    def _begin_run(self, data: bytes, address: Any) -> bool:
        """Add this datagram to the run, or send that and begin another; it is sent at the end of the tick."""
        size = len(data)
        if self._room and address == self._run_address and 0 < size <= self._segment:
            if size < self._segment:  # only the last one may be shorter
                self._room = 1
            return self._gather(data)
        self._send_run()
        if self._queue or self._state is not _OPEN:
            return self._send_indirectly(data, address)
        if not 0 < size <= RUN_BYTES // 2:
            return self._send_now(data, address)
        with Step(self._interrupted):
            self._segment, self._run_address, self._room = size, address, min(SEGMENTS, RUN_BYTES // size)
            if self._run_due is None:
                self._run_due = self._loop.scheduler.call_soon(self._end_run)
            return self._gather(data)

    def _gather(self, data: Any) -> bool:
        """Add a datagram to the run, and send that if it is full."""
        self._run.append(data)
        self._room -= 1
        if not self._room:
            self._send_run()
        return True

    def _end_run(self) -> None:
        self._run_due = None
        self._send_run()

    def _send_run(self) -> None:
        """Send the run; what the kernel does not take goes to the queue, which is empty now."""
        run, self._run, self._room = self._run, [], 0
        if len(run) == 1:
            self._send_now(run[0], self._run_address)
        elif run and not self._send_joined(run, self._run_address):
            with Step(self._interrupted):
                due = self._loop.time() + self._limits.queue_timeout
                for data in run:
                    self._queue.append(data, self._run_address, due)
                self._flush()
                self._pause_if_above()

    def _send_joined(self, run: list[bytes], address: Any) -> bool:
        """Send a run of datagrams in one call; return whether the kernel took it."""
        messages = segmented(len(run[0]))
        if type(address) is Route:
            messages, address = messages + address.messages, address.address
        where = () if self._peer is not None else (address,)
        try:
            size = self._sock.sendmsg(run, messages, 0, *where)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            # Segments larger than the path's MTU, a device without checksums, or an ICMP error of before:
            # each by itself then, which finds out.
            self._one_by_one = len(run)
            message = "%s: the kernel sends %d datagrams of %d B one by one: %s"
            self._loop.scheduler.log.info((self, exc.errno), message, self, len(run), len(run[0]), exc)
            return False
        self._sent += len(run)
        self._bytes_sent += size
        return True

    def _send_now(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        try:
            return self._transmit(data, address)
        except (BlockingIOError, InterruptedError):
            return self._enqueue(data, address)

    def _flush(self) -> None:
        """Send what is queued, up to a batch, and go on when the kernel takes more."""
        self._set_next_flush(None)
        queue, clock, end = self._queue, self._loop.time, self._batch_end()
        for _ in range(self._limits.batch):
            if not queue:
                break
            try:
                self._send_first(queue)
            except (BlockingIOError, InterruptedError):
                self._read_errors()
                self._wait()
                break
            if self._state in _ENDED:
                return
            if clock() >= end:
                break
        self._flushed()

    def _send_first(self, queue: SendQueue) -> None:
        """Send the first datagram, or the first ones in one call. Raises BlockingIOError if none is taken."""
        data, address, _ = queue.first()
        if self._gso and not self._one_by_one:
            run = queue.run()
            if len(run) > 1:
                if self._send_joined(run, address):
                    queue.remove(len(run))
                elif not self._one_by_one:
                    raise BlockingIOError
                return
        try:
            self._transmit(data, address)
        except (BlockingIOError, InterruptedError):
            raise
        except Exception as exc:  # the address is what the socket module does not take
            self._dropped["invalid"] += 1
            self._loop.scheduler.report(exc, "Endpoint.send", self)
        self._one_by_one = max(0, self._one_by_one - 1)
        self._retry = _FIRST_RETRY
        if self._state not in _ENDED:
            queue.remove(1)

    def _wait(self) -> None:
        """Go on sending when the socket is writable; for a Unix socket's many receivers, after a while."""
        self._watch_deadline()
        if self._is_unix and self._peer is None:
            if self._next_flush is None:
                self._next_flush = self._loop.scheduler.call_later(self._retry, self._flush)
                self._retry = min(2 * self._retry, _LAST_RETRY)
        elif not self._armed:
            self._armed = True
            self._update_interest()

    def _flushed(self) -> None:
        """After a change of the queue: wait for more, or end what waits for its end."""
        queue = self._queue
        if not queue:
            self._emptied()
        elif not self._armed and self._next_flush is None and self._sock is not None:
            self._next_flush = self._loop.scheduler.call_soon(self._flush)
        self._resume_if_below()

    def _emptied(self) -> None:
        self._set_deadline(None)
        self._set_next_flush(None)
        if self._armed:
            self._armed = False
            self._update_interest()
        if self._state is _CLOSING and self._sock is not None:
            self._end(None)
        elif self._state is _OPEN:
            self._direct = not self._gso

    def _update_interest(self) -> None:
        receives = self._state is _OPEN and not self._deaf
        events = (EVENT_READ if receives else 0) | (EVENT_WRITE if self._armed else 0)
        try:
            self._loop.registry.modify(self._sock.fileno(), events)
        except (OSError, ValueError) as exc:
            self._end(exc)

    def _watch_deadline(self) -> None:
        if self._deadline is None and self._queue and (due := self._queue.first()[2]) != math.inf:
            self._set_deadline(self._loop.scheduler.call_at(due, self._expire))

    def _set_next_flush(self, handle: Handle | None) -> None:
        if self._next_flush is not None:
            self._next_flush.cancel()
        self._next_flush = handle

    def _set_deadline(self, handle: Handle | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = handle

    def _expire(self) -> None:
        """Drop what the kernel did not take in time."""
        self._deadline = None
        late = self._queue.remove_due(self._loop.time())
        if late:
            self._dropped["queue_timeout"] += late
            message = "%s: %d datagrams were dropped, which the kernel did not take in %g s"
            timeout = self._limits.queue_timeout
            self._loop.scheduler.log.warning((self, "queue_timeout"), message, self, late, timeout)
        self._watch_deadline()
        if late:
            self._flushed()

    # Flow control

    def get_write_buffer_size(self) -> int:
        """Return the bytes of the queued datagrams."""
        return self._queue.size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and high water marks, in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks, in bytes; None: the defaults of asyncio, 64 KiB and a quarter of `high`.

        Raises ValueError unless 0 <= low <= high.
        """
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"low ({low}) must be between 0 and high ({high})")
        self._high, self._low = high, low
        self._pause_if_above()
        self._resume_if_below()

    def _pause_if_above(self) -> None:
        queue = self._queue
        if self._paused or self._protocol is None:
            return
        if queue.size > self._high or len(queue) > self._limits.max_queued_datagrams // 2:
            self._paused = True
            self._call_flow("pause_writing")

    def _resume_if_below(self) -> None:
        queue = self._queue
        if not self._paused or self._state in _ENDED or self._protocol is None:
            return
        if queue.size <= self._low and len(queue) <= self._limits.max_queued_datagrams // 4:
            self._paused = False
            self._call_flow("resume_writing")

    def _call_flow(self, name: str) -> None:
        try:
            getattr(self._protocol, name)()
        except Exception as exc:
            self._callback_failed(exc, name)

    # Errors

    def _read_errors(self) -> bool:
        """Note the errors in the kernel's queue; return whether there were any."""
        if not self._queues_errors:
            return False
        found = False
        for exc, address in queued_errors(self._sock, _ERRORS_AT_ONCE):
            found = True
            self._note_error(exc, address)
        return found

    def _note_error(self, exc: OSError, address: Any) -> None:
        """Call `error_received` in this tick or the next; more than the limit are counted only."""
        self._failed += 1
        if self._on_error is ignore:
            where = "" if address is None else f" to {address}"
            self._loop.scheduler.log.info((self, exc.errno), "%s: a datagram%s: %s", self, where, exc)
            return
        if len(self._errors) < _ERRORS_KEPT:
            self._errors.append((exc, address))
        if self._errors_due is None:
            self._errors_due = self._loop.scheduler.call_soon(self._deliver_errors)

    def _deliver_errors(self) -> None:
        self._errors_due = None
        for _ in range(len(self._errors)):
            exc, address = self._errors.popleft()
            if self._state in _ENDED:
                self._errors.clear()
                return
            try:
                self._on_error(exc, address)
            except Exception as problem:
                self._callback_failed(problem, "error_received")

    # Multicast

    def join(self, group: str, interface: str | int | None = None) -> None:
        """Receive what is sent to the multicast address `group`, until `leave` or the end.

        interface: its name or index; None: the one that the routing table has for the group.
        Raises AddressError if it is no multicast address, or of another family than the socket, OSError if
        the interface does not exist or the kernel refuses.
        """
        self._change_membership(group, interface, join=True)

    def leave(self, group: str, interface: str | int | None = None) -> None:
        """Undo `join` for the same group and interface. Raises as `join`."""
        self._change_membership(group, interface, join=False)

    def _change_membership(self, group: str, interface: str | int | None, *, join: bool) -> None:
        self._check_open()
        change_membership(self._sock, group, interface_index(interface, self._loop.system), join=join)

    def set_multicast(self, interface: str | int | None = None, *, loopback: bool | None = None) -> None:
        """Set how datagrams to groups are sent; None leaves a setting as it is.

        interface: the one to send on, by name or index. loopback: whether members on this host get them too,
            as they do by default. Their time to live is `ttl` of `Reactor.bind_datagram`, or 1.
        Raises OSError if the interface does not exist or the kernel refuses.
        """
        self._check_open()
        index = None if interface is None else interface_index(interface, self._loop.system)
        set_sending(self._sock, index, loopback)

    def _check_open(self) -> None:
        self._loop.lifetime.check_process()
        if self._state is not _OPEN:
            raise UsageError(f"{self} is not open")

    # The end

    def close(self, timeout: float = 30.0) -> None:
        """Send what is queued, then close; nothing is received any more. More than once does nothing.

        timeout: seconds, after which what is left is dropped and `connection_lost` gets `CloseTimeout`; each
            datagram also has its deadline, `DatagramLimits.queue_timeout`.
        Raises ValueError for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        timeout = seconds("timeout", timeout, zero=True)
        if self._state not in _SENDS:
            self._loop.lifetime.check_process()
            return
        self._send_run()
        if not self._queue:
            self._end(None)
            return
        with Step(self._interrupted):
            if timeout != math.inf:
                self._close_timer = self._loop.scheduler.call_later(timeout, self._close_timed_out, timeout)
            self._state, self._direct = _CLOSING, False
            if self._sock is not None:
                self._update_interest()

    def abort(self, exc: BaseException | None = None) -> None:
        """Drop what is queued, and close at once; `connection_lost` is called later.

        exc: the argument of `connection_lost`; None for `ConnectionAborted`.
        """
        if self._state in _ENDED:
            self._loop.lifetime.check_process()
            return
        self._end(ConnectionAborted("aborted by this side") if exc is None else exc)

    def _close_timed_out(self, timeout: float) -> None:
        self._close_timer = None
        if self._state is _CLOSING:
            left = len(self._queue)
            self._end(CloseTimeout(f"{left} datagrams were still queued after {timeout:g} s"))

    def _end(self, reason: BaseException | None) -> None:
        """Close the socket, drop what is queued, and have `connection_lost` called in the next tick."""
        if self._state in _ENDED:
            return
        if self._sock is None:  # its name is still being resolved: there is no protocol yet
            self._give_up()
            return
        with Step(self._interrupted):
            self._reason = reason
            self._state, self._direct = _CLOSED, False
            self._clean_up()
            self._loop.scheduler.post_notice(self._notify_lost)

    def _clean_up(self) -> None:
        self._cancel_timers()
        self._release()
        self._drop_queue()

    def _drop_queue(self) -> None:
        left = self._queue.clear() + len(self._run)
        self._run, self._room = [], 0
        if left:
            self._dropped["closed"] += left

    def _cancel_timers(self) -> None:
        for handle in (self._next_flush, self._run_due, self._deadline, self._close_timer):
            if handle is not None:
                handle.cancel()
        self._next_flush = self._run_due = self._deadline = self._close_timer = None

    def _release(self) -> None:
        """Close the socket, and remove the file of a Unix one. More than once does nothing."""
        sock = self._sock
        if sock is not None and sock.fileno() >= 0:
            drops = count_drops(sock) - self._drops_before
            if drops:
                self._dropped["kernel"] += drops
            self._unregister()
            close_quietly(sock)
        path, self._path = self._path, None
        if path is not None:
            path.remove()

    def _unregister(self) -> None:
        registry, fd = self._loop.registry, self._sock.fileno()
        if registry.owner_of(fd) is self:
            registry.unregister(fd)

    def _notify_lost(self) -> None:
        protocol = self._protocol
        try:
            if self._state is _CLOSED and protocol is not None:
                # In one line: after an interrupt anywhere this is done again, and it must be called once.
                protocol.connection_lost((setattr(self, "_state", _LOST), self._reason)[1])  # type: ignore[func-returns-value]
        except Exception as exc:
            self._callback_failed(exc, "connection_lost")
        self._state, self._protocol = _LOST, None
        self._on_end(self)

    # Draining, interrupts, forks

    def _drain(self, batches: int = _DRAINED_BATCHES) -> None:
        """Serve what has arrived, wait for a protocol that is busy, and close."""
        if self._state is not _OPEN:
            return
        if batches and not self._deaf and self._receive():
            self._loop.scheduler.call_soon(self._drain, batches - 1)
        elif self._is_busy():
            self._loop.scheduler.call_later(_DRAIN_PAUSE, self._drain)
        else:
            self.close()

    def _stop_receiving(self) -> None:
        """Leave what comes to the other processes that have the socket."""
        self._deaf = True
        self._update_interest()

    def _is_busy(self) -> bool:
        draining = getattr(self._protocol, "draining", None)
        if self._state is not _OPEN or draining is None:
            return False
        try:
            return bool(draining())
        except Exception as exc:
            self._callback_failed(exc, "draining")
            return False

    def _recover(self) -> None:
        """Restore the events and timers after an interrupt anywhere."""
        scheduler = self._loop.scheduler
        if self._state is _CLOSED:
            self._clean_up()
            if not any(callback == self._notify_lost for callback, _ in scheduler.notices_due()):
                scheduler.post_notice(self._notify_lost)
            return
        if self._sock is None:
            scheduler.call_soon(self._resolved)
            return
        if self._state is _LOST:
            return  # its notice is due again
        if self._state is _OPENING:  # it came before `connection_made`
            self._release()
            self._give_up()
            return
        self._queue.recover()
        self._update_interest()
        self._set_deadline(None)
        self._watch_deadline()
        self._set_next_flush(scheduler.call_soon(self._flush))
        self._run_due = scheduler.call_soon(self._end_run)
        self._errors_due = scheduler.call_soon(self._deliver_errors)

    def _detach(self) -> list[socket.socket]:
        """Detach after fork: stop using kernel objects shared with the parent. Returns the socket."""
        ended = self._state in _ENDED
        self._state, self._direct, self._protocol, self._path = _LOST, False, None, None
        self._queue.clear()
        self._run, self._room = [], 0
        return [] if self._sock is None or ended else [self._sock]


def _is_unix_text(address: Any) -> bool:
    """Return whether `address` is the text of a Unix socket's address, and no path."""
    return isinstance(address, str) and address.startswith("unix:")


# For the reactor


def open_endpoint(endpoint: Endpoint, opened: Opened) -> None:
    """Open it on a socket. Raises what the factory raises; the socket is closed then."""
    endpoint._open(opened)


def look_up(
    endpoint: Endpoint, resolver: Workers, local_address: Address | None, on_failure: FailureHandler | None
) -> None:
    """Resolve its target, on a thread if that is a name, and connect it.

    Raises what the factory raises, and without `on_failure` ConnectError, if the target is numeric.
    """
    endpoint._local_address = local_address
    endpoint._on_failure = on_failure
    endpoint._look_up(resolver)


def drain_endpoint(endpoint: Endpoint, *, shared: bool = True) -> None:
    """Serve what has arrived, and close when its protocol is not busy.

    shared: receive it on a socket that other processes have, too; False leaves it to them.
    """
    if endpoint._state is _OPEN:
        if endpoint._shared and not shared:
            endpoint._stop_receiving()
        endpoint._loop.scheduler.call_soon(endpoint._drain)
    else:
        endpoint.close()


def recover_endpoint(endpoint: Endpoint) -> None:
    """Restore its events and timers after an interrupt anywhere."""
    endpoint._recover()


def detach_endpoint(endpoint: Endpoint) -> list[socket.socket]:
    """Detach after fork: stop using kernel objects shared with the parent. Returns the socket."""
    return endpoint._detach()
