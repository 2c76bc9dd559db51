"""`Host`: a machine on the network in memory, with its addresses and listening sockets."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address
from typing import Any

from reactor.errors import UsageError

__all__ = [
    "ANY", "BROADCASTS", "LOOPBACK", "NETWORK", "Host", "error", "is_for_many", "numeric", "socket_address",
]  # fmt: skip

#: Source addresses of a host without addresses of its own.
_DEFAULTS = ("10.0.0.1", "fd00::1")

#: The addresses that stand for every interface.
ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104

#: Indices of the interfaces of a host: `lo`, which nothing leaves, and the network, by any other name.
LOOPBACK, NETWORK = 1, 2

#: The broadcast address of each interface; hosts in memory have no netmasks.
BROADCASTS = {"127.255.255.255": LOOPBACK, "255.255.255.255": NETWORK}


class Host:
    """A machine on the network: its addresses, its listening endpoints, and its bound datagram sockets.

    addresses: its own, beside loopback. If empty, it has every address that no other host has.
    datagrams: the kernel's sides of the datagram sockets that are bound.
    """

    def __init__(self, network: Any, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses
        self._network = network
        self._listening: list[Any] = []
        self.datagrams: list[Any] = []

    # Listening

    def bind(
        self, family: int, where: Any, *, shared: bool, both: bool, ends: list[Any] | None = None
    ) -> Any:
        """Return the socket address of a socket bound to `where`: a path, or a host and port.

        shared: SO_REUSEPORT. both: an IPv6 socket that accepts IPv4 too. ends: the sockets that may have
        taken it; None for those that listen. Raises OSError as bind(2) does.
        """
        ends = self._listening if ends is None else ends
        if isinstance(where, str):
            if any(known.sockname == where for known in ends if not known.closed):
                raise error(errno.EADDRINUSE)
            return where
        address = numeric(where[0] or "0.0.0.0")  # noqa: S104
        if (":" in address) is not (family == socket.AF_INET6):
            raise socket.gaierror(socket.EAI_FAMILY, "Address family for hostname not supported")
        if address not in ANY and not self.has(address) and not is_for_many(address):
            raise error(errno.EADDRNOTAVAIL)
        port = where[1]
        while not port or _is_taken(ends, address, port, shared=shared, both=both):
            if where[1]:
                raise error(errno.EADDRINUSE)
            port = self._network.next_port()
        return socket_address(address, port)

    def listen(self, listening: Any) -> None:
        """Add `listening`, so that clients can connect to it."""
        self._listening = [known for known in self._listening if not known.closed]
        self._listening.append(listening)

    def has(self, address: str) -> bool:
        """Return whether `address` is one of its own."""
        return ip_address(address).is_loopback or self._network.host_at(address) is self

    # Connecting

    def connect(self, end: Any, where: Any) -> int:
        """Begin to connect `end`, of a socket of this host, to `where`; return what connect_ex returns."""
        if isinstance(where, str):
            return self._connect_to_path(end, where)
        target = numeric(where[0])
        loopback = ip_address(target).is_loopback
        bound, port = end.sockname[:2]
        source = self.source(target) if bound in ANY else bound
        if source is None:
            return errno.ENETUNREACH
        end.sockname = socket_address(source, port or self._network.next_port())
        end.address, end.peer_address = source, target
        host = self if loopback else self._network.host_at(target)
        unreachable = {numeric(address): why for address, why in self._network.unreachable.items()}
        if target in unreachable:
            end.start_in_vain(unreachable[target])
        elif host is None:
            end.start_in_vain(errno.EHOSTUNREACH)
        else:
            end.start(lambda: host.find(target, where[1]))
        return errno.EINPROGRESS

    def _connect_to_path(self, end: Any, path: str) -> int:
        listening = self.find(path)
        if listening is None:
            return errno.ENOENT
        if listening.is_full():
            return errno.EAGAIN
        listening.backlog.append(end.meet(listening))
        return 0

    def source(self, target: str) -> str | None:
        """Return the source address for what is sent to `target`; None if there is none of its family."""
        if ip_address(target).is_loopback or target in self.addresses:
            return target
        return next((own for own in self.addresses or _DEFAULTS if (":" in own) is (":" in target)), None)

    def find(self, where: str, port: int | None = None) -> Any:
        """Return the endpoint that listens on a path, or an address and port; one of those that share it."""
        found = [
            known
            for known in self._listening
            if not known.closed and (known.sockname == where if port is None else _takes(known, where, port))
        ]
        exact = [known for known in found if known.sockname[0] == where] or found
        return self._network.random.choice(exact) if len(exact) > 1 else next(iter(exact), None)

    # Datagrams

    def find_datagrams(self, where: Any, port: int | None = None, sender: Any = None) -> Any:
        """Return the datagram socket that gets what `sender` sends to a path, or an address and port.

        One that is connected to the sender comes first, then one bound to this very address.
        """
        if port is None:
            return next((known for known in self.datagrams if known.sockname == where), None)
        found = [
            known
            for known in self.datagrams
            if _takes(known, where, port) and (known.peer is None or known.peer[:2] == sender)
        ]
        connected = [known for known in found if known.peer is not None]
        exact = connected or [known for known in found if known.sockname[0] == where] or found
        return self._network.random.choice(exact) if len(exact) > 1 else next(iter(exact), None)

    def find_members(self, where: str, port: int, interface: int, sender: Any) -> list[Any]:
        """Return the datagram sockets that get what `sender` sends to a group or a broadcast address."""
        group = ip_address(where).is_multicast
        if group and not any((where, interface) in known.groups.members for known in self.datagrams):
            return []
        return [
            known
            for known in self.datagrams
            if _takes(known, where, port)
            and (known.peer is None or known.peer[:2] == sender)
            and (not group or known.groups.takes(where, interface))
        ]


def _is_taken(ends: list[Any], address: str, port: int, *, shared: bool, both: bool) -> bool:
    for other in ends:
        if other.closed or isinstance(other.sockname, str) or other.sockname[1] != port:
            continue
        one_family = (":" in address) is (":" in other.sockname[0])
        overlap = one_family and (address == other.sockname[0] or {address, other.sockname[0]} & ANY)
        if (overlap or (not one_family and (both or other.both))) and not (shared and other.shared):
            return True
    return False


def _takes(listening: Any, address: str, port: int) -> bool:
    name = listening.sockname
    if isinstance(name, str) or name[1] != port:
        return False
    one_family = (":" in address) is (":" in name[0])
    return (one_family and (address == name[0] or name[0] in ANY)) or (not one_family and listening.both)


def numeric(address: str) -> str:
    """Return the canonical text of an IP address. Raises UsageError if it is not one."""
    try:
        return str(ip_address(address.partition("%")[0]))
    except ValueError:
        raise UsageError(
            f"{address!r} is no IP address: names are for `network.names`, as in"
            f' network.names[{address!r}] = ["10.0.0.1"]'
        ) from None


def socket_address(address: str, port: int) -> tuple[Any, ...]:
    """Return the socket address of an IP address and port, as the socket module has it."""
    return (address, port, 0, 0) if ":" in address else (address, port)


def is_for_many(address: str) -> bool:
    """Return whether it is a group or a broadcast address."""
    return address in BROADCASTS or ip_address(address).is_multicast


def error(number: int) -> OSError:
    """Return the exception that the socket module raises for `number`."""
    return OSError(number, os.strerror(number))
