"""`Stage`: one run of a scenario on a simulated network, with at most one fault."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from reactor import Connection
from reactor.reactor import loop_of
from reactor.testing import Errors, MemoryNetwork, MemoryReactor, Recorder
from reactor.testing.drive import drive
from reactor.testing.sockets import MemorySocket, listening_socket
from tests.helpers import Echo
from tests.simulation.peers import Peer
from tests.torture.faults import Fault

__all__ = ["Stage"]

T = TypeVar("T")

_MESSAGE = b"anybody there?"


class Stage:
    """A reactor with its network and peers; what a scenario plays on.

    make: makes the next protocol. protocols: those that were made, in order.
    expected: how many errors of its protocols the scenario itself brings about.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        self.network = MemoryNetwork(seed=9092, choppy=0.2, fault=self._next_fault)
        self.clock = self.network.clock
        self.errors = Errors()
        self.make: Callable[[], Any] = Echo
        self.protocols: list[Recorder] = []
        self.peers: list[Peer] = []
        self.expected = 0
        self._fault = fault
        self._fired = False
        self.reactor: MemoryReactor = self.attempt(self._make_reactor)
        self.selector = loop_of(self.reactor).registry.selector

    @property
    def undisturbed(self) -> bool:
        """Whether all must go as it does without a fault."""
        return self._fault is None or self._fault.is_harmless()

    def _next_fault(self, name: str, index: int) -> int | None:
        fault = self._fault
        if fault is None or index != fault.index:
            return None
        if name != fault.name:
            self.network.complaints.append(f"call {index} is {name}, and was {fault.name} before")
        self._fired = True
        return fault.errno

    def _make_reactor(self) -> MemoryReactor:
        return self.network.reactor(on_error=self.errors)

    def attempt(self, step: Callable[[], T]) -> T:
        """Return `step()`; the fault may come out of it once."""
        try:
            return step()
        except OSError as exc:
            assert self._fault is not None, "raised without a fault"
            assert exc.errno == self._fault.errno, "raised something else than the fault"
        with warnings.catch_warnings(record=True) as unclosed:
            warnings.simplefilter("always")
            gc.collect()
        assert unclosed == [], "a failed step left real descriptors open"
        return step()

    # What a scenario does

    def listen(self, **options: Any) -> Any:
        """Listen on the network, and return the listener."""

        def step() -> Any:
            self.listening = listening_socket(self.network)
            try:
                return self.reactor.listen(self.listening, self._factory, **options)
            except OSError:
                self.listening.close()
                raise

        return self.attempt(step)

    def listen_at(self, address: str) -> Any:
        """Listen on an address, and return the listener."""
        return self.attempt(lambda: self.reactor.listen(address, self._factory))

    def _factory(self) -> Any:
        protocol = self.make()
        self.protocols.append(protocol)
        return protocol

    def adopt(self, outgoing: bytes = b"", **options: Any) -> tuple[Connection, Peer]:
        """Hand a connected socket to the reactor; return the connection and its peer."""
        listening = listening_socket(self.network)
        peer = Peer(self.network.connect(listening.end), outgoing, half_close=True)
        sock = MemorySocket(self.network, listening.end.accept())
        self.attempt(listening.close)
        self.peers.append(peer)
        return self.attempt(lambda: self.reactor.adopt(sock, self._factory, **options)), peer

    def connect(self, outgoing: bytes = b"", *, half_close: bool = True, host: str = "10.0.0.1") -> Peer:
        """Let a client connect that sends `outgoing`, then by default ends its direction."""
        peer = Peer(self.network.connect(self.listening.end, host=host), outgoing, half_close=half_close)
        self.peers.append(peer)
        return peer

    def drive(self, seconds: float | None = None) -> None:
        """Let all happen that happens in `seconds`; None: until nothing is due any more."""
        until = {} if seconds is None else {"until": self.clock.now + seconds}
        drive(self.network, self._run_peers, **until)

    def _run_peers(self) -> int:
        return sum(peer.step() for peer in self.peers)

    def expect(self, peer: Peer, received: bytes, error: int | None = None) -> None:
        """Check what `peer` has got, unless the fault may have cut it off."""
        assert peer.over, "the connection has not ended, and nothing is due any more"
        if self.undisturbed:
            assert (bytes(peer.received), peer.error) == (received, error)

    # The end

    def finish(self) -> None:
        """See that the reactor still serves unless it was closed, and check what it leaves behind."""
        if not self.reactor.is_closed():
            self._check_that_it_serves()
        self.reactor.close()
        self._check_protocols()
        self._check_what_is_left()

    def _check_that_it_serves(self) -> None:
        self.make = Echo
        fired = self._fired
        if not self._serves_a_fresh_client():
            assert self._fired, "a fresh client was not served"
            assert not fired, "a fresh client was not served after the fault"
            assert self._serves_a_fresh_client(), "a fresh client was not served after the fault"

    def leave(self) -> None:
        """Give back what is real, however the run went."""
        self._fault = None
        self.reactor.close()

    def _serves_a_fresh_client(self) -> bool:
        peer = self.connect(_MESSAGE)
        self.drive()
        assert peer.over, "the fresh client's connection did not end"
        return peer.error is None and peer.received == _MESSAGE

    def _check_protocols(self) -> None:
        for protocol in self.protocols:
            if "connection_made" in protocol.names:
                assert protocol.names.count("connection_made") == 1
                assert protocol.names.count("connection_lost") == 1, protocol.names
                assert protocol.names[-1] == "connection_lost", protocol.names
            else:
                assert protocol.names == []

    def _check_what_is_left(self) -> None:
        assert self.network.complaints == []
        assert self.network.descriptors == {}, "descriptors were left open"
        assert self.selector.left is not None, "the selector was not closed"
        assert len(self.selector.left) == 1, "more than the wake-up was left registered"
        assert self.network.watched == set()
        reported = len(self.errors.seen) - self.expected
        # A connection that can't be registered was accepted in vain: it is reported to `on_error` alone.
        assert reported <= (self._fired and self._fault.name == "register"), self.errors.seen
