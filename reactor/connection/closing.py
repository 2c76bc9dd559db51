"""Closing a connection: the steps from `close` to `connection_lost` that act on the socket.

close(2) on a socket with unread input resets the connection, and a reset discards what the kernel has not
delivered yet: the answer that was just written (RFC 9112, 9.6). So our direction is shut down first, and
input is discarded until the peer's FIN or a timeout: a lingering close.

The steps in `Connection`:

    close -> the queue is sent -> write_side_done -> linger    -> connection_lost
    abort, or an error                            -> close_now -> connection_lost

`connection_lost` is called in the next tick.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Any

from reactor.connection.settings import Settings
from reactor.loop.loop import Loop
from reactor.loop.registry import Registry
from reactor.loop.timers import Bucket, round_up

__all__ = [
    "Linger", "bytes_received", "close_quietly", "is_quiet", "lingering_of", "release", "reset",
    "reset_on_close", "shut_down_writing",
]  # fmt: skip

if sys.platform == "linux":
    import fcntl
    import termios

    _SENT_AND_UNCONFIRMED: int | None = termios.TIOCOUTQ  # the same ioctl as SIOCOUTQ
else:
    _SENT_AND_UNCONFIRMED = None

# Where tcpi_bytes_received, a u64, stands in struct tcp_info: linux/tcp.h.
_BYTES_RECEIVED = 128

# Bytes discarded per event.
_RECV_SIZE = 64 * 1024

# A worker of a `Pool` blocks on a duplicate of the socket, and O_NONBLOCK is common to duplicates: fcntl(2).
_PEEK = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close(2) sends a reset, socket(7)


def shut_down_writing(sock: socket.socket) -> None:
    """Shut down the write side of `sock`, which sends a FIN. More than once does nothing.

    When both sides have sent a FIN the kernel fails with ENOTCONN, as it does after a reset; SO_ERROR
    distinguishes them. Raises OSError if the connection was reset.
    """
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise
        reason = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if reason:
            raise OSError(reason, os.strerror(reason)) from exc


def reset_on_close(sock: Any) -> None:
    """Make close(2) on `sock` reset the connection and drop what is not delivered yet. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def release(loop: Loop, sock: Any) -> None:
    """Unregister `sock` from the selector, then close it. Does nothing if it is closed."""
    fd = sock.fileno()
    if fd >= 0:
        loop.registry.unregister(fd)
        close_quietly(sock)


def close_quietly(sock: Any) -> None:
    """Close `sock`, ignoring errors: the kernel frees the descriptor in any case.

    See close(2), "Dealing with error returns from close()".
    """
    try:
        sock.close()
    except OSError:
        pass


def reset(sock: Any) -> None:
    """Close `sock` with a reset, as `Connection.abort` does, so that it is no clean end for the peer."""
    try:
        reset_on_close(sock)
    except OSError:
        pass  # some systems refuse it when the peer has reset the connection first
    close_quietly(sock)


def is_quiet(sock: Any) -> bool:
    """Return whether there is nothing to be read of `sock` now: no byte, and no end of file.

    Raises OSError for an error of the socket. The kernel reports it once, and recv(2) returns an end of file
    after it: a caller that drops the error takes a reset for a clean end.
    """
    try:
        sock.recv(1, _PEEK)
    except (BlockingIOError, InterruptedError):
        return True
    return False


def bytes_received(sock: socket.socket) -> int:
    """Return how many bytes the kernel has received on a TCP socket; 0 where it does not count them.

    tcpi_bytes_received of tcp(7), since Linux 4.1.
    """
    try:
        counted = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    except (AttributeError, OSError):
        return 0
    return int.from_bytes(counted[_BYTES_RECEIVED:], sys.byteorder)


class Linger:
    """A lingering close: discards input until the peer's FIN or a timeout, then closes the socket.

    prefix: `client_prefix` of the peer. start, timeout: the timeout passes `timeout` seconds after `start`,
    which is in the clock's seconds.
    """

    __slots__ = ("_bucket", "_due", "_settings", "_sock", "prefix")

    def __init__(
        self, settings: Settings, sock: socket.socket, prefix: bytes | None, start: float, timeout: float
    ) -> None:
        self._settings = settings
        self._sock = sock
        self.prefix = prefix
        self._bucket: Bucket | None = None
        self._due = round_up(start + timeout, timeout)
        settings.loop.registry.replace(sock.fileno(), Linger.on_event, self)
        self._bucket = settings.deadline_monitor.add(self, None, self._due)

    @property
    def listener(self) -> Any:
        """The listener that the connection came from, or None."""
        return self._settings.listener

    def on_event(self, events: int) -> None:
        """Discard input; close at its end. The loop's callback for the socket."""
        try:
            data = self._sock.recv(_RECV_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""  # the peer has reset the connection: there is no FIN to wait for
        if not data:
            self.close()

    def is_delivered(self) -> bool:
        """Return whether the peer's kernel has acknowledged all that was sent, and no input is unread.

        Closing then can't cut off any of it, though a peer that goes on sending may see a reset: tcp(7),
        SIOCOUTQ. Returns False where the platform can't tell.
        """
        if _SENT_AND_UNCONFIRMED is None or not isinstance(self._sock, socket.socket):
            return False
        unconfirmed = bytearray(4)
        try:
            if not is_quiet(self._sock):
                return False
            fcntl.ioctl(self._sock.fileno(), _SENT_AND_UNCONFIRMED, unconfirmed)
        except OSError:
            return False
        return not any(unconfirmed)

    def close(self) -> None:
        """Close the socket now, if it is not closed already."""
        if self._sock.fileno() < 0:
            return
        release(self._settings.loop, self._sock)
        self._settings.deadline_monitor.discard(self, self._bucket)
        self._settings.on_gone(self.prefix, None)

    def recover(self) -> None:
        """Watch the timeout again after an interrupt anywhere; close the socket if it came within `close`."""
        if self._settings.loop.registry.interest(self._sock.fileno()):
            self._bucket = self._settings.deadline_monitor.add(self, self._bucket, self._due)
        else:
            self.close()

    def detach(self) -> socket.socket:
        """Detach after fork: return the socket, which a forked child may only close."""
        return self._sock


def lingering_of(registry: Registry) -> list[Linger]:
    """Return the lingering closes, in the order of their descriptors."""
    return [owner for owner in registry.owned() if isinstance(owner, Linger)]
