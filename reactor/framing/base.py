"""`Framer`: the base class of all framings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn

from reactor.errors import FrameTooLong, FramingError

__all__ = ["DEFAULT_LIMIT", "Data", "Framer", "check_positive"]

#: Default limit of a frame, in bytes: that of asyncio's streams and of Twisted's framers.
DEFAULT_LIMIT = 64 * 1024

Data = bytes | bytearray | memoryview


class Framer(ABC):
    """Base class of framers: decode the frames of one direction of one connection, and encode frames.

    After an error the rest of the input can't be decoded: `feed` and `finish` raise the error again.

    >>> class Upper(Framer):
    ...     def feed(self, data):
    ...         return [bytes([byte]).upper() for byte in data]  # each byte is a frame
    ...
    ...     def finish(self):
    ...         return []
    ...
    ...     def encode(self, frame):
    ...         return frame
    >>> Upper().feed(b"abc")
    [b'A', b'B', b'C']
    """

    __slots__ = ("_problem",)

    def __init__(self) -> None:
        self._problem: FramingError | None = None

    @abstractmethod
    def feed(self, data: Data) -> list[bytes]:
        """Add `data` to the input, and return the frames that are complete now, in order.

        Raises FrameTooLong or MalformedFrame; its `frames` holds the frames before the bad one.
        """

    def next_frame(self, data: bytes, at: int = 0) -> tuple[bytes | None, int]:
        """Add `data` from `at` to the end of one frame; return the frame, and its end in `data`.

        If no frame is complete, all is added, and None is returned with the end of `data`.
        The bytes after the frame are not looked at: they may be for another framer. Raises as `feed`.
        """
        raise TypeError(f"{type(self).__name__} must define next_frame")

    @abstractmethod
    def finish(self) -> list[bytes]:
        """End the input, and return the frame that the end completes, if there is one.

        Raises IncompleteFrame if the input ended in the middle of a frame.
        """

    def take_rest(self) -> bytes:
        """Remove and return the bytes that belong to no complete frame yet.

        Needed where a connection continues in another way after a frame, as by `FramedProtocol.start_tls`.
        """
        raise TypeError(f"{type(self).__name__} must define take_rest")

    @abstractmethod
    def encode(self, frame: bytes) -> bytes:
        """Return the bytes to send for `frame`. Raises ValueError if the framing can't represent it."""

    def _fail(self, problem: FramingError, frames: list[bytes]) -> NoReturn:
        # The error that is raised again has no frames: they were returned.
        self._problem = type(problem)(str(problem))
        problem.frames = frames
        raise problem

    def _check_usable(self) -> None:
        if self._problem is not None:
            raise self._problem


def check_positive(name: str, value: int) -> int:
    """Check and return `value`. Raises ValueError, naming it, if it is not a whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of bytes, 1 or more, not {value!r}")
    return value


def too_long(limit: int) -> FrameTooLong:
    """Return the error for a frame of more than `limit` bytes."""
    return FrameTooLong(f"a frame is longer than the limit of {limit} bytes")
