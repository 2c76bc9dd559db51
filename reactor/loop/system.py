"""`System`: where a reactor gets its sockets, names and threads from. Tests put another in its place."""

from __future__ import annotations

import os
import socket
from io import FileIO
from typing import Any

from reactor.address import Address
from reactor.loop.workers import Workers
from reactor.options import Reconnect

__all__ = ["KERNEL", "System"]


class _ListeningSocket(socket.socket):
    """A socket that keeps the enums of its family and type, which each `accept` takes 1.1 µs to make."""

    __slots__ = ("family", "type")

    family: socket.AddressFamily
    type: socket.SocketKind

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.family = super().family
        self.type = super().type


class System:
    """Sockets, names, threads and descriptors of the kernel.

    has_files: a Unix socket leaves a file behind, to be removed by its owner.
    """

    has_files = True

    def new_socket(self, family: int) -> socket.socket:
        """Return a new stream socket."""
        return socket.socket(family, socket.SOCK_STREAM)

    def new_listening_socket(self, family: int) -> socket.socket:
        """Return a new stream socket that is going to listen."""
        return _ListeningSocket(family, socket.SOCK_STREAM)

    def listening_socket(self, fd: int) -> socket.socket:
        """Return the listening socket that has the descriptor `fd`, and owns it from now on."""
        return _ListeningSocket(fileno=fd)

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
        return Workers(limit, name, daemon=True)

    def jitter(self, reconnect: Reconnect | None) -> Reconnect | None:
        """Return `reconnect`, with the source of random numbers that is to spread its delays."""
        return reconnect

    def check(self, given: object) -> None:
        """Raise UsageError for a socket or descriptor of the caller's that can't be used here."""


#: The one of this process.
KERNEL = System()
