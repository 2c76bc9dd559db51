"""Echo, RFC 862: sends back what it receives."""

from __future__ import annotations

from typing import Self

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Echo"]


class Echo(Protocol):
    """Sends back what it receives; reads nothing while writing is paused."""

    __slots__ = ("_connection",)

    def connection_made(self, connection: Connection) -> None:
        """Keep the connection."""
        self._connection = connection

    def hand_over(self) -> bytes:
        """Return nothing: the protocol has no state but its connection's."""
        return b""

    @classmethod
    def take_over(cls, connection: Connection, state: bytes) -> Self:
        """Go on with a connection of another process."""
        echo = cls()
        echo.connection_made(connection)
        return echo

    def data_received(self, data: bytes) -> None:
        """Send `data` back."""
        self._connection.write(data)

    def pause_writing(self) -> None:
        """Stop reading: the client does not read its answers."""
        self._connection.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self._connection.resume_reading()
