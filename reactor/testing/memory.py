"""Reactors in memory: their connections are real `Connection`s, on simulated sockets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from random import Random
from typing import Any, NoReturn, ParamSpec, Self, TypeVar, TypeVarTuple

from reactor.connection.connection import Connection
from reactor.connection.debug import DebugConnection
from reactor.errors import UsageError
from reactor.loop.context import ContextExit
from reactor.loop.futures import AwaitableFuture
from reactor.loop.loop import ErrorHandler
from reactor.loop.registry import FileDescriptorLike
from reactor.options import Limits, Timeouts
from reactor.protocol import Factory
from reactor.reactor import Reactor
from reactor.testing.clock import ManualClock
from reactor.testing.drive import drive, settle, wait
from reactor.testing.endpoint import ListeningEndpoint
from reactor.testing.network import Network
from reactor.testing.records import Errors
from reactor.testing.selector import MemorySelector
from reactor.testing.sockets import MemorySocket
from reactor.testing.system import MemorySystem

__all__ = ["MemoryConnection", "MemoryNetwork", "MemoryReactor"]

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


class MemoryConnection(Connection):
    """A connection of a `MemoryReactor`; only its socket differs from that of a `Connection`.

    >>> from reactor.testing import MemoryReactor, Recorder
    >>> with MemoryReactor() as reactor:
    ...     server, client = reactor.pair(Recorder, Recorder)
    ...     server.peer is client
    ...     server.close()
    True
    """

    __slots__ = ("_kernel_end",)

    def __init__(self, settings: Any, sock: Any, *args: Any) -> None:
        super().__init__(settings, sock, *args)
        self._kernel_end = sock.end
        self._kernel_end.owner = self

    @property
    def peer(self) -> MemoryConnection:
        """The connection at the other end, perhaps of another reactor; also after the connection has ended.

        Raises UsageError while the other end is not accepted, and if it belongs to no reactor.
        """
        found = self._kernel_end.peer.owner
        if not isinstance(found, MemoryConnection):
            raise UsageError(f"the other end of {self} is no reactor's connection, or not yet: call `settle`")
        return found


class DebugMemoryConnection(MemoryConnection, DebugConnection):
    """A connection of a `MemoryReactor` in debug mode."""

    __slots__ = ()


class MemoryNetwork(ContextExit, Network):
    """A network in memory with hosts, names, partitions and a clock, shared by several reactors.

    `seed` decides everything, down to the order in which connections are served: the same seed
    replays exactly. No call waits: time passes in `advance`, `run_out` and `MemoryReactor.run`.

        from reactor.apps.echo import Echo
        from reactor.testing import FaultyPeer, MemoryNetwork

        with MemoryNetwork(seed=1, latency=(0.01, 0.2)) as network:
            network.names["server.example"] = ["fd00::1", "10.0.0.1"]
            server = network.reactor("10.0.0.1", "fd00::1")
            client = network.reactor("10.0.0.2", "fd00::2")
            server.listen(":80", Echo)
            peer = FaultyPeer(b"hello", delay=1.0, ending="half-close")
            client.connect("server.example:80", lambda: peer)
            network.advance(1)
            network.partition(server, client)
            network.advance(60)
            assert peer.received == b""
            network.heal()
            network.run_out()
            assert peer.received == b"hello"

    latency: minimum and maximum seconds that a segment is in transit.
    choppy: from 0 to 1, the probability that a call or a segment takes fewer bytes than it could.
    buffers: bytes of each socket's send and receive buffer.
    loss, duplication, reordering: from 0 to 1, the probability that a datagram does not arrive, arrives
        twice, or is overtaken by later ones. Connections are reliable.
    fault: called as `fault(name, index)` for each system call that can fail ("recv", "accept", …); an
        errno that it returns is raised.

    names: a dictionary from host names to their addresses, best first. Other names are unknown, except
        localhost.
    unreachable: a dictionary from an address to the errno with which connecting to it fails, as
        ENETUNREACH; None: there is no answer. An address of no host fails with EHOSTUNREACH.
    clock: the time of all its reactors. calls: the names of all system calls, for comparing two runs.
    complaints: messages about calls that are never valid, as closing a descriptor that is registered.

    It and its reactors are for one thread. As a context manager it is closed at the end.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        choppy: float = 0.0,
        buffers: tuple[int, int] = (65536, 65536),
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        fault: Callable[[str, int], int | None] = lambda name, index: None,
    ) -> None:
        options: dict[str, Any] = {"latency": latency, "choppy": choppy, "buffers": buffers, "fault": fault}
        options.update(loss=loss, duplication=duplication, reordering=reordering)
        super().__init__(ManualClock(), Random(seed), **options)

    def __enter__(self) -> Self:
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        _close_after(self.close, exc)

    def reactor(
        self, *addresses: str, on_error: ErrorHandler | None = None, debug: bool = False
    ) -> MemoryReactor:
        """Return a new reactor on the host that has `addresses`, IPv4 and IPv6.

        Reactors with the same address are on one host, like processes on a machine. Without addresses it is
        on the host that has all unassigned addresses. on_error, debug: as for `MemoryReactor`.
        Raises UsageError for an invalid address, and for addresses of several hosts.
        """
        return MemoryReactor(network=self, addresses=addresses, on_error=on_error, debug=debug)

    def settle(self) -> None:
        """Run everything that is due at this time: deliveries, callbacks, timers.

        Reactors run their ticks one after the other, in the order in which they were made. Raises the
        exceptions of callbacks, where a reactor has no `on_error`, and AssertionError if it does not end.
        """
        settle(self)

    def advance(self, seconds: float) -> None:
        """Run everything that is due within `seconds`, each event at its time. Raises as `settle` does."""
        until = self.clock.now + seconds
        drive(self, until=until)
        self.clock.now = until

    def run_out(self) -> None:
        """Run everything until nothing is due any more, however much time passes.

        Raises as `settle` does, and AssertionError if it goes on for ever.
        """
        drive(self)

    def check(self) -> None:
        """Raise AssertionError if connections are open, or if there are `complaints`."""
        for reactor in self.reactors:
            left = [] if reactor.is_closed() else reactor.connections()
            assert not left, f"connections are open: {', '.join(map(str, left))}"
        assert not self.complaints, f"the kernel complains: {'; '.join(self.complaints)}"

    def close(self) -> None:
        """Close all reactors. Raises exceptions of callbacks that no driving call has raised."""
        problems: list[Exception] = []
        for reactor in self.reactors:
            try:
                reactor.close()
            except Exception as exc:
                problems.append(exc)
        self.reactors = []
        _raise(problems)


class _Paired(MemorySocket):
    """A socket whose peer address stays available after a reset."""

    def getpeername(self) -> Any:
        return self.end.peername


class MemoryReactor(Reactor):
    """A reactor on a network in memory, alone or with others; it uses no kernel sockets.

    It listens and connects like every reactor, except that its sockets are in memory, its names are
    those of `network.names`, and its time passes when `advance` is called. Alone it has every address, so
    that it can connect to its own listeners:

        from reactor.apps.echo import Echo
        from reactor.testing import FaultyPeer, MemoryReactor

        with MemoryReactor(seed=1) as reactor:
            reactor.network.names["server.example"] = ["10.0.0.1"]
            reactor.listen("10.0.0.1:80", Echo)
            peer = FaultyPeer(b"hello", ending="half-close")
            reactor.connect("server.example:80", lambda: peer)
            reactor.run_out()
            assert peer.received == b"hello"

    Without `on_error`, an exception that leaves a callback is raised by the call that drives: `settle`,
    `advance`, `run_out`, `run_once`, `run`, or else `close`. It has a note with the callback's name.
    Name resolution and `run_in_executor(None, …)`, which use a thread otherwise, run at once, within the
    call. Kernel descriptors, signals, executors and `background` raise UsageError.

    seed, latency, choppy, buffers, loss, duplication, reordering: of a network of its own, as for
        `MemoryNetwork`.
    on_error, debug: as for `Reactor`.
    network, addresses: an existing network, and the addresses of its host there, as for
        `MemoryNetwork.reactor`.
    Raises UsageError if both a network and options of a new one are given.

    clock: its time, which is the network's. selector: that of its sockets in memory.
    """

    _connection_types = (MemoryConnection, DebugMemoryConnection)

    def __init__(
        self,
        *,
        network: MemoryNetwork | None = None,
        addresses: Collection[str] = (),
        seed: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        choppy: float = 0.0,
        buffers: tuple[int, int] = (65536, 65536),
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        on_error: ErrorHandler | None = None,
        debug: bool = False,
    ) -> None:
        if network is None:
            network = MemoryNetwork(
                seed=seed,
                latency=latency,
                choppy=choppy,
                buffers=buffers,
                loss=loss,
                duplication=duplication,
                reordering=reordering,
            )
        elif (seed, latency, choppy, buffers) != (0, (0.0, 0.0), 0.0, (65536, 65536)):
            raise UsageError("seed, latency, choppy and buffers are the network's: give them to it")
        elif loss or duplication or reordering:
            raise UsageError("loss, duplication and reordering are the network's: give them to it")
        self.network = network
        self.clock = network.clock
        host = network.host_with(tuple(addresses))
        self.addresses = host.addresses
        self._system = MemorySystem(network, host)
        self._untaken = Errors()
        selector = MemorySelector(network, lambda selector, timeout: wait(network, selector, timeout))
        on_error = self._keep if on_error is None else on_error
        super().__init__(selector=selector, clock=self.clock, on_error=on_error, debug=debug)
        self.selector = selector
        network.reactors.append(self)

    def _leave_block(self, exc: BaseException | None) -> None:
        _close_after(self.close, exc)

    def pair(
        self,
        factory: Factory,
        peer_factory: Factory,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> tuple[MemoryConnection, MemoryConnection]:
        """Connect two protocols in memory, and return both connections: the server's, then the client's.

        There is no listener and no handshake. limits, timeouts: the server's; the client has the defaults.
        `connection_made` of the server's protocol is called first. If that ends the connection, both are
        returned nevertheless, and the client sees the end as that of any peer.
        """
        listening = ListeningEndpoint(self.network, buffers=self.network.buffers)
        far = self.network.connect(listening)
        near = MemorySocket(self.network, listening.accept())
        server = self._adopt_memory(near, factory, limits=limits, timeouts=timeouts)
        client = self._adopt_memory(_Paired(self.network, far), peer_factory)
        return server, client

    def _adopt_memory(self, sock: Any, factory: Factory, **terms: Any) -> MemoryConnection:
        connection = self.adopt(sock, factory, **terms)
        assert isinstance(connection, MemoryConnection)
        return connection

    # Driving

    def settle(self) -> None:
        """Call `MemoryNetwork.settle`, for all reactors of the network."""
        self.network.settle()

    def advance(self, seconds: float) -> None:
        """Call `MemoryNetwork.advance`, for all reactors of the network. seconds: how far."""
        self.network.advance(seconds)

    def run_out(self) -> None:
        """Call `MemoryNetwork.run_out`, for all reactors of the network."""
        self.network.run_out()

    def run(self, *, signals: Collection[int] = (), drain_timeout: float = 30.0) -> None:
        """Run as `Reactor.run` does, in the network's time: waiting advances the clock and drives the others.

        Also ends when a callback has raised, with that exception. Raises UsageError if it would wait for
        ever, and if `signals` is not empty.
        """
        super().run(signals=signals, drain_timeout=drain_timeout)
        self._raise_untaken()

    def run_once(self, timeout: float | None = 0, budget: float | None = None) -> int:
        """Run one tick as `Reactor.run_once` does; waiting advances the clock and drives the others."""
        handled = super().run_once(timeout, budget)
        self._raise_untaken()
        return handled

    def close(self) -> None:
        """Close as `Reactor.close` does. Raises exceptions of callbacks that no driving call has raised."""
        super().close()
        self._raise_untaken()

    def _keep(self, exc: BaseException, callback: str, connection: Any) -> None:
        exc.add_note(f"in {callback}" + (f" of {connection}" if connection is not None else ""))
        self._untaken(exc, callback, connection)
        self.stop()

    def _raise_untaken(self) -> None:
        problems = [exc for exc, _, _ in self._untaken.seen]
        self._untaken.seen.clear()
        _raise(problems)

    # Methods that would use the kernel

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Add a reader as `Reactor.add_reader` does, for a socket in memory."""
        self._system.check(fd)
        super().add_reader(fd, callback, *args)

    def add_writer(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Add a writer as `Reactor.add_writer` does, for a socket in memory."""
        self._system.check(fd)
        super().add_writer(fd, callback, *args)

    def add_signal_handler(self, signum: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Raise UsageError: there are no signals in memory."""
        raise UsageError("no signals come in memory: call what they would bring about, as `drain`")

    def run_in_executor(
        self, executor: Executor | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AwaitableFuture[T]:
        """Run `fn(*args, **kwargs)` at once, and return the result as `Reactor.run_in_executor` does.

        Raises UsageError for an executor.
        """
        if executor is not None:
            raise UsageError("an executor's threads are real: give None, and it runs at once")
        return super().run_in_executor(None, fn, *args, **kwargs)

    def background(self, *, drain_timeout: float = 30.0, name: str = "reactor") -> NoReturn:
        """Raise UsageError: a reactor in memory is driven by its own thread."""
        raise UsageError("a thread has no place in memory: call `advance` or `run_out`, or use a Reactor")


def _raise(problems: list[Any]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise BaseExceptionGroup("several callbacks raised", problems)


def _close_after(close: Callable[[], None], exc: BaseException | None) -> None:
    """Close at the end of a block; an exception of the block has precedence over one of closing."""
    try:
        close()
    except Exception as problem:
        if exc is None:
            raise
        exc.add_note(f"And closing: {problem!r}")
