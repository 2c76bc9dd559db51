"""What the loop calls for a connection over TLS: the handshake first, then reading and sending through it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from reactor.connection.intake import Intake
from reactor.connection.rates import TokenBucket
from reactor.connection.state import ENDED, State
from reactor.errors import TLSHandshakeError
from reactor.loop.registry import ERRORS
from reactor.protocol import Protocol, make_protocol
from reactor.tls.secure_socket import ENDED_EARLY, SecureSocket, Tls, words_of

if TYPE_CHECKING:
    from reactor.connection.connection import Connection

__all__ = ["Newcomer", "Secured", "SocketHandshake", "newcomer_of"]


class Secured(Intake):
    """An intake that knows what the selector can't: what is decrypted already, and what waits encrypted.

    on_established: called once, when the handshake is done.
    """

    __slots__ = ("_on_established", "_sock", "_straight")

    def __init__(
        self,
        connection: Connection,
        rate: TokenBucket | None,
        sock: SecureSocket,
        on_established: Callable[[], None],
    ) -> None:
        super().__init__(connection, rate)
        self._straight = False
        self._sock = sock
        self._on_established = on_established

    def begin(self, early: bytes) -> None:
        """Begin the handshake. early: what was received of it before."""
        sock = self._sock
        if early or not sock.ssl.server_side:
            self._shake(lambda: sock.go_on(early))
        if self.connection._state is not State.OPENING:
            self._attend()  # in clear it may have waited for something else

    def look_at_protocol(self) -> None:
        """Find out whether bytes can be handed over the straight way: the protocol may be another."""
        takes_bytes = hasattr(self.connection.get_protocol(), "data_received")
        self._straight = takes_bytes and self._rate is None and self._sock.established

    def on_event(self, events: int) -> None:
        """Go on with the handshake; after it read, or send, or both. The loop's call."""
        try:
            sock = self._sock
            if self._straight and events == EVENT_READ and not sock.unusual:
                self.connection.on_event(EVENT_READ)
                if sock.unusual:
                    self._attend()
            elif events == ERRORS:
                self.connection.on_event(ERRORS)
            elif sock.established:
                if events & EVENT_READ:
                    self._take()
                if events & EVENT_WRITE:
                    self._do(sock.flush)
                    self.connection.on_event(EVENT_WRITE)
                self._attend()
            else:
                if events & EVENT_WRITE:
                    self._do(sock.flush)
                    self.connection._look_later()  # with the last clear byte the handshake's time begins
                    self.connection.on_event(EVENT_WRITE)  # it may be all that `close` waits for
                    self._attend()
                if events & EVENT_READ and self.connection._state not in ENDED:
                    self._shake(sock.handshake)
        except BaseException as exc:
            self.connection._interrupted(exc)
            raise

    def _take(self) -> None:
        sock = self._sock
        if sock.stalled:
            self._do(sock.take_in)
            if not sock.stalled:
                self.connection.on_event(EVENT_WRITE)
        if self.connection.is_reading():
            self._read()

    def _attend(self) -> None:
        """See to what no selector knows of, and have it told what to wait for."""
        self._deliver()
        self._sock.look_again()
        if self.connection._state not in ENDED:
            self.connection._update_interest()

    def interest(self, events: int) -> int:
        """Return what to wait for, if the connection would wait for `events`."""
        sock = self._sock
        events = super().interest(events)
        if events & EVENT_READ and sock.has_more():
            self.connection._loop.call_soon(self._deliver)
        if sock.stalled or not sock.established:
            events = EVENT_READ
        return events | (EVENT_WRITE if sock.has_output() else 0)

    def _deliver(self) -> None:
        while self._sock.has_more() and self.connection.is_reading() and not self.held:
            self._read()

    def _shake(self, step: Callable[[], bool]) -> None:
        try:
            if self._do(step):
                self.connection.last_active = self.connection._loop.now
                self.look_at_protocol()
                self._on_established()
                self._attend()
            elif self._sock.has_output():
                self._attend()
        except BaseException:
            self.connection.abort()  # an interrupt: the handshake can't be gone on with, nor told twice
            raise

    def _do(self, step: Callable[[], object]) -> object:
        """Return what `step()` does, and None if it did not go well; then the connection has ended."""
        try:
            return step()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            self.connection.fail(exc)
            return None


class SocketHandshake(Intake):
    """The TLS handshake of an `ssl.SSLSocket` on a duplicate of a connection's descriptor.

    sock: must not block. on_established: called once, when the handshake is done; one that fails ends the
    connection.
    """

    __slots__ = ("_events", "_on_established", "_sock")

    def __init__(
        self, connection: Connection, sock: ssl.SSLSocket, on_established: Callable[[], None]
    ) -> None:
        super().__init__(connection, None)
        self._sock = sock
        self._on_established = on_established
        self._events = EVENT_READ

    def begin(self) -> None:
        """Begin the handshake."""
        self.connection._loop.registry.replace(self._fileno(), self)
        self.connection._look_later()
        if not self._sock.server_side:
            self.on_event(EVENT_WRITE)

    def on_event(self, events: int) -> None:
        """Go on with the handshake. The loop's call."""
        try:
            self._shake()
        except BaseException:
            self.connection.abort()  # an interrupt: the handshake can't be gone on with, nor told twice
            raise

    def interest(self, events: int) -> int:
        """Return what the handshake waits for."""
        return self._events

    def _fileno(self) -> int:
        return self.connection._sock.fileno()

    def _shake(self) -> None:
        connection = self.connection
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._wait_for(EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(EVENT_WRITE)
        except ssl.SSLError as exc:
            ended = isinstance(exc, ssl.SSLEOFError)
            error = TLSHandshakeError(ENDED_EARLY if ended else words_of(exc))
            error.__cause__ = exc
            connection.fail(error)
        except OSError as exc:
            connection.fail(exc)
        else:
            connection.last_active = connection._loop.now
            connection._loop.registry.replace(self._fileno(), connection._handler())
            self._on_established()

    def _wait_for(self, events: int) -> None:
        self._events = events
        self.connection._update_interest()


#: Makes what stands in for a protocol during the handshake, with the arguments of `Newcomer`.
NewcomerFactory = Callable[[object, Callable[[], Any], Callable[[BaseException], None]], "Newcomer"]


def newcomer_of(factory: Callable[[], Any]) -> NewcomerFactory:
    """Return what makes the newcomers of a factory of protocols: its `tls_newcomer`, or `Newcomer`."""
    made: NewcomerFactory = getattr(factory, "tls_newcomer", Newcomer)
    return made


class Newcomer(Protocol):
    """Stands in for a connection's protocol until the TLS handshake is done.

    factory: makes the protocol then. on_failed: is given the reason, if it does not come to that, be it
    this side that has given it up.
    owner: whose factory it is, for people.
    """

    __slots__ = ("_factory", "_made", "_on_failed", "_owner")

    def __init__(
        self, owner: object, factory: Callable[[], Any], on_failed: Callable[[BaseException], None]
    ) -> None:
        self._owner = owner
        self._factory = factory
        self._on_failed = on_failed
        self._made = False

    def begin_tls(self, connection: Connection, tls: Tls, on_established: Callable[[], None]) -> None:
        """Begin the handshake. on_established: to be called when it is done."""
        connection._secure(tls, b"", on_established)

    def make_protocol(self) -> Any:
        """Return the protocol."""
        return make_protocol(self._factory)

    def connection_made(self, connection: Connection) -> None:
        """Hand over to the protocol."""
        self._made = True
        try:
            protocol = self.make_protocol()
        except Exception as exc:
            connection.get_extra_info("reactor").report(exc, f"the protocol factory of {self._owner}")
            connection.abort(exc)
            return
        if connection.is_closing():
            return  # the factory has given it up, as a connector's `cancel` does
        called = None
        try:
            connection.set_protocol(protocol)
            protocol.connection_made(called := connection)
        finally:
            if called is None:
                connection.set_protocol(self)  # an interrupt: nothing has been said to the other

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell of a handshake that failed."""
        if not self._made and exc is not None:
            self._on_failed(exc)
