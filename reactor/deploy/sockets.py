"""`ListeningSockets`: the listening sockets of a deployment, which the supervisor binds and keeps.

With SO_REUSEPORT each worker has an accept queue of its own, and the kernel spreads new connections over
them. What waits in a queue when its last descriptor is closed is reset. So the supervisor holds each socket
as long as there is a worker of its index: a worker that ends takes nothing with it, and the next one goes on
with the same queue. Unix sockets and inherited ones have one queue for all workers.
"""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Iterable

import attrs

from reactor.address import Address
from reactor.listening.binding import SocketOption, UnixPath, bind
from reactor.loop.system import KERNEL

__all__ = ["Group", "ListeningSockets"]

#: Sockets of an address: its text, and which of the worker's calls with that text it was.
Key = tuple[str, int]

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h

# Classic BPF, linux/bpf_common.h: load a random number, modulo n, return it as the index of a socket.
_LOAD_RANDOM = struct.pack("HBBI", 0x20, 0, 0, 0xFFFFF000 + 56)
_RETURN = struct.pack("HBBI", 0x16, 0, 0, 0)


@attrs.define(eq=False)
class Group:
    """The sockets of one address.

    queues: for each worker's index its sockets, more than one where a name has several addresses; one entry
        for all workers if they share them. spread: each worker has its own. path: of a Unix socket.
    """

    queues: list[list[socket.socket]]
    spread: bool
    path: UnixPath | None = None

    def of(self, index: int) -> list[socket.socket]:
        """Return the sockets of the worker with this index."""
        return self.queues[index if self.spread else 0]

    def steer(self, count: int) -> None:
        """Send new connections to the queues of the first `count` workers, where the kernel can do that.

        Without it they go to all queues there are. SO_ATTACH_REUSEPORT_CBPF: socket(7).
        """
        if not self.spread:
            return
        program = _LOAD_RANDOM + struct.pack("HBBI", 0x94, 0, 0, count) + _RETURN
        address, _ = (instructions := array("B", program)).buffer_info()
        filtered = struct.pack("HP", len(instructions) // 8, address)  # struct sock_fprog
        for sock in self.queues[0]:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filtered)
            except OSError:
                return

    def close(self, index: int = 0) -> None:
        """Close the queues of the workers from `index` on."""
        for queue in self.queues[index:]:
            for sock in queue:
                sock.close()
        del self.queues[index:]


class ListeningSockets:
    """The sockets of all addresses.

    groups: by key. Sockets of a group are bound in the order of the workers' indices, and closed from the
    end, because the kernel numbers them so.
    """

    def __init__(self) -> None:
        self.groups: dict[Key, Group] = {}

    def bind(
        self, key: Key, index: int, backlog: int, options: Iterable[SocketOption] = ()
    ) -> list[socket.socket]:
        """Return the sockets of the worker `index` for an address; they are bound if they are not yet.

        Raises ListenError if that fails.
        """
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = self._first(Address.parse(key[0]), backlog, options)
        while group.spread and len(group.queues) <= index:
            address = Address.parse(key[0])
            port = group.queues[0][0].getsockname()[1]
            group.queues.append(
                bind(attrs.evolve(address, port=port), backlog=backlog, reuse_port=True, options=options)
            )
        return group.of(index)

    def _first(self, address: Address, backlog: int, options: Iterable[SocketOption]) -> Group:
        # Without SO_REUSEPORT, so that another program that listens there is an error; then it may be set.
        sockets = bind(address, backlog=backlog, reuse_port=False, options=options)
        if address.path is not None:
            return Group([sockets], spread=False, path=UnixPath(address.path))
        if address.fd is not None:
            return Group([sockets], spread=False)
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return Group([sockets], spread=True)

    def addresses(self) -> list[Address]:
        """Return the addresses that are listened on."""
        return [
            Address.from_sockaddr(sock.getsockname())
            for group in self.groups.values()
            for sock in group.queues[0]
        ]

    def steer(self, count: int) -> None:
        """Send new connections to the first `count` workers."""
        for group in self.groups.values():
            group.steer(count)

    def close_from(self, index: int) -> None:
        """Close the queues of the workers from `index` on: their last workers serve what waits there."""
        for group in self.groups.values():
            if group.spread:
                group.close(index)

    def retain(self, keys: set[Key]) -> None:
        """Close the sockets of all other addresses."""
        for key in self.groups.keys() - keys:
            self._close(self.groups.pop(key), remove=True)

    def close(self, *, remove: bool) -> None:
        """Close all sockets. remove: the files of Unix sockets too."""
        groups, self.groups = self.groups, {}
        for group in groups.values():
            self._close(group, remove=remove)

    def _close(self, group: Group, *, remove: bool) -> None:
        if remove and group.path is not None:
            group.path.remove()
        group.close()

    # Over to another supervisor

    def exported(self) -> list[tuple[dict[str, object], list[int]]]:
        """Return the fields and descriptors of one message for each queue, for `take`."""
        return [
            ({"key": list(key), "spread": group.spread}, [sock.fileno() for sock in queue])
            for key, group in self.groups.items()
            for queue in group.queues
        ]

    def take(self, key: Key, spread: bool, descriptors: list[int]) -> None:
        """Add a queue that another supervisor has bound. The descriptors are ours from now on."""
        sockets = [KERNEL.listening_socket(fd) for fd in descriptors]
        path = Address.parse(key[0]).path
        group = self.groups.setdefault(key, Group([], spread, None if path is None else UnixPath(path)))
        group.queues.append(sockets)
