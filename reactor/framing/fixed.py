"""Framings of known length: `FixedLength` and `Block`."""

from __future__ import annotations

from reactor.errors import IncompleteFrame, MalformedFrame
from reactor.framing.base import Data, Framer, check_positive

__all__ = ["Block", "FixedLength"]


class _Sized(Framer):
    """Base class of framings of known length: holds the pieces of a frame of `size` bytes."""

    __slots__ = ("_held", "_pieces", "_size")

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._pieces: list[bytes] = []
        self._held = 0

    def take_rest(self) -> bytes:
        """Implement `Framer.take_rest`."""
        rest = b"".join(self._pieces)
        self._pieces = []
        self._held = 0
        return rest

    def encode(self, frame: bytes) -> bytes:
        """Implement `Framer.encode`."""
        if len(frame) != self._size:
            raise ValueError(f"a frame has {self._size} bytes here, not {len(frame)}")
        return frame

    def _fail_incomplete(self) -> None:
        problem = f"the input ended {self._held} bytes into a frame of {self._size}"
        self._fail(IncompleteFrame(problem), [])


class FixedLength(_Sized):
    """Framing by length: each frame has `size` bytes. Raises ValueError for a size below 1.

    >>> framer = FixedLength(4)
    >>> framer.feed(b"12345678901")
    [b'1234', b'5678']
    >>> framer.take_rest()
    b'901'
    """

    __slots__ = ()

    def __init__(self, size: int) -> None:
        super().__init__(check_positive("size", size))

    def feed(self, data: Data) -> list[bytes]:
        """Implement `Framer.feed`; no input is malformed."""
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

    def next_frame(self, data: bytes, at: int = 0) -> tuple[bytes | None, int]:
        """Implement `Framer.next_frame`."""
        end = min(len(data), at + self._size - self._held)
        frames = self.feed(data[at:end])
        return (frames[0] if frames else None), end

    def finish(self) -> list[bytes]:
        """Implement `Framer.finish`."""
        self._check_usable()
        if self._held:
            self._fail_incomplete()
        return []


class Block(_Sized):
    """Framing of one frame of `size` bytes, which may be 0; then another framer must take over.

    For a body whose length is in a header, with `FramedProtocol.set_framer`.
    Raises ValueError for a negative size.

    >>> Block(5).next_frame(b"12345the next header")
    (b'12345', 5)
    """

    __slots__ = ("_is_done",)

    def __init__(self, size: int) -> None:
        super().__init__(check_positive("size", size) if size != 0 else size)
        self._is_done = False

    def feed(self, data: Data) -> list[bytes]:
        """Implement `Framer.feed`. Raises MalformedFrame for bytes after the frame."""
        frame, end = self.next_frame(bytes(data))
        frames = [] if frame is None else [frame]
        if end < len(data):
            self._fail_surplus(frames)
        return frames

    def next_frame(self, data: bytes, at: int = 0) -> tuple[bytes | None, int]:
        """Implement `Framer.next_frame`. Raises MalformedFrame for bytes after the frame."""
        self._check_usable()
        if self._is_done:
            if at < len(data):
                self._fail_surplus([])
            return None, at
        end = min(len(data), at + self._size - self._held)
        self._pieces.append(data[at:end])
        self._held += end - at
        if self._held < self._size:
            return None, end
        self._is_done = True
        return self.take_rest(), end

    def finish(self) -> list[bytes]:
        """Implement `Framer.finish`. Raises IncompleteFrame unless the frame is complete."""
        frame, _ = self.next_frame(b"")
        if frame is None and not self._is_done:
            self._fail_incomplete()
        return [] if frame is None else [frame]

    def _fail_surplus(self, frames: list[bytes]) -> None:
        problem = f"more came after the {self._size} bytes of the only frame"
        self._fail(MalformedFrame(problem), frames)
