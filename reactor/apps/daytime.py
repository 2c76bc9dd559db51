"""Daytime, RFC 867: sends the date and the time, and closes the connection, or answers a datagram."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from reactor.apps.echo import may_answer
from reactor.connection.connection import Connection
from reactor.datagrams import DatagramInfo, DatagramProtocol, Endpoint
from reactor.protocol import Protocol

__all__ = ["DatagramDaytime", "Daytime"]


class Daytime(Protocol):
    """Sends one line on connect: the time in UTC, as RFC 3339 writes it."""

    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Send the time, and close."""
        connection.write(_line())
        connection.close()


class DatagramDaytime(DatagramProtocol):
    """Answers each datagram, whatever is in it, with the time."""

    __slots__ = ("_endpoint",)

    def connection_made(self, endpoint: Endpoint) -> None:
        """Keep the endpoint."""
        self._endpoint = endpoint

    def datagram_received(self, data: bytes, address: Any, info: DatagramInfo | None = None) -> None:
        """Send the time, if it `may_answer`."""
        if may_answer(self._endpoint, address):
            self._endpoint.send(_line(), address)


def _line() -> bytes:
    return f"{datetime.now(UTC).isoformat(timespec='seconds')}\r\n".encode()
