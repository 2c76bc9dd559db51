"""`Receiver`: the receiving side of an endpoint: batches, datagrams that the kernel has joined, limits."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from reactor.datagrams.control import ANCILLARY_SIZE, info_of, segment_size_of
from reactor.datagrams.errors import FATAL, ErrorReports
from reactor.datagrams.limits import PrefixMeter
from reactor.datagrams.state import Core, EndpointState

__all__ = ["SHARED_BUFFER", "Receiver"]

# Larger than any UDP datagram, and of a size that malloc(3) has at hand.
_RECV_SIZE = 65536

#: Bytes of the buffer that Unix sockets share: their datagrams can be as large as the sender's buffer, 208
#: KiB by default. asyncio takes 256 KiB as well.
SHARED_BUFFER = 256 * 1024

_OPEN = EndpointState.OPEN


class Receiver:
    """The receiving side of an endpoint that is open.

    core, errors: the endpoint's. shared_buffer: returns the buffer of all Unix sockets of a reactor.

    receive: receives a batch; returns whether there may be more.
    """

    __slots__ = ("_core", "_errors", "_meter", "_shared_buffer", "receive")

    def __init__(self, core: Core, errors: ErrorReports, shared_buffer: Callable[[], bytearray]) -> None:
        self._core = core
        self._errors = errors
        self._shared_buffer = shared_buffer
        limits, settings = core.limits, core.settings
        self._meter: PrefixMeter | None = None
        if limits.prefix_datagrams is not None or limits.prefix_bytes is not None:
            self._meter = PrefixMeter(limits.prefix_datagrams, limits.prefix_bytes, core.loop.time())
        plain = not (core.is_unix or settings.info or settings.gro)
        self.receive = self._receive_plain if plain else self._receive_messages

    def _receive_plain(self) -> bool:
        """Receive a batch of UDP datagrams."""
        core = self._core
        loop, meter, recvfrom = core.loop, self._meter, core.sock.recvfrom
        clock, end, opened = loop.time, core.batch_end(), _OPEN
        count = size = 0
        try:
            for _ in range(core.limits.batch):
                try:
                    data, address = recvfrom(_RECV_SIZE)
                except BlockingIOError:
                    self._nothing_there(count)
                    return False
                except OSError as exc:
                    if self._failed(exc):
                        continue
                    return False
                if meter is not None and not meter.admits(address, len(data), loop.now):
                    core.refused["prefix"] += 1
                    continue
                count += 1
                size += len(data)
                try:
                    core.protocol.datagram_received(data, address)
                except Exception as exc:
                    core.callback_failed(exc, "datagram_received")
                if core.state is not opened:
                    return False
                if clock() >= end:
                    break
            return True
        finally:
            core.received += count
            core.bytes_received += size

    def _receive_messages(self) -> bool:
        """Receive a batch with control messages, joined datagrams, or of a Unix socket; else as the plain."""
        core = self._core
        take, clock, end = self._take, core.loop.time, core.batch_end()
        before = core.received
        for _ in range(core.limits.batch):
            try:
                data, messages, flags, address = take()
            except BlockingIOError:
                self._nothing_there(core.received - before)
                return False
            except OSError as exc:
                if self._failed(exc):
                    continue
                return False
            if flags & socket.MSG_TRUNC:
                core.dropped["truncated"] += 1
            else:
                self._split(data, messages, address)
            if core.state is not _OPEN:
                return False
            if clock() >= end:
                break
        return True

    def _take(self) -> tuple[bytes, list[Any], int, Any]:
        """Receive once; return the bytes, control messages, flags and the sender's address."""
        core = self._core
        if core.is_unix:
            buffer = self._shared_buffer()
            size, messages, flags, address = core.sock.recvmsg_into([buffer])
            return bytes(memoryview(buffer)[:size]), messages, flags, address or None
        received: tuple[bytes, list[Any], int, Any] = core.sock.recvmsg(_RECV_SIZE, ANCILLARY_SIZE)
        return received

    def _split(self, joined: bytes, messages: list[Any], address: Any) -> None:
        """Deliver the datagrams that the kernel has joined, or the one that it is."""
        core = self._core
        size = len(joined)
        segment = (segment_size_of(messages, size) if core.settings.gro else size) or 1
        extra = (info_of(messages),) if core.settings.info else ()
        meter, end = self._meter, 0
        try:
            for start in range(0, size or 1, segment):
                end = start + segment
                if meter is not None:
                    own = min(segment, size - start)  # the last one may be shorter
                    if not meter.admits(address, own, core.loop.now):
                        core.refused["prefix"] += 1
                        core.received -= 1
                        core.bytes_received -= own
                        continue
                try:
                    # The same object, if it is all.
                    core.protocol.datagram_received(joined[start:end], address, *extra)
                except Exception as exc:
                    core.callback_failed(exc, "datagram_received")
                if core.state is not _OPEN:  # the others have come too late
                    break
        finally:
            end = min(end, size)
            core.received += -(-end // segment) or 1
            core.bytes_received += end
            if left := -((end - size) // segment):
                core.dropped["closed"] += left

    def _nothing_there(self, count: int) -> None:
        """After EAGAIN: if that was the first call, it was an error that has made the socket readable."""
        if not count:
            self._errors.read()

    def _failed(self, exc: OSError) -> bool:
        """Note the error of a call that receives; return whether to go on."""
        core = self._core
        if isinstance(exc, InterruptedError):
            return True
        if exc.errno in FATAL:
            core.end(exc)
            return False
        if not self._errors.read():
            self._errors.note(exc, core.peer)
        return True
