"""Files: a line with a file's name is answered with its content, sent by the kernel.

The answer is `ok SIZE` in a line of its own and then the bytes, or `error REASON`. A name that ends with `/`,
or none, asks for the names in that directory, one a line. Nothing outside of the root is opened: not by `..`,
not by an absolute name, and no symbolic link is followed, not even one created meanwhile.

A client may send many names at once. They are answered one in a tick, and each when the client has received
the answer before: a client has no more than one file open, and one listing in memory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from reactor.connection.connection import Connection
from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Files"]

#: The limit of a name, in bytes.
NAME_LIMIT = 4096


class Files(FramedProtocol):
    """Sends the files of a directory.

    root: the directory.
    """

    __slots__ = ("_root",)

    frames_per_tick = 1

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(Lines(NAME_LIMIT))
        self._root = Path(root)

    def connection_made(self, connection: Connection) -> None:
        """Pause writing as long as any byte of an answer is queued."""
        super().connection_made(connection)
        connection.set_write_buffer_limits(high=0)

    def frame_received(self, frame: bytes) -> None:
        """Send the file or the listing of that name."""
        *folders, name = frame.split(b"/")
        try:
            folder = _enter(self._root, folders)
            try:
                if name:
                    self._send_file(_open_file(folder, name))
                else:
                    self._send_names(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            self.send(f"error {exc.strerror}".encode())

    def _send_file(self, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size
        self.send(b"ok %d" % size)
        self.connection.sendfile(file, 0, size)

    def _send_names(self, folder: int) -> None:
        with os.scandir(folder) as entries:
            listed = sorted(
                os.fsencode(entry.name) + b"/" * entry.is_dir(follow_symlinks=False)
                for entry in entries
                if "\n" not in entry.name and not entry.is_symlink()
            )
        names = b"".join(name + b"\n" for name in listed)
        self.send(b"ok %d" % len(names))
        self.connection.write(names)


def _enter(root: Path, folders: list[bytes]) -> int:
    """Return a descriptor of a directory below `root`. Raises OSError."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for folder in folders:
        try:
            below = _open(at, folder, os.O_DIRECTORY)
        finally:
            os.close(at)
        at = below
    return at


def _open_file(folder: int, name: bytes) -> BinaryIO:
    found = _open(folder, name, os.O_NONBLOCK)  # a pipe has no writer to wait for
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise PermissionError(0, "not a file")
    return os.fdopen(found, "rb", buffering=0)


def _open(folder: int, name: bytes, flags: int) -> int:
    if name in {b"", b".", b".."} or b"\0" in name:
        raise PermissionError(0, "not a name in this directory")
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
