"""Channels of connections over TLS: through a `SecureSocket`, and during a blocking socket's handshake."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from reactor.connection.channel import Kind, LimitedChannel
from reactor.connection.deadlines import Deadline
from reactor.connection.rates import TokenBucket
from reactor.errors import TLSHandshakeError, TLSHandshakeTimeout
from reactor.options import Timeouts
from reactor.tls.secure_socket import ENDED_EARLY, TLS_FACTS, SecureSocket, words_of

__all__ = ["BlockingHandshake", "SecureChannel"]

_NOT_DONE = "the TLS handshake was not done within {:g} s"


class SecureChannel(LimitedChannel):
    """The channel of a connection over TLS, with decrypted input and encrypted output that no selector sees.

    sock: the connection's socket. on_established: called once, when the handshake is complete.
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
        """Return the events that TLS needs: to read during a handshake or key update, to write its output."""
        sock = self.sock
        if sock.clear_left:
            return EVENT_READ | events & EVENT_WRITE
        events = super().interest(events)
        if sock.stalled or not sock.established:
            events = EVENT_READ
        return events | (EVENT_WRITE if sock.has_output() else 0)

    def has_input(self) -> bool:
        """Return whether `recv` would return at once: decrypted bytes, or the end of file."""
        return self.sock.has_more()

    def has_output(self) -> bool:
        """Return whether there is encrypted output that the kernel has not accepted."""
        return self.sock.has_output()

    def may_take_more(self, offered: int, sent: int) -> bool:
        """Return whether the kernel accepted all output, which may be of a part of `offered`."""
        return sent == offered or not (self.sock.has_output() or self.sock.clear_left)

    def is_busy(self) -> bool:
        """Return whether the handshake, or the receipt of a record, is incomplete."""
        return self.sock.in_record or not self.sock.established

    def handshake_deadline(self, timeouts: Timeouts) -> Deadline | None:
        """Return the deadline of the handshake; None before, while clear bytes are sent, and after it."""
        sock = self.sock
        if sock.established or sock.clear_left:
            return None
        return Deadline(sock.since, timeouts.handshake, TLSHandshakeTimeout, _NOT_DONE)

    def can_end_one_direction(self) -> bool:
        """Return whether close_notify ends only one direction: since TLS 1.3, RFC 8446, 6.1.

        During the handshake: whether it may agree on that version.
        """
        made = self.sock.ssl
        return made.version() == "TLSv1.3" if self.sock.established else _allows_tls13(made.context)

    def is_half_done(self) -> bool:
        """Return whether the handshake may be complete on the peer's side, but not yet on ours."""
        return self.sock.is_half_done()

    def end(self, *, half: bool) -> bool:
        """Send our close_notify; return whether the kernel has accepted it and all output before it.

        half: the peer's direction stays open, so that a handshake is completed first.
        """
        return self.sock.end() and (self.sock.established or not half)

    def bare(self, sock: Any) -> Any:
        """Return the kernel socket below TLS."""
        return self.sock.bare

    def detach(self, sock: Any) -> Any:
        """Return the kernel socket below TLS, and stop using it for TLS."""
        return self.sock.detach()

    def fact(self, name: str) -> Any:
        """Return the TLS value `name`; None if it is unknown, or the handshake is incomplete."""
        try:
            return TLS_FACTS[name](self.sock)
        except (KeyError, ValueError):
            return None


class BlockingHandshake(LimitedChannel):
    """The channel during the handshake of an `ssl.SSLSocket` on a duplicate of the connection's descriptor.

    sock: that socket, in non-blocking mode. since: the start of the handshake, in the clock's seconds.
    on_done: called with the connection and this object when the handshake is complete.
    """

    __slots__ = ("_events", "_since", "on_done", "sock")

    kind = Kind.BLOCKING_HANDSHAKE

    def __init__(self, sock: ssl.SSLSocket, since: float, on_done: Callable[[Any, Any], None]) -> None:
        super().__init__(None, buffered=False)
        self.sock = sock
        self.on_done = on_done
        self._since = since
        self._events = EVENT_READ

    def step(self) -> bool:
        """Continue the handshake; return whether it is complete.

        Raises TLSHandshakeError if it failed, OSError for an error of the socket.
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
        """Return the deadline of the handshake."""
        return Deadline(self._since, timeouts.handshake, TLSHandshakeTimeout, _NOT_DONE)


def _allows_tls13(context: ssl.SSLContext) -> bool:
    latest = context.maximum_version in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3)
    return latest and not context.options & ssl.OP_NO_TLSv1_3
