"""Echo, RFC 862: what a client sends comes back."""

from __future__ import annotations

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Echo"]


class Echo(Protocol):
    """Sends back what it receives; a client that does not read is not read from."""

    __slots__ = ("_connection",)

    def connection_made(self, connection: Connection) -> None:
        """Keep the connection."""
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self._connection.write(data)

    def pause_writing(self) -> None:
        """Take no more from a client that does not take what it is sent."""
        self._connection.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._connection.resume_reading()
