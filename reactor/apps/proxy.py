"""Proxy: forwards each connection to another address, both ways, at the speed of the slower end."""

from __future__ import annotations

from reactor.address import AddressLike
from reactor.connecting.connector import Connector
from reactor.connection.connection import Connection
from reactor.errors import ConnectError
from reactor.protocol import Protocol

__all__ = ["Proxy"]


class _Side(Protocol):
    """One of two joined connections: its input and its end go to the other."""

    __slots__ = ("connection", "other")

    connection: Connection
    other: Connection | None

    def __init__(self) -> None:
        self.other = None

    def data_received(self, data: bytes) -> None:
        """Forward it."""
        if self.other is not None:
            self.other.write(data)

    def eof_received(self) -> bool:
        """Forward the end of file; the other direction stays open, except on TLS before 1.3."""
        if self.other is None:
            return True
        if not self.other.can_write_eof():
            self.other.close()
            return False
        self.other.write_eof()
        return True

    def pause_writing(self) -> None:
        """Stop reading from the other side."""
        if self.other is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        if self.other is not None:
            self.other.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the other side after its queued bytes, or abort it if this one has failed."""
        other, self.other = self.other, None
        if other is not None and exc is None:
            other.close()
        elif other is not None:
            other.abort(exc)


class Proxy(_Side):
    """The client's side, which is not read from until the target is connected.

    target: the address to forward to.
    """

    __slots__ = ("_connector", "_target")

    def __init__(self, target: AddressLike) -> None:
        super().__init__()
        self._target = target
        self._connector: Connector | None = None

    def connection_made(self, connection: Connection) -> None:
        """Connect to the target."""
        self.connection = connection
        connection.pause_reading()
        reactor = connection.reactor
        self._connector = reactor.connect(self._target, lambda: _Target(self), on_failure=self._target_failed)

    def _target_failed(self, exc: ConnectError) -> None:
        self.connection.abort(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the target's side, or the attempt to reach it."""
        if self._connector is not None:
            self._connector.cancel()
        super().connection_lost(exc)


class _Target(_Side):
    """The target's side."""

    __slots__ = ("_client",)

    def __init__(self, client: Proxy) -> None:
        super().__init__()
        self._client = client

    def connection_made(self, connection: Connection) -> None:
        """Join the two."""
        self.connection = connection
        self.other, self._client.other = self._client.connection, connection
        self.other.resume_reading()
