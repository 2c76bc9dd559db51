"""What each call can fail with, from the manual pages of Linux and POSIX."""

from __future__ import annotations

from errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAGAIN,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EINTR,
    EINVAL,
    EIO,
    EMFILE,
    ENETDOWN,
    ENETUNREACH,
    ENFILE,
    ENOBUFS,
    ENOENT,
    ENOMEM,
    ENONET,
    ENOPROTOOPT,
    ENOSPC,
    ENOSR,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    EPROTO,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
    ETIMEDOUT,
    errorcode,
)

import attrs

__all__ = ["ERRNOS", "Fault"]

_RECEIVE = (
    EAGAIN, EINTR, ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EPIPE, EIO, ENOBUFS,
    ENOMEM, ENOTCONN,
)  # fmt: skip
_SEND = (
    EAGAIN, EINTR, EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, EACCES, EPERM,
    EIO, ENOBUFS, ENOMEM, ENOTCONN,
)  # fmt: skip

#: What a call can fail with while its program does nothing wrong. BSD gives EINVAL for options of a
#: socket that was reset, and ECONNRESET for closing one, which Python keeps to itself.
ERRNOS: dict[str, tuple[int, ...]] = {
    "accept": (
        EAGAIN, EINTR, ECONNABORTED, EPERM, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH,
        EOPNOTSUPP, ENETUNREACH, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSR, ESOCKTNOSUPPORT, EPROTONOSUPPORT,
        ETIMEDOUT,
    ),
    "recv": _RECEIVE,
    "recv_into": _RECEIVE,
    "send": _SEND,
    "sendmsg": _SEND,
    "shutdown": (ENOTCONN, ENOBUFS, EINVAL),
    "socket": (EACCES, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT),
    "bind": (EACCES, EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOMEM),
    "listen": (EADDRINUSE, EOPNOTSUPP),
    "connect": (EACCES, EPERM, EADDRINUSE, EADDRNOTAVAIL, ECONNREFUSED, ENETUNREACH, ETIMEDOUT),
    "setsockopt": (ENOBUFS, ENOMEM, EINVAL, ENOPROTOOPT),
    "getsockopt": (ENOBUFS, EINVAL),
    "getsockname": (ENOBUFS, EINVAL),
    "getpeername": (ENOTCONN, ENOBUFS, EINVAL),
    "close": (EINTR, EIO, ENOSPC),
    "register": (ENOMEM, ENOSPC, EPERM),
    "modify": (ENOMEM, ENOENT),
    "unregister": (ENOENT, EPERM),
    "select": (EINTR,),
}  # fmt: skip

#: Faults after which all goes on as if there were none.
_TRANSIENT = frozenset({EAGAIN, EINTR})
_IGNORED = frozenset({"close", "unregister", "select"})
_EXHAUSTED = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSR})


@attrs.frozen
class Fault:
    """One call that fails."""

    name: str
    index: int
    errno: int

    def __str__(self) -> str:
        return f"call {self.index}, {self.name}, fails with {errorcode[self.errno]}"

    def is_harmless(self) -> bool:
        """Return whether nobody may notice."""
        exhausted = self.name == "accept" and self.errno in _EXHAUSTED
        return self.errno in _TRANSIENT or self.name in _IGNORED or exhausted
