"""`MemorySystem`: the operating system of a reactor in memory."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import attrs

from reactor.address import Address
from reactor.errors import UsageError
from reactor.loop.system import System
from reactor.loop.workers import Workers
from reactor.options import Reconnect
from reactor.testing.datagrams import MemoryDatagramSocket
from reactor.testing.groups import interface_index
from reactor.testing.host import Host
from reactor.testing.network import Network
from reactor.testing.sockets import AnySocket, new_socket

__all__ = ["MemorySystem"]


class MemorySystem(System):
    """The operating system of one host on a network in memory: sockets, name resolution, threads."""

    has_files = False

    def __init__(self, network: Network, host: Host) -> None:
        self._network = network
        self._host = host

    def new_socket(self, family: int) -> Any:
        """Return a `MemorySocket`."""
        return new_socket(self._network, self._host, family)

    def new_listening_socket(self, family: int) -> Any:
        """Return a new socket of the simulated network that is going to listen."""
        return self.new_socket(family)

    def new_datagram_socket(self, family: int) -> Any:
        """Return a `MemoryDatagramSocket`."""
        return MemoryDatagramSocket(self._network, self._host, family)

    def interface_index(self, name: str) -> int:
        """Return the index of an interface: `lo`, or any other name for the network."""
        return interface_index(name)

    def socketpair(self) -> tuple[Any, Any]:
        """Return both ends of a wake-up's socket pair, which are the same object."""
        bell = _Bell(self._network)
        return bell, bell

    def reserve(self) -> Any:
        """Return a descriptor in memory."""
        return _Held(self._network)

    def resolve(self, address: Address, *, passive: bool = False) -> list[tuple[socket.AddressFamily, Any]]:
        """Look the name up in `network.names`."""
        return self._network.resolve(address, passive=passive)

    def workers(self, limit: int, name: str) -> Workers:
        """Return workers that run each call at once, on this thread."""
        return _AtOnce(limit, name, daemon=True)

    def jitter(self, reconnect: Reconnect | None) -> Reconnect | None:
        """Return `reconnect` with the network's random numbers, unless it has its own."""
        if reconnect is None or reconnect.random is not random.random:
            return reconnect
        return attrs.evolve(reconnect, random=self._network.random.random)

    def check(self, given: object) -> None:
        """Raise UsageError if `given` is a kernel socket or descriptor, or one of another network."""
        if isinstance(given, AnySocket):
            if given.network is not self._network:
                raise UsageError(f"{given!r} is of another network: make both reactors on one MemoryNetwork")
        elif self._is_real(given):
            raise UsageError(
                f"{given if isinstance(given, Address) else repr(given)} is real, and a MemoryReactor has"
                " nothing but sockets in memory: listen and connect by address, or use `pair`"
            )

    def _is_real(self, given: object) -> bool:
        if isinstance(given, Address):
            return given.fd is not None
        if isinstance(given, int):
            return given not in self._network.descriptors
        return hasattr(given, "fileno")


class _Held:
    """A reserved descriptor in memory."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._fd = network.open(self)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            self._network.watched.discard(self._fd)  # a loop closes its wake-up before its selector
            self._network.free(self._fd)
            self._fd = -1


class _Bell(_Held):
    """Both ends of a wake-up's socket pair in one object: readable when something was sent."""

    family = None

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.end = self
        self._rung = False

    def setblocking(self, blocks: bool) -> None:
        pass

    def send(self, data: bytes) -> int:
        self._rung = True
        return len(data)

    def recv(self, size: int) -> bytes:
        self._rung = False
        return b"\0"

    def ready(self) -> tuple[bool, bool]:
        return self._rung, True


class _AtOnce(Workers):
    """Workers without threads: each call runs at once."""

    def submit(self, work: Callable[[], object]) -> None:
        work()
