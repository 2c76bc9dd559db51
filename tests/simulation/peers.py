"""The other ends of a server's connections: programs that send, receive, stop and vanish."""

from __future__ import annotations

import errno

from reactor.testing.endpoint import Endpoint

__all__ = ["Peer"]


class Peer:
    """A client that sends `outgoing`, receives all that comes, and closes after the end of file.

    half_close: end our direction when all is sent. sent, received: how many bytes the network took,
    and what came. error: the errno that ended it.
    """

    def __init__(self, end: Endpoint, outgoing: bytes = b"", *, half_close: bool = False) -> None:
        self.end = end
        self.outgoing = bytearray(outgoing)
        self.half_close = half_close
        self.reading = True
        self.chunk = 1 << 16
        self.sent = 0
        self.received = bytearray()
        self.at_eof = False
        self.error: int | None = None
        self.ended_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether our end was closed."""
        return self.end.orphan

    def step(self) -> bool:
        """Do what can be done without waiting; return whether that was anything."""
        if self.over or not any(self.end.ready()):
            return False
        try:
            sent = self.send()
            return (self.receive() if self.reading else False) or sent
        except OSError as exc:
            self.error = exc.errno
            self.close()
            return True

    def send(self) -> bool:
        """Send what is left; return whether something went, the end of our direction included."""
        if self.outgoing:
            try:
                sent = self.end.send(bytes(self.outgoing))
            except BlockingIOError:
                return False
            self.sent += sent
            del self.outgoing[:sent]
            return True
        if self.half_close and not self.end.ending:
            self.end.shutdown()
            return True
        return False

    def receive(self) -> bool:
        """Receive what is there; return whether something was, the end of file included."""
        try:
            data = self.end.recv(self.chunk)
        except BlockingIOError:
            return False
        self.received += data
        if not data:
            self.at_eof = True
            self.close()
        return True

    def close(self, *, reset: bool = False) -> None:
        """Give the connection up."""
        self.ended_at = self.end.network.clock()
        self.end.close(reset=reset)

    def vanish(self) -> None:
        """Reset the connection."""
        self.error = errno.ECONNRESET
        self.close(reset=True)
