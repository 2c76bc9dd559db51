"""The outbound buffer: what was written and the kernel has not taken.

Large pieces stay the objects that were written. Many small ones are joined: a bytes object takes 33 bytes
more than it holds. What a partial send leaves of the first piece is an offset, so nothing large is copied or
shifted; the size is a running count.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable
from itertools import islice, takewhile
from typing import IO, cast

__all__ = ["PIECES_PER_SEND", "PIECE_OVERHEAD", "FilePart", "OutboundBuffer"]

#: Pieces handed to one sendmsg(2). POSIX promises 16, Linux takes 1024 (IOV_MAX); past 64 of them
#: building the vector costs more than the system call saves.
PIECES_PER_SEND = 64

#: What a piece takes beside its bytes: the object's header, and its place in the queue.
PIECE_OVERHEAD = 41

# Pieces below this are joined, into larger ones of this size at most.
_SMALL = 1024
_JOINED_MOST = 64 * 1024


class FilePart:
    """`size` bytes, one at least, of an open file from `offset` on; the file is closed with it."""

    __slots__ = ("_size", "file", "offset")

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self.file = file
        self.offset = offset
        self._size = size

    def __len__(self) -> int:
        return self._size


class OutboundBuffer:
    """Pieces in the order they were written, with the offset of the first byte not yet sent.

    A piece is of memory or of a file, which is not read before it is sent.

    pieces: whoever adds to it, and not by `append`, adds its bytes to `size`.
    size: bytes held and not sent.
    """

    __slots__ = ("_files", "_joined", "_offset", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: deque[bytes | FilePart] = deque()
        self._joined = 0  # pieces from the beginning on of which no small ones are neighbours
        self._files = 0
        self._offset = 0
        self.size = 0

    def append(self, piece: bytes | FilePart) -> None:
        """Add `piece` at the end; an empty one is left out."""
        if piece:
            self.pieces.append(piece)
            self.size += len(piece)
            self._files += isinstance(piece, FilePart)

    def join_small(self) -> None:
        """Join neighbouring small pieces, if at least `PIECES_PER_SEND` were added since the last time."""
        pieces = self.pieces
        if len(pieces) - self._joined <= PIECES_PER_SEND:
            return
        joined: deque[bytes | FilePart] = deque()
        run: list[bytes] = []
        room = _JOINED_MOST
        if self._offset:
            joined.append(pieces.popleft())
        for piece in pieces:
            if isinstance(piece, FilePart) or len(piece) >= _SMALL:
                joined.extend((*_join(run), piece))
                run, room = [], _JOINED_MOST
                continue
            if len(piece) > room:
                joined.extend(_join(run))
                run, room = [], _JOINED_MOST
            run.append(piece)
            room -= len(piece)
        joined.extend(_join(run))
        self.pieces = joined
        self._joined = len(joined)

    def vector(self, most: int | None = None) -> list[bytes | memoryview]:
        """Return what goes out next, at most `PIECES_PER_SEND` pieces, without copying a byte.

        most: bytes; None for no bound. Nothing is returned while it is `file_part` that goes out next.
        """
        ahead: Iterable[bytes | FilePart] = islice(self.pieces, PIECES_PER_SEND)
        if self._files:
            ahead = takewhile(lambda piece: not isinstance(piece, FilePart), ahead)
        pieces = cast("list[bytes | memoryview]", list(ahead))
        if pieces and self._offset:
            pieces[0] = memoryview(pieces[0])[self._offset :]
        return pieces if most is None else _first_bytes(pieces, most)

    def file_part(self) -> tuple[IO[bytes], int, int] | None:
        """Return the file that goes out next, the offset in it, and how many bytes; None: it is memory."""
        piece = self.pieces[0] if self.pieces else None
        if not isinstance(piece, FilePart):
            return None
        return piece.file, piece.offset + self._offset, len(piece) - self._offset

    def in_memory(self) -> int:
        """Return how many bytes of `size` are held in memory, and not in files."""
        files = sum(len(piece) for piece in self.pieces if isinstance(piece, FilePart))
        return self.size - files + self._offset * (self.file_part() is not None)

    def advance(self, sent: int) -> None:
        """Forget the first `sent` bytes, which the kernel has taken."""
        if sent == self.size and not self._files:
            self.pieces.clear()
            self.size = self._offset = self._joined = 0
            return
        self.size -= sent
        sent += self._offset
        pieces = self.pieces
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces[0])
            self._close(pieces.popleft())
            self._joined = max(0, self._joined - 1)
        self._offset = sent

    def take(self) -> bytes:
        """Return everything in one piece, and forget it. Raises ValueError if there is a file in it."""
        if self._files:
            raise ValueError("a file can't be taken as bytes")
        taken = b"".join(cast("Iterable[bytes]", self.pieces))[self._offset :]
        self.drop()
        return taken

    def drop(self) -> None:
        """Forget everything."""
        while self.pieces:
            self._close(self.pieces.popleft())
        self.size = self._offset = self._joined = 0

    def _close(self, piece: bytes | FilePart) -> None:
        if isinstance(piece, FilePart):
            self._files -= 1
            with contextlib.suppress(OSError):  # it was only read: there is nothing to lose
                piece.file.close()


def _join(run: list[bytes]) -> list[bytes]:
    return [b"".join(run)] if len(run) > 1 else run


def _first_bytes(pieces: list[bytes | memoryview], most: int) -> list[bytes | memoryview]:
    taken = []
    for piece in pieces:
        if not most:
            break
        taken.append(piece if len(piece) <= most else memoryview(piece)[:most])
        most -= len(taken[-1])
    return taken
