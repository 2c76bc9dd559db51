"""The other end of a connection under test, when it does not behave."""

from __future__ import annotations

from typing import Literal

from reactor.connection.connection import Connection
from reactor.errors import UsageError
from reactor.testing.records import Recorder

__all__ = ["FaultyPeer"]

Ending = Literal["stay", "half-close", "close", "reset"]

_ENDINGS = ("stay", "half-close", "close", "reset")


class FaultyPeer(Recorder):
    """A peer that sends slowly, in pieces, does not read, or goes away; on a reactor, in memory or not.

    outgoing: what it sends. chunk: bytes of each piece; None: all in one. delay: seconds before each piece,
        and before the ending.
    reads: False: it takes nothing of what it is sent, so that the other end's buffers fill.
    ending: what it does when all is sent: "stay" open, "half-close" (it ends its direction, and reads on
        until the other end closes), "close" or "reset".

    As a `Recorder` it keeps what it is told. Raises UsageError for a chunk below 1 or an unknown ending.
    """

    def __init__(
        self,
        outgoing: bytes = b"",
        *,
        chunk: int | None = None,
        delay: float = 0.0,
        reads: bool = True,
        ending: Ending = "stay",
    ) -> None:
        super().__init__()
        if chunk is not None and chunk < 1:
            raise UsageError(f"a chunk has 1 byte or more, not {chunk}")
        if ending not in _ENDINGS:
            raise UsageError(f"a peer's ending is one of {', '.join(_ENDINGS)}, not {ending}")
        self._outgoing = memoryview(outgoing)
        self._chunk = chunk or len(outgoing) or 1
        self._delay = delay
        self._reads = reads
        self._ending = ending
        self._done = False

    def connection_made(self, connection: Connection) -> None:
        """Begin."""
        super().connection_made(connection)
        if not self._reads:
            connection.pause_reading()
        self._wait()

    def eof_received(self) -> bool:
        """Stay, or close with the other end."""
        super().eof_received()
        return self._ending == "stay" or not self._done

    def _wait(self) -> None:
        # By way of the callbacks, which come after the timers: each piece goes out in a tick of its own.
        reactor = self.connection.reactor
        reactor.call_later(self._delay, reactor.call_soon, self._go_on)

    def _go_on(self) -> None:
        if self.connection.is_closing():
            return
        if self._outgoing:
            self.connection.write(self._outgoing[: self._chunk])
            self._outgoing = self._outgoing[self._chunk :]
            self._wait()
            return
        self._done = True
        if self._ending == "half-close":
            self.connection.write_eof()
        elif self._ending == "close":
            self.connection.close()
        elif self._ending == "reset":
            self.connection.abort()
