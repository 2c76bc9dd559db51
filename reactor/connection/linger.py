"""What stays of a connection that was closed while its peer may still be sending.

close(2) on a socket with unread input resets it, and a reset takes with it what the kernel has not
delivered: the answer that was just written (RFC 9112, 9.6). So our direction is shut down, and input is
dropped until the peer ends its own, or the time is up.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Any

from reactor.connection.settings import Terms
from reactor.loop.loop import Loop
from reactor.loop.registry import Registry
from reactor.loop.timers import Bucket
from reactor.tls.secure_socket import SecureSocket, bare

__all__ = ["RESET", "Linger", "end_direction", "give_back", "is_quiet", "lingering_of", "release", "reset"]

if sys.platform == "linux":
    import fcntl
    import termios

    _SENT_AND_UNCONFIRMED: int | None = termios.TIOCOUTQ  # SIOCOUTQ is another name for it
else:
    _SENT_AND_UNCONFIRMED = None

#: SO_LINGER with no time: close(2) sends a reset, socket(7).
RESET = struct.pack("ii", 1, 0)

# Bytes dropped in one go.
_RECV_SIZE = 64 * 1024


def lingering_of(registry: Registry) -> list[Linger]:
    """Return what lingers there, in the order of the descriptors."""
    return [handler for handler in registry.handlers() if isinstance(handler, Linger)]


def end_direction(sock: socket.socket) -> None:
    """Send our end of file on `sock`; nothing more if it was sent before.

    When both sides have ended theirs, the kernel calls the socket not connected, as it does after a
    reset; whether there is an error tells which. Raises OSError, the kernel's reason, if there is one.
    """
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise
        reason = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if reason:
            raise OSError(reason, os.strerror(reason)) from exc


def release(loop: Loop, sock: socket.socket | SecureSocket) -> None:
    """Take `sock` off the selector, then close it, unless that is done already."""
    if sock.fileno() >= 0:
        loop.registry.unregister(sock.fileno())
        give_back(sock)


def give_back(sock: socket.socket | SecureSocket) -> None:
    """Close `sock`, whatever the kernel says to it."""
    try:
        sock.close()
    except OSError:
        pass  # the descriptor is given back all the same: close(2), "Dealing with error returns"


def reset(sock: socket.socket) -> None:
    """Close `sock` with a reset, as `Connection.abort` does, so that no peer takes it for a clean end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except OSError:
        pass  # some systems refuse it when the peer has reset the connection first
    give_back(sock)


def is_quiet(sock: socket.socket | SecureSocket) -> bool:
    """Return whether there is nothing to be read of `sock` now: no byte, no end of file, no error."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return False
    return False


class Linger:
    """A registered socket whose input is read and dropped until its end.

    site: of its peer. start, timeout: it is closed anyway `timeout` seconds after `start`, by the clock.
    """

    __slots__ = ("_loop", "_site", "_sock", "_terms", "bucket")

    def __init__(
        self, loop: Loop, sock: socket.socket, terms: Terms, site: bytes | None, start: float, timeout: float
    ) -> None:
        self.bucket: Bucket | None = None
        self._loop = loop
        self._sock = sock
        self._terms = terms
        self._site = site
        loop.registry.replace(sock.fileno(), self)
        terms.watch.add(self, start, timeout)

    @property
    def site(self) -> bytes | None:
        """What tells the peer's site from others'; None if that is not counted."""
        return self._site

    @property
    def owner(self) -> Any:
        """The listener that the connection came from, or None."""
        return self._terms.owner

    def on_event(self, events: int) -> None:
        """Drop what has come; at its end, close. The loop's call."""
        try:
            data = self._sock.recv(_RECV_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""  # reset: there is nobody left to wait for
        if not data:
            self.close()

    def is_delivered(self) -> bool:
        """Return whether the peer's kernel has confirmed all that was sent, and no input is unread.

        To close then can cut off nothing that is still on its way, though the peer may see a reset if it
        goes on sending: tcp(7), SIOCOUTQ. False where the platform can't tell.
        """
        if _SENT_AND_UNCONFIRMED is None or not isinstance(bare(self._sock), socket.socket):
            return False  # nothing can tell
        if not is_quiet(self._sock):
            return False
        unconfirmed = bytearray(4)
        try:
            fcntl.ioctl(self._sock.fileno(), _SENT_AND_UNCONFIRMED, unconfirmed)
        except OSError:
            return False
        return not any(unconfirmed)

    def check_deadlines(self, now: float) -> float | None:
        """Close: the time is up."""
        self.close()
        return None

    def close(self) -> None:
        """Close the socket now, if it is not closed already."""
        if self._sock.fileno() < 0:
            return
        release(self._loop, self._sock)
        self._terms.watch.discard(self)
        self._terms.on_gone(self._site, None)

    def recover(self) -> None:
        """Close the socket, if an interrupt in `close` has left it where no event comes."""
        if not self._loop.registry.interest(self._sock.fileno()):
            self.close()

    def disown(self) -> socket.socket:
        """Return the socket: this is a child process, which may do nothing but close it."""
        return self._sock
