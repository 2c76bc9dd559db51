"""Lines: each line that a client sends comes back in upper case."""

from __future__ import annotations

from reactor.apps.paced import PacedProtocol
from reactor.framing import Lines

__all__ = ["Upper"]


class Upper(PacedProtocol):
    """Upper-cases lines."""

    __slots__ = ()

    FRAMES_AT_ONCE = 1000  # a millisecond's worth

    def __init__(self) -> None:
        super().__init__(Lines())

    def handle(self, frame: bytes) -> None:
        """Answer a line."""
        self.send(frame.upper())
