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
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from reactor.datagrams.control import MAPPED
from reactor.datagrams.interface import ignore
from reactor.datagrams.state import ENDED, Core
from reactor.loop.timers import Handle

__all__ = ["FATAL", "PASSED_ON", "ErrorReports", "count_drops", "queue_errors", "queued_errors"]

# Errors that are read from the kernel's queue in one go, and those that wait for `error_received`.
_ERRORS_AT_ONCE = 64
_ERRORS_KEPT = 256

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
        return socket.inet_ntop(socket.AF_INET6, packed[8:24]).removeprefix(MAPPED)
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


class ErrorReports:
    """Errors of an endpoint on their way to `error_received`, or to the log.

    core: the endpoint's. queues: whether the kernel has a queue of ICMP errors. handler: takes each error and
    the address that was sent to.
    """

    __slots__ = ("_core", "_due", "_waiting", "handler", "queues")

    def __init__(self, core: Core) -> None:
        self.queues = False
        self.handler: Callable[[OSError, Any], object] = ignore
        self._core = core
        self._waiting: deque[tuple[OSError, Any]] = deque()
        self._due: Handle | None = None

    def read(self) -> bool:
        """Note the errors in the kernel's queue; return whether there were any."""
        if not self.queues:
            return False
        found = False
        for exc, address in queued_errors(self._core.sock, _ERRORS_AT_ONCE):
            found = True
            self.note(exc, address)
        return found

    def note(self, exc: OSError, address: Any) -> None:
        """Call `error_received` in this tick or the next; more than the limit are counted only."""
        core = self._core
        core.failed += 1
        if self.handler is ignore:
            where = "" if address is None else f" to {address}"
            core.loop.scheduler.log.info(
                (core.endpoint, exc.errno), "%s: a datagram%s: %s", core.endpoint, where, exc
            )
            return
        if len(self._waiting) < _ERRORS_KEPT:
            self._waiting.append((exc, address))
        if self._due is None:
            self._due = core.loop.scheduler.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = None
        for _ in range(len(self._waiting)):
            exc, address = self._waiting.popleft()
            if self._core.state in ENDED:
                self._waiting.clear()
                return
            try:
                self.handler(exc, address)
            except Exception as problem:
                self._core.callback_failed(problem, "error_received")

    def recover(self) -> None:
        """Deliver what waits, after an interrupt anywhere."""
        self._due = self._core.loop.scheduler.call_soon(self._deliver)
