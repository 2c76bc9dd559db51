"""`FramedProtocol`: a protocol that is handed whole frames."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from operator import length_hint

from reactor.connection.connection import Connection, fail
from reactor.errors import FramingError, TLSHandshakeError, UsageError
from reactor.framing import Framer
from reactor.protocol import Protocol

__all__ = ["FramedProtocol"]


class FramedProtocol(Protocol):
    """A protocol that is handed frames. Subclass it, and define `frame_received`.

    framer: decodes what comes and encodes what is sent; its own for each connection.

    A peer that does not take its answers is not read from, and the frames of it that were decoded wait. So
    they do from `Connection.pause_reading` to `resume_reading`, and beyond `frames_per_tick` of them. What
    waits is handed over before the peer's end of file and the end of a drain; `close` and `abort` drop it.
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

    __slots__ = (
        "_at_end", "_frames", "_handing_over", "_paused", "_problem", "_scheduled", "_upgrading",
        "connection", "framer",
    )  # fmt: skip

    #: Frames of a connection that are handed over in one go. Then other connections have their turn, and what
    #: is left waits for the next tick; nothing is read from the peer meanwhile.
    frames_per_tick = 1000  # a millisecond's worth

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
        self._scheduled = False  # `_go_on` runs in the next tick
        self._at_end = False  # of the input, which has come

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
        if self._paused or not self.connection.wants_input():
            self._frames = self._decode(rest)
            self.connection.hold_reading(True)
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
        if waiting is not None:
            self._go_on_later()
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

    def eof_received(self) -> bool:
        """Hand over the frame that the end completes; then the connection is closed."""
        self._at_end = True
        frames = self._finish()
        self._hand_over(frames if self.framer_changes else iter(list(frames)))
        return self._frames is not None

    def pause_writing(self) -> None:
        """Read no more from a peer that does not take its answers."""
        self._paused = True
        self.connection.hold_reading(True)

    def resume_writing(self) -> None:
        """Go on with the frames that wait, then with reading."""
        self._paused = False
        if self._frames is None:
            self.connection.hold_reading(False)
        else:
            self._go_on_later()

    def reading_resumed(self) -> None:
        """Go on with the frames that wait, in the next tick."""
        if self._frames is not None:
            self._go_on_later()

    def draining(self) -> bool:
        """Return whether frames wait: a drain has them handed over."""
        return self._frames is not None

    def _hand_over(self, frames: Iterator[bytes]) -> None:
        wants_input, most = self.connection.wants_input, self.frames_per_tick
        self._handing_over = True
        try:
            for number, frame in enumerate(frames, 1):
                self.frame_received(frame)
                if self._paused or number == most or not wants_input():
                    self._hold(frames)
                    break
        except Exception:
            raise
        except BaseException:
            self._hold(frames)  # an interrupt: the frames behind can be handed over
            raise
        finally:
            self._handing_over = False
        if self._problem is not None and self._frames is None:
            self.connection.close(reason=self._problem)

    def _hold(self, frames: Iterator[bytes]) -> None:
        if self._upgrading:
            self._upgrading = self._paused = False
            if next(frames, None) is not None or self.framer.take_rest() or self._problem is not None:
                self._refuse_clear()
        elif length_hint(frames, 1) and not self.connection.is_closing():
            self._frames = frames
            self.connection.hold_reading(True)
            if not self._paused:
                self._go_on_later()

    def _go_on_later(self) -> None:
        if not self._scheduled:
            self.connection.reactor.call_soon(self._go_on)
            self._scheduled = True

    def _go_on(self) -> None:
        self._scheduled = False
        connection = self.connection
        if self._paused or (self._frames is not None and not connection.wants_input()):
            return  # until `resume_writing` or `reading_resumed`
        frames, self._frames = self._frames, None
        try:
            self._hand_over(frames or iter(()))
        except Exception as exc:
            reactor = connection.reactor
            reactor.report(exc, f"{type(self).__qualname__}.frame_received", connection)
            connection.abort(exc)
        if self._frames is None and not self._paused:
            connection.hold_reading(False)
            if self._at_end:
                connection.close()

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

    def _refuse_clear(self) -> None:
        fail(self.connection, TLSHandshakeError("something came in clear behind the request to upgrade"))
