"""Greet: every client gets one line, and the connection is closed."""

from __future__ import annotations

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Greet"]

GREETING = b"Hello from reactor.\n"


class Greet(Protocol):
    """Sends one line on connect."""

    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Greet, and say that this was all."""
        connection.write(GREETING)
        connection.close()
