"""Control messages of datagram sockets: what came with a datagram, and the kernel's segmentation (GSO, GRO).

The numbers are those of Linux, from linux/in.h, linux/in6.h and linux/udp.h: the socket module of Python 3.11
lacks most of them.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import attrs

from reactor.errors import AddressError, UsageError

__all__ = [
    "ANCILLARY_SIZE", "MAPPED", "DatagramInfo", "Route", "ask_for_info", "enable_gro", "enable_gso",
    "info_of", "segment_size_of", "segmented",
]  # fmt: skip

_IP_TOS, _IP_TTL, _IP_PKTINFO, _IP_RECVTTL, _IP_RECVTOS = 1, 2, 8, 12, 13
_IPV6_RECVPKTINFO, _IPV6_PKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 49, 50, 51, 52
_IPV6_RECVTCLASS, _IPV6_TCLASS = 66, 67
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104

_IPV4_INFO = (_IP_PKTINFO, _IP_RECVTTL, _IP_RECVTOS)
_IPV6_INFO = (_IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS)

_IN_PKTINFO = struct.Struct("@i4s4s")  # interface, local address, address in the header: ip(7)
_IN6_PKTINFO = struct.Struct("@16si")  # ipv6(7)
_INT = struct.Struct("@i")
_SEGMENT = struct.Struct("@H")

#: Bytes for the control messages of one call.
ANCILLARY_SIZE = 256

_ECN = 3  # the two lower bits of the traffic class: RFC 3168, 5

_IPV6_GROUP = 0xFF  # the first byte of an IPv6 multicast address: RFC 4291, 2.7

#: Before an IPv4 address on an IPv6 socket: RFC 4291, 2.5.5.2.
MAPPED = "::ffff:"

ControlMessage = tuple[int, int, bytes]


@attrs.frozen
class DatagramInfo:
    """The control messages of a datagram; a field is None where the kernel did not say.

    destination: the address that it was sent to: one of this host's, or a group. interface: the index of the
    interface that it came in on, for `socket.if_indextoname`. ecn: the congestion mark, 0 to 3 (RFC 3168).
    ttl: what was left of the time to live, or hop limit. local: the address of this host to answer from, by
    `Endpoint.send(..., source=info.local)`: `destination`, or for a group or a broadcast the interface's own;
    None for an IPv6 group, where the kernel chooses.

    >>> DatagramInfo(destination="224.0.0.251", interface=1, ecn=0, ttl=255).destination
    '224.0.0.251'
    """

    destination: str | None = None
    interface: int | None = None
    ecn: int | None = None
    ttl: int | None = None
    local: str | None = None


@attrs.frozen
class Route:
    """An address to send to, with the control messages that say from which one. Equal ones are one way."""

    address: Any
    messages: list[ControlMessage]

    @classmethod
    def between(cls, source: str, address: Any) -> Route:
        """Return the route to the socket address `address` from `source`, an IP address of this host.

        Raises AddressError if `source` is no IP address, or of another family than `address`, TypeError if it
        is no text.
        """
        to_ipv4 = ":" not in address[0] or address[0].lower().startswith(MAPPED)
        family, message = _source_message(source)
        if to_ipv4 is not (family == socket.AF_INET):
            raise AddressError(
                f"{source} is of another family than {address[0]}, it can't be sent from there"
            )
        return cls(address, [message])


def ask_for_info(sock: socket.socket) -> None:
    """Ask for the `DatagramInfo` of each datagram. Raises UsageError where that is not supported."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise UsageError("info=True is for UDP: Unix datagrams have no destination, interface or TTL")
    options = [(socket.IPPROTO_IP, option) for option in _IPV4_INFO]
    if sock.family == socket.AF_INET6:  # an IPv4 datagram has the others, and IPv6's destination
        options += [(socket.IPPROTO_IPV6, option) for option in _IPV6_INFO]
    for level, option in options:
        _set(sock, level, option, 1, "info")


def enable_gro(sock: socket.socket) -> None:
    """Receive datagrams of one sender joined, as many as the kernel has (UDP_GRO, udp(7)).

    Raises UsageError where that is not supported.
    """
    _set(sock, _SOL_UDP, _UDP_GRO, 1, "gro")


def enable_gso(sock: socket.socket) -> None:
    """Check that one call can send several datagrams (UDP_SEGMENT, udp(7)).

    Raises UsageError where that is not supported.
    """
    _set(sock, _SOL_UDP, _UDP_SEGMENT, 0, "gso")  # each call has a size of its own


def _set(sock: socket.socket, level: int, option: int, value: int, name: str) -> None:
    try:
        if sys.platform != "linux":
            raise OSError(errno.ENOPROTOOPT, "it is there on Linux only")
        sock.setsockopt(level, option, value)
    except OSError as exc:
        raise UsageError(f"{name} is not supported here: leave it out ({exc.strerror})") from exc


@lru_cache(maxsize=256)
def _source_message(source: str) -> tuple[int, ControlMessage]:
    """Return the family of `source`, and the control message for sendmsg(2) that has it sent from there."""
    if not isinstance(source, str):
        raise TypeError(f"source must be the text of an IP address, not {source!r}")
    text = source.removeprefix(MAPPED)
    try:
        if ":" in text:
            packed = socket.inet_pton(socket.AF_INET6, text)
            return socket.AF_INET6, (socket.IPPROTO_IPV6, _IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, 0))
        packed = socket.inet_pton(socket.AF_INET, text)
    except OSError:
        raise AddressError(f"{source!r} is no IP address to send from: give `info.local`") from None
    return socket.AF_INET, (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, packed, bytes(4)))


def segmented(size: int) -> list[ControlMessage]:
    """Return the control messages for sendmsg(2) that cut its bytes into datagrams of `size` bytes."""
    return [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size))]


def segment_size_of(messages: Iterable[ControlMessage], size: int) -> int:
    """Return the bytes of each datagram, the last one apart, in `size` bytes that came with `messages`."""
    for level, kind, data in messages:
        if level == _SOL_UDP and kind == _UDP_GRO:
            found: int = _INT.unpack(data[: _INT.size])[0]
            return found
    return size


def info_of(messages: Iterable[ControlMessage]) -> DatagramInfo:
    """Return what the control messages `messages` say of a datagram."""
    found: dict[str, Any] = {}
    for level, kind, data in messages:
        if level == socket.IPPROTO_IP:
            _add_ipv4(found, kind, data)
        elif level == socket.IPPROTO_IPV6:
            _add_ipv6(found, kind, data)
    return DatagramInfo(**found)


def _add_ipv4(found: dict[str, Any], kind: int, data: bytes) -> None:
    if kind == _IP_PKTINFO:
        found["interface"], local, packed = _IN_PKTINFO.unpack(data)
        found["destination"] = socket.inet_ntop(socket.AF_INET, packed)
        found["local"] = socket.inet_ntop(socket.AF_INET, local)
    elif kind == _IP_TTL:
        found["ttl"] = _INT.unpack(data)[0]
    elif kind == _IP_TOS:
        found["ecn"] = data[0] & _ECN


def _add_ipv6(found: dict[str, Any], kind: int, data: bytes) -> None:
    if kind == _IPV6_PKTINFO:
        packed, found["interface"] = _IN6_PKTINFO.unpack(data)
        found["destination"] = socket.inet_ntop(socket.AF_INET6, packed)
        found["local"] = None if packed[0] == _IPV6_GROUP else found["destination"]
    elif kind == _IPV6_HOPLIMIT:
        found["ttl"] = _INT.unpack(data)[0]
    elif kind == _IPV6_TCLASS:
        found["ecn"] = _INT.unpack(data)[0] & _ECN
