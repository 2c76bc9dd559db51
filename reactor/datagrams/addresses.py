"""Forms of addresses: what `Endpoint.send` is given, and what the socket module takes."""

from __future__ import annotations

import socket
from typing import Any

from reactor.address import Address
from reactor.datagrams.control import MAPPED, Route
from reactor.datagrams.state import Core
from reactor.errors import AddressError, UsageError

__all__ = ["check_peer", "is_unix_text", "route", "sockaddr"]


def is_unix_text(address: Any) -> bool:
    """Return whether `address` is the text of a Unix socket's address, and no path."""
    return isinstance(address, str) and address.startswith("unix:")


def sockaddr(core: Core, address: Any, exc: Exception | None = None) -> Any:
    """Return `address` as the socket module takes it. exc: why that form was refused, if it was tried.

    Raises UsageError without an address, AddressError for an invalid one.
    """
    if address is None:
        raise UsageError(f"{core.endpoint} is connected to no address: give `send` one") from None
    family = core.sock.family
    if core.is_unix:
        where = Address.parse(address) if is_unix_text(address) else address
        return where.path if isinstance(where, Address) and where.path is not None else where
    if isinstance(address, tuple) and not isinstance(exc, (socket.gaierror, OverflowError)):
        raise exc or AssertionError(address)  # the data is what was refused
    where = Address.of(address[:2] if isinstance(address, tuple) else address)
    if where.family not in (socket.AF_INET, socket.AF_INET6):
        raise AddressError(
            f"{where} is not numeric, and a look-up would block: connect_datagram does it on a thread"
        ) from None
    if where.family == family:
        return core.loop.system.resolve(where)[0][1]
    if family == socket.AF_INET6:
        return MAPPED + (where.host or ""), where.port
    raise AddressError(f"{where} is an IPv6 address, and {core.endpoint} is bound to an IPv4 one") from None


def route(core: Core, source: str, address: Any) -> Route:
    """Return the way from `source` to a socket address. Raises UsageError where there is no choice."""
    if core.is_unix or core.target is not None or core.peer is not None:
        raise UsageError(
            f"{core.endpoint} sends from one address only: `source` is for UDP that is not connected, and"
            " `connect_datagram` has `local_address`"
        )
    return Route.between(source, address)


def check_peer(core: Core, address: Any) -> None:
    """Raise UsageError if `address` is not the one that the endpoint is connected to."""
    peer = core.peer if core.target is None else core.target
    if address in (peer, core.peer):
        return
    if isinstance(address, tuple) and isinstance(core.peer, tuple) and address[:2] == core.peer[:2]:
        return
    raise UsageError(f"{core.endpoint} is connected, and {address!r} is another address: bind one for it")
