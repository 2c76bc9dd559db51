"""A network in memory, for one thread: descriptors, hosts with their names, and what is under way."""

from __future__ import annotations

import errno
import heapq
import socket
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

from reactor.address import Address
from reactor.errors import UsageError
from reactor.testing.clock import ManualClock
from reactor.testing.endpoint import Endpoint, ListeningEndpoint, error
from reactor.testing.host import Host, numeric, socket_address

__all__ = ["FIRST_DESCRIPTOR", "Network", "Place"]

#: Descriptors in memory start here: those of a test's files and sockets are below as a rule.
FIRST_DESCRIPTOR = 512


class HasAddresses(Protocol):
    """What stands for its host: a `MemoryReactor`."""

    @property
    def addresses(self) -> tuple[str, ...]: ...


class Driven(Protocol):
    """What lives on a network: a `MemoryReactor`."""

    @property
    def selector(self) -> Any: ...  # a `MemorySelector`, whose module is above this one

    def is_closed(self) -> bool: ...

    def connections(self) -> list[Any]: ...

    def run_once(self, timeout: float | None = 0, /) -> int: ...

    def next_timeout(self) -> float | None: ...

    def close(self) -> None: ...


#: A host: an address of it, a name, or a reactor on it.
Place = str | HasAddresses

_LOOPBACK = ("::1", "127.0.0.1")


class Network:
    """Descriptors, hosts, deliveries that are due, and the one way in for every call that can fail.

    clock: its time. random: decides on all that a kernel decides. Each end has one of its own beside it, so
        that what happens to one connection does not depend on the order in which others are served.
    latency: the least and the most seconds that a segment is under way.
    choppy: from 0 to 1, how often a call or a segment takes less than it could.
    buffers: bytes of each socket's send and receive buffer.
    fault: asked for each call, with its name and index; an errno that it returns is raised.

    calls: the names of all calls, in order. complaints: what no program may do, in words.
    names: the addresses of each name, best first. unreachable: the errno with which connecting to an
        address fails; None: nobody answers.
    reactors: those that live on it, in the order in which they are driven.
    """

    def __init__(
        self,
        clock: ManualClock,
        random: Random,
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        choppy: float = 0.0,
        buffers: tuple[int, int] = (65536, 65536),
        fault: Callable[[str, int], int | None] = lambda name, index: None,
    ) -> None:
        self.clock = clock
        self.random = random
        self.latency = latency
        self.choppy = choppy
        self.buffers = buffers
        self.fault = fault
        self.calls: list[str] = []
        self.complaints: list[str] = []
        self.names: dict[str, Sequence[str]] = {}
        self.unreachable: dict[str, int | None] = {}
        self.reactors: list[Driven] = []
        self.descriptors: dict[int, Any] = {}
        self.watched: set[int] = set()
        self.stalled: dict[Endpoint, None] = {}
        self._anywhere: Host | None = None
        self._hosts: dict[str, Host] = {}
        self._cuts: set[frozenset[str]] = set()
        self._free = [FIRST_DESCRIPTOR]
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._scheduled = 0
        self._ports = 0

    def call(self, name: str) -> None:
        """Count a call that can fail; raise what `fault` says."""
        self.calls.append(name)
        number = self.fault(name, len(self.calls) - 1)
        if number is not None:
            raise error(number)

    # Descriptors

    def open(self, owner: Any) -> int:
        """Give `owner` the lowest descriptor that is free, as a kernel does."""
        fd = heapq.heappop(self._free)
        if not self._free:
            self._free.append(fd + 1)
        self.descriptors[fd] = owner
        return fd

    def free(self, fd: int) -> None:
        """Take back a descriptor; the next socket gets it."""
        if fd in self.watched:
            self.complaints.append(f"descriptor {fd} was closed while it was registered")
        del self.descriptors[fd]
        heapq.heappush(self._free, fd)

    def ends(self) -> list[Endpoint | ListeningEndpoint]:
        """Return what the open sockets have of the network, in the order of their descriptors."""
        ends = [getattr(self.descriptors[fd], "end", None) for fd in sorted(self.descriptors)]
        return [end for end in ends if isinstance(end, (Endpoint, ListeningEndpoint))]

    # Time

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Run `action` when the clock has reached `when`."""
        self._scheduled += 1
        heapq.heappush(self._due, (when, self._scheduled, action))

    def next_due(self) -> float | None:
        """Return when the next action is due, or None."""
        return self._due[0][0] if self._due else None

    def run_due(self) -> int:
        """Run the actions that are due, and return how many."""
        count = 0
        while self._due and self._due[0][0] <= self.clock():
            heapq.heappop(self._due)[2]()
            count += 1
        return count

    # Hosts and their names

    def host_with(self, addresses: Sequence[str]) -> Host:
        """Return the host that has these addresses; none stand for every address that no other host has.

        Raises UsageError for what is no address, and for addresses of more than one host.
        """
        if not addresses:
            self._anywhere = self._anywhere or Host(self, ())
            return self._anywhere
        own = tuple(dict.fromkeys(map(numeric, addresses)))
        known = {self._hosts.get(address) for address in own}
        if len(known) > 1:
            raise UsageError(f"{', '.join(own)} are not of one host: another reactor has some of them")
        host = known.pop() or Host(self, own)
        self._hosts.update(dict.fromkeys(own, host))
        return host

    def host_at(self, address: str) -> Host | None:
        """Return the host that has `address`; None if there is none."""
        return self._hosts.get(address, self._anywhere)

    def resolve(self, address: Address, *, passive: bool) -> list[tuple[socket.AddressFamily, Any]]:
        """As `Address.resolve`, with the names of this network."""
        if address.host is None:
            return address.resolve()
        if address.family is not None:
            found: Sequence[str] = [address.host]
        elif not address.host:
            found = ["::"] if passive else _LOOPBACK
        else:
            found = self._look_up(address.host)
        try:
            names = [socket_address(numeric(each), address.port or 0) for each in found]
        except UsageError as exc:
            told = str(exc).partition(" is no")[0]
            raise socket.gaierror(socket.EAI_FAIL, f"{told} in `names` is no IP address") from exc
        return [(socket.AF_INET6 if len(name) > 2 else socket.AF_INET, name) for name in names]

    def _look_up(self, name: str) -> Sequence[str]:
        found = self.names.get(name, _LOOPBACK if name == "localhost" else ())
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found] if isinstance(found, str) else found

    def next_port(self) -> int:
        """Return a port for who does not care."""
        self._ports += 1
        return 1024 + self._ports % 60000

    # Partitions

    def partition(self, one: Place, other: Place) -> None:
        """Lose all that goes between two hosts, until `heal`.

        Connections between them stall, and go on when it is healed, for what was lost is sent again. Who
        connects gets no answer until then. The kernel gives up by itself with ETIMEDOUT, as Linux does: who
        connects after 127 seconds, who has sent something after 924.6.
        one, other: an address, which leaves a host's other addresses alone; a name; or a reactor, with all
        its addresses.
        """
        self._cuts |= self._links(one, other)

    def heal(self, one: Place | None = None, other: Place | None = None) -> None:
        """Undo `partition` between two hosts; without arguments, between all."""
        if (one is None) != (other is None):
            raise UsageError("a partition is between two: give both, or none to heal all")
        if one is None or other is None:
            self._cuts.clear()
        else:
            self._cuts -= self._links(one, other)
        for end in list(self.stalled):
            if not self.is_cut(end.address, end.peer_address):
                del self.stalled[end]
                end.release()

    def reset(self, one: Place, other: Place) -> None:
        """Reset the connections between two hosts, at both ends, as what stands between them may do.

        It gets through a partition.
        """
        links = self._links(one, other)
        for end in self.ends():
            if isinstance(end, Endpoint) and end.peer and frozenset((end.address, end.peer_address)) in links:
                end.be_reset()
                end.peer.be_reset()

    def is_cut(self, one: str, other: str) -> bool:
        """Return whether there is a partition between two addresses."""
        return bool(self._cuts) and frozenset((one, other)) in self._cuts

    def _links(self, one: Place, other: Place) -> set[frozenset[str]]:
        return {frozenset((a, b)) for a in self._addresses(one) for b in self._addresses(other)}

    def _addresses(self, place: Place) -> list[str]:
        if isinstance(place, str):
            return [numeric(each) for each in (self._look_up(place) if place in self.names else [place])]
        if not place.addresses:
            raise UsageError("this reactor has no addresses of its own: give those that it listens on")
        return list(place.addresses)

    # Connections

    def connect(
        self, listening: ListeningEndpoint, *, host: str = "10.0.0.1", buffers: tuple[int, int] | None = None
    ) -> Endpoint:
        """Return the client's end of a new connection that waits in the backlog to be accepted.

        host: the client's. buffers: the sizes of its send and receive buffer; None for the listener's.
        """
        client = Endpoint(self, (host, self.next_port()), *(buffers or listening.buffers))
        client.address, client.peer_address = host, listening.sockname[0]
        if listening.closed:
            raise error(errno.ECONNREFUSED)
        if listening.is_full():
            raise error(errno.EAGAIN)
        listening.backlog.append(client.meet(listening))
        return client
