"""Echo, RFC 862: sends back what it receives."""

from __future__ import annotations

from typing import Any, Self

from reactor.connection.connection import Connection
from reactor.datagrams import DatagramInfo, DatagramProtocol, Endpoint
from reactor.protocol import Protocol

__all__ = ["DatagramEcho", "Echo"]


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


class DatagramEcho(DatagramProtocol):
    """Sends each datagram back to its sender; those that it has no room for are lost, as on the network."""

    __slots__ = ("_endpoint",)

    def connection_made(self, endpoint: Endpoint) -> None:
        """Keep the endpoint."""
        self._endpoint = endpoint

    def datagram_received(self, data: bytes, address: Any, info: DatagramInfo | None = None) -> None:
        """Send `data` back, unless a Unix socket without a name has sent it."""
        if address is not None:
            self._endpoint.send(data, address)
