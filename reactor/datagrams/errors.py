"""Errors of the kernel: its queue of ICMP errors (IP_RECVERR, ip(7)), and what errno an error is counted by.

Without the queue an ICMP error is known on a connected socket only, where the next call of any kind fails.
With it each comes with the address that the datagram was sent to, on every socket. But the kernel still fails
the next call, a `send` to another peer as well, once for each error: that call is made again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["FATAL", "PASSED_ON", "count_drops", "queue_errors", "queued_errors"]

_IP_RECVERR, _IPV6_RECVERR = 11, 25
_SO_MEMINFO = 55  # asm-generic/socket.h
_DROPS = 8  # SK_MEMINFO_DROPS of linux/sock_diag.h, an index of u32
_MEMINFO = struct.Struct("@9I")

_EXTENDED = struct.Struct("@IBBBxII")  # struct sock_extended_err of linux/errqueue.h
_ICMP, _ICMP6 = 2, 3  # its origins: from the network
_FAMILY = struct.Struct("@H")

_ANCILLARY_SIZE = 512

#: Errors that a call may pass on from an ICMP message about an earlier datagram: ip(7), "Error handling".
PASSED_ON = frozenset(
    {
        errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT, errno.EMSGSIZE,
        errno.EOPNOTSUPP, errno.EPROTO, errno.EACCES, errno.ECONNRESET,
        *(getattr(errno, name) for name in ("EHOSTDOWN", "ENONET") if hasattr(errno, name)),
    }
)  # fmt: skip

#: Errors after which a socket is of no use: somebody has closed its descriptor.
FATAL = frozenset({errno.EBADF, errno.ENOTSOCK})


def queue_errors(sock: socket.socket) -> bool:
    """Ask the kernel to queue the ICMP errors of `sock`; return whether it does."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # on an IPv6 socket for its IPv4 peers
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    return True


def queued_errors(sock: Any, limit: int) -> Iterator[tuple[OSError, Any]]:
    """Yield up to `limit` errors from the queue of `sock`, each with the address that was sent to."""
    for _ in range(limit):
        try:
            _, messages, _, address = sock.recvmsg(0, _ANCILLARY_SIZE, socket.MSG_ERRQUEUE)
        except OSError:
            return  # EAGAIN: it is empty
        for level, kind, data in messages:
            if (level, kind) in {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}:
                number, origin, _, _, details, _ = _EXTENDED.unpack_from(data)
                if origin in (_ICMP, _ICMP6):  # else it is this host's, and a call has failed with it
                    yield _error(number, details, data[_EXTENDED.size :]), address


def _error(number: int, details: int, offender: bytes) -> OSError:
    limit = f"{details} bytes fit the path with their headers" if number == errno.EMSGSIZE else ""
    host = _host_of(offender)
    about = ", ".join(filter(None, (limit, host and f"ICMP from {host}")))
    return OSError(number, os.strerror(number) + (f" ({about})" if about else ""))


def _host_of(packed: bytes) -> str | None:
    """Return the host of a sockaddr; None if it has none."""
    family = _FAMILY.unpack_from(packed)[0] if len(packed) >= 16 else 0
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, packed[4:8])
    if family == socket.AF_INET6 and len(packed) >= 24:
        return socket.inet_ntop(socket.AF_INET6, packed[8:24]).removeprefix("::ffff:")
    return None


def count_drops(sock: Any) -> int:
    """Return how many datagrams the kernel has dropped because the receive buffer of `sock` was full.

    It is the counter that SO_RXQ_OVFL reports, socket(7), which comes only with a datagram that is received
    later. 0 where there is none.
    """
    if sys.platform != "linux":
        return 0
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    drops: int = _MEMINFO.unpack(found)[_DROPS] if len(found) == _MEMINFO.size else 0
    return drops
