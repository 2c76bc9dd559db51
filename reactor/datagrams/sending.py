"""`Sender`: the sending side of an endpoint: its queue, deadlines, runs for GSO, and flow control.

What the kernel does not take waits in the queue, in order and with a deadline, and goes out when the socket
is writable. With GSO datagrams of one size and address are gathered until the end of a tick, for one call.
"""

from __future__ import annotations

import errno
import math
import socket
from typing import Any

from reactor.connection.interrupts import Step
from reactor.datagrams.addresses import check_peer, is_unix_text, route, sockaddr
from reactor.datagrams.control import Route, segmented
from reactor.datagrams.errors import FATAL, PASSED_ON, ErrorReports
from reactor.datagrams.queue import RUN_BYTES, SEGMENTS, SendQueue
from reactor.datagrams.state import ENDED, SENDS, Core, EndpointState
from reactor.errors import cause_of
from reactor.loop.timers import Handle

__all__ = ["Sender"]

# Calls for one datagram that may fail with the errors of earlier ones. After each the kernel's queue of
# errors is read; a receive buffer of the default size holds less than 400.
_TRIES = 16

# Errors of a connected Unix socket whose peer has closed its own: the first time, and afterwards.
_PEER_GONE = frozenset({errno.ECONNREFUSED, errno.ENOTCONN})

# Seconds until a datagram is tried again whose receiver, a Unix socket, has no room: no event tells when.
_FIRST_RETRY = 0.005
_LAST_RETRY = 0.1

_OPEN, _CLOSING = EndpointState.OPEN, EndpointState.CLOSING


class Sender:
    """The sending side of an endpoint.

    core, errors: the endpoint's.

    queue: what the kernel did not take yet. room: how many more datagrams of `segment` bytes to `run_address`
    the run takes that is being gathered; 0 without one.
    """

    __slots__ = (
        "_core", "_deadline", "_errors", "_high", "_low", "_next_flush", "_one_by_one", "_paused", "_retry",
        "_run", "_run_due", "queue", "room", "run_address", "segment",
    )  # fmt: skip

    def __init__(self, core: Core, errors: ErrorReports) -> None:
        self._core = core
        self._errors = errors
        self.queue = SendQueue()
        self._high, self._low = core.limits.high_water, core.limits.low_water
        self._paused = False  # `pause_writing` was called
        self._next_flush: Handle | None = None  # instead of EVENT_WRITE
        self._retry = _FIRST_RETRY
        self._one_by_one = 0  # datagrams that GSO has refused
        self._run: list[bytes] = []
        self.run_address: Any = None
        self.segment = 0
        self.room = 0
        self._run_due: Handle | None = None
        self._deadline: Handle | None = None  # of the first in the queue

    def send(self, data: bytes | bytearray | memoryview, address: Any, source: str | None = None) -> bool:
        """Send from `source`, or while something is queued or gathered for GSO, or refuse it."""
        core = self._core
        if core.state not in SENDS:
            core.loop.lifetime.check_process()
            core.refused["closing"] += 1
            return False
        if core.target is not None or core.peer is not None:
            if address is not None:
                check_peer(core, address)
        elif not isinstance(address, tuple):
            address = sockaddr(core, address)
        if source is not None:
            address = route(core, source, address)
        piece = data if type(data) is bytes else bytes(memoryview(data))
        if core.direct:
            return self._send_now(piece, address)
        if core.settings.gso and not self.queue and core.state is _OPEN:
            return self._begin_run(piece, address)
        return self.enqueue(piece, address)

    def send_otherwise(self, exc: Exception, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send after the first try has raised `exc`: with another form of the address, or once more."""
        core = self._core
        try:
            if is_unix_text(address) and core.is_unix:
                return self._transmit(data, sockaddr(core, address))
            if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror):
                return self._try_again(exc, data, address)
            return self._transmit(data, address)
        except (BlockingIOError, InterruptedError):
            return self.enqueue(data, address)

    def _transmit(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send now, and return whether it could be. Raises BlockingIOError if the kernel takes nothing."""
        core = self._core
        try:
            size = self._call(data, address)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as exc:
            return self._try_again(exc, data, address)
        core.sent += 1
        core.bytes_sent += size
        return True

    def _try_again(self, exc: OSError, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send again after `exc`, which may be about an earlier datagram; otherwise as `_transmit`."""
        core = self._core
        if exc.errno in FATAL:
            if not self.queue:  # else it is its first one, and dropped with it
                core.dropped[cause_of(exc)] += 1
            core.end(exc)
            return False
        listed = self._errors.read()
        if exc.errno in _PEER_GONE and core.is_unix and core.target is not None:
            return self._send_to_successor(data, address)
        for _ in range(_TRIES if exc.errno in PASSED_ON else 0):
            try:
                size = self._call(data, address)
            except OSError as again:
                if isinstance(again, (BlockingIOError, InterruptedError)):
                    if not listed:
                        self._errors.note(exc, core.peer)
                    raise
                exc = again
                if not self._errors.read():
                    break  # it is about this datagram
                listed = True
            else:
                if not listed:
                    self._errors.note(exc, core.peer)
                core.sent += 1
                core.bytes_sent += size
                return True
        return self._drop(exc, address)

    def _drop(self, exc: OSError, address: Any) -> bool:
        """Count a datagram that can't be sent, and note why."""
        core = self._core
        core.dropped[cause_of(exc)] += 1
        where = address.address if type(address) is Route else address
        self._errors.note(exc, core.peer if where is None else where)
        return False

    def _send_to_successor(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Send to the Unix socket that is bound to the peer's path now: the peer was started again."""
        core = self._core
        try:
            core.sock.connect(core.peer)
            size = core.sock.send(data)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as exc:
            return self._drop(exc, address)
        core.sent += 1
        core.bytes_sent += size
        return True

    def _call(self, data: bytes | bytearray | memoryview, address: Any) -> int:
        """Send, with any form of an address, and return how many bytes. Raises OSError as send(2) does."""
        core = self._core
        sock = core.sock
        if type(address) is Route:
            return self._call_from(data, address)
        try:
            sent: int = sock.sendto(data, address) if core.peer is None else sock.send(data)
        except (TypeError, OverflowError, socket.gaierror) as exc:
            if core.peer is not None:
                raise
            sent = sock.sendto(data, sockaddr(core, address, exc))
        return sent

    def _call_from(self, data: bytes | bytearray | memoryview, route: Route) -> int:
        core = self._core
        try:
            sent: int = core.sock.sendmsg([data], route.messages, 0, route.address)
        except (TypeError, OverflowError, socket.gaierror) as exc:
            sent = core.sock.sendmsg([data], route.messages, 0, sockaddr(core, route.address, exc))
        return sent

    # The queue

    def enqueue(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        """Queue a datagram; return whether there is room for it."""
        with Step(self._core.interrupted):
            return self._append(data, address)

    def _append(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        core = self._core
        limits, queue = core.limits, self.queue
        piece = data if type(data) is bytes else bytes(memoryview(data))
        if len(queue) >= limits.max_queued_datagrams or queue.size + len(piece) > limits.max_queued_bytes:
            core.refused["queue_full"] += 1
            return False
        queue.append(piece, address, core.loop.time() + limits.queue_timeout)
        core.direct = False
        if core.sock is not None and not (core.armed or self._next_flush):
            self._wait()
        self._watch_deadline()
        self._pause_if_above()
        return True

    def _begin_run(self, data: bytes, address: Any) -> bool:
        """Add this datagram to the run, or send that and begin another; it is sent at the end of the tick."""
        core = self._core
        size = len(data)
        if self.room and address == self.run_address and 0 < size <= self.segment:
            if size < self.segment:  # only the last one may be shorter
                self.room = 1
            return self.gather(data)
        self.send_run()
        if self.queue or core.state is not _OPEN:
            return self.send(data, address)
        if not 0 < size <= RUN_BYTES // 2:
            return self._send_now(data, address)
        with Step(core.interrupted):
            self.segment, self.run_address, self.room = size, address, min(SEGMENTS, RUN_BYTES // size)
            if self._run_due is None:
                self._run_due = core.loop.scheduler.call_soon(self._end_run)
            return self.gather(data)

    def gather(self, data: Any) -> bool:
        """Add a datagram to the run, and send that if it is full."""
        self._run.append(data)
        self.room -= 1
        if not self.room:
            self.send_run()
        return True

    def _end_run(self) -> None:
        self._run_due = None
        self.send_run()

    def send_run(self) -> None:
        """Send the run; what the kernel does not take goes to the queue, which is empty now."""
        core = self._core
        run, self._run, self.room = self._run, [], 0
        if len(run) == 1:
            self._send_now(run[0], self.run_address)
        elif run and not self._send_joined(run, self.run_address):
            with Step(core.interrupted):
                due = core.loop.time() + core.limits.queue_timeout
                for data in run:
                    self.queue.append(data, self.run_address, due)
                self.flush()
                self._pause_if_above()

    def _send_joined(self, run: list[bytes], address: Any) -> bool:
        """Send a run of datagrams in one call; return whether the kernel took it."""
        core = self._core
        messages = segmented(len(run[0]))
        if type(address) is Route:
            messages, address = messages + address.messages, address.address
        where = () if core.peer is not None else (address,)
        try:
            size = core.sock.sendmsg(run, messages, 0, *where)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            # Segments larger than the path's MTU, a device without checksums, or an ICMP error of before:
            # each by itself then, which finds out.
            self._one_by_one = len(run)
            message = "%s: the kernel sends %d datagrams of %d B one by one: %s"
            core.loop.scheduler.log.info(
                (core.endpoint, exc.errno), message, core.endpoint, len(run), len(run[0]), exc
            )
            return False
        core.sent += len(run)
        core.bytes_sent += size
        return True

    def _send_now(self, data: bytes | bytearray | memoryview, address: Any) -> bool:
        try:
            return self._transmit(data, address)
        except (BlockingIOError, InterruptedError):
            return self.enqueue(data, address)

    def flush(self) -> None:
        """Send what is queued, up to a batch, and go on when the kernel takes more."""
        core = self._core
        self._set_next_flush(None)
        queue, clock, end = self.queue, core.loop.time, core.batch_end()
        for _ in range(core.limits.batch):
            if not queue:
                break
            try:
                self._send_first(queue)
            except (BlockingIOError, InterruptedError):
                self._errors.read()
                self._wait()
                break
            if core.state in ENDED:
                return
            if clock() >= end:
                break
        self._flushed()

    def _send_first(self, queue: SendQueue) -> None:
        """Send the first datagram, or the first ones in one call. Raises BlockingIOError if none is taken."""
        core = self._core
        data, address, _ = queue.first()
        if core.settings.gso and not self._one_by_one:
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
            core.dropped["invalid"] += 1
            core.loop.scheduler.report(exc, "Endpoint.send", core.endpoint)
        self._one_by_one = max(0, self._one_by_one - 1)
        self._retry = _FIRST_RETRY
        if core.state not in ENDED:
            queue.remove(1)

    def _wait(self) -> None:
        """Go on sending when the socket is writable; for a Unix socket's many receivers, after a while."""
        core = self._core
        self._watch_deadline()
        if core.is_unix and core.peer is None:
            if self._next_flush is None:
                self._next_flush = core.loop.scheduler.call_later(self._retry, self.flush)
                self._retry = min(2 * self._retry, _LAST_RETRY)
        elif not core.armed:
            core.armed = True
            core.update_interest()

    def _flushed(self) -> None:
        """After a change of the queue: wait for more, or end what waits for its end."""
        core = self._core
        queue = self.queue
        if not queue:
            self._emptied()
        elif not core.armed and self._next_flush is None and core.sock is not None:
            self._next_flush = core.loop.scheduler.call_soon(self.flush)
        self._resume_if_below()

    def _emptied(self) -> None:
        core = self._core
        self._set_deadline(None)
        self._set_next_flush(None)
        if core.armed:
            core.armed = False
            core.update_interest()
        if core.state is _CLOSING and core.sock is not None:
            core.end(None)
        elif core.state is _OPEN:
            core.direct = not core.settings.gso

    def _watch_deadline(self) -> None:
        if self._deadline is None and self.queue and (due := self.queue.first()[2]) != math.inf:
            self._set_deadline(self._core.loop.scheduler.call_at(due, self._expire))

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
        core = self._core
        self._deadline = None
        late = self.queue.remove_due(core.loop.time())
        if late:
            core.dropped["queue_timeout"] += late
            message = "%s: %d datagrams were dropped, which the kernel did not take in %g s"
            timeout = core.limits.queue_timeout
            core.loop.scheduler.log.warning(
                (core.endpoint, "queue_timeout"), message, core.endpoint, late, timeout
            )
        self._watch_deadline()
        if late:
            self._flushed()

    # Flow control

    def water_marks(self) -> tuple[int, int]:
        """Return the low and high water marks, in bytes."""
        return self._low, self._high

    def set_water_marks(self, high: int, low: int) -> None:
        """Set the water marks, in bytes. Raises ValueError unless 0 <= low <= high."""
        if not 0 <= low <= high:
            raise ValueError(f"low ({low}) must be between 0 and high ({high})")
        self._high, self._low = high, low
        self._pause_if_above()
        self._resume_if_below()

    def _pause_if_above(self) -> None:
        core = self._core
        queue = self.queue
        if self._paused or core.protocol is None:
            return
        if queue.size > self._high or len(queue) > core.limits.max_queued_datagrams // 2:
            self._paused = True
            self._call_flow("pause_writing")

    def _resume_if_below(self) -> None:
        core = self._core
        queue = self.queue
        if not self._paused or core.state in ENDED or core.protocol is None:
            return
        if queue.size <= self._low and len(queue) <= core.limits.max_queued_datagrams // 4:
            self._paused = False
            self._call_flow("resume_writing")

    def _call_flow(self, name: str) -> None:
        core = self._core
        try:
            getattr(core.protocol, name)()
        except Exception as exc:
            core.callback_failed(exc, name)

    # The end, and interrupts

    def drop_all(self) -> None:
        """Drop what is queued or gathered, and count it."""
        left = self.queue.clear() + len(self._run)
        self._run, self.room = [], 0
        if left:
            self._core.dropped["closed"] += left

    def cancel_timers(self) -> None:
        """Cancel everything that is due."""
        for handle in (self._next_flush, self._run_due, self._deadline):
            if handle is not None:
                handle.cancel()
        self._next_flush = self._run_due = self._deadline = None

    def recover(self) -> None:
        """Restore the timers of an open socket, after an interrupt anywhere."""
        scheduler = self._core.loop.scheduler
        self.queue.recover()
        self._set_deadline(None)
        self._watch_deadline()
        self._set_next_flush(scheduler.call_soon(self.flush))
        self._run_due = scheduler.call_soon(self._end_run)
