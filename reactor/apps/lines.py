"""Lines: each line that a client sends comes back in upper case."""

from __future__ import annotations

from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Upper"]


class Upper(FramedProtocol):
    """Upper-cases lines."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Lines())

    def frame_received(self, frame: bytes) -> None:
        """Answer a line."""
        self.send(frame.upper())
