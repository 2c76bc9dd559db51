"""Frames that all have the same length."""

from __future__ import annotations

from reactor.errors import IncompleteFrame
from reactor.framing.base import Data, Framer, check_positive

__all__ = ["FixedLength"]


class FixedLength(Framer):
    """Frames of `size` bytes each. Raises ValueError for a size that can't be."""

    __slots__ = ("_held", "_pieces", "_size")

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = check_positive("size", size)
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, data: Data) -> list[bytes]:
        """As `Framer.feed`; nothing is malformed here."""
        self._check_usable()
        self._pieces.append(bytes(data))
        self._held += len(data)
        size = self._size
        if self._held < size:
            return []
        joined = b"".join(self._pieces)
        whole = self._held - self._held % size
        frames = [joined[at : at + size] for at in range(0, whole, size)]
        self._pieces = [joined[whole:]] if whole < self._held else []
        self._held -= whole
        return frames

    def finish(self) -> list[bytes]:
        """As `Framer.finish`."""
        self._check_usable()
        if self._held:
            self._fail(
                IncompleteFrame(f"the input ended {self._held} bytes into a frame of {self._size}"), []
            )
        return []

    def take_rest(self) -> bytes:
        """As `Framer.take_rest`."""
        rest = b"".join(self._pieces)
        self._pieces = []
        self._held = 0
        return rest

    def encode(self, frame: bytes) -> bytes:
        """As `Framer.encode`."""
        if len(frame) != self._size:
            raise ValueError(f"a frame has {self._size} bytes here, not {len(frame)}")
        return frame
