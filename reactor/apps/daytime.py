"""Daytime, RFC 867: sends the date and the time, and closes the connection."""

from __future__ import annotations

from datetime import UTC, datetime

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Daytime"]


class Daytime(Protocol):
    """Sends one line on connect: the time in UTC, as RFC 3339 writes it."""

    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Send the time, and close."""
        connection.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}\r\n".encode())
        connection.close()
