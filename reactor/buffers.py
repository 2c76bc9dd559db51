"""The outbound buffer: what was written and the kernel has not taken.

Pieces stay the objects that were written. What a partial send leaves of the first piece is an offset,
so nothing is ever copied or shifted; the size is a running count.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

__all__ = ["PIECES_PER_SEND", "OutboundBuffer"]

#: Pieces handed to one sendmsg(2). POSIX promises 16, Linux takes 1024 (IOV_MAX); past 64 of them
#: building the vector costs more than the system call saves.
PIECES_PER_SEND = 64


class OutboundBuffer:
    """Pieces in the order they were written, with the offset of the first byte not yet sent.

    size: bytes held and not sent.
    """

    __slots__ = ("_offset", "_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._offset = 0
        self.size = 0

    def append(self, piece: bytes) -> None:
        """Add `piece` at the end; an empty one is left out."""
        if piece:
            self._pieces.append(piece)
            self.size += len(piece)

    def vector(self, most: int | None = None) -> list[bytes | memoryview]:
        """Return what goes out next, at most `PIECES_PER_SEND` pieces, without copying a byte.

        most: bytes; None for no bound.
        """
        pieces: list[bytes | memoryview] = list(islice(self._pieces, PIECES_PER_SEND))
        if self._offset:
            pieces[0] = memoryview(pieces[0])[self._offset :]
        return pieces if most is None else _first_bytes(pieces, most)

    def advance(self, sent: int) -> None:
        """Forget the first `sent` bytes, which the kernel has taken."""
        self.size -= sent
        sent += self._offset
        pieces = self._pieces
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.popleft())
        self._offset = sent


def _first_bytes(pieces: list[bytes | memoryview], most: int) -> list[bytes | memoryview]:
    taken = []
    for piece in pieces:
        if not most:
            break
        taken.append(piece if len(piece) <= most else memoryview(piece)[:most])
        most -= len(taken[-1])
    return taken
