"""Framings by length prefix: `LengthPrefixed`, `VarintPrefixed` and `Netstrings`."""

from __future__ import annotations

from abc import abstractmethod
from struct import Struct
from typing import Literal

from reactor.errors import IncompleteFrame, MalformedFrame
from reactor.framing.base import DEFAULT_LIMIT, Data, Framer, check_positive, too_long

__all__ = ["LengthPrefixed", "Netstrings", "VarintPrefixed"]

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

#: Limit of a varint in bytes: protobuf's, 64 bits in groups of 7.
_VARINT_LIMIT = 10


class _Prefixed(Framer):
    """Base class of these framings. A frame is a header with the length, the content, and a fixed `tail`."""

    __slots__ = ("_held", "_limit", "_needed", "_pieces")

    tail = b""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = check_positive("limit", limit)
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = 0  # bytes that must be held before decoding can find more

    @abstractmethod
    def _header(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Return start and length of the content of the frame that begins at `at`; None if more is needed.

        Raises MalformedFrame.
        """

    def feed(self, data: Data) -> list[bytes]:
        """Implement `Framer.feed`."""
        self._check_usable()
        if type(data) is not bytes:
            data = bytes(data)
        if self._pieces:
            self._pieces.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return []
            data = b"".join(self._pieces)
        return self._decode(data)

    def next_frame(self, data: bytes, at: int = 0) -> tuple[bytes | None, int]:
        """Implement `Framer.next_frame`."""
        self._check_usable()
        while True:
            end = min(len(data), at + max(1, self._needed - self._held))
            if end == at:
                return None, end
            self._pieces.append(data[at:end])
            self._held += end - at
            at = end
            if self._held >= self._needed:
                frames = self._decode(b"".join(self._pieces))
                if frames:
                    return frames[0], at
                if self._needed <= self._held:  # the header is incomplete
                    self._needed = self._held + 1

    def finish(self) -> list[bytes]:
        """Implement `Framer.finish`."""
        self._check_usable()
        if self._held:
            self._fail(IncompleteFrame(f"the input ended {self._held} bytes into a frame"), [])
        return []

    def take_rest(self) -> bytes:
        """Implement `Framer.take_rest`."""
        rest = b"".join(self._pieces)
        self._pieces = []
        self._held = self._needed = 0
        return rest

    def _decode(self, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        at, size, needed, tail = 0, len(data), 1, len(self.tail)
        while at < size:
            try:
                header = self._header(data, at)
            except MalformedFrame as exc:
                self._fail(exc, frames)
            if header is None:
                break
            start, length = header
            if length > self._limit:
                self._fail(too_long(self._limit), frames)
            end = start + length
            if end + tail > size:
                needed = end + tail - at
                break
            if tail and data[end : end + tail] != self.tail:
                self._fail(
                    MalformedFrame(f"a frame ends with {data[end : end + tail]!r}, not {self.tail!r}"), frames
                )
            frames.append(data[start:end])
            at = end + tail
        self._pieces = [data[at:]] if at < size else []
        self._held = size - at
        self._needed = needed
        return frames

    def _check_length(self, frame: bytes) -> int:
        if len(frame) > self._limit:
            raise too_long(self._limit)
        return len(frame)


class LengthPrefixed(_Prefixed):
    r"""Framing by length prefix: an unsigned integer of 1, 2, 4 or 8 bytes before each frame.

    size: bytes of the prefix. byteorder: "big" (network byte order) or "little". limit: bytes of a frame;
        None for 64 KiB, or for what `size` can express if that is less.
    Raises ValueError for another size or byteorder, a limit below 1, or one that `size` bytes can't express.

    >>> framer = LengthPrefixed(2)
    >>> framer.encode(b"hello")
    b'\x00\x05hello'
    >>> framer.feed(b"\0\5hello\0\7wor")
    [b'hello']
    """

    __slots__ = ("_struct",)

    def __init__(
        self,
        size: Literal[1, 2, 4, 8] = 4,
        byteorder: Literal["big", "little"] = "big",
        limit: int | None = None,
    ) -> None:
        if size not in _CODES:
            raise ValueError(f"size must be 1, 2, 4 or 8 bytes, not {size!r}")
        if byteorder not in {"big", "little"}:
            raise ValueError(f'byteorder must be "big" or "little", not {byteorder!r}')
        highest = 256**size - 1
        super().__init__(min(DEFAULT_LIMIT, highest) if limit is None else limit)
        if self._limit > highest:
            raise ValueError(
                f"limit must be {highest} bytes at most for a length of {size} bytes, not {limit}"
            )
        self._struct = Struct((">" if byteorder == "big" else "<") + _CODES[size])

    def encode(self, frame: bytes) -> bytes:
        """Implement `Framer.encode`."""
        return self._struct.pack(self._check_length(frame)) + frame

    def _header(self, data: bytes, at: int) -> tuple[int, int] | None:
        start = at + self._struct.size
        if start > len(data):
            return None
        return start, self._struct.unpack_from(data, at)[0]


class VarintPrefixed(_Prefixed):
    r"""Framing by varint prefix, as protobuf writes it: the length in groups of 7 bits, lowest first.

    limit: bytes of a frame. Raises ValueError for a limit below 1.

    >>> framer = VarintPrefixed()
    >>> framer.encode(bytes(300))[:2]
    b'\xac\x02'
    >>> framer.feed(b"\5hello")
    [b'hello']
    """

    __slots__ = ()

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        super().__init__(limit)

    def encode(self, frame: bytes) -> bytes:
        """Implement `Framer.encode`."""
        length = self._check_length(frame)
        header = bytearray()
        while length > 0x7F:
            header.append(length & 0x7F | 0x80)
            length >>= 7
        header.append(length)
        return bytes(header) + frame

    def _header(self, data: bytes, at: int) -> tuple[int, int] | None:
        length = shift = 0
        for byte in data[at : at + _VARINT_LIMIT]:
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return at + shift // 7, length
        if shift == 7 * _VARINT_LIMIT:
            raise MalformedFrame(f"a varint of more than {_VARINT_LIMIT} bytes is no length")
        return None


class Netstrings(_Prefixed):
    """Framing by netstrings: length in decimal digits, colon, content, comma (D. J. Bernstein, 1997).

    limit: bytes of a frame. Raises ValueError for a limit below 1.

    >>> framer = Netstrings()
    >>> framer.encode(b"hello")
    b'5:hello,'
    >>> framer.feed(b"5:hello,3:wor")
    [b'hello']
    """

    __slots__ = ()

    tail = b","

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        super().__init__(limit)

    def encode(self, frame: bytes) -> bytes:
        """Implement `Framer.encode`."""
        return b"%d:%b," % (self._check_length(frame), frame)

    def _header(self, data: bytes, at: int) -> tuple[int, int] | None:
        longest = len(str(self._limit)) + 1
        digits, colon, _ = data[at : at + longest + 1].partition(b":")
        if digits and (not digits.isdigit() or (digits.startswith(b"0") and len(digits) > 1)):
            raise MalformedFrame(f"a netstring begins with its length and a colon, not with {digits[:20]!r}")
        if not colon:
            if len(digits) > longest:
                raise MalformedFrame(
                    f"a netstring of at most {self._limit} bytes can't have the length {digits!r}"
                )
            return None
        if not digits:
            raise MalformedFrame("a netstring begins with its length, not with a colon")
        return at + len(digits) + 1, int(digits)
