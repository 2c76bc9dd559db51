"""Lines: sends back each line in upper case."""

from __future__ import annotations

from reactor.apps.paced import PacedProtocol
from reactor.framing import Lines

__all__ = ["Upper"]


class Upper(PacedProtocol):
    """Sends back each line in upper case."""

    __slots__ = ()

    FRAMES_AT_ONCE = 1000  # about a millisecond

    def __init__(self) -> None:
        super().__init__(Lines())

    def handle(self, frame: bytes) -> None:
        """Send the line back."""
        self.send(frame.upper())
