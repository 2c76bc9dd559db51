"""Echo, RFC 862: sends back what it receives."""

from __future__ import annotations

from typing import Any, Self

from reactor.connection.connection import Connection
from reactor.datagrams import DatagramInfo, DatagramProtocol, Endpoint
from reactor.protocol import Protocol

__all__ = ["DatagramEcho", "Echo", "may_answer"]

_FIRST_USER_PORT = 1024


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


def may_answer(endpoint: Endpoint, address: Any) -> bool:
    """Return whether a datagram from `address` may be answered, whatever it is.

    Not to a Unix socket without a name; nor to a port below 1024 or the endpoint's own: a service could be
    there that answers everything too, and one datagram with a forged sender would keep both busy for ever.
    """
    if isinstance(address, tuple):
        own: int = endpoint.get_extra_info("sockname")[1]
        port: int = address[1]
        return port >= _FIRST_USER_PORT and port != own
    return address is not None


class DatagramEcho(DatagramProtocol):
    """Sends each datagram back to its sender; those that it has no room for are lost, as on the network."""

    __slots__ = ("_endpoint",)

    def connection_made(self, endpoint: Endpoint) -> None:
        """Keep the endpoint."""
        self._endpoint = endpoint

    def datagram_received(self, data: bytes, address: Any, info: DatagramInfo | None = None) -> None:
        """Send `data` back, if it `may_answer`."""
        if may_answer(self._endpoint, address):
            self._endpoint.send(data, address)
