"""Every exception that the package raises or passes to `connection_lost`, and the errno sets of accept(2).

The type tells whose fault it is. Mistakes of the calling program are `UsageError` (or `TypeError`,
`ValueError`). An error that ended a connection or an attempt to connect derives from `ReactorError` and from
the built-in exception that programs already catch: `TimeoutError`, `ConnectionError` or `OSError`.
"""

from __future__ import annotations

import errno

__all__ = [
    "ACCEPT_AGAIN",
    "ACCEPT_EXHAUSTED",
    "AddressError",
    "BrokerError",
    "CloseTimeout",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionAborted",
    "DrainTimeout",
    "EndOfStream",
    "FrameTooLong",
    "FramingError",
    "HandedOver",
    "HandoverError",
    "IdleTimeout",
    "IncompleteFrame",
    "ListenError",
    "MalformedFrame",
    "ProxyHeaderError",
    "ProxyHeaderTimeout",
    "ReactorError",
    "ReadTimeout",
    "SlowConsumer",
    "StreamClosed",
    "StreamTimeout",
    "SupervisorError",
    "TLSContextError",
    "TLSError",
    "TLSHandshakeError",
    "TLSHandshakeTimeout",
    "TLSTruncated",
    "UsageError",
    "WriteTimeout",
    "cause_of",
    "missing_package",
]


class ReactorError(Exception):
    """Base class of every exception of this package. Catch it to catch them all."""


class UsageError(ReactorError, RuntimeError):
    """The program called something that is not allowed in this state, as a write after `write_eof`.

    A mistake of the program: nothing was changed, and the message says what to do instead.
    """


class SupervisorError(ReactorError, RuntimeError):
    """The supervisor of `reactor.deploy` ended, because workers did not start, or were stopped at once.

    The message says why, and names the process. `status` is the exit status of a worker that ended by itself
    before it was ready, and wrote the cause to standard error; else None.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AddressError(ReactorError, ValueError):
    """The value is not an address, or not one that this operation can use.

    The message names the value and the forms that are accepted; see `Address`.
    """


class ListenError(ReactorError, OSError):
    """A listening socket could not be created, bound or listened on; the message names the address.

    `errno` is the kernel's: for EADDRINUSE choose another port or end the other process, for EACCES choose a
    port above 1023.
    """


class BrokerError(ReactorError, ConnectionError):
    """The broker of a `reactor.backplane` answered with an error, or not in its protocol.

    The message has its text. The backplane connects again, and sends again what was not acknowledged.
    """


class ConnectError(ReactorError, ConnectionError):
    """No attempt to connect succeeded. The message names each address that was tried and its error.

    `attempts` holds a pair of address and exception for each attempt, in the order they were made. Try again
    later, or pass `Reconnect` to `Reactor.connect`.
    """

    def __init__(self, message: str, attempts: tuple[tuple[str, OSError], ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


class ConnectTimeout(ConnectError, TimeoutError):
    """The attempts to connect took longer than `Timeouts.connect`. Try again later, or raise it."""


class ConnectionAborted(ReactorError, ConnectionAbortedError):
    """This side called `Connection.abort`, or closed the reactor while the connection was open.

    What was queued is dropped. Call `close` instead to have it sent first.
    """


class DrainTimeout(ConnectionAborted):
    """The connection was still busy when the timeout of a drain passed, and was aborted.

    Pass a longer timeout to `drain`, or let the protocol's `draining` return False earlier.
    """


class IdleTimeout(ReactorError, TimeoutError):
    """No byte was received or sent for `Timeouts.idle` seconds.

    Raise that timeout, or send something from time to time, if idle peers are to stay connected.
    """


class ReadTimeout(ReactorError, TimeoutError):
    """The read deadline passed: the peer did not complete a message within `Timeouts.read` seconds.

    The protocol must call `Connection.set_timeouts(read=...)` when a message is complete, to restart the
    deadline (seconds) or to clear it (None).
    """


class WriteTimeout(ReactorError, TimeoutError):
    """The peer accepted none of the queued bytes for `Timeouts.write` seconds.

    What was queued is dropped. Raise that timeout for peers that may stop reading for longer.
    """


class SlowConsumer(ReactorError, ConnectionAbortedError):
    """More than `Limits.max_write_buffer` bytes are queued: the peer reads more slowly than we write.

    Stop writing at `pause_writing`, or when `write` returns False, until `resume_writing`.
    """


class CloseTimeout(ReactorError, TimeoutError):
    """The peer did not accept all that was queued within the timeout of `Connection.close`.

    The rest is dropped. Pass a longer timeout to `close`, or raise `Timeouts.close`.
    """


class HandedOver(ReactorError, ConnectionError):
    """The connection goes on in another process, and the peer has seen nothing: see `reactor.deploy`.

    Release what belongs to this process, and tell nobody that the peer has left.
    """


class HandoverError(ReactorError, OSError):
    """Connections could not be handed over, or taken over. They go on in the process that has them.

    The message has the reason: the other process ended, has another version, or took too long.
    """


class FramingError(ReactorError, ValueError):
    """The peer's bytes don't follow the framing, and can't be decoded any further: close the connection.

    `frames` holds the frames that were complete before the bad one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.frames: list[bytes] = []


class FrameTooLong(FramingError):
    """A frame has, or announces, more bytes than the limit. Raise the framer's `limit` if that is valid."""


class MalformedFrame(FramingError):
    """A frame's length or terminator is invalid, or bytes came after the last frame.

    The peer is faulty, or uses another framing.
    """


class IncompleteFrame(FramingError):
    """The input ended in the middle of a frame, which is lost: the peer must send it again."""


class StreamClosed(ReactorError, ConnectionError):
    """The connection that a coroutine uses has ended; `__cause__` is the reason, None after a clean end.

    Let it propagate: the handler ends with its connection.
    """


class StreamTimeout(ReactorError, TimeoutError):
    """The body of a `with stream.timeout(seconds)` took longer than that.

    Catch it to answer the peer; if it leaves the handler, the connection is closed with it as the reason.
    """


class EndOfStream(ReactorError, EOFError):
    """The peer ended its input before the awaited bytes were complete. `partial` holds those that arrived."""

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


class ProxyHeaderError(ReactorError, ConnectionError):
    """A connection did not begin with a valid header of the PROXY protocol; the message has the reason.

    Make the proxy send one (HAProxy: `send-proxy-v2`, nginx: `proxy_protocol on`); or the peer is no proxy.
    """


class ProxyHeaderTimeout(ProxyHeaderError, TimeoutError):
    """The header was not complete within `ProxyProtocol.timeout` seconds. Raise that for slow networks."""


class TLSContextError(ReactorError, ValueError):
    """A certificate, key, CA file or ALPN name can't be used; the message names it and what to correct."""


class TLSError(ReactorError, ConnectionError):
    """TLS failed on a connection, which has ended. The message is OpenSSL's reason, or the peer's alert."""


class TLSHandshakeError(TLSError):
    """The TLS handshake failed: a certificate was not accepted, or the two sides share no version or cipher.

    The message has the reason; a listener's also names the peer. Check the certificates and host names.
    """


class TLSHandshakeTimeout(TLSHandshakeError, TimeoutError):
    """The TLS handshake took longer than `Timeouts.handshake` seconds. Raise it for slow peers."""


class TLSTruncated(TLSError):
    """The peer's input ended without a close_notify, so it may have been cut off (RFC 8446, 6.1).

    Trust what arrived only if the protocol itself marks the end of its messages.
    """


class Incomplete(BlockingIOError):
    """Input over TLS yields no bytes yet: the beginning of a record. Not raised to users."""


#: Errors of one connection that was gone before it could be accepted: go on with the next one. The set is
#: that of accept(2), "Error handling", with ECONNABORTED and EPERM.
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

#: The process or the machine has run out of descriptors or memory: accept again later.
ACCEPT_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def cause_of(exc: BaseException | None) -> str:
    """Return the short name of the reason `exc` for counting: "clean", "ECONNRESET", "IdleTimeout"."""
    if exc is None:
        return "clean"
    if isinstance(exc, OSError) and exc.errno is not None:
        return errno.errorcode.get(exc.errno, f"errno {exc.errno}")
    return type(exc).__name__


def missing_package(needing: str, package: str, extra: str) -> ImportError:
    """Return the error for a package that is not installed: how to install the extra that has it.

    needing: the module or the command's option that needs it.
    """
    return ImportError(
        f"{needing} needs {package}: pip install 'selectors-reactor[{extra}]', "
        f"or in a checkout pip install -e '.[{extra}]'",
        name=package,
    )
