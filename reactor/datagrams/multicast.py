"""Multicast: membership in groups, and how datagrams to groups are sent."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import IPv6Address, ip_address
from typing import Any

from reactor.errors import AddressError
from reactor.loop.system import System

__all__ = ["change_membership", "interface_index", "set_sending"]

_GROUP4 = struct.Struct("@4s4si")  # struct ip_mreqn: ip(7)
_GROUP6 = struct.Struct("@16sI")  # struct ipv6_mreq: ipv6(7)
_ANY = bytes(4)

_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29  # linux/in.h, linux/in6.h


def interface_index(interface: str | int | None, system: System) -> int:
    """Return the index of an interface, given by name or index; 0, the kernel's choice, for None.

    Raises OSError for a name that there is none of.
    """
    if interface is None:
        return 0
    if isinstance(interface, bool) or not isinstance(interface, (str, int)):
        raise TypeError(f"interface must be a name, an index or None, not {interface!r}")
    return system.interface_index(interface) if isinstance(interface, str) else interface


def change_membership(sock: Any, group: str, index: int, *, join: bool) -> None:
    """Join or leave `group` on an interface. Raises AddressError for no multicast address, OSError else."""
    try:
        address = ip_address(group)
    except ValueError:
        raise AddressError(
            f"{group!r} is no IP address: a group is one, as 224.0.0.251 or ff02::fb"
        ) from None
    if "%" in group:
        raise AddressError(f"{group!r} names an interface: give that as the second argument")
    if not address.is_multicast:
        raise AddressError(f"{group} is no multicast address: 224.0.0.0/4 and ff00::/8 are")
    if isinstance(address, IPv6Address):
        if sock.family != socket.AF_INET6:
            raise AddressError(f"{group} is an IPv6 group, and the endpoint is bound to an IPv4 address")
        option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
        sock.setsockopt(socket.IPPROTO_IPV6, option, _GROUP6.pack(address.packed, index))
    else:
        option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
        sock.setsockopt(socket.IPPROTO_IP, option, _GROUP4.pack(address.packed, _ANY, index))
    if join:
        _hear_own_groups_alone(sock)


def _hear_own_groups_alone(sock: Any) -> None:
    """Leave out groups that other sockets of this host have joined, which Linux passes on to all."""
    if sys.platform != "linux":
        return
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    if sock.family == socket.AF_INET6:
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        except OSError:
            pass  # it came with Linux 4.20


def set_sending(sock: Any, index: int | None, loopback: bool | None) -> None:
    """Send to groups on an interface, and to this host's own members if `loopback`; None changes nothing."""
    if index is not None:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _GROUP4.pack(_ANY, _ANY, index))
    if loopback is not None:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, int(loopback))
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, int(loopback))
