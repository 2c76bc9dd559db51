"""Pending handshakes: the placeholder for a connection's protocol until its TLS handshake is complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reactor.connection.connection import Connection, begin_handshake
from reactor.connection.interface import make_protocol

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    from reactor.tls.secure_socket import Tls

__all__ = ["PendingHandshake", "PendingHandshakeFactory", "pending_handshake_of"]

#: A factory of pending handshakes, called with the arguments of `PendingHandshake`.
PendingHandshakeFactory = Callable[
    [object, Callable[[], Any], Callable[[BaseException], None]], "PendingHandshake"
]


def pending_handshake_of(factory: Callable[[], Any]) -> PendingHandshakeFactory:
    """Return the factory's own `pending_handshake` if it has one, else `PendingHandshake`."""
    made: PendingHandshakeFactory = getattr(factory, "pending_handshake", PendingHandshake)
    return made


class PendingHandshake:
    """The protocol of a connection until its TLS handshake is complete, when it makes the real one.

    owner: the listener or connector that has the factory, for error messages.
    factory: makes the real protocol.
    on_failed: called with the reason if the handshake fails, or this side ends it.
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
        """Begin the handshake, and call `on_established` when it is complete."""
        begin_handshake(connection, tls, b"", on_established)

    def make_protocol(self) -> Any:
        """Return a new protocol of the factory."""
        return make_protocol(self._factory)

    def connection_made(self, connection: Connection) -> None:
        """Make the real protocol, set it on the connection, and call its `connection_made`."""
        self._made = True
        try:
            protocol = self.make_protocol()
        except Exception as exc:
            connection.reactor.report(exc, f"the protocol factory of {self._owner}")
            connection.abort(exc)
            return
        if connection.is_closing():
            return  # the factory has closed it, as a connector's `cancel` does
        called = None
        try:
            connection.set_protocol(protocol)
            protocol.connection_made(called := connection)
        finally:
            if called is None:
                connection.set_protocol(self)  # type: ignore[arg-type]
                # an interrupt: the real protocol has not been called

    def data_received(self, data: bytes) -> None:
        """Do nothing: it is not called, for nothing is received before the real protocol is set."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Call `on_failed` if the handshake failed."""
        if not self._made and exc is not None:
            self._on_failed(exc)
