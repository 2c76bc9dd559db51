"""`Endpoint`: one datagram socket with its protocol: opening, facts, groups, closing.

The loop reports the socket; `receiving` receives what is there, up to a batch, and passes each datagram to
the protocol. `send` hands a datagram to the kernel at once; what that does not take is `sending`'s, which
queues it. Errors of both, and the kernel's queue of ICMP errors, go through `errors`. What they share is the
`Core` of `state`.

The functions at the end are for the reactor; users call the methods.
"""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

import attrs

from reactor.address import Address
from reactor.connection.closing import close_quietly
from reactor.connection.interrupts import Step
from reactor.datagrams.addresses import check_peer
from reactor.datagrams.errors import ErrorReports, count_drops, queue_errors
from reactor.datagrams.interface import error_handler, make_protocol
from reactor.datagrams.limits import DatagramLimits
from reactor.datagrams.lookup import FailureHandler, Lookup
from reactor.datagrams.multicast import change_membership, interface_index, set_sending
from reactor.datagrams.opening import Opened, SocketSettings
from reactor.datagrams.receiving import Receiver
from reactor.datagrams.sending import Sender
from reactor.datagrams.state import ENDED, SENDS, Core, EndpointState
from reactor.errors import CloseTimeout, ConnectionAborted, UsageError
from reactor.listening.binding import UnixPath
from reactor.loop.loop import Loop
from reactor.loop.stats import DatagramStats
from reactor.loop.timers import Handle
from reactor.options import seconds

if TYPE_CHECKING:
    from reactor.loop.workers import Workers

__all__ = [
    "Endpoint", "detach_endpoint", "drain_endpoint", "look_up",
    "open_endpoint", "recover_endpoint",
]  # fmt: skip

# Batches that a drain receives before it takes the socket for one that never gets empty, and the seconds
# between two checks of a protocol that is busy.
_DRAINED_BATCHES = 64
_DRAIN_PAUSE = 0.05

_OPENING, _OPEN, _CLOSING, _CLOSED, _LOST = EndpointState


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

    # Its sides, and what they share. It receives when it is open.
    _core: Core = attrs.field(init=False)
    _errors: ErrorReports = attrs.field(init=False)
    _sender: Sender = attrs.field(init=False)
    _receiver: Receiver = attrs.field(init=False)

    _path: UnixPath | None = attrs.field(default=None, init=False)
    _own_name: Any = attrs.field(default=None, init=False)
    _shared: bool = attrs.field(default=False, init=False)  # other processes receive on the socket, too
    _drops_before: int = attrs.field(default=0, init=False)  # those that the socket had counted
    _reason: BaseException | None = attrs.field(default=None, init=False)
    _close_timer: Handle | None = attrs.field(default=None, init=False)
    _lookup: Lookup | None = attrs.field(default=None, init=False)  # of the name to connect to

    def __attrs_post_init__(self) -> None:
        self._core = Core(
            endpoint=self,
            loop=self._loop,
            limits=self._limits,
            settings=self._settings,
            end=self._end,
            target=self._target,
        )
        self._errors = ErrorReports(self._core)
        self._sender = Sender(self._core, self._errors)

    def __repr__(self) -> str:
        core = self._core
        own = str(self.address) if self._own_name else ""
        target = f"to {self._target}" if self._target is not None else ""
        protocol = f", {type(core.protocol).__name__}" if core.protocol is not None else ""
        return " ".join(filter(None, ("<Endpoint", own, target, f"{core.state.value}{protocol}>")))

    # What it is

    @property
    def reactor(self) -> Any:
        """The reactor that it belongs to."""
        return self._reactor

    @property
    def state(self) -> EndpointState:
        """Its state."""
        return self._core.state

    @property
    def address(self) -> Address:
        """The address that it is bound to, with the real port.

        Raises UsageError while a name is resolved, and for a Unix socket without a name.
        """
        if not self._own_name:
            raise UsageError(f"{self} has no address" + (" yet" if self._core.state is _OPENING else ""))
        return Address.from_sockaddr(self._own_name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the socket, or `default` if there is none of that name.

        name: "sockname" or "peername" (socket addresses), or "socket" (for its options; don't close it,
            read it or write to it).
        """
        core = self._core
        known = {"sockname": self._own_name, "peername": core.peer, "socket": core.sock}
        found = known.get(name)
        return default if found is None else found

    def get_protocol(self) -> Any:
        """Return the protocol; None before `connection_made` and after `connection_lost`."""
        return self._core.protocol

    def set_protocol(self, protocol: Any) -> None:
        """Replace the protocol; the new one gets no `connection_made`. Raises TypeError if it is none."""
        self._core.protocol = make_protocol(lambda: protocol)
        self._errors.handler = error_handler(protocol)

    def is_closing(self) -> bool:
        """Return whether `close` or `abort` was called, or the socket has failed."""
        return self._core.state not in SENDS

    def stats(self) -> DatagramStats:
        """Return its counters since it was made, and its gauges."""
        core, queue = self._core, self._sender.queue
        dropped = Counter(core.dropped)
        if core.sock is not None and core.state not in ENDED:
            dropped["kernel"] += count_drops(core.sock) - self._drops_before
        return DatagramStats(
            received=core.received,
            sent=core.sent,
            bytes_received=core.bytes_received,
            bytes_sent=core.bytes_sent,
            dropped=+dropped,
            refused=dict(core.refused),
            errors=core.failed,
            open=int(core.state not in ENDED),
            queued=len(queue),
            queued_bytes=queue.size,
        )

    # Opening

    def _open(self, opened: Opened) -> None:
        """Take the socket, and call `connection_made`.

        Raises what the factory raises; the socket is closed then, or the caller's again.
        """
        core = self._core
        closing = core.state is _CLOSING
        try:
            sock = core.sock = opened.sock
            self._path, core.peer, self._shared = opened.path, opened.peer, opened.shared
            self._drops_before = count_drops(sock)
            self._own_name = sock.getsockname()
            self._errors.queues = queue_errors(sock)
            core.is_unix = sock.family == getattr(socket, "AF_UNIX", None)
            self._receiver = Receiver(core, self._errors, self._shared_buffer)
            protocol = make_protocol(self._factory)
            if core.state in ENDED:
                return  # the factory has closed it
            self._errors.handler = error_handler(protocol)
            self._loop.registry.register(sock.fileno(), EVENT_READ, Endpoint._on_event, self)
        except BaseException:
            if opened.given:
                self._unregister()
                core.sock = None
            self._release()
            self._give_up()
            raise
        self._made(protocol)
        if closing and core.state is _OPEN:
            core.state = _CLOSING
        if self._sender.queue or core.state is _CLOSING:
            self._sender.flush()

    def _made(self, protocol: Any) -> None:
        core = self._core
        try:
            core.state, core.direct = _OPEN, not (self._settings.gso or self._sender.queue)
            # In one line: `connection_lost` is called of the protocol if this was, after an interrupt too.
            protocol.connection_made((setattr(core, "protocol", protocol), self)[1])  # type: ignore[func-returns-value]
        except Exception as exc:
            core.callback_failed(exc, "connection_made")
            self.abort(exc)
        except BaseException as exc:
            self._end(ConnectionAborted(f"{type(exc).__name__} came in connection_made"))
            raise

    def _look_up(
        self, resolver: Workers, local_address: Address | None, on_failure: FailureHandler | None
    ) -> None:
        self._lookup = Lookup(
            self._core, local_address, on_opened=self._open, on_gone=self._give_up, on_failure=on_failure
        )
        self._lookup.begin(resolver)

    def _give_up(self) -> None:
        self._core.state = _LOST
        self._sender.drop_all()
        self._cancel_timers()
        self._on_end(self)

    def _on_event(self, events: int) -> None:
        """Receive a batch, or send what is queued, or both. The loop's callback."""
        core = self._core
        if events & EVENT_READ and core.state is _OPEN:
            self._receiver.receive()
        if events & EVENT_WRITE and core.armed:
            self._sender.flush()

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
        core = self._core
        if source is not None:
            return self._sender.send(data, address, source)
        if not core.direct:
            sender = self._sender
            fits = sender.room and type(data) is bytes and len(data) == sender.segment
            if fits and address == sender.run_address:
                return sender.gather(data)
            return sender.send(data, address)
        try:
            if core.peer is None:
                size = core.sock.sendto(data, address)
            else:
                if address is not None:
                    check_peer(core, address)
                size = core.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return self._sender.enqueue(data, address)
        except (OSError, TypeError, OverflowError) as exc:
            return self._sender.send_otherwise(exc, data, address)
        core.sent += 1
        core.bytes_sent += size
        return True

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> bool:
        """Send as `send` does, from the address that the kernel chooses; asyncio's name."""
        return self.send(data, addr)

    # Flow control

    def get_write_buffer_size(self) -> int:
        """Return the bytes of the queued datagrams."""
        return self._sender.queue.size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and high water marks, in bytes."""
        return self._sender.water_marks()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks, in bytes; None: the defaults of asyncio, 64 KiB and a quarter of `high`.

        Raises ValueError unless 0 <= low <= high.
        """
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        self._sender.set_water_marks(high, high // 4 if low is None else low)

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
        change_membership(self._core.sock, group, interface_index(interface, self._loop.system), join=join)

    def set_multicast(self, interface: str | int | None = None, *, loopback: bool | None = None) -> None:
        """Set how datagrams to groups are sent; None leaves a setting as it is.

        interface: the one to send on, by name or index. loopback: whether members on this host get them too,
            as they do by default. Their time to live is `ttl` of `Reactor.bind_datagram`, or 1.
        Raises OSError if the interface does not exist or the kernel refuses.
        """
        self._check_open()
        index = None if interface is None else interface_index(interface, self._loop.system)
        set_sending(self._core.sock, index, loopback)

    def _check_open(self) -> None:
        self._loop.lifetime.check_process()
        if self._core.state is not _OPEN:
            raise UsageError(f"{self} is not open")

    # The end

    def close(self, timeout: float = 30.0) -> None:
        """Send what is queued, then close; nothing is received any more. More than once does nothing.

        timeout: seconds, after which what is left is dropped and `connection_lost` gets `CloseTimeout`; each
            datagram also has its deadline, `DatagramLimits.queue_timeout`.
        Raises ValueError for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        core = self._core
        timeout = seconds("timeout", timeout, zero=True)
        if core.state not in SENDS:
            self._loop.lifetime.check_process()
            return
        self._sender.send_run()
        if not self._sender.queue:
            self._end(None)
            return
        with Step(core.interrupted):
            if timeout != math.inf:
                self._close_timer = self._loop.scheduler.call_later(timeout, self._close_timed_out, timeout)
            core.state, core.direct = _CLOSING, False
            if core.sock is not None:
                core.update_interest()

    def abort(self, exc: BaseException | None = None) -> None:
        """Drop what is queued, and close at once; `connection_lost` is called later.

        exc: the argument of `connection_lost`; None for `ConnectionAborted`.
        """
        if self._core.state in ENDED:
            self._loop.lifetime.check_process()
            return
        self._end(ConnectionAborted("aborted by this side") if exc is None else exc)

    def _close_timed_out(self, timeout: float) -> None:
        self._close_timer = None
        if self._core.state is _CLOSING:
            left = len(self._sender.queue)
            self._end(CloseTimeout(f"{left} datagrams were still queued after {timeout:g} s"))

    def _end(self, reason: BaseException | None) -> None:
        """Close the socket, drop what is queued, and have `connection_lost` called in the next tick."""
        core = self._core
        if core.state in ENDED:
            return
        if core.sock is None:  # its name is still being resolved: there is no protocol yet
            self._give_up()
            return
        with Step(core.interrupted):
            self._reason = reason
            core.state, core.direct = _CLOSED, False
            self._clean_up()
            self._loop.scheduler.post_notice(self._notify_lost)

    def _clean_up(self) -> None:
        self._cancel_timers()
        self._release()
        self._sender.drop_all()

    def _cancel_timers(self) -> None:
        self._sender.cancel_timers()
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None

    def _release(self) -> None:
        """Close the socket, and remove the file of a Unix one. More than once does nothing."""
        core = self._core
        sock = core.sock
        if sock is not None and sock.fileno() >= 0:
            drops = count_drops(sock) - self._drops_before
            if drops:
                core.dropped["kernel"] += drops
            self._unregister()
            close_quietly(sock)
        path, self._path = self._path, None
        if path is not None:
            path.remove()

    def _unregister(self) -> None:
        registry, fd = self._loop.registry, self._core.sock.fileno()
        if registry.owner_of(fd) is self:
            registry.unregister(fd)

    def _notify_lost(self) -> None:
        core = self._core
        protocol = core.protocol
        try:
            if core.state is _CLOSED and protocol is not None:
                # In one line: after an interrupt anywhere this is done again, and it must be called once.
                protocol.connection_lost((setattr(core, "state", _LOST), self._reason)[1])  # type: ignore[func-returns-value]
        except Exception as exc:
            core.callback_failed(exc, "connection_lost")
        core.state, core.protocol = _LOST, None
        self._on_end(self)

    # Draining, interrupts, forks

    def _drain(self, batches: int = _DRAINED_BATCHES) -> None:
        """Serve what has arrived, wait for a protocol that is busy, and close."""
        core = self._core
        if core.state is not _OPEN:
            return
        if batches and not core.deaf and self._receiver.receive():
            self._loop.scheduler.call_soon(self._drain, batches - 1)
        elif self._is_busy():
            self._loop.scheduler.call_later(_DRAIN_PAUSE, self._drain)
        else:
            self.close()

    def _stop_receiving(self) -> None:
        """Leave what comes to the other processes that have the socket."""
        core = self._core
        core.deaf = True
        core.update_interest()

    def _is_busy(self) -> bool:
        core = self._core
        draining = getattr(core.protocol, "draining", None)
        if core.state is not _OPEN or draining is None:
            return False
        try:
            return bool(draining())
        except Exception as exc:
            core.callback_failed(exc, "draining")
            return False

    def _recover(self) -> None:
        """Restore the events and timers after an interrupt anywhere."""
        core = self._core
        scheduler = self._loop.scheduler
        if core.state is _CLOSED:
            self._clean_up()
            if not any(callback == self._notify_lost for callback, _ in scheduler.notices_due()):
                scheduler.post_notice(self._notify_lost)
            return
        if core.sock is None:
            if self._lookup is not None:
                scheduler.call_soon(self._lookup.finish)
            return
        if core.state is _LOST:
            return  # its notice is due again
        if core.state is _OPENING:  # it came before `connection_made`
            self._release()
            self._give_up()
            return
        core.update_interest()
        self._sender.recover()
        self._errors.recover()

    def _detach(self) -> list[socket.socket]:
        """Detach after fork: stop using kernel objects shared with the parent. Returns the socket."""
        core = self._core
        ended = core.state in ENDED
        core.state, core.direct, core.protocol, self._path = _LOST, False, None, None
        self._sender.drop_all()
        return [] if core.sock is None or ended else [core.sock]


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
    endpoint._look_up(resolver, local_address, on_failure)


def drain_endpoint(endpoint: Endpoint, *, shared: bool = True) -> None:
    """Serve what has arrived, and close when its protocol is not busy.

    shared: receive it on a socket that other processes have, too; False leaves it to them.
    """
    if endpoint._core.state is _OPEN:
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
