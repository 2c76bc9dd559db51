"""`PacedProtocol`: frames in small batches, so that one peer's burst does not hold up the others."""

from __future__ import annotations

from typing import ClassVar

from reactor.framed import FramedProtocol
from reactor.framing import Framer

__all__ = ["PacedProtocol"]


class PacedProtocol(FramedProtocol):
    """A `FramedProtocol` that handles a few frames at once, and the rest in the next ticks, a few in each.

    Subclass it, set `FRAMES_AT_ONCE`, and define `handle`. While frames wait, nothing is read from the peer,
    so that no more wait than one read has brought.
    """

    __slots__ = ("_left", "_waiting")

    #: Frames that are handled before the other connections have their turn.
    FRAMES_AT_ONCE: ClassVar[int] = 1

    def __init__(self, framer: Framer) -> None:
        super().__init__(framer)
        self._left = self.FRAMES_AT_ONCE
        self._waiting = False

    def handle(self, frame: bytes) -> None:
        """`frame` has come."""

    def frame_received(self, frame: bytes) -> None:
        """Handle the frame; after as many as are handled at once, let others have their turn."""
        self.handle(frame)
        self._left -= 1
        if self._left <= 0:
            self.wait()

    def wait(self, delay: float = 0.0) -> None:
        """Handle no further frame, and read nothing, for `delay` seconds; 0: until others had their turn."""
        if self._waiting or self.connection.is_closing():
            return
        self._waiting = True
        self.pause_writing()
        loop = self.connection.reactor
        if delay:
            loop.call_later(delay, self._go_on)
        else:
            loop.call_soon(self._go_on)

    def resume_writing(self) -> None:
        """Go on, unless it is not yet time."""
        if not self._waiting:
            super().resume_writing()

    def draining(self) -> bool:
        """Return whether frames may wait: a drain lets them be handled."""
        return self._waiting

    def _go_on(self) -> None:
        self._waiting = False
        self._left = self.FRAMES_AT_ONCE
        if self.connection.is_paused() or self.connection.is_closing():
            return  # `resume_writing` comes when the peer has taken its answers
        try:
            self.resume_writing()
        except Exception as exc:
            loop = self.connection.reactor
            loop.report(exc, f"{type(self).__qualname__}.handle", self.connection)
            self.connection.abort(exc)
