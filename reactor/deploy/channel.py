"""`Channel`: messages with descriptors between two processes of a deployment.

A message is a JSON object in one packet of a Unix socket pair (SOCK_SEQPACKET: its boundaries are kept, and
the end of the other process is an end of file), with descriptors beside it (SCM_RIGHTS: unix(7)). Its "kind"
says what it is; the table is in the package's README.
"""

from __future__ import annotations

import errno
import json
import socket
from array import array
from collections.abc import Iterable
from typing import Any

import attrs

__all__ = ["Channel", "Message"]

# More than the kernel takes in one packet, so that none is cut off: its limit is the socket's send buffer,
# 208 KiB by default. The largest message is a worker's snapshot.
_MESSAGE_SIZE = 256 * 1024

# As many descriptors as one packet takes: SCM_MAX_FD of the kernel.
_BESIDE_SIZE = socket.CMSG_SPACE(253 * array("i").itemsize)

# The kernel has no room at the moment, or too many descriptors are on their way (unix(7)).
_SHORT_OF_MEMORY = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


@attrs.frozen
class Message:
    """A message: its kind, its other fields, and descriptors, which the receiver owns."""

    kind: str
    fields: dict[str, Any]
    descriptors: list[int]


class Channel:
    """One end of a channel. Its socket blocks; only `receive(wait=True)` waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return the two ends of a new channel."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def adopt(cls, fd: int) -> Channel:
        """Return the channel whose end is the descriptor `fd`, which it owns from now on."""
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        return cls(sock)

    def fileno(self) -> int:
        """Return the descriptor, which is readable when there is a message, or the other end has gone."""
        return self._sock.fileno()

    def send(self, kind: str, descriptors: Iterable[int] = (), **fields: Any) -> bool:
        """Send a message; return whether the other end will find it.

        False: that process has gone, or has left so many messages unread that it hangs, or the kernel is
        short of memory.
        """
        data = json.dumps({"kind": kind, **fields}).encode()
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        try:
            self._sock.sendmsg([data], beside, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, ConnectionError):
            return False
        except OSError as exc:
            if exc.errno not in _SHORT_OF_MEMORY:
                raise
            return False
        return True

    def receive(self, *, wait: bool = False) -> Message | None:
        """Return the next message; None if there is none yet and `wait` is False.

        Raises EOFError when the other end is closed.
        """
        # Not `socket.recv_fds`, which drops the flags in Python 3.11.
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            data, beside, _, _ = self._sock.recvmsg(_MESSAGE_SIZE, _BESIDE_SIZE, flags)
        except BlockingIOError:
            return None
        except ConnectionError:
            data = b""
        except OSError as exc:
            if wait or exc.errno not in _SHORT_OF_MEMORY:
                raise
            return None  # the message stays, and the channel readable
        if not data:
            raise EOFError("the other end of the channel is closed")
        fields = json.loads(data)
        descriptors = array("i")
        for _, _, packed in beside:
            descriptors.frombytes(packed)
        return Message(fields.pop("kind"), fields, list(descriptors))

    def close(self) -> None:
        """Close this end; more than once does nothing."""
        self._sock.close()
