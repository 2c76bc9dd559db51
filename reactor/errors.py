"""Every exception that the package raises or hands to `connection_lost`, and the sets of errno it knows.

Blame is a type. What our caller did wrong derives from `UsageError`; what ended a connection or an
attempt derives from the built-in exception that a program already catches (`TimeoutError`,
`ConnectionError`, `OSError`) beside `ReactorError`.
"""

from __future__ import annotations

import errno

__all__ = [
    "ACCEPT_AGAIN",
    "ACCEPT_EXHAUSTED",
    "AddressError",
    "CloseTimeout",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionAborted",
    "DrainTimeout",
    "EndOfStream",
    "FrameTooLong",
    "FramingError",
    "IdleTimeout",
    "IncompleteFrame",
    "ListenError",
    "MalformedFrame",
    "ReactorError",
    "ReadTimeout",
    "SlowConsumer",
    "StreamClosed",
    "StreamTimeout",
    "TLSContextError",
    "TLSError",
    "TLSHandshakeError",
    "TLSHandshakeTimeout",
    "TLSTruncated",
    "UsageError",
    "WriteTimeout",
    "cause_of",
]


class ReactorError(Exception):
    """What every exception of this package derives from."""


class UsageError(ReactorError, RuntimeError):
    """The caller broke a rule: a closed reactor, a second `run`, a write after `write_eof`."""


class AddressError(ReactorError, ValueError):
    """A text or value that is no address, or an address that the operation can't use."""


class ListenError(ReactorError, OSError):
    """A listening socket could not be had. `errno` is the kernel's, the text names the address."""


class ConnectError(ReactorError, ConnectionError):
    """No attempt to connect succeeded. The text names each address that was tried and its error.

    `attempts` holds a pair of address and exception for each attempt, in the order they were made.
    """

    def __init__(self, message: str, attempts: tuple[tuple[str, OSError], ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


class ConnectTimeout(ConnectError, TimeoutError):
    """The attempts to connect took longer than they were given."""


class ConnectionAborted(ReactorError, ConnectionAbortedError):
    """This side called `abort`, or closed the reactor while the connection was open."""


class DrainTimeout(ConnectionAborted):
    """The connection was still busy when the time of a drain was up."""


class IdleTimeout(ReactorError, TimeoutError):
    """No byte went in either direction for as long as `Timeouts.idle` allows."""


class ReadTimeout(ReactorError, TimeoutError):
    """The peer did not complete what it owed within `Timeouts.read`, or what `set_timeouts` asked for."""


class WriteTimeout(ReactorError, TimeoutError):
    """The peer took no byte of what was queued for as long as `Timeouts.write` allows."""


class SlowConsumer(ReactorError, ConnectionAbortedError):
    """More was written than the peer takes, and `Limits.max_write_buffer` was reached."""


class CloseTimeout(ReactorError, TimeoutError):
    """The peer did not take what was queued before `close` within the time that it was given."""


class FramingError(ReactorError, ValueError):
    """The peer's bytes are no frames. `frames` holds those that were complete before the bad one."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.frames: list[bytes] = []


class FrameTooLong(FramingError):
    """A frame has, or announces, more bytes than the limit."""


class MalformedFrame(FramingError):
    """A length, or what must follow a frame, is not what the framing says."""


class IncompleteFrame(FramingError):
    """The input ended within a frame."""


class StreamClosed(ReactorError, ConnectionError):
    """The connection that a coroutine uses has ended; the cause is the reason, if there is one."""


class StreamTimeout(ReactorError, TimeoutError):
    """The body of a `with stream.timeout()` was not done in its time."""


class EndOfStream(ReactorError, EOFError):
    """The peer's input ended before what was waited for was complete. `partial` holds what came of it."""

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


class TLSContextError(ReactorError, ValueError):
    """A certificate, key or authority that can't be used; the text names the file and what is wrong."""


class TLSError(ReactorError, ConnectionError):
    """What TLS has to say against going on with a connection: OpenSSL's reason, or the peer's alert."""


class TLSHandshakeError(TLSError):
    """The two sides did not come to terms. Where a listener tells it, the text names the peer."""


class TLSHandshakeTimeout(TLSHandshakeError, TimeoutError):
    """The handshake was not done within `Timeouts.handshake`."""


class Incomplete(BlockingIOError):
    """A TLS record has come in part, or held nothing for the application. Not raised to users."""


class TLSTruncated(TLSError):
    """The peer's bytes ended without its close_notify: what came may be only a part of what was sent.

    RFC 8446, 6.1.
    """


#: The connection was gone before it could be accepted, or the network said so: accept(2) asks to try
#: the next one. The set is the one of accept(2), "Error handling", with ECONNABORTED and EPERM.
ACCEPT_AGAIN = frozenset(
    number
    for name in (
        "ECONNABORTED",
        "EPERM",
        "ENETDOWN",
        "EPROTO",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
    )
    if (number := getattr(errno, name, None)) is not None
)

#: The process or the machine has run out of something that only time or closing gives back.
ACCEPT_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def cause_of(exc: BaseException | None) -> str:
    """Return the short name of what ended a connection, to count by: "clean", "ECONNRESET", "IdleTimeout"."""
    if exc is None:
        return "clean"
    if isinstance(exc, OSError) and exc.errno is not None:
        return errno.errorcode.get(exc.errno, f"errno {exc.errno}")
    return type(exc).__name__
