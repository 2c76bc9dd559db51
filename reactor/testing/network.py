"""`Network`: a network in memory, for one thread: descriptors, hosts, names, and segments in transit."""

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
from reactor.testing.endpoint import Endpoint, ListeningEndpoint
from reactor.testing.host import Host, error, numeric, socket_address

__all__ = ["FIRST_DESCRIPTOR", "Network", "Place"]

#: The lowest descriptor in memory; the kernel's descriptors in a test are usually lower.
FIRST_DESCRIPTOR = 512


class HasAddresses(Protocol):
    """An object that stands for its host: a `MemoryReactor`."""

    @property
    def addresses(self) -> tuple[str, ...]: ...


class Driven(Protocol):
    """A reactor of a network: a `MemoryReactor`."""

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
    """A network in memory: descriptors, hosts, due deliveries, and the count and faults of system calls.

    clock: its time. random: makes the decisions of a kernel. Each endpoint has a generator of its own, so
        that a connection does not depend on the order in which others are served.
    latency: minimum and maximum seconds that a segment is in transit.
    choppy: from 0 to 1, the probability that a call or a segment takes fewer bytes than it could.
    buffers: bytes of each socket's send and receive buffer.
    loss, duplication, reordering: from 0 to 1, the probability that a datagram does not arrive, arrives
        twice, or is overtaken by later ones. Connections are reliable.
    fault: called for each system call, with its name and index; an errno that it returns is raised.

    calls: the names of all system calls, in order. complaints: messages about calls that are never valid.
    names: the addresses of each host name, best first. unreachable: the errno with which connecting to an
        address fails; None: there is no answer.
    reactors: the reactors on it, in the order in which they are driven.
    """

    def __init__(
        self,
        clock: ManualClock,
        random: Random,
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        choppy: float = 0.0,
        buffers: tuple[int, int] = (65536, 65536),
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        fault: Callable[[str, int], int | None] = lambda name, index: None,
    ) -> None:
        self.loss = loss
        self.duplication = duplication
        self.reordering = reordering
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
        """Count a system call; raise the error that `fault` returns for it."""
        self.calls.append(name)
        number = self.fault(name, len(self.calls) - 1)
        if number is not None:
            raise error(number)

    # Descriptors

    def open(self, owner: Any) -> int:
        """Return the lowest free descriptor, as a kernel does, for `owner`."""
        fd = heapq.heappop(self._free)
        if not self._free:
            self._free.append(fd + 1)
        self.descriptors[fd] = owner
        return fd

    def free(self, fd: int) -> None:
        """Free a descriptor, so that the next socket gets it."""
        if fd in self.watched:
            self.complaints.append(f"descriptor {fd} was closed while it was registered")
        del self.descriptors[fd]
        heapq.heappush(self._free, fd)

    def ends(self) -> list[Endpoint | ListeningEndpoint]:
        """Return the endpoints of the open sockets, in the order of their descriptors."""
        ends = [getattr(self.descriptors[fd], "end", None) for fd in sorted(self.descriptors)]
        return [end for end in ends if isinstance(end, (Endpoint, ListeningEndpoint))]

    # Time

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Run `action` when the clock reaches `when`, in its seconds."""
        self._scheduled += 1
        heapq.heappush(self._due, (when, self._scheduled, action))

    def next_due(self) -> float | None:
        """Return when the next action is due, in the clock's seconds, or None."""
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
        """Return the host that has these addresses; without any, the one that has all unassigned addresses.

        Raises UsageError for an invalid address, and for addresses of more than one host.
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

    def hosts(self) -> list[Host]:
        """Return all hosts, in the order in which they came."""
        known = [*self._hosts.values(), *filter(None, [self._anywhere])]
        return list(dict.fromkeys(known))

    def resolve(self, address: Address, *, passive: bool) -> list[tuple[socket.AddressFamily, Any]]:
        """Resolve as `Address.resolve` does, with the names of this network."""
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
            wrong = str(exc).partition(" is no")[0]
            raise socket.gaierror(socket.EAI_FAIL, f"{wrong} in `names` is no IP address") from exc
        return [(socket.AF_INET6 if len(name) > 2 else socket.AF_INET, name) for name in names]

    def _look_up(self, name: str) -> Sequence[str]:
        found = self.names.get(name, _LOOPBACK if name == "localhost" else ())
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found] if isinstance(found, str) else found

    def next_port(self) -> int:
        """Return an ephemeral port."""
        self._ports += 1
        return 1024 + self._ports % 60000

    # Partitions

    def partition(self, one: Place, other: Place) -> None:
        """Drop all segments between two hosts, until `heal`.

        Connections between them stall, and continue when it is healed, because lost segments are sent again.
        Attempts to connect get no answer until then. The kernel gives up with ETIMEDOUT, as Linux does:
        after 127 seconds when connecting, 924.6 seconds after sending.
        one, other: an address, which leaves a host's other addresses connected; a name; or a reactor, for all
        its addresses.
        """
        self._cuts |= self._links(one, other)

    def heal(self, one: Place | None = None, other: Place | None = None) -> None:
        """End the partition between two hosts; without arguments, all partitions.

        Raises UsageError if only one is given.
        """
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
        """Reset the connections between two hosts, at both ends, as a middlebox may do.

        It works in spite of a partition.
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
            raise UsageError("this reactor has no addresses of its own: give the address that it listens on")
        return list(place.addresses)

    # Connections

    def connect(
        self, listening: ListeningEndpoint, *, host: str = "10.0.0.1", buffers: tuple[int, int] | None = None
    ) -> Endpoint:
        """Return the client's end of a new connection, whose server's end is in the accept queue.

        host: the client's address. buffers: bytes of its send and receive buffer; None for the listener's.
        """
        client = Endpoint(self, (host, self.next_port()), *(buffers or listening.buffers))
        client.address, client.peer_address = host, listening.sockname[0]
        if listening.closed:
            raise error(errno.ECONNREFUSED)
        if listening.is_full():
            raise error(errno.EAGAIN)
        listening.backlog.append(client.meet(listening))
        return client
