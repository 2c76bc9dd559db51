"""`System`: where a reactor gets its sockets, names and threads from. Tests put another in its place."""

from __future__ import annotations

import os
import socket
from io import FileIO
from typing import TYPE_CHECKING, Any

from reactor.address import Address
from reactor.options import Reconnect

if TYPE_CHECKING:
    from reactor.loop.workers import Workers

__all__ = ["KERNEL", "System"]


class System:
    """Sockets, names, threads and descriptors of the kernel.

    has_files: a Unix socket leaves a file behind, to be removed by its owner.
    """

    has_files = True

    def new_socket(self, family: int) -> socket.socket:
        """Return a new stream socket."""
        return socket.socket(family, socket.SOCK_STREAM)

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        """Return two stream sockets that are connected to each other, for a wake-up."""
        return socket.socketpair()

    def reserve(self) -> FileIO:
        """Return a descriptor that is held back, to be closed when there is no other."""
        return FileIO(os.open(os.devnull, os.O_RDONLY))  # not inherited: PEP 446

    def resolve(self, address: Address, *, passive: bool = False) -> list[tuple[socket.AddressFamily, Any]]:
        """Return each family and socket address that `address` stands for, as `Address.resolve` does.

        passive: to listen; then "" is one socket for IPv6 and IPv4 where the platform has such.
        """
        if passive and address.host == "":
            if socket.has_dualstack_ipv6():
                return [(socket.AF_INET6, ("::", address.port))]
            return [(socket.AF_INET, ("", address.port))]
        return address.resolve(passive=passive)

    def workers(self, limit: int, name: str) -> Workers:
        """Return a pool of at most `limit` threads, for blocking calls."""
        from reactor.loop.workers import Workers  # noqa: PLC0415 - few programs have any

        return Workers(limit, name, daemon=True)

    def jitter(self, reconnect: Reconnect | None) -> Reconnect | None:
        """Return `reconnect`, with the source of random numbers that is to spread its delays."""
        return reconnect

    def check(self, given: object) -> None:
        """Raise UsageError for a socket or descriptor of the caller's that can't be used here."""


#: The one of this process.
KERNEL = System()
