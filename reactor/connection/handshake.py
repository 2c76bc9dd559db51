"""A pending handshake: what stands for the protocol of a connection until its TLS handshake is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reactor.connection.connection import Connection, begin_handshake
from reactor.connection.interface import make_protocol

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    from reactor.tls.secure_socket import Tls

__all__ = ["PendingHandshake", "PendingHandshakeFactory", "pending_handshake_of"]

#: Makes a pending handshake, with the arguments of `PendingHandshake`.
PendingHandshakeFactory = Callable[
    [object, Callable[[], Any], Callable[[BaseException], None]], "PendingHandshake"
]


def pending_handshake_of(factory: Callable[[], Any]) -> PendingHandshakeFactory:
    """Return what makes the pending handshakes of a factory: its `pending_handshake`, if it has one."""
    made: PendingHandshakeFactory = getattr(factory, "pending_handshake", PendingHandshake)
    return made


class PendingHandshake:
    """The protocol of a connection until its TLS handshake is done; then it makes the real one.

    owner: the one whose factory it is, for error messages.
    factory: makes the protocol.
    on_failed: called with the reason if the handshake fails, or this side gives it up.
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
        """Begin the handshake, and call `on_established` when it is done."""
        begin_handshake(connection, tls, b"", on_established)

    def make_protocol(self) -> Any:
        """Return the protocol."""
        return make_protocol(self._factory)

    def connection_made(self, connection: Connection) -> None:
        """Make the protocol, and hand the connection over to it."""
        self._made = True
        try:
            protocol = self.make_protocol()
        except Exception as exc:
            connection.reactor.report(exc, f"the protocol factory of {self._owner}")
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
                connection.set_protocol(self)  # type: ignore[arg-type]
                # an interrupt: nothing has been said to the other

    def data_received(self, data: bytes) -> None:
        """Not called: nothing is received before the protocol is there."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report a handshake that failed."""
        if not self._made and exc is not None:
            self._on_failed(exc)
