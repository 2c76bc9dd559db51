"""Lines: sends back each line in upper case."""

from __future__ import annotations

from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Upper"]


class Upper(FramedProtocol):
    """Sends back each line in upper case."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Lines())

    def frame_received(self, frame: bytes) -> None:
        """Send the line back."""
        self.send(frame.upper())
