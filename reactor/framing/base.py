"""What every kind of framing has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn

from reactor.errors import FrameTooLong, FramingError

__all__ = ["DEFAULT_LIMIT", "Data", "Framer", "check_positive"]

#: Bytes of a frame, where nothing else is asked for: asyncio's streams and Twisted's framers have as much.
DEFAULT_LIMIT = 64 * 1024

Data = bytes | bytearray | memoryview


class Framer(ABC):
    """Decodes the frames of one direction of one connection, and encodes frames for any.

    After an error the rest of the input means nothing any more: `feed` and `finish` raise it again.
    """

    __slots__ = ("_problem",)

    def __init__(self) -> None:
        self._problem: FramingError | None = None

    @abstractmethod
    def feed(self, data: Data) -> list[bytes]:
        """Take in `data`, and return the frames that are complete now, in order.

        Raises FrameTooLong or MalformedFrame; the frames before the bad one are in its `frames`.
        """

    def next_frame(self, data: bytes, at: int = 0) -> tuple[bytes | None, int]:
        """Take in `data` from `at` to the end of one frame; return the frame, and where it ended in `data`.

        Without a whole frame all is taken in, and None is returned with the end of `data`.
        What follows a frame is not looked at, so that it may be another framer's. Raises as `feed`.
        """
        raise TypeError(f"{type(self).__name__} must define next_frame")

    @abstractmethod
    def finish(self) -> list[bytes]:
        """Take note of the end of the input, and return the frame that it completes, if there is one.

        Raises IncompleteFrame if it comes within a frame.
        """

    def take_rest(self) -> bytes:
        """Return what was fed and belongs to no frame yet, and forget it: from here on it is another's.

        Needed where a connection goes on with something else after a frame, as `FramedProtocol.start_tls`.
        """
        raise TypeError(f"{type(self).__name__} must define take_rest")

    @abstractmethod
    def encode(self, frame: bytes) -> bytes:
        """Return `frame` as it is sent. Raises ValueError if it can't be sent as a frame."""

    def _fail(self, problem: FramingError, frames: list[bytes]) -> NoReturn:
        # What is raised again has no frames: they were handed out.
        self._problem = type(problem)(str(problem))
        problem.frames = frames
        raise problem

    def _check_usable(self) -> None:
        if self._problem is not None:
            raise self._problem


def check_positive(name: str, value: int) -> int:
    """Return `value`. Raises ValueError with its name if it is not a whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of bytes, 1 or more, not {value!r}")
    return value


def too_long(limit: int) -> FrameTooLong:
    """Return the error for a frame of more than `limit` bytes."""
    return FrameTooLong(f"a frame is longer than the limit of {limit} bytes")
