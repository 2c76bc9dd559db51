"""Sending part of a file over a socket: by sendfile(2) where possible, else by reading it."""

from __future__ import annotations

import errno
import os
from typing import IO, Any

from reactor.connection.buffers import FilePart

__all__ = ["FileEnded", "part_of", "send_part"]

#: Bytes of a file sent per call, so that no connection starves the others; fewer where the file is read.
_CHUNK = 256 * 1024
_READ_LIMIT = 64 * 1024

# Errors of sendfile(2) for a kind of file or socket that it does not support.
_UNFIT = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


class FileEnded(OSError):
    """A file ended before all of it was sent: EIO."""


def part_of(file: IO[bytes], offset: int, count: int | None) -> FilePart:
    """Return `count` bytes of `file` from `offset` on, to be queued; None: all up to the end.

    Raises ValueError if the file is shorter, or one of them negative.
    """
    size = os.fstat(file.fileno()).st_size
    wanted = max(0, size - offset) if count is None else count
    if offset < 0 or wanted < 0 or offset + wanted > size:
        raise ValueError(f"the file has {size} bytes, and not {wanted} from {offset} on")
    return FilePart(file, offset, wanted)


def send_part(sock: Any, file: IO[bytes], offset: int, size: int, limit: int | None) -> int:
    """Send up to `size` bytes of `file` from `offset` on; return how many bytes `sock` accepted.

    limit: bytes of a rate limit; None for none. Raises BlockingIOError if the socket accepts nothing now,
    OSError for an error of the socket or the file, with EIO if the file is shorter.
    """
    wanted = min(size, _CHUNK if limit is None else limit, _CHUNK)
    if not hasattr(sock, "sendfile") or not hasattr(os, "sendfile"):  # TLS, and sockets in memory
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
    data = file.read(min(wanted, _READ_LIMIT))
    if not data:
        raise _too_short(offset)
    sent: int = sock.send(data)
    return sent


def _too_short(offset: int) -> FileEnded:
    return FileEnded(errno.EIO, f"the file ended at {offset}, before all of it was sent")
