"""The channel of a connection over TLS: the handshake first, then bytes through a `SecureSocket`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from reactor.connection.channel import Kind, LimitedChannel
from reactor.connection.deadlines import Deadline
from reactor.connection.rates import TokenBucket
from reactor.errors import TLSHandshakeError, TLSHandshakeTimeout, WriteTimeout
from reactor.options import Timeouts
from reactor.tls.secure_socket import ENDED_EARLY, TLS_FACTS, SecureSocket, words_of

__all__ = ["BlockingHandshake", "SecureChannel"]

_NOT_DONE = "the TLS handshake was not done within {:g} s"


class SecureChannel(LimitedChannel):
    """A channel that knows what the selector can't: what is decrypted already, and what waits encrypted.

    sock: the connection's socket. on_established: called once, when the handshake is done.
    """

    __slots__ = ("on_established", "sock")

    kind = Kind.SECURE

    def __init__(
        self,
        sock: SecureSocket,
        rate: TokenBucket | None,
        on_established: Callable[[], None],
        *,
        buffered: bool,
    ) -> None:
        super().__init__(rate, buffered=buffered)
        self.sock = sock
        self.on_established = on_established

    def interest(self, events: int) -> int:
        """Return the events that TLS waits for: it reads for a handshake or a key update, and sends."""
        sock = self.sock
        events = super().interest(events)
        if sock.stalled or not sock.established:
            events = EVENT_READ
        return events | (EVENT_WRITE if sock.has_output() else 0)

    def has_input(self) -> bool:
        """Return whether there are decrypted bytes, or an end, that `recv` would return at once."""
        return self.sock.has_more()

    def has_output(self) -> bool:
        """Return whether the kernel has not taken all that was encrypted."""
        return self.sock.has_output()

    def may_take_more(self, offered: int, sent: int) -> bool:
        """Return whether the kernel took all that was encrypted, which is a part of what was offered."""
        return sent == offered or not self.sock.has_output()

    def is_busy(self) -> bool:
        """Return whether the handshake is not done, or a record has not come to its end."""
        return self.sock.in_record or not self.sock.established

    def handshake_deadline(self, timeouts: Timeouts) -> Deadline | None:
        """Return the handshake's deadline, or before it that of the bytes in clear; None once it is done."""
        sock = self.sock
        if sock.established:
            return None
        if not sock.clear_left:
            return Deadline(sock.since, timeouts.handshake, TLSHandshakeTimeout, _NOT_DONE)
        timeout = float("inf") if timeouts.write is None else timeouts.write
        message = "the peer took none of what was written before start_tls for {:g} s"
        return Deadline(sock.since, timeout, WriteTimeout, message)

    def can_end_one_direction(self) -> bool:
        """Return whether close_notify ends one direction alone: not before TLS 1.3, RFC 8446, 6.1."""
        return self.sock.ssl.version() == "TLSv1.3"

    def is_half_done(self) -> bool:
        """Return whether the handshake is under way, and the peer's side of it may be done."""
        return self.sock.is_half_done()

    def end(self) -> bool:
        """Send our close_notify; return whether the kernel has it, and all that was encrypted before."""
        return self.sock.end()

    def bare(self, sock: Any) -> Any:
        """Return the socket below TLS."""
        return self.sock.bare

    def detach(self, sock: Any) -> Any:
        """Return the socket below TLS, which TLS does not use any more."""
        return self.sock.detach()

    def fact(self, name: str) -> Any:
        """Return a fact of TLS, or None where it is not known or the handshake is not done."""
        try:
            return TLS_FACTS[name](self.sock)
        except (KeyError, ValueError):
            return None


class BlockingHandshake(LimitedChannel):
    """The channel during the handshake of an `ssl.SSLSocket` on a duplicate of the descriptor.

    sock: must not block. since: when the handshake began, in the clock's seconds.
    """

    __slots__ = ("_events", "_since", "sock")

    kind = Kind.BLOCKING_HANDSHAKE

    def __init__(self, sock: ssl.SSLSocket, since: float) -> None:
        super().__init__(None, buffered=False)
        self.sock = sock
        self._since = since
        self._events = EVENT_READ

    def step(self) -> bool:
        """Go on with the handshake; return whether it is done.

        Raises TLSHandshakeError if it has failed, OSError for what is wrong with the socket.
        """
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._events = EVENT_READ
            return False
        except ssl.SSLWantWriteError:
            self._events = EVENT_WRITE
            return False
        except ssl.SSLError as exc:
            ended = isinstance(exc, ssl.SSLEOFError)
            raise TLSHandshakeError(ENDED_EARLY if ended else words_of(exc)) from exc
        return True

    def interest(self, events: int) -> int:
        """Return the event that the handshake waits for."""
        return self._events

    def handshake_deadline(self, timeouts: Timeouts) -> Deadline | None:
        """Return the handshake's deadline."""
        return Deadline(self._since, timeouts.handshake, TLSHandshakeTimeout, _NOT_DONE)
