"""`FramedProtocol`: a protocol that is handed whole frames."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from reactor.connection.connection import Connection, fail
from reactor.errors import FramingError, TLSHandshakeError, UsageError
from reactor.framing import Framer
from reactor.protocol import Protocol

__all__ = ["FramedProtocol"]


class FramedProtocol(Protocol):
    """A protocol that is handed frames. Subclass it, and define `frame_received`.

    framer: decodes what comes and encodes what is sent; its own for each connection.

    A peer that does not take its answers is not read from, and the frames of it that were decoded wait.
    When its bytes are no frames, or a frame is too long, the frames before are handed over, what they were
    answered is sent, and the connection ends with the `FramingError` as its reason.

    Where the framing changes on the way, `framer_changes` is set, and `frame_received` calls `set_framer`:

        class Store(FramedProtocol):
            framer_changes = True

            def __init__(self):
                super().__init__(Lines())

            def frame_received(self, frame):
                if isinstance(self.framer, Lines):  # a header: the length of the body
                    self.set_framer(Block(int(frame)))
                else:
                    self.set_framer(Lines())
                    self.send(b"%d bytes stored" % len(frame))
    """

    __slots__ = ("_frames", "_handing_over", "_paused", "_problem", "_upgrading", "connection", "framer")

    #: Whether `set_framer` may be called. Frames are then decoded one at a time, which takes a little longer.
    framer_changes = False

    connection: Connection

    def __init__(self, framer: Framer) -> None:
        self.framer = framer
        self._frames: Iterator[bytes] | None = None
        self._problem: FramingError | None = None
        self._paused = False
        self._handing_over = False
        self._upgrading = False

    def connection_made(self, connection: Connection) -> None:
        """Keep the connection; call it first where it is overridden."""
        self.connection = connection

    def frame_received(self, frame: bytes) -> None:
        """`frame` has come."""

    def send(self, frame: bytes) -> bool:
        """Send `frame`; what is sent in one tick leaves in one piece. Returns what `Connection.write` does.

        Raises ValueError if it can't be sent as a frame.
        """
        return self.connection.write(self.framer.encode(frame))

    def set_framer(self, framer: Framer) -> None:
        """Decode and encode with `framer` from here on. What has come behind the frame at hand is for it.

        Outside of `frame_received` that is what was not handed over; the frames that it completes are handed
        over at once, unless the connection takes no answers. Raises UsageError unless the class sets
        `framer_changes`.
        """
        if not self.framer_changes:
            raise UsageError(f"set framer_changes = True in {type(self).__name__}: its framer is to change")
        rest = self.framer.take_rest()
        self.framer = framer
        if self._handing_over or self._frames is not None:
            return  # what has come behind is decoded when it is its turn
        if self._paused:
            self._frames = self._decode(rest)
        else:
            self._hand_over(self._decode(rest))

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool | None = None,
        server_hostname: str | None = None,
    ) -> None:
        """Go on over TLS after the frame at hand, as `Connection.start_tls` does.

        The peer has to wait for an answer before it begins its handshake. Whatever has come behind the frame
        in clear may be somebody else's: the connection ends with `TLSHandshakeError` (CVE-2011-0411). So it
        does for frames that came before and wait, when this is not called from `frame_received`.
        """
        waiting, self._frames = self._frames, None
        try:
            self.connection.start_tls(context, server_side=server_side, server_hostname=server_hostname)
        except UsageError:
            self._frames = waiting
            raise
        if self._handing_over:
            self._upgrading = self._paused = True
        in_clear = next(waiting or iter(()), None) is not None
        if in_clear or self.framer.take_rest() or self._problem is not None:
            self._refuse_clear()

    def data_received(self, data: bytes) -> None:
        """Hand over the frames that are complete now."""
        if self.framer_changes:
            self._hand_over(self._decode(data))
            return
        try:
            frames = self.framer.feed(data)
        except FramingError as exc:
            frames, self._problem = exc.frames, exc
        self._hand_over(iter(frames))

    def eof_received(self) -> bool | None:
        """Hand over the frame that the end completes; then the connection is closed."""
        self._hand_over(self._finish())
        return None

    def pause_writing(self) -> None:
        """Read no more from a peer that does not take its answers."""
        self._paused = True
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        """Go on with the frames that wait, then with reading."""
        self._paused = False
        frames, self._frames = self._frames, None
        if frames is not None:
            self._hand_over(frames)
        if not self._paused:
            self.connection.resume_reading()

    def _hand_over(self, frames: Iterator[bytes]) -> None:
        is_closing = self.connection.is_closing
        for frame in frames:
            self._handing_over = True
            self.frame_received(frame)
            self._handing_over = False
            if self._paused or is_closing():
                self._hold(frames)
                return
        if self._problem is not None:
            self.connection.close(reason=self._problem)

    def _decode(self, data: bytes) -> Iterator[bytes]:
        """Decode one frame at a time, each with the framer that is in place then."""
        at = 0
        framer = None
        try:
            while at < len(data) or framer is not self.framer:
                framer = self.framer
                frame, at = framer.next_frame(data, at)
                if frame is not None:
                    yield frame
        except FramingError as exc:
            self._problem = exc

    def _finish(self) -> Iterator[bytes]:
        """Decode what the end of the input completes, for each framer that is put in place then."""
        framer = None
        try:
            while framer is not self.framer:
                framer = self.framer
                yield from framer.finish()
        except FramingError as exc:
            self._problem = exc

    def _hold(self, frames: Iterator[bytes]) -> None:
        if not self._upgrading:
            self._frames = frames
            return
        self._upgrading = self._paused = False
        if next(frames, None) is not None or self.framer.take_rest() or self._problem is not None:
            self._refuse_clear()

    def _refuse_clear(self) -> None:
        fail(self.connection, TLSHandshakeError("something came in clear behind the request to upgrade"))
