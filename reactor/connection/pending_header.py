"""Pending headers: the first stage of a connection that a proxy forwards, until its PROXY header is read.

Not a byte after the header is read, because it is received with MSG_PEEK first. The rest is still in the
kernel when the connection begins, for its protocol, a TLS handshake, or a worker's blocking socket. While a
header is incomplete the kernel reports the socket when as many bytes have come as it lacks at least
(SO_RCVLOWAT, socket(7)), so that one that comes byte by byte costs a few calls, and not two for each.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from reactor.connection.channel import Kind, LimitedChannel
from reactor.connection.deadlines import Deadline
from reactor.errors import ProxyHeaderError, ProxyHeaderTimeout
from reactor.framing.proxy_header import PROXY_HEADER_LIMIT, ProxyHeader, least_missing
from reactor.loop.loop import Loop
from reactor.options import Timeouts

__all__ = ["LOCAL_SILENCE", "PendingHeader"]

#: Seconds in which the sender of a LOCAL header, a health check, may end the connection again unseen. A check
#: that waits for the server's first bytes gets them after that.
LOCAL_SILENCE = 0.1

_NOT_DONE = "it was not complete within {:g} s"


class PendingHeader(LimitedChannel):
    """The channel, and in the protocol's place, of a connection until its PROXY header is complete.

    sock: the connection's socket. timeout: seconds for the header.
    on_done: called with the connection and this object when the header is complete; it sets the protocol.
    on_failed: called with the reason when it has not come to that.

    header: the header; None before. encoded: its bytes, as far as they were read.
    ended: the peer has left before the first byte of a header, or after a LOCAL one.
    """

    __slots__ = (
        "_awaited", "_last_silent", "_loop", "_since", "_sock", "_timeout", "encoded", "ended", "header",
        "on_done", "on_failed",
    )  # fmt: skip

    kind = Kind.PROXY_HEADER

    def __init__(
        self,
        loop: Loop,
        sock: Any,
        timeout: float,
        on_done: Callable[[Any, PendingHeader], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(None, buffered=False)
        loop.touch()
        self._loop = loop
        self._sock = sock
        self._since = loop.now
        self._timeout = timeout
        self._awaited = 1  # bytes, below which the kernel does not report the socket
        self._last_silent: float | None = None  # when the silence after a LOCAL header is over
        self.on_done = on_done
        self.on_failed = on_failed
        self.header: ProxyHeader | None = None
        self.encoded = b""
        self.ended = False

    def step(self) -> bool:
        """Read on; return whether the header is complete, and the connection begins.

        Raises ProxyHeaderError if what was received is no header, BlockingIOError if nothing was received.
        """
        try:
            complete = self.header is not None or self._read()
            return complete and (not self._is_local() or self._has_begun())
        except (BlockingIOError, InterruptedError, ProxyHeaderError):
            raise
        except OSError as exc:
            self._end(exc)
            return False

    def _read(self) -> bool:
        data = self._sock.recv(PROXY_HEADER_LIMIT, socket.MSG_PEEK)
        if not data:
            self._end(None)
            return False
        found = ProxyHeader.parse(self.encoded + data)
        missing = len(data) if found is None else found[1] - len(self.encoded)
        taken = self._sock.recv(missing)
        self._loop.bytes_received += len(taken)
        self.encoded += taken
        if found is None or len(taken) < missing:
            self._await(least_missing(self.encoded))
            return False
        self._await(1)
        self.header = found[0]
        return True

    def _await(self, size: int) -> None:
        if size != self._awaited:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._awaited = size

    def _is_local(self) -> bool:
        return self.header is not None and self.header.local

    def _has_begun(self) -> bool:
        """Return whether the sender of a LOCAL header has sent more, or is silent without leaving."""
        if self._last_silent is None:
            self._last_silent = self._loop.time() + LOCAL_SILENCE
            self._loop.scheduler.call_at(self._last_silent, self._go_on)
        if self._loop.time() >= self._last_silent:
            return True
        if not self._sock.recv(1, socket.MSG_PEEK):
            self._end(None)
        return not self.ended

    def _go_on(self) -> None:
        fd = self._sock.fileno()
        if getattr(self._loop.registry.owner_of(fd), "_channel", None) is self:
            self._loop.registry.dispatch(fd, 1)

    def _end(self, exc: OSError | None) -> None:
        self.ended = not self.encoded or self._is_local()
        if not self.ended:
            cause = "the connection ended" if exc is None else exc.strerror or exc
            raise ProxyHeaderError(f"{cause} within it") from exc

    # As a channel

    def interest(self, events: int) -> int:
        """Return EVENT_READ."""
        return 1

    def is_busy(self) -> bool:
        """Return True: a drain is to wait."""
        return True

    def handshake_deadline(self, timeouts: Timeouts) -> Deadline | None:
        """Return the deadline of the header; None when it is complete."""
        if self.header is not None:
            return None
        return Deadline(self._since, self._timeout, ProxyHeaderTimeout, _NOT_DONE)

    # In the protocol's place

    def data_received(self, data: bytes) -> None:
        """Do nothing: it is not called, for nothing is received before the real protocol is set."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Call `on_failed`, unless the peer has left in time."""
        if exc is not None:
            self.on_failed(exc)
