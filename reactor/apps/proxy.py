"""Proxy: forwards each connection to another address, both ways, at the speed of the slower end."""

from __future__ import annotations

from typing import Literal

import attrs

from reactor.address import AddressLike
from reactor.connecting.connector import Connector
from reactor.connection.connection import Connection
from reactor.errors import ConnectError
from reactor.framing.proxy_header import ProxyHeader
from reactor.protocol import Protocol
from reactor.reactor import loop_of

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


def _header_of(connection: Connection, send_proxy: Literal["v1", "v2"]) -> ProxyHeader:
    """Return the PROXY header for what a client sends on `connection`.

    What another proxy has said of the client is passed on, in version 2 with its TLVs.
    """
    version: Literal[1, 2] = 1 if send_proxy == "v1" else 2
    received: ProxyHeader | None = connection.get_extra_info("proxy")
    if received is not None and version == 2 and (received.source is not None or received.local):
        return attrs.evolve(received, version=2)
    if received is not None and received.source is not None:
        return ProxyHeader.between(received.source, received.destination, version)
    client, here = connection.get_extra_info("peername"), connection.get_extra_info("sockname")
    return ProxyHeader.between(client, here, version)


class Proxy(_Side):
    """The client's side, which is not read from until the target is connected.

    target: the address to forward to. send_proxy: "v1" or "v2", to send the target a PROXY header with the
        client's address first; None for none.
    """

    __slots__ = ("_connector", "_send_proxy", "_target")

    def __init__(self, target: AddressLike, send_proxy: Literal["v1", "v2"] | None = None) -> None:
        super().__init__()
        self._target = target
        self._send_proxy = send_proxy
        self._connector: Connector | None = None

    def connection_made(self, connection: Connection) -> None:
        """Connect to the target."""
        self.connection = connection
        connection.pause_reading()
        reactor = connection.reactor
        header = None if self._send_proxy is None else _header_of(connection, self._send_proxy)
        self._connector = reactor.connect(
            self._target, lambda: _Target(self), on_failure=self._target_failed, proxy_protocol=header
        )

    def _target_failed(self, exc: ConnectError) -> None:
        loop_of(self.connection.reactor).scheduler.log.warning(("proxy", str(exc)), "proxy: %s", exc)
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
