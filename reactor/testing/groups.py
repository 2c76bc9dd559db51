"""Groups and broadcast on the network in memory: what a datagram socket has joined, and where it sends.

As on Linux, a host passes on what is sent to a group as soon as one of its sockets is a member.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address
from typing import Any

import attrs

from reactor.testing.host import BROADCASTS, LOOPBACK, NETWORK, error

__all__ = ["Groups", "interface_index"]

_GROUP4 = struct.Struct("@4s4si")  # struct ip_mreqn: ip(7)
_GROUP6 = struct.Struct("@16sI")  # struct ipv6_mreq: ipv6(7)

_V4, _V6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
_JOIN = {(_V4, socket.IP_ADD_MEMBERSHIP): _GROUP4, (_V6, socket.IPV6_JOIN_GROUP): _GROUP6}
_LEAVE = {(_V4, socket.IP_DROP_MEMBERSHIP): _GROUP4, (_V6, socket.IPV6_LEAVE_GROUP): _GROUP6}
_SENDING = {(_V4, socket.IP_MULTICAST_IF), (_V6, socket.IPV6_MULTICAST_IF)}
_LOOP = {(_V4, socket.IP_MULTICAST_LOOP), (_V6, socket.IPV6_MULTICAST_LOOP)}
_ALL = {(_V4, 49), (_V6, 29)}  # IP_MULTICAST_ALL, IPV6_MULTICAST_ALL: linux/in.h, linux/in6.h


def interface_index(name: str) -> int:
    """Return the index of an interface: `lo`, or any other name for the network."""
    return LOOPBACK if name == "lo" else NETWORK


@attrs.define(eq=False)
class Groups:
    """The multicast settings of a datagram socket.

    members: the groups that it has joined, with the interface of each. interface: the one that it sends to
    groups on. loops: whether members on its own host hear that. hears_all: whether it gets what other sockets
    of the host have joined, too (IP_MULTICAST_ALL).
    """

    members: set[tuple[str, int]] = attrs.field(factory=set)
    interface: int = NETWORK
    loops: bool = True
    hears_all: bool = True

    def set_option(self, level: int, option: int, value: Any) -> bool:
        """Do what setsockopt(2) does; return whether the option is one of these. Raises OSError as it."""
        name = (level, option)
        if name in _JOIN:
            self._join(*_parse(_JOIN[name], value))
        elif name in _LEAVE:
            self._leave(*_parse(_LEAVE[name], value))
        elif name in _SENDING:
            self.interface = _known(value if isinstance(value, int) else _GROUP4.unpack(value)[2])
        elif name in _LOOP:
            self.loops = bool(value)
        elif name in _ALL:
            self.hears_all = bool(value)
        else:
            return False
        return True

    def _join(self, group: str, interface: int) -> None:
        if (group, interface) in self.members:
            raise error(errno.EADDRINUSE)
        self.members.add((group, interface))

    def _leave(self, group: str, interface: int) -> None:
        if (group, interface) not in self.members:
            raise error(errno.EADDRNOTAVAIL)
        self.members.remove((group, interface))

    def way_to(self, address: str) -> int:
        """Return the index of the interface on which it sends to a group or a broadcast address."""
        return BROADCASTS.get(address, self.interface)

    def takes(self, group: str, interface: int) -> bool:
        """Return whether it gets what comes to the host for `group`."""
        return (group, interface) in self.members or self.hears_all


def _parse(layout: struct.Struct, value: bytes) -> tuple[str, int]:
    packed, *_, interface = layout.unpack(value)
    return str(ip_address(packed)), _known(interface)


def _known(interface: int) -> int:
    """Return the index of an interface; 0 is the kernel's choice."""
    if interface not in (0, LOOPBACK, NETWORK):
        raise error(errno.ENODEV)
    return interface or NETWORK
