"""`System`: a reactor's source of sockets, name resolution and threads. Tests replace it."""

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

    has_files: whether a Unix socket leaves a file, which its owner must remove.
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

    def new_datagram_socket(self, family: int) -> socket.socket:
        """Return a new datagram socket."""
        return socket.socket(family, socket.SOCK_DGRAM)

    def datagram_socket(self, fd: int) -> socket.socket:
        """Return the datagram socket that has the descriptor `fd`, and owns it from now on."""
        return socket.socket(fileno=fd)

    def interface_index(self, name: str) -> int:
        """Return the index of a network interface. Raises OSError if there is none of this name."""
        return socket.if_nametoindex(name)

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        """Return two stream sockets that are connected to each other, for a wake-up."""
        return socket.socketpair()

    def reserve(self) -> FileIO:
        """Return a reserve descriptor, to be closed when no other is left."""
        return FileIO(os.open(os.devnull, os.O_RDONLY))  # not inherited: PEP 446

    def resolve(self, address: Address, *, passive: bool = False) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the families and socket addresses of `address`, as `Address.resolve` does.

        passive: True for listening; then "" is one dual-stack socket where the platform has such.
        """
        if passive and address.host == "":
            if socket.has_dualstack_ipv6():
                return [(socket.AF_INET6, ("::", address.port))]
            return [(socket.AF_INET, ("", address.port))]
        return address.resolve(passive=passive)

    def workers(self, limit: int, name: str) -> Workers:
        """Return a pool of at most `limit` threads, for blocking calls."""
        from reactor.loop.workers import Workers  # noqa: PLC0415 - is loaded with the first loop

        return Workers(limit, name, daemon=True)

    def jitter(self, reconnect: Reconnect | None) -> Reconnect | None:
        """Return `reconnect` with the random numbers for its delays: its own."""
        return reconnect

    def check(self, given: object) -> None:
        """Raise UsageError if the caller's socket or descriptor can't be used here: never, for the kernel."""


#: The system of this process.
KERNEL = System()
