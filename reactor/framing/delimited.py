"""Framings by delimiter: `Delimited` and `Lines`."""

from __future__ import annotations

from reactor.errors import IncompleteFrame
from reactor.framing.base import DEFAULT_LIMIT, Data, Framer, check_positive, too_long

__all__ = ["Delimited", "Lines"]


class Delimited(Framer):
    r"""Framing by delimiter: each frame ends with `delimiter`, which it can't contain.

    delimiter: one byte or more. limit: bytes of a frame, without its delimiter.
    Raises ValueError for an empty delimiter or a limit below 1.

    >>> framer = Delimited(b"\0", limit=100)
    >>> framer.feed(b"one\0two\0thr")
    [b'one', b'two']
    >>> framer.encode(b"answer")
    b'answer\x00'
    """

    __slots__ = ("_delimiter", "_limit", "_pending")

    def __init__(self, delimiter: bytes, limit: int = DEFAULT_LIMIT) -> None:
        super().__init__()
        if not isinstance(delimiter, bytes) or not delimiter:
            raise ValueError(f"delimiter must be one byte or more, not {delimiter!r}")
        self._delimiter = delimiter
        self._limit = check_positive("limit", limit)
        # The start of a frame; a bytearray as soon as more was added, so that adding does not copy it.
        self._pending: bytes | bytearray = b""

    def feed(self, data: Data) -> list[bytes]:
        """Implement `Framer.feed`."""
        if self._problem is not None:
            raise self._problem
        if type(data) is not bytes:
            data = bytes(data)
        if self._pending:
            return self._go_on(data)
        frames = data.split(self._delimiter)
        self._pending = frames.pop()
        if len(data) > self._limit:
            self._check(frames)
        return frames

    def next_frame(self, data: bytes, at: int = 0) -> tuple[bytes | None, int]:
        """Implement `Framer.next_frame`."""
        self._check_usable()
        length = len(self._delimiter)
        found = data.find(self._delimiter, at)
        end = len(data) if found < 0 else found + length
        held = len(self._pending)
        if held or found < 0:  # the delimiter may begin in the held bytes
            if not isinstance(self._pending, bytearray):
                self._pending = bytearray(self._pending)
            self._pending += memoryview(data)[at:end]
            found = self._pending.find(self._delimiter, max(0, held + 1 - length))
            if found < 0:
                self._check([])
                return None, end
            frame, self._pending = bytes(self._pending[:found]), b""
            end = at + found + length - held
        else:
            frame = data[at:found]
        if len(frame) > self._limit:
            self._fail(too_long(self._limit), [])
        return self._finished([frame])[0], end

    def finish(self) -> list[bytes]:
        """Implement `Framer.finish`."""
        self._check_usable()
        if self._pending:
            message = f"the input ended {len(self._pending)} bytes into a frame, before {self._delimiter!r}"
            self._fail(IncompleteFrame(message), [])
        return []

    def take_rest(self) -> bytes:
        """Implement `Framer.take_rest`."""
        rest, self._pending = bytes(self._pending), b""
        return rest

    def encode(self, frame: bytes) -> bytes:
        """Implement `Framer.encode`."""
        if self._delimiter in frame or len(frame) > self._limit:
            self._refuse(frame)
        return frame + self._delimiter

    def _go_on(self, data: bytes) -> list[bytes]:
        searched = max(0, len(self._pending) + 1 - len(self._delimiter))
        if not isinstance(self._pending, bytearray):
            self._pending = bytearray(self._pending)
        self._pending += data
        if self._pending.find(self._delimiter, searched) < 0:
            self._check([])
            return []
        frames = bytes(self._pending).split(self._delimiter)
        self._pending = frames.pop()
        self._check(frames)
        return frames

    def _check(self, frames: list[bytes]) -> None:
        for number, frame in enumerate(frames):
            if len(frame) > self._limit:
                self._fail(too_long(self._limit), self._finished(frames[:number]))
        # The held bytes may end with a part of the delimiter.
        if len(self._pending) > self._limit + len(self._delimiter) - 1:
            self._fail(too_long(self._limit), self._finished(frames))

    def _finished(self, frames: list[bytes]) -> list[bytes]:
        return frames

    def _refuse(self, frame: bytes) -> None:
        if len(frame) > self._limit:
            raise too_long(self._limit)
        raise ValueError(f"a frame can't contain its delimiter, {self._delimiter!r}")


class Lines(Delimited):
    r"""Framing by lines, which end with LF or CR LF; frames are without them.

    limit: bytes of a line, its CR included. ending: b"\n" or b"\r\n", the end of encoded lines.
    Bytes after the last line end are a line too, as in a file.
    Raises ValueError for a limit below 1, or another ending.

    >>> framer = Lines(ending=b"\r\n")
    >>> framer.feed(b"one\r\ntwo\nthr")
    [b'one', b'two']
    >>> framer.finish()
    [b'thr']
    >>> framer.encode(b"answer")
    b'answer\r\n'
    """

    __slots__ = ("_ending",)

    def __init__(self, limit: int = DEFAULT_LIMIT, ending: bytes = b"\n") -> None:
        super().__init__(b"\n", limit)
        if ending not in {b"\n", b"\r\n"}:
            raise ValueError(f"ending must be LF or CR and LF, not {ending!r}")
        self._ending = ending

    def feed(self, data: Data) -> list[bytes]:
        """Implement `Framer.feed`."""
        if type(data) is not bytes:
            data = bytes(data)
        frames = super().feed(data)
        if frames and (b"\r" in data or frames[0].endswith(b"\r")):
            return self._finished(frames)
        return frames

    def finish(self) -> list[bytes]:
        """Implement `Framer.finish`."""
        self._check_usable()
        last, self._pending = bytes(self._pending), b""
        return [last] if last else []

    def encode(self, frame: bytes) -> bytes:
        """Implement `Framer.encode`."""
        if b"\n" in frame or len(frame) > self._limit:
            self._refuse(frame)
        return frame + self._ending

    def _finished(self, frames: list[bytes]) -> list[bytes]:
        return [frame.removesuffix(b"\r") for frame in frames]
