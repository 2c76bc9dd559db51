"""`ListeningSockets`: the sockets of a deployment with an address, which the supervisor binds and keeps.

With SO_REUSEPORT each worker has an accept queue of its own, and the kernel spreads new connections over
them. What waits in a queue when its last descriptor is closed is reset. So the supervisor holds each socket
as long as there is a worker of its index: a worker that ends takes nothing with it, and the next one goes on
with the same queue. Unix sockets and inherited ones have one queue for all workers, and so have datagrams
unless SO_REUSEPORT was asked for. Then the kernel chooses the worker by the client's address, and while their
number changes a filter does by its port: one client is served by one worker.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import Any

import attrs

from reactor.address import Address
from reactor.datagrams.opening import SocketSettings, bind_first
from reactor.listening.binding import SocketOption, UnixPath, bind
from reactor.loop.system import KERNEL

__all__ = ["Group", "Key", "ListeningSockets", "Request"]

#: Sockets of an address: its text, and which of the worker's calls with that text it was.
Key = tuple[str, int]

# Before the address of a key: the sockets are for datagrams.
_UDP = "udp:"

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h

# Instructions of classic BPF, linux/bpf_common.h and linux/filter.h; the result is the index of a socket.
_NET = 0xFFF00000  # SKF_NET_OFF: from the IP header on
_RANDOM = [(0x20, 0, 0, 0xFFFFF000 + 56)]  # load a random number
_BY_PORT = [
    (0x30, 0, 0, _NET),  # load the byte with the version of IP
    (0x54, 0, 0, 0xF0),
    (0x15, 2, 0, 0x60),  # 6: two further on
    (0x28, 0, 0, _NET + 20),  # load the port of the sender, behind a header of IPv4
    (0x05, 0, 0, 1),
    (0x28, 0, 0, _NET + 40),  # behind one of IPv6
    (0x24, 0, 0, 0x9E3779B1),  # multiply, so that all its bits have a say in
    (0x74, 0, 0, 16),  # the upper half
]


def _filter(load: list[tuple[int, int, int, int]], count: int) -> array[int]:
    """Return the program that chooses one of the first `count` sockets by what `load` loads."""
    instructions = [*load, (0x94, 0, 0, count), (0x16, 0, 0, 0)]  # modulo, return
    return array("B", b"".join(struct.pack("HBBI", *each) for each in instructions))


def _split(name: str) -> tuple[str, bool]:
    """Return the address of a key, and whether its sockets are for datagrams."""
    text = name.removeprefix(_UDP)
    return text, text != name


@attrs.frozen
class Request:
    """Sockets that a worker asks for.

    text: the address. occurrence: how many calls with that text came before. datagrams: whether they are for
    datagrams. backlog: of those that listen. spread: whether each worker has its own, where that is possible.
    options: for setsockopt(2).
    """

    text: str
    occurrence: int
    datagrams: bool = False
    backlog: int = 0
    spread: bool = True
    options: tuple[SocketOption, ...] = ()

    @property
    def key(self) -> Key:
        """The key of the sockets."""
        return (_UDP if self.datagrams else "") + self.text, self.occurrence

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of a message."""
        options = [
            (level, name, value if isinstance(value, int) else value.hex())
            for level, name, value in self.options
        ]
        return {"key": self.key, "backlog": self.backlog, "spread": self.spread, "options": options}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Request:
        """Return what `to_fields` was called of."""
        name, occurrence = fields["key"]
        text, datagrams = _split(name)
        options = tuple(
            (level, name, value if isinstance(value, int) else bytes.fromhex(value))
            for level, name, value in fields["options"]
        )
        return cls(text, occurrence, datagrams, fields["backlog"], fields["spread"], options)

    def bind(self, port: int | None = None) -> tuple[list[socket.socket], UnixPath | None]:
        """Bind the sockets of the first worker, or with its port those of another one.

        Raises ListenError if that fails, AddressError for an invalid address.
        """
        address, again = Address.parse(self.text), port is not None
        if port is not None:
            address = attrs.evolve(address, port=port)
        if self.datagrams:
            opened = bind_first(address, SocketSettings(reuse_port=again, options=self.options), KERNEL)
            return [opened.sock], opened.path
        sockets = bind(address, backlog=self.backlog, reuse_port=again, options=self.options)
        return sockets, None if address.path is None else UnixPath(address.path)


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
        """Send what is new to the queues of the first `count` workers, where the kernel can do that.

        Without it they go to all queues there are. SO_ATTACH_REUSEPORT_CBPF: socket(7).
        """
        if not self.spread:
            return
        datagrams = self.queues[0][0].type == socket.SOCK_DGRAM
        program = _filter(_BY_PORT if datagrams else _RANDOM, count)
        address, size = program.buffer_info()
        filtered = struct.pack("HP", size // 8, address)  # struct sock_fprog
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

    def bind(self, request: Request, index: int) -> list[socket.socket]:
        """Return the sockets of the worker `index`; they are bound if they are not yet.

        Raises ListenError if that fails.
        """
        group = self.groups.get(request.key)
        if group is None:
            group = self.groups[request.key] = self._first(request)
        while group.spread and len(group.queues) <= index:
            sockets, _ = request.bind(port=group.queues[0][0].getsockname()[1])
            group.queues.append(sockets)
        return group.of(index)

    def _first(self, request: Request) -> Group:
        # Without SO_REUSEPORT, so that another program that listens there is an error; then it may be set.
        sockets, path = request.bind()
        address = Address.parse(request.text)
        spread = request.spread and address.path is None and address.fd is None
        for sock in sockets if spread else []:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return Group([sockets], spread, path)

    def names(self) -> list[str]:
        """Return the addresses that are listened on, with `udp:` before those of datagrams."""
        return [
            (_UDP if _split(name)[1] else "") + str(Address.from_sockaddr(sock.getsockname()))
            for (name, _), group in self.groups.items()
            for sock in group.queues[0]
        ]

    def steer(self, count: int) -> None:
        """Send what is new to the first `count` workers."""
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
        text, datagrams = _split(key[0])
        open_ = KERNEL.datagram_socket if datagrams else KERNEL.listening_socket
        sockets = [open_(fd) for fd in descriptors]
        path = Address.parse(text).path
        group = self.groups.setdefault(key, Group([], spread, None if path is None else UnixPath(path)))
        group.queues.append(sockets)
