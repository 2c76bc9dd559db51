"""The outbound buffer: bytes that were written and that the kernel has not accepted.

Large pieces are kept as the objects that were written. Many small ones are joined: a bytes object takes 33
bytes more than it holds. A partial send only moves an offset in the first piece, so nothing large is copied
or shifted; the size is a running count.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable
from itertools import islice, takewhile
from typing import IO, cast

__all__ = ["PIECES_PER_SEND", "PIECE_OVERHEAD", "FilePart", "OutboundBuffer", "frozen"]

#: Pieces per sendmsg(2). POSIX guarantees 16, Linux accepts 1024 (IOV_MAX); above 64 building the vector
#: costs more than the system call saves.
PIECES_PER_SEND = 64

#: Bytes of memory that a piece takes beside its content: the object's header, and its slot in the queue.
PIECE_OVERHEAD = 41

# Pieces below this are joined, into larger ones of this size at most.
_SMALL = 1024
_JOINED_LIMIT = 64 * 1024


class FilePart:
    """A piece of an outbound buffer that is `size` bytes, 1 or more, of an open file from `offset` on.

    The file is closed when the piece was sent or dropped.
    """

    __slots__ = ("_size", "file", "offset")

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self.file = file
        self.offset = offset
        self._size = size

    def __len__(self) -> int:
        return self._size


class OutboundBuffer:
    """A first-in, first-out buffer of pieces, with the offset of the first byte not yet sent.

    A piece is a bytes object, or part of a file, which is not read before it is sent.

    pieces: the pieces. Code that adds to it directly, without `append`, must add the bytes to `size`.
    size: bytes held and not sent.
    """

    __slots__ = ("_files", "_joined", "_offset", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: deque[bytes | FilePart] = deque()
        self._joined = 0  # pieces at the front among which no two neighbours are small
        self._files = 0
        self._offset = 0
        self.size = 0

    def append(self, piece: bytes | FilePart) -> None:
        """Add `piece` at the end; an empty one is ignored."""
        if piece:
            self.pieces.append(piece)
            self.size += len(piece)
            self._files += isinstance(piece, FilePart)

    def join_small(self) -> None:
        """Join neighbouring small pieces, if more than `PIECES_PER_SEND` were added since the last call."""
        pieces = self.pieces
        if len(pieces) - self._joined <= PIECES_PER_SEND:
            return
        joined: deque[bytes | FilePart] = deque()
        run: list[bytes] = []
        room = _JOINED_LIMIT
        if self._offset:
            joined.append(pieces.popleft())
        for piece in pieces:
            if isinstance(piece, FilePart) or len(piece) >= _SMALL:
                joined.extend((*_join(run), piece))
                run, room = [], _JOINED_LIMIT
                continue
            if len(piece) > room:
                joined.extend(_join(run))
                run, room = [], _JOINED_LIMIT
            run.append(piece)
            room -= len(piece)
        joined.extend(_join(run))
        self.pieces = joined
        self._joined = len(joined)

    def vector(self, limit: int | None = None) -> list[bytes | memoryview]:
        """Return the next pieces to send, at most `PIECES_PER_SEND` of them, without copying a byte.

        limit: bytes; None for no limit. Returns nothing while the next piece is a file: see `file_part`.
        """
        ahead: Iterable[bytes | FilePart] = islice(self.pieces, PIECES_PER_SEND)
        if self._files:
            ahead = takewhile(lambda piece: not isinstance(piece, FilePart), ahead)
        pieces = cast("list[bytes | memoryview]", list(ahead))
        if pieces and self._offset:
            pieces[0] = memoryview(pieces[0])[self._offset :]
        return pieces if limit is None else _first_bytes(pieces, limit)

    def file_part(self) -> tuple[IO[bytes], int, int] | None:
        """Return file, offset and bytes of the next piece if it is a file's; None if it is in memory."""
        piece = self.pieces[0] if self.pieces else None
        if not isinstance(piece, FilePart):
            return None
        return piece.file, piece.offset + self._offset, len(piece) - self._offset

    def in_memory(self) -> int:
        """Return how many bytes of `size` are held in memory, not in files."""
        files = sum(len(piece) for piece in self.pieces if isinstance(piece, FilePart))
        return self.size - files + self._offset * (self.file_part() is not None)

    def advance(self, sent: int) -> None:
        """Remove the first `sent` bytes, which the kernel has accepted."""
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

    def has_files(self) -> bool:
        """Return whether a piece is part of a file."""
        return bool(self._files)

    def content(self) -> bytes:
        """Return everything as one bytes object. No piece may be a file's."""
        return b"".join(cast("Iterable[bytes]", self.pieces))[self._offset :]

    def drop(self) -> None:
        """Remove everything, and close the files."""
        while self.pieces:
            self._close(self.pieces.popleft())
        self.size = self._offset = self._joined = 0

    def _close(self, piece: bytes | FilePart) -> None:
        if isinstance(piece, FilePart):
            self._files -= 1
            with contextlib.suppress(OSError):  # it was only read: nothing can be lost
                piece.file.close()


def frozen(piece: bytes | bytearray | memoryview) -> bytes:
    """Return `piece` as bytes, copied if it can be changed. Raises TypeError if it is not bytes-like."""
    if type(piece) is bytes:
        return piece
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"write takes bytes, bytearray or memoryview, not {type(piece).__name__}")


def _join(run: list[bytes]) -> list[bytes]:
    return [b"".join(run)] if len(run) > 1 else run


def _first_bytes(pieces: list[bytes | memoryview], limit: int) -> list[bytes | memoryview]:
    taken = []
    for piece in pieces:
        if not limit:
            break
        taken.append(piece if len(piece) <= limit else memoryview(piece)[:limit])
        limit -= len(taken[-1])
    return taken
