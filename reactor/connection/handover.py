"""Handing over: freezing a connection here, describing it, and reviving it in another process.

A frozen connection neither receives nor sends, and no deadline of it passes; what is written on it is queued.
So its socket can have a second owner, a process that gets a duplicate of it by SCM_RIGHTS (unix(7)), and the
peer sees nothing of that: what it sends stays in the kernel's receive buffer. One of the two then thaws it:

    freeze -> take_snapshot ->                                   -> thaw    the transfer has failed
    freeze -> take_snapshot -> written_since                     -> leave   the other process has it
                               revive -> make_protocol_of        -> thaw    in that process

`leave` closes the descriptor without shutdown(2), which would end the connection for the new owner too.

A snapshot has all of a connection's attributes, so that this module knows them, as no other one does beside
`connection`; what is done to a connection that goes over is here, and nothing of it there.
"""

from __future__ import annotations

import copy
import socket
from contextlib import suppress
from typing import Any

import attrs

from reactor.connection.channel import Kind
from reactor.connection.connection import Connection
from reactor.connection.interface import check_protocol
from reactor.connection.interrupts import Step
from reactor.connection.rates import TokenBucket
from reactor.connection.send_queue import Sending, SendQueue
from reactor.connection.settings import Settings
from reactor.connection.state import ENDED, FROZEN, LENT, Event, State
from reactor.errors import ConnectionAborted, HandedOver

__all__ = [
    "Frozen", "Snapshot", "can_hand_over", "cut", "freeze", "leave", "make_protocol_of", "own_settings",
    "revive", "shut_down", "socket_of", "take_snapshot", "thaw", "written_since",
]  # fmt: skip

# From each of these the other process can go on; a closing connection is on its way to its end here.
_LASTING = frozenset({State.OPEN, State.READ_CLOSED, State.WRITE_CLOSED})

# The fields of a snapshot that are in the bytes of its message.
_PARTS = ("protocol_state", "input", "output")

# The settings that a connection may have of its own, from `set_timeouts` and `set_write_buffer_limits`.
_OWN_TIMEOUTS = ("idle", "write", "close")
_OWN_LIMITS = ("high_water", "low_water")


@attrs.frozen(kw_only=True)
class Snapshot:
    """Everything of a frozen connection but its socket.

    Whether `pause_reading` was called is not in it: what would have called `resume_reading`, a timer or an
    answer of another server, stays behind, and `take_over` knows what to wait for instead.

    state: the value of its `State`. peer: the peer's packed socket address.
    protocol_state: from the protocol's `hand_over`. input: from its `buffered_input`, not consumed yet.
    output: bytes that were written and that the kernel has not accepted.
    write_paused: the protocol's `pause_writing` was called.
    idle: seconds without a byte in either direction. stuck: seconds in which the peer took none of `output`.
    owed: the seconds that have passed of the read deadline, and its timeout; None without one.
    timeouts, limits: the settings that are not those of its listener.
    proxy_header: the PROXY header that it began with; None without one.
    read_tokens, write_tokens: bytes that `read_rate` and `write_rate` allow; None without the rate.
    """

    state: str
    peer: bytes | str | None
    protocol_state: bytes
    input: bytes
    output: bytes
    write_paused: bool
    idle: float
    stuck: float
    owed: tuple[float, float] | None
    timeouts: dict[str, Any]
    limits: dict[str, Any]
    proxy_header: bytes | None = None
    read_tokens: float | None = None
    write_tokens: float | None = None

    def to_message(self) -> tuple[dict[str, Any], bytes]:
        """Return it as fields for JSON, and bytes."""
        fields = attrs.asdict(self)
        parts = [fields.pop(name) for name in _PARTS]
        if isinstance(self.peer, bytes):
            fields["peer"] = {"packed": self.peer.hex()}
        if self.proxy_header is not None:
            fields["proxy_header"] = self.proxy_header.hex()
        fields["sizes"] = [len(part) for part in parts]
        return fields, b"".join(parts)

    @classmethod
    def from_message(cls, fields: dict[str, Any], body: bytes) -> Snapshot:
        """Return the snapshot whose `to_message` returned these; fields that it does not know are ignored.

        Raises ValueError, KeyError or TypeError for invalid ones.
        """
        first, second, third = fields["sizes"]
        if first + second + third != len(body):
            raise ValueError(f"the parts of {len(body)} bytes have {first}, {second} and {third}")
        peer, owed = fields["peer"], fields["owed"]
        proxy_header = fields.get("proxy_header")  # a process of before that has none
        return cls(
            state=State(fields["state"]).value,
            peer=bytes.fromhex(peer["packed"]) if isinstance(peer, dict) else peer,
            protocol_state=body[:first],
            input=body[first : first + second],
            output=body[first + second :],
            write_paused=fields["write_paused"],
            idle=fields["idle"],
            stuck=fields["stuck"],
            owed=None if owed is None else (owed[0], owed[1]),
            timeouts=fields["timeouts"],
            limits=fields["limits"],
            proxy_header=None if proxy_header is None else bytes.fromhex(proxy_header),
            read_tokens=fields.get("read_tokens"),
            write_tokens=fields.get("write_tokens"),
        )


@attrs.frozen(eq=False)
class Frozen:
    """A connection that was frozen, with what freezing has changed.

    state: its state then. idle, stuck: as in `Snapshot`.
    """

    connection: Connection
    state: State
    idle: float
    stuck: float


def can_hand_over(connection: Connection) -> bool:
    """Return whether another process could go on with it.

    It must be in clear, and not closing; no part of a file may be queued, and its protocol must have
    `hand_over`.
    """
    queue = connection._queue
    return (
        connection._state in _LASTING
        and connection._channel.kind in {Kind.CLEAR, Kind.LIMITED}
        and not connection._reading_stopped & (LENT | FROZEN)
        and (queue is None or not queue.has_files())
        and hasattr(connection._protocol, "hand_over")
    )


def freeze(connection: Connection) -> Frozen:
    """Stop receiving and sending until `thaw`, whatever the program and the timers do meanwhile.

    An interrupt in it, or in `thaw`, ends the connection.
    """
    with Step(connection._break_off):
        return _freeze(connection)


def _freeze(connection: Connection) -> Frozen:
    now, queue = connection._settings.loop.time(), connection._queue
    since = max(connection._last_active, connection._reading_changed)
    waits = connection._holds_back() or (queue is not None and queue.throttled)
    stuck = now - queue.since if queue is not None and queue.armed else 0.0
    frozen = Frozen(connection, connection._state, 0.0 if waits else max(0.0, now - since), max(0.0, stuck))
    connection._stop_reading(connection._reading_stopped | FROZEN)
    if connection._state not in ENDED and connection._sending is not Sending.SHUT:
        queue = copy.copy(connection._queued())  # another one, which no timer of `write_rate` knows
        queue.throttled, queue.armed, queue.room = True, False, 0
        connection._queue = queue
        connection._update_interest()
    return frozen


def take_snapshot(frozen: Frozen, common: Settings) -> Snapshot | None:
    """Return a snapshot; None if the connection is not as it was frozen, or its protocol is not ready.

    common: the settings of its listener. What the protocol's methods raise is reported, and is not ready.
    """
    connection, protocol = frozen.connection, frozen.connection._protocol
    name = "hand_over"
    try:
        state = protocol.hand_over()
        if state is not None and not isinstance(state, bytes):
            raise TypeError(f"hand_over must return bytes or None, not {type(state).__name__}")
        name = "buffered_input"
        buffered = getattr(protocol, name, None)
        unread = b"" if buffered is None else buffered()
    except Exception as exc:
        name = f"{type(protocol).__qualname__}.{name}"
        connection._settings.loop.scheduler.report(exc, name, connection)
        return None
    output = _content(frozen)
    if state is None or unread is None or output is None:
        return None
    owed, settings = connection._owed, connection._settings
    return Snapshot(
        state=frozen.state.value,
        peer=connection._peer,
        protocol_state=state,
        input=unread,
        output=output,
        write_paused=connection.is_paused(),
        idle=frozen.idle,
        stuck=frozen.stuck,
        owed=None if owed is None else (max(0.0, connection._reading_changed - owed[0]), owed[1]),
        timeouts=_differing(settings.timeouts, common.timeouts, _OWN_TIMEOUTS),
        limits=_differing(settings.limits, common.limits, _OWN_LIMITS),
        proxy_header=settings.proxy_header,
        read_tokens=_level(connection, connection._channel.rate),
        write_tokens=_level(connection, None if connection._queue is None else connection._queue.rate),
    )


def written_since(frozen: Frozen, sent: int) -> bytes | None:
    """Return what was queued after the first `sent` bytes; None if the connection is not as it was frozen."""
    content = _content(frozen)
    return None if content is None else content[sent:]


def socket_of(connection: Connection) -> Any:
    """Return the socket of a connection in clear."""
    return connection._sock


def leave(connection: Connection) -> None:
    """Close the descriptor, which another process has too; `connection_lost` is called with `HandedOver`.

    Does nothing if the connection has ended.
    """
    if connection._state not in ENDED:
        connection._close_now(HandedOver("the connection goes on in another process"))


def cut(connection: Connection) -> None:
    """End the connection for its peer, and for whoever has a duplicate of its socket."""
    shut_down(connection._sock)
    connection.abort(ConnectionAborted("an interrupt came while it was handed over"))


def shut_down(sock: Any) -> None:
    """End both directions of a socket, for all processes that have it."""
    with suppress(OSError):  # the peer has reset it, or it is closed
        sock.shutdown(socket.SHUT_RDWR)


def thaw(connection: Connection, snapshot: Snapshot | None = None) -> None:
    """Receive and send again. Does nothing if the connection has ended.

    snapshot: that of a revived connection, whose deadlines go on; None: `idle` and `write` begin anew.
    """
    if connection._state in ENDED or not connection._reading_stopped & FROZEN:
        return
    with Step(connection._break_off):
        _thaw(connection, snapshot)


def _thaw(connection: Connection, snapshot: Snapshot | None) -> None:
    now, queue = connection._settings.loop.time(), connection._queue
    connection._stop_reading(connection._reading_stopped & ~FROZEN)
    if snapshot is not None:
        connection._last_active = connection._reading_changed = now - snapshot.idle
    if queue is not None:
        before = queue.size
        connection._unthrottle(queue)
        if snapshot is not None and queue.armed and queue.size == before:
            queue.since = now - snapshot.stuck
    if connection._state in ENDED:
        return
    connection._watch_deadlines()
    resumed = getattr(connection._protocol, "reading_resumed", None)
    try:
        if resumed is not None:
            resumed()
    except Exception as exc:
        connection._callback_failed(exc, "reading_resumed")


def own_settings(snapshot: Snapshot, common: Settings) -> Settings:
    """Return the connection's settings where those of its listener are `common`.

    Raises ValueError if its own limits don't fit to the others.
    """
    settings = common
    if snapshot.timeouts:
        settings = attrs.evolve(settings, timeouts=attrs.evolve(settings.timeouts, **snapshot.timeouts))
    if snapshot.limits:
        settings = attrs.evolve(settings, limits=attrs.evolve(settings.limits, **snapshot.limits))
    if snapshot.proxy_header is not None:
        settings = attrs.evolve(settings, proxy_header=snapshot.proxy_header)
    return settings


def revive(kind: type[Connection], common: Settings, sock: Any, snapshot: Snapshot) -> Connection:
    """Return a connection of `sock` as it was in the other process, frozen and without a protocol.

    common: the settings of its listener. Raises OSError if the selector refuses the socket.
    """
    connection = kind(own_settings(snapshot, common), sock, _StandIn(), None)
    loop, state = common.loop, State(snapshot.state)
    connection._peer = snapshot.peer
    connection._move(Event.MADE)
    if snapshot.output or state is not State.WRITE_CLOSED:
        connection._queue = _queue_of(connection, snapshot)
        connection._sending = Sending.QUEUED
    if state is State.READ_CLOSED:
        connection._move(Event.PEER_EOF)
    elif state is State.WRITE_CLOSED:
        connection._end_writing(Event.WRITE_EOF)
    connection._reading_stopped = FROZEN
    if snapshot.owed is not None:
        elapsed, timeout = snapshot.owed
        connection._owed = loop.now - elapsed, timeout
    loop.registry.register(sock.fileno(), 0, connection._event_method(), connection)
    return connection


def make_protocol_of(connection: Connection, snapshot: Snapshot, factory: Any) -> None:
    """Set the protocol that the factory's `take_over` makes; an exception is reported, and resets it."""
    protocol: Any = None
    try:
        protocol = factory.take_over(connection, snapshot.protocol_state)
        check_protocol(protocol, "take_over returned")
        connection._protocol = protocol
        if connection._state in ENDED:
            return
        channel = connection._clear_channel()
        _fill(channel.rate, snapshot.read_tokens)
        connection._set_channel(channel)
        if connection.is_paused():
            protocol.pause_writing()
        if snapshot.input:
            protocol.restore_input(snapshot.input)
    except Exception as exc:
        name = f"take_over of {getattr(factory, '__qualname__', repr(factory))}"
        connection._settings.loop.scheduler.report(exc, name, connection)
        connection.abort(exc)
    except BaseException:
        if protocol is not None and connection._state is not State.LOST:
            connection._protocol = protocol  # which is called with the end
        connection._break_off()
        raise


def _queue_of(connection: Connection, snapshot: Snapshot) -> SendQueue:
    now, rate = connection._settings.loop.now, connection._settings.limits.write_rate
    queue = SendQueue(now - snapshot.stuck)
    queue.append(snapshot.output)
    queue.throttled = True
    queue.paused = snapshot.write_paused
    queue.rate = None if rate is None else TokenBucket(rate, now)
    _fill(queue.rate, snapshot.write_tokens)
    return queue


def _level(connection: Connection, bucket: TokenBucket | None) -> float | None:
    return None if bucket is None else bucket.level(connection._settings.loop.time())


def _fill(bucket: TokenBucket | None, tokens: float | None) -> None:
    """Fill the bucket as that of the other process; it is full if that had none."""
    if bucket is not None and tokens is not None:
        bucket.fill(tokens)


def _content(frozen: Frozen) -> bytes | None:
    """Return what is queued; None if the connection is not as it was frozen, or part of a file is queued."""
    connection, queue = frozen.connection, frozen.connection._queue
    if connection._state is not frozen.state or not connection._reading_stopped & FROZEN:
        return None
    if queue is None:
        return b""
    return None if queue.has_files() else queue.content()


def _differing(own: Any, common: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(own, name) for name in names if getattr(own, name) != getattr(common, name)}


class _StandIn:
    """The protocol of a revived connection until `take_over` returns the real one."""

    def data_received(self, data: bytes) -> None:
        """Do nothing: nothing is received before."""

    def pause_writing(self) -> None:
        """Do nothing: the real protocol is called when it is set, if the queue is long then."""

    def resume_writing(self) -> None:
        """Do nothing: the real protocol is not paused yet."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Do nothing: the factory has raised, and knows."""
