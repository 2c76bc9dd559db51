"""A reactor with connections in memory: both ends are real `Connection`s, and only the kernel is missing."""

from __future__ import annotations

from random import Random
from typing import Any

from reactor.connection import Connection
from reactor.debug import DebugConnection
from reactor.errors import UsageError
from reactor.listener import Factory
from reactor.loop import ErrorHandler
from reactor.options import Limits, Timeouts
from reactor.server import Reactor
from reactor.testing.clock import ManualClock
from reactor.testing.drive import drive, settle
from reactor.testing.network import FIRST_DESCRIPTOR, ListeningEndpoint, Network
from reactor.testing.selector import MemorySelector
from reactor.testing.sockets import MemorySocket

__all__ = ["MemoryConnection", "MemoryReactor"]


class MemoryConnection(Connection):
    """One end of a pair in memory. It differs from other connections in its socket alone.

    peer: the other end, once both are made.
    """

    __slots__ = ("peer",)

    peer: MemoryConnection


class DebugMemoryConnection(MemoryConnection, DebugConnection):
    """The same in debug mode."""

    __slots__ = ()


class MemoryReactor(Reactor):
    """A reactor without sockets, whose time goes when `advance` is called; a seed replays exactly.

    seed: decides on the order in which connections are served, and on what follows.
    latency: the least and the most seconds that bytes are under way.
    choppy: from 0 to 1, how often a call or a segment takes less than it could.
    buffers: bytes of each end's send and receive buffer.
    on_error, debug: as for `Reactor`.
    Raises UsageError if 512 real descriptors are open: their numbers could be those of ends in memory.

    clock, network: its time, and what stands for the kernel; `network.complaints` has, in words, what no
    program may do to one.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        choppy: float = 0.0,
        buffers: tuple[int, int] = (65536, 65536),
        on_error: ErrorHandler | None = None,
        debug: bool = False,
    ) -> None:
        self.clock = ManualClock()
        self.network = Network(self.clock, Random(seed), latency=latency, choppy=choppy)
        self._buffers = buffers
        selector = MemorySelector(self.network)
        super().__init__(selector=selector, clock=self.clock, on_error=on_error, debug=debug)
        self._connection_type = DebugMemoryConnection if debug else MemoryConnection
        if self._wakeup.fileno() >= FIRST_DESCRIPTOR:
            self.close()
            raise UsageError(
                f"this process has {FIRST_DESCRIPTOR} descriptors open: a test in memory has fewer"
            )

    def pair(
        self,
        factory: Factory,
        peer_factory: Factory,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> tuple[MemoryConnection, MemoryConnection]:
        """Connect two protocols in memory, and return both ends: the server's, then the client's.

        limits, timeouts: the server's; the client has the defaults.
        """
        listening = ListeningEndpoint(self.network, buffers=self._buffers)
        far = self.network.connect(listening)
        near = MemorySocket(self.network, listening.accept())
        server = self._adopt_memory(near, factory, limits=limits, timeouts=timeouts)
        client = self._adopt_memory(MemorySocket(self.network, far), peer_factory)
        server.peer, client.peer = client, server
        return server, client

    def _adopt_memory(self, sock: Any, factory: Factory, **terms: Any) -> MemoryConnection:
        connection = self.adopt(sock, factory, **terms)
        assert isinstance(connection, MemoryConnection)
        return connection

    def settle(self) -> None:
        """Let all happen that happens at this time: deliveries, callbacks, timers that are due.

        Raises AssertionError if that does not come to an end.
        """
        settle(self, self.network)

    def advance(self, seconds: float) -> None:
        """Let all happen that happens in `seconds`, each thing at its time."""
        until = self.clock.now + seconds
        drive(self, self.clock, self.network, until=until)
        self.clock.now = until

    def run_out(self) -> None:
        """Let all happen, however long that takes, until nothing is due any more.

        Raises AssertionError if it goes on for ever.
        """
        drive(self, self.clock, self.network)
