"""`PacedProtocol`: frames in small batches, so that one peer's burst does not delay the others."""

from __future__ import annotations

from typing import ClassVar

from reactor.framed import FramedProtocol
from reactor.framing import Framer

__all__ = ["PacedProtocol"]


class PacedProtocol(FramedProtocol):
    """A `FramedProtocol` that handles a few frames in each tick.

    Subclass it, set `FRAMES_AT_ONCE`, and define `handle`. While frames wait, nothing is read from the peer:
    the limit of waiting frames is what one read brings.
    """

    __slots__ = ("_left", "_waiting")

    #: The limit of frames in one tick.
    FRAMES_AT_ONCE: ClassVar[int] = 1

    def __init__(self, framer: Framer) -> None:
        super().__init__(framer)
        self._left = self.FRAMES_AT_ONCE
        self._waiting = False

    def handle(self, frame: bytes) -> None:
        """Handle `frame`; does nothing unless it is overridden."""

    def frame_received(self, frame: bytes) -> None:
        """Handle the frame; after `FRAMES_AT_ONCE` of them, wait for the next tick."""
        self.handle(frame)
        self._left -= 1
        if self._left <= 0:
            self.wait()

    def wait(self, delay: float = 0.0) -> None:
        """Handle no further frame, and read nothing, for `delay` seconds; 0: until the next tick."""
        if self._waiting or self.connection.is_closing():
            return
        self._waiting = True
        self.pause_writing()
        loop = self.connection.get_extra_info("reactor")
        if delay:
            loop.call_later(delay, self._end_wait)
        else:
            loop.call_soon(self._end_wait)

    def resume_writing(self) -> None:
        """Go on, unless `wait` has not ended."""
        if not self._waiting:
            super().resume_writing()

    def draining(self) -> bool:
        """Return whether frames may wait: a drain lets them be handled."""
        return self._waiting

    def _end_wait(self) -> None:
        self._waiting = False
        self._left = self.FRAMES_AT_ONCE
        if self.connection.is_paused() or self.connection.is_closing():
            return  # `resume_writing` is called when the peer has read its answers
        try:
            self.resume_writing()
        except Exception as exc:
            loop = self.connection.get_extra_info("reactor")
            loop.report(exc, f"{type(self).__qualname__}.handle", self.connection)
            self.connection.abort(exc)
