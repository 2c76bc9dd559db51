"""Bytes of a file to a socket: sendfile(2) where there is one."""

from __future__ import annotations

import errno
import os
from typing import IO, Any

__all__ = ["send_part"]

#: Bytes of a file that go out in one call, so that others have their turn; fewer where they are read.
_MOST = 256 * 1024
_MOST_READ = 64 * 1024

# What sendfile(2) says where it does not work: for this kind of file, or of socket.
_UNFIT = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def send_part(sock: Any, file: IO[bytes], offset: int, size: int, most: int | None) -> int:
    """Send what `sock` takes now of `size` bytes from `offset` on; return how many bytes it took.

    most: bytes; None for no bound but the one of this module. Raises BlockingIOError if it takes none now,
    OSError for what is wrong with the socket or the file, EIO if the file has ended before.
    """
    wanted = min(size, _MOST if most is None else most, _MOST)
    if not hasattr(sock, "sendfile") or not hasattr(os, "sendfile"):  # TLS's, and a test's in memory
        return _read_and_send(sock, file, offset, wanted)
    try:
        sent = os.sendfile(sock.fileno(), file.fileno(), offset, wanted)
    except OSError as exc:
        if exc.errno not in _UNFIT:
            raise
        return _read_and_send(sock, file, offset, wanted)
    if not sent:
        raise _too_short(offset)
    return sent


def _read_and_send(sock: Any, file: IO[bytes], offset: int, wanted: int) -> int:
    file.seek(offset)
    data = file.read(min(wanted, _MOST_READ))
    if not data:
        raise _too_short(offset)
    sent: int = sock.send(data)
    return sent


def _too_short(offset: int) -> OSError:
    return OSError(errno.EIO, f"the file ended at {offset}, before all of it was sent")
