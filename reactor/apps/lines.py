"""Lines: sends back each line in upper case."""

from __future__ import annotations

from typing import Self

from reactor.connection.connection import Connection
from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Upper"]


class Upper(FramedProtocol):
    """Sends back each line in upper case."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Lines())

    def hand_over(self) -> bytes:
        """Return nothing: the partial line is handed over as every framed protocol's."""
        return b""

    @classmethod
    def take_over(cls, connection: Connection, state: bytes) -> Self:
        """Go on with a connection of another process."""
        upper = cls()
        upper.connection_made(connection)
        return upper

    def frame_received(self, frame: bytes) -> None:
        """Send the line back."""
        self.send(frame.upper())
