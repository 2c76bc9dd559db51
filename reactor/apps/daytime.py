"""Daytime, RFC 867: every client gets the date and the time, and the connection is closed."""

from __future__ import annotations

from datetime import UTC, datetime

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Daytime"]


class Daytime(Protocol):
    """Sends one line on connect: the time in UTC, as RFC 3339 writes it."""

    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Tell the time, and that this was all."""
        connection.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}\r\n".encode())
        connection.close()
