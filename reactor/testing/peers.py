"""`FaultyPeer` and `FaultyDatagramPeer`: peers that misbehave, for the other end of what is under test."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Literal

from reactor.connection.connection import Connection
from reactor.datagrams import Endpoint
from reactor.errors import UsageError
from reactor.testing.records import DatagramRecorder, Recorder

__all__ = ["FaultyDatagramPeer", "FaultyPeer"]

Ending = Literal["stay", "half-close", "close", "reset"]

_ENDINGS = ("stay", "half-close", "close", "reset")


class FaultyPeer(Recorder):
    """A protocol of a misbehaving peer: sends slowly, in pieces, does not read, or resets the connection.

    outgoing: the bytes that it sends. chunk: bytes of each piece; None for all at once. delay: seconds before
        each piece, and before the ending.
    reads: if False, it never reads, so that the other end's buffers fill.
    ending: its last step, when everything is sent: "stay" open, "half-close" (end its direction, and read
        on until the other end closes), "close" or "reset".

    It is a `Recorder`, on any reactor. Raises UsageError for a chunk below 1 or an unknown ending.

    >>> from reactor.apps.echo import Echo
    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     peer = FaultyPeer(b"hello", chunk=1, delay=0.5, ending="half-close")
    ...     _ = reactor.pair(Echo, lambda: peer)
    ...     reactor.run_out()
    >>> peer.received, peer.reason
    (b'hello', None)
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
            raise UsageError(f"chunk must be 1 byte or more, not {chunk}")
        if ending not in _ENDINGS:
            raise UsageError(f"ending must be one of {', '.join(_ENDINGS)}, not {ending}")
        self._outgoing = memoryview(outgoing)
        self._chunk = chunk or len(outgoing) or 1
        self._delay = delay
        self._reads = reads
        self._ending = ending
        self._done = False

    def connection_made(self, connection: Connection) -> None:
        """Start sending, and pause reading if the peer does not read."""
        super().connection_made(connection)
        if not self._reads:
            connection.pause_reading()
        self._wait()

    def eof_received(self) -> bool:
        """Return whether the peer stays open after the other end's end of file."""
        super().eof_received()
        return self._ending == "stay" or not self._done

    def _wait(self) -> None:
        # By call_soon, whose callbacks run after the timers: each piece is sent in a tick of its own.
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


class FaultyDatagramPeer(DatagramRecorder):
    """A datagram protocol of a misbehaving peer: sends late, twice, cut off, in another order, or too much.

    outgoing: the datagrams that it sends. address: where to; None: where its endpoint is connected to.
    delay: seconds before each. copies: how often each is sent. cut: bytes left of each; None for all.
    seed: of a random order in which they are sent; None for the order of `outgoing`.
    closes: it closes when everything is sent, so that answers find no socket.

    It is a `DatagramRecorder`, on any reactor. For faults of the network use `MemoryNetwork` with `loss`,
    `duplication` and `reordering`. Raises UsageError for fewer than one copy or a negative `cut`.

    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     server = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
    ...     peer = FaultyDatagramPeer([b"query"], copies=2, cut=2)
    ...     _ = reactor.connect_datagram("10.0.0.1:53", lambda: peer)
    ...     reactor.run_out()
    ...     server.get_protocol().received
    [b'qu', b'qu']
    """

    def __init__(
        self,
        outgoing: Iterable[bytes] = (),
        *,
        address: Any = None,
        delay: float = 0.0,
        copies: int = 1,
        cut: int | None = None,
        seed: int | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__()
        if copies < 1:
            raise UsageError(f"copies must be 1 or more, not {copies}")
        if cut is not None and cut < 0:
            raise UsageError(f"cut must be 0 bytes or more, not {cut}")
        self._outgoing = [data[:cut] for data in outgoing for _ in range(copies)]
        if seed is not None:
            Random(seed).shuffle(self._outgoing)
        self._outgoing.reverse()
        self._address = address
        self._delay = delay
        self._closes = closes

    def connection_made(self, endpoint: Endpoint) -> None:
        """Start sending."""
        super().connection_made(endpoint)
        self._wait()

    def _wait(self) -> None:
        reactor = self.endpoint.reactor
        reactor.call_later(self._delay, reactor.call_soon, self._go_on)

    def _go_on(self) -> None:
        if self.endpoint.is_closing():
            return
        if self._outgoing:
            self.endpoint.send(self._outgoing.pop(), self._address)
            self._wait()
        elif self._closes:
            self.endpoint.close()
