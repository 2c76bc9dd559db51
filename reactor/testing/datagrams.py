"""Datagram sockets of the network in memory: their kernel's side, and what a reactor calls.

They do what UDP and Unix datagrams on Linux do, as far as a program can observe it. Loss, reordering and
duplication come from the network's seed, for each host that a datagram goes to. There is no GSO and no GRO.
"""

from __future__ import annotations

import errno
import math
import socket
import struct
from collections import deque
from functools import partial
from ipaddress import ip_address
from random import Random
from typing import Any

import attrs

from reactor.errors import UsageError
from reactor.testing.groups import Groups
from reactor.testing.host import (
    ANY,
    BROADCASTS,
    LOOPBACK,
    NETWORK,
    Host,
    error,
    is_for_many,
    numeric,
    socket_address,
)
from reactor.testing.network import Network
from reactor.testing.sockets import AnySocket

__all__ = ["DatagramEnd", "MemoryDatagramSocket"]

# The largest payload of an IPv4 datagram, and what one costs of the receive buffer beside its bytes.
_LARGEST = 65507
_OVERHEAD = 256

# Seconds by which a datagram that is overtaken is later, where the network's latency is less.
_DETOUR = 0.01

# Datagrams that wait for a Unix socket: net.unix.max_dgram_qlen of unix(7) has this default.
_UNIX_QUEUE = 10

_RECVERR = (socket.IPPROTO_IP, 11)
_REUSE_PORT = (socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", None))
_V6_ONLY = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
_BROADCAST = (socket.SOL_SOCKET, socket.SO_BROADCAST)
_TTL = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
_SOL_UDP = 17
_EXTENDED = struct.Struct("@IBBBxII")
_ICMP = 2

# Control messages, linux/in.h and linux/in6.h: IP_PKTINFO, IP_TTL, IP_TOS; IPV6_PKTINFO and the others, with
# the option that asks for them.
_ASK4, _INFO4, _TTL4, _TOS4 = (socket.IPPROTO_IP, 8), 8, 2, 1
_ASK6, _INFO6, _HOPS6, _CLASS6 = (socket.IPPROTO_IPV6, 49), 50, 52, 67
_PKTINFO4, _PKTINFO6, _INT = struct.Struct("@i4s4s"), struct.Struct("@16si"), struct.Struct("@i")

_ANYWHERE: dict[int, Any] = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0, 0, 0)}  # noqa: S104


@attrs.frozen
class _Sent:
    """A datagram on its way. source, target: addresses of hosts. on: the index of the interface."""

    data: bytes
    source: str
    port: int
    target: str
    target_port: int
    ttl: int
    on: int

    def sender(self, family: int) -> Any:
        """Return the sender's address as a socket of this family has it."""
        mapped = family == socket.AF_INET6 and ":" not in self.source
        return socket_address(f"::ffff:{self.source}" if mapped else self.source, self.port)


@attrs.define(eq=False)
class DatagramEnd:
    """The kernel's side of a datagram socket.

    peer: the socket address that it is connected to. receiving: what has arrived, with each sender's address
    and control messages. groups: those that it has joined. asks: whether it wants control messages.
    drops: datagrams that found the receive buffer full. errors: those of ICMP, with the address of each.
    """

    network: Network
    sockname: Any
    room: int
    shared: bool = False
    both: bool = False
    peer: Any = None
    closed: bool = False
    receiving: deque[tuple[bytes, list[Any], Any]] = attrs.field(factory=deque, init=False)
    groups: Groups = attrs.field(factory=Groups, init=False)
    asks: bool = attrs.field(default=False, init=False)
    drops: int = attrs.field(default=0, init=False)
    errors: deque[tuple[int, Any]] = attrs.field(factory=deque, init=False)
    error: int | None = attrs.field(default=None, init=False)
    queues_errors: bool = attrs.field(default=False, init=False)
    _held: int = attrs.field(default=0, init=False)
    _random: Random = attrs.field(init=False, repr=False)
    _arrival: float = attrs.field(default=-math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self._random = Random(self.network.random.getrandbits(64))

    def ready(self) -> tuple[bool, bool]:
        """Return whether the socket is readable and writable, as epoll reports it."""
        return bool(self.receiving or self.errors or self.error), True

    def is_full(self) -> bool:
        """Return whether a Unix socket takes no more."""
        return len(self.receiving) > _UNIX_QUEUE

    def arrive(self, data: bytes, messages: list[Any], sender: Any) -> None:
        """Keep a datagram for the program, or drop it if the buffer is full or the socket closed."""
        if self.closed:
            return
        if self._held + len(data) > self.room:
            self.drops += 1
            return
        self._held += len(data) + _OVERHEAD
        self.receiving.append((data, messages, sender))

    def receive(self, sent: _Sent, local: str | None) -> None:
        """Keep a datagram that has come over the network. local: the address of its `DatagramInfo`."""
        messages = _messages(sent, local) if self.asks else []
        family = socket.AF_INET6 if ":" in self.sockname[0] else socket.AF_INET
        self.arrive(sent.data, messages, sent.sender(family))

    def take(self) -> tuple[bytes, list[Any], Any]:
        """Remove and return the first datagram, its control messages and its sender's address."""
        self.raise_error()
        if not self.receiving:
            raise error(errno.EAGAIN)
        data, messages, sender = self.receiving.popleft()
        self._held -= len(data) + _OVERHEAD
        return data, messages, sender

    def raise_error(self) -> None:
        """Raise what an ICMP message has set, once."""
        number, self.error = self.error, None
        if number is not None:
            raise error(number)

    def fail(self, number: int, target: Any) -> None:
        """Note what an ICMP message says of a datagram to `target`."""
        if self.queues_errors:
            self.errors.append((number, target))
        if self.queues_errors or self.peer is not None:
            self.error = number

    def journeys(self) -> list[float]:
        """Return when each copy of the next datagram arrives, in the clock's seconds; none if it is lost."""
        network, random = self.network, self._random
        if random.random() < network.loss:
            return []
        copies = 2 if random.random() < network.duplication else 1
        shortest, longest = network.latency
        now = network.clock()
        arrivals = []
        for _ in range(copies):
            when = max(self._arrival, now + random.uniform(shortest, longest))
            if random.random() < network.reordering:
                arrivals.append(when + random.uniform(0, max(longest, _DETOUR)))
            else:
                self._arrival = when
                arrivals.append(when)
        return arrivals


class MemoryDatagramSocket(AnySocket):
    """A datagram socket in memory; its calls can fail, as the network decides.

    end: its kernel's side. host: its host. family: the address family.
    """

    type = socket.SOCK_DGRAM

    def __init__(self, network: Network, host: Host, family: int) -> None:
        network.call("socket")
        super().__init__(network, DatagramEnd(network, _ANYWHERE.get(family), network.buffers[1]), family)
        self._host = host

    def setblocking(self, blocks: bool) -> None:
        if blocks:
            self.network.complaints.append("a datagram socket that would block")

    # Receiving

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        self._call("recvfrom")
        data, _, sender = self.end.take()
        return data[:size], sender

    def recvmsg(self, size: int, ancillary: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        self._call("recvmsg")
        if flags & socket.MSG_ERRQUEUE:
            return self._take_error()
        data, messages, sender = self.end.take()
        return data[:size], messages, 0 if len(data) <= size else socket.MSG_TRUNC, sender

    def recvmsg_into(self, buffers: Any, ancillary: int = 0) -> tuple[int, list[Any], int, Any]:
        (buffer,) = buffers
        data, messages, flags, sender = self.recvmsg(len(buffer))
        buffer[: len(data)] = data
        return len(data), messages, flags, sender

    def _take_error(self) -> tuple[bytes, list[Any], int, Any]:
        if not self.end.errors:
            raise error(errno.EAGAIN)
        number, target = self.end.errors.popleft()
        self.end.error = self.end.errors[0][0] if self.end.errors else None
        return b"", [(*_RECVERR, _EXTENDED.pack(number, _ICMP, 3, 3, 0, 0))], socket.MSG_ERRQUEUE, target

    # Sending

    def send(self, data: Any) -> int:
        self._call("send")
        if self.end.peer is None:
            raise error(errno.EDESTADDRREQ)
        return self._transmit(bytes(data), self.end.peer)

    def sendto(self, data: Any, address: Any) -> int:
        self._call("sendto")
        return self._transmit(bytes(data), self._checked(address))

    def _checked(self, address: Any) -> Any:
        """Return `address`, if the socket module would take it."""
        if self.family == getattr(socket, "AF_UNIX", None):
            if not isinstance(address, (str, bytes)):
                raise TypeError(f"a path is needed, not {address!r}")
            return address
        if not isinstance(address, tuple):
            raise TypeError(f"a tuple is needed, not {address!r}")
        try:
            six = ":" in numeric(address[0])
        except UsageError as exc:
            raise socket.gaierror(socket.EAI_NONAME, str(exc)) from exc
        if six is not (self.family == socket.AF_INET6):
            raise socket.gaierror(socket.EAI_FAMILY, "Address family for hostname not supported")
        return address

    def sendmsg(self, pieces: Any, messages: Any = (), flags: int = 0, address: Any = None) -> int:
        self._call("sendmsg")
        source = None
        for level, kind, data in messages:
            if (level, kind) == (socket.IPPROTO_IP, _INFO4):
                source = str(ip_address(_PKTINFO4.unpack(data)[1]))
            elif (level, kind) == (socket.IPPROTO_IPV6, _INFO6):
                source = str(ip_address(_PKTINFO6.unpack(data)[0]))
        if source is not None and not self._host.has(source):
            raise error(errno.EINVAL)
        return self._transmit(b"".join(pieces), self._checked(address), source)

    def _transmit(self, data: bytes, target: Any, source: str | None = None) -> int:
        self.end.raise_error()
        if isinstance(target, (str, bytes)):
            return self._transmit_to_path(data, target)
        if len(data) > _LARGEST:
            raise error(errno.EMSGSIZE)
        host = _unmapped(target[0])
        own = self._source_for(host)
        if not self.end.sockname[1]:
            self.bind(_ANYWHERE[self.family])
        bound, port = self.end.sockname[:2]
        source = source or (own if bound in ANY or is_for_many(bound) else bound)
        sent = _Sent(data, source, port, host, target[1], self._ttl_to(host), self._way_to(host))
        if is_for_many(host):
            self._send_to_many(sent)
        else:
            self._travel(partial(self._deliver, sent, target))
        return len(data)

    def _way_to(self, host: str) -> int:
        """Return the index of the interface to `host`."""
        groups: Groups = self.end.groups
        if is_for_many(host):
            return groups.way_to(host)
        return LOOPBACK if self._host.has(host) else NETWORK

    def _ttl_to(self, host: str) -> int:
        address = ip_address(host)
        ttl: int = self._options.get(_TTL[address.version], 1 if address.is_multicast else 64)
        return ttl

    def _source_for(self, host: str) -> str:
        """Return the address to send to `host` from. Raises OSError if that is not possible."""
        if host in BROADCASTS and not self._options.get(_BROADCAST):
            raise error(errno.EACCES)
        if is_for_many(host) and self.end.groups.way_to(host) == LOOPBACK:
            return "::1" if ":" in host else "127.0.0.1"
        own = self._host.source(host)
        if own is None:
            raise error(errno.ENETUNREACH)
        return own

    def _travel(self, deliver: Any) -> None:
        """Call `deliver` when a datagram arrives: never, once or twice."""
        for when in self.end.journeys():
            if when <= self.network.clock():
                deliver()
            else:
                self.network.at(when, deliver)

    def _transmit_to_path(self, data: bytes, path: Any) -> int:
        receiver = self._host.find_datagrams(path)
        if receiver is None:
            raise error(errno.ENOENT)
        if receiver.is_full():
            raise error(errno.EAGAIN)
        receiver.arrive(data, [], self.end.sockname)
        return len(data)

    def _deliver(self, sent: _Sent, target: Any) -> None:
        network, host = self.network, sent.target
        if network.is_cut(sent.source, host):
            return
        there = self._host if ip_address(host).is_loopback else network.host_at(host)
        unreachable = {numeric(address): why for address, why in network.unreachable.items()}
        receiver: Any = None
        if host in unreachable:
            number = unreachable[host]
        else:
            number = errno.EHOSTUNREACH if there is None else errno.ECONNREFUSED
            receiver = there and there.find_datagrams(host, sent.target_port, (sent.source, sent.port))
        if receiver is not None:
            receiver.receive(sent, host)
        elif number is not None and not self.end.closed:
            self.end.fail(number, target)

    def _send_to_many(self, sent: _Sent) -> None:
        """Send to a group or a broadcast address: to each host, whose sockets get what arrives there."""
        own = self._host
        for host in [own] if sent.on == LOOPBACK else self.network.hosts():
            if host is not own or sent.on == LOOPBACK or sent.target in BROADCASTS or self.end.groups.loops:
                self._travel(partial(self._deliver_to_many, sent, host))

    def _deliver_to_many(self, sent: _Sent, host: Host) -> None:
        """Deliver to the sockets of `host` that receive this group or broadcast; there may be none."""
        local = self._source_at(host, sent)
        if local is None or self.network.is_cut(sent.source, local):
            return
        for receiver in host.find_members(sent.target, sent.target_port, sent.on, (sent.source, sent.port)):
            receiver.receive(sent, None if ":" in sent.target else local)

    def _source_at(self, host: Host, sent: _Sent) -> str | None:
        """Return the address of `host` on the interface."""
        if sent.on == LOOPBACK:
            return "::1" if ":" in sent.target else "127.0.0.1"
        return host.source(sent.target)

    # Opening and closing

    def bind(self, where: Any) -> None:
        self._call("bind")
        end = self.end
        end.shared = bool(self._options.get(_REUSE_PORT))
        end.both = self.family == socket.AF_INET6 and not self._options.get(_V6_ONLY, 0)
        end.sockname = self._host.bind(
            self.family, where, shared=end.shared, both=end.both, ends=self._host.datagrams
        )
        self._host.datagrams.append(end)

    def connect(self, where: Any) -> None:
        self._call("connect")
        if isinstance(where, (str, bytes)):
            if self._host.find_datagrams(where) is None:
                raise error(errno.ENOENT)
            self.end.peer = where
            return
        host = _unmapped(where[0])
        own = self._source_for(host)
        if not self.end.sockname[1]:
            self.bind((own, 0))
        self.end.peer = socket_address(host, where[1])

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self.network.free(fd)
        self.end.closed = True
        if self.end in self._host.datagrams:
            self._host.datagrams.remove(self.end)
        self.network.call("close")

    # Facts and options

    def getpeername(self) -> Any:
        self._call("getpeername")
        if self.end.peer is None:
            raise error(errno.ENOTCONN)
        return self.end.peer

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._call("setsockopt")
        if level == _SOL_UDP:
            raise error(errno.ENOPROTOOPT)
        if self.end.groups.set_option(level, option, value):
            return
        if (level, option) == _RECVERR:
            self.end.queues_errors = bool(value)
        elif (level, option) in (_ASK4, _ASK6):
            self.end.asks = bool(value)
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        self._call("getsockopt")
        if size:  # SO_MEMINFO
            return struct.pack("@9I", *([0] * 8), self.end.drops)
        return self._options.get((level, option), 0)


def _messages(sent: _Sent, local: str | None) -> list[Any]:
    """Return the control messages of a datagram. local: the receiving host's address; None for a group."""
    target = ip_address(sent.target).packed
    if len(target) > 4:
        six = socket.IPPROTO_IPV6
        return [
            (six, _INFO6, _PKTINFO6.pack(target, sent.on)),
            (six, _HOPS6, _INT.pack(sent.ttl)),
            (six, _CLASS6, _INT.pack(0)),
        ]
    own = ip_address(local or sent.target).packed
    four = socket.IPPROTO_IP
    return [
        (four, _INFO4, _PKTINFO4.pack(sent.on, own, target)),
        (four, _TTL4, _INT.pack(sent.ttl)),
        (four, _TOS4, bytes(1)),
    ]


def _unmapped(host: str) -> str:
    """Return the canonical text of an IP address; IPv4 that is mapped into IPv6 as IPv4."""
    mapped = getattr(ip_address(numeric(host)), "ipv4_mapped", None)
    return numeric(host) if mapped is None else str(mapped)
