"""`FramedProtocol`: a protocol that receives and sends frames."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from operator import length_hint
from struct import Struct

from reactor.connection.connection import Connection, fail, interrupted
from reactor.connection.interrupts import Step
from reactor.errors import FramingError, TLSHandshakeError, UsageError
from reactor.framing import Framer
from reactor.loop.timers import Handle
from reactor.protocol import Protocol

__all__ = ["FramedProtocol"]

# The number of frames in `buffered_input`, and the length of each.
_COUNT = Struct("!I")


class FramedProtocol(Protocol):
    r"""Base class of protocols that receive and send frames. Subclass it, and define `frame_received`.

    framer: decodes the input and encodes what is sent; a new one for each connection. Raises TypeError for
        a class.

    While the connection is above its high-water mark, nothing is read, and decoded frames wait. So they do
    from `Connection.pause_reading` to `resume_reading`, and, beyond `frames_per_tick` of them, until the next
    tick. Waiting frames are delivered before the peer's end of file and the end of a drain; `close` and
    `abort` drop them. If the input is malformed, or a frame is too long, the frames before it are
    delivered, their answers are sent, and the connection ends with the `FramingError` as the reason.

    If the framing changes within a connection, set `framer_changes`, and call `set_framer` in
    `frame_received`:

        from reactor.framed import FramedProtocol
        from reactor.framing import Block, Lines
        from reactor.testing import MemoryReactor, Recorder

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

        with MemoryReactor() as reactor:
            _, client = reactor.pair(Store, Recorder)
            client.write(b"5\nhello3\nabc")
            reactor.settle()
            assert client.get_protocol().received == b"5 bytes stored\n3 bytes stored\n"
            client.close()
    """

    __slots__ = (
        "_at_end", "_frames", "_handing_over", "_next", "_paused", "_problem", "_upgrading",
        "connection", "framer",
    )  # fmt: skip

    #: Frames of a connection that are delivered in one tick, so that no connection starves the others. The
    #: rest waits for the next tick; nothing is read from the peer meanwhile.
    frames_per_tick = 1000  # a millisecond's worth

    # In the lines of this class itself an interrupt would lose frames, so that it ends the connection there.
    _interruptible = ("frame_received",)

    #: Whether `set_framer` may be called. Frames are then decoded one at a time, which is a little slower.
    framer_changes = False

    connection: Connection

    def __init__(self, framer: Framer) -> None:
        if isinstance(framer, type):
            raise TypeError(f"framer must be a Framer, not the class: write {framer.__name__}()")
        self.framer = framer
        self._frames: Iterator[bytes] | None = None
        self._problem: FramingError | None = None
        self._paused = False
        self._handing_over = False
        self._upgrading = False
        self._next: Handle | None = None  # the call of `_go_on` in the next tick
        self._at_end = False  # the peer's end of file was received

    def connection_made(self, connection: Connection) -> None:
        """Set the attribute `connection`. An override must call this first."""
        self.connection = connection

    def frame_received(self, frame: bytes) -> None:
        """Called with each frame of the input. Must be overridden."""
        raise TypeError(f"{type(self).__name__} must define frame_received")

    def send(self, frame: bytes) -> bool:
        """Encode and send `frame`. Returns what `Connection.write` returns.

        Raises ValueError if the framing can't represent it, TypeError if it is not bytes.
        """
        try:
            return self.connection.write(self.framer.encode(frame))
        except TypeError as exc:
            if isinstance(frame, str):
                raise TypeError("a frame must be bytes, not str: encode it first") from exc
            raise

    def set_framer(self, framer: Framer) -> None:
        """Replace the framer; it decodes all input after the current frame.

        Outside of `frame_received` it decodes the input that belongs to no frame yet; frames that this
        completes are delivered at once, unless the connection is paused. Raises UsageError unless the class
        sets `framer_changes`.
        """
        if not self.framer_changes:
            raise UsageError(f"set framer_changes = True in {type(self).__name__}: set_framer needs it")
        try:
            rest = self.framer.take_rest()
            self.framer = framer
            if self._handing_over or self._frames is not None:
                return  # `_decode` goes on with it
            if self._paused or not self.connection.wants_input():
                self._frames = self._decode(rest)
                self.connection.hold_reading(True)
            else:
                self._hand_over(self._decode(rest))
        except Exception:
            raise
        except BaseException as exc:  # no `Step`: a framer may change with every message
            self._interrupted(exc)
            raise

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool | None = None,
        server_hostname: str | None = None,
    ) -> None:
        """Upgrade to TLS after the current frame, as `Connection.start_tls` does.

        The peer must wait for an answer before it begins its handshake. Clear bytes after the frame may have
        been injected by a third party: they end the connection with `TLSHandshakeError` (CVE-2011-0411). So
        do frames that wait, if this is not called from `frame_received`.
        """
        with Step(self._interrupted):
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
        """Deliver the frames that are complete now."""
        if self.framer_changes:
            self._hand_over(self._decode(data))
            return
        try:
            frames = self.framer.feed(data)
        except FramingError as exc:
            frames, self._problem = exc.frames, exc
        self._hand_over(iter(frames))

    def eof_received(self) -> bool:
        """Deliver the frame that the end completes; then the connection is closed."""
        self._at_end = True
        frames = self._finish()
        self._hand_over(frames if self.framer_changes else iter(list(frames)))
        return self._frames is not None

    def pause_writing(self) -> None:
        """Stop reading from a peer that does not read its answers."""
        self._paused = True
        self.connection.hold_reading(True)

    def resume_writing(self) -> None:
        """Deliver the frames that wait, then read again."""
        self._paused = False
        if self._frames is None:
            self.connection.hold_reading(False)
        else:
            self._go_on_later()

    def reading_resumed(self) -> None:
        """Deliver the frames that wait, in the next tick."""
        if self._frames is not None:
            self._go_on_later()

    def draining(self) -> bool:
        """Return whether frames wait, so that a drain lets them be delivered."""
        return self._frames is not None

    def buffered_input(self) -> bytes | None:
        """Return the frames that wait and the beginning of the next, for `restore_input` elsewhere.

        None if the connection is about to end, and, where the framer changes, while frames wait: they are not
        decoded yet, because the subclass may still change the framer.
        """
        if self._at_end or self._problem is not None or (self.framer_changes and self._frames is not None):
            return None
        frames = list(self._frames or ())
        if self._frames is not None:
            self._frames = iter(frames)
        rest = self.framer.take_rest()
        if rest:
            self.framer.feed(rest)  # back again, for the transfer may fail
        return _COUNT.pack(len(frames)) + b"".join(map(_packed, frames)) + rest if frames or rest else b""

    def restore_input(self, data: bytes) -> None:
        """Go on with the result of `buffered_input`: its frames are delivered in the next tick."""
        (count,), at = _COUNT.unpack_from(data), _COUNT.size
        frames = []
        for _ in range(count):
            (size,), at = _COUNT.unpack_from(data, at), at + _COUNT.size
            frames.append(data[at : at + size])
            at += size
        rest = data[at:]
        if rest:
            frames += self.framer.feed(rest)
        if frames:
            self._frames = iter(frames)
            self.connection.hold_reading(True)

    def _hand_over(self, frames: Iterator[bytes]) -> None:
        wants_input, limit = self.connection.wants_input, self.frames_per_tick
        self._handing_over = True
        try:
            for number, frame in enumerate(frames, 1):
                self.frame_received(frame)
                if self._paused or number == limit or not wants_input():
                    self._hold(frames)
                    break
        except Exception:
            raise
        except BaseException:
            self._hold(frames)  # an interrupt: the frames after this one can still be delivered
            self._go_on_later()  # without any too: reading may be held
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
        if self._next is None or self._next.cancelled():
            self._next = self.connection.reactor.call_soon(self._go_on)

    def _go_on(self) -> None:
        with Step(self._interrupted):
            if self._paused or (self._frames is not None and not self.connection.wants_input()):
                return  # until `resume_writing` or `reading_resumed`
            frames, self._frames = self._frames, None
            self._hand_over_late(frames or iter(()))

    def _hand_over_late(self, frames: Iterator[bytes]) -> None:
        connection = self.connection
        try:
            self._hand_over(frames)
        except Exception as exc:
            connection.reactor.report(exc, f"{type(self).__qualname__}.frame_received", connection)
            connection.abort(exc)
        if self._frames is None and not self._paused:
            connection.hold_reading(False)
            if self._at_end:
                connection.close()

    def _decode(self, data: bytes) -> Iterator[bytes]:
        """Decode one frame at a time, each with the framer that is set then."""
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
        """Decode what the end of the input completes, for each framer that is set meanwhile."""
        framer = None
        try:
            while framer is not self.framer:
                framer = self.framer
                yield from framer.finish()
        except FramingError as exc:
            self._problem = exc

    def _interrupted(self, exc: BaseException) -> None:
        interrupted(self.connection, exc)

    def _refuse_clear(self) -> None:
        fail(self.connection, TLSHandshakeError("clear bytes came after the request to upgrade to TLS"))


def _packed(frame: bytes) -> bytes:
    return _COUNT.pack(len(frame)) + frame
