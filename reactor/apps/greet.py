"""Greet: sends one line, and closes the connection."""

from __future__ import annotations

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Greet"]

GREETING = b"Hello from reactor.\n"


class Greet(Protocol):
    """Sends one line on connect."""

    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Send the line, and close."""
        connection.write(GREETING)
        connection.close()
