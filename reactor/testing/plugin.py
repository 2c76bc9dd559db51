"""The pytest plugin of this package: its fixtures."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from selectors import BaseSelector
from typing import Any

import attrs
import pytest

from reactor.address import Address
from reactor.datagrams import Endpoint
from reactor.reactor import Reactor
from reactor.testing.memory import MemoryNetwork, MemoryReactor
from reactor.testing.records import Errors

__all__ = [
    "RunningEndpoint",
    "RunningServer",
    "datagram_server",
    "memory_network",
    "memory_reactor",
    "reactor",
    "reactor_errors",
    "reactor_selector",
    "reactor_server",
]


@pytest.fixture
def reactor_errors() -> Errors:
    """The `on_error` of the fixture `reactor`. Call `take()` for an error that the test causes on purpose."""
    return Errors()


@pytest.fixture
def reactor_selector() -> BaseSelector | None:
    """The selector of the fixture `reactor`; None for the platform's. Override it for another one."""
    return None


@pytest.fixture
def reactor(reactor_selector: BaseSelector | None, reactor_errors: Errors) -> Iterator[Reactor]:
    """A reactor that the test drives. An error left in `reactor_errors` fails the test."""
    with Reactor(selector=reactor_selector, on_error=reactor_errors) as made:
        yield made
    _fail_of(reactor_errors)


@pytest.fixture
def memory_network() -> Iterator[MemoryNetwork]:
    """A network in memory. The test fails for exceptions of callbacks that it does not handle, and for leaks.

    Leaks are connections that are open after a final `settle`, and complaints of the kernel in memory.
    Listeners and connectors may be left open.
    """
    with MemoryNetwork() as network:
        yield network
        network.settle()
        network.check()


@pytest.fixture
def memory_reactor(memory_network: MemoryNetwork) -> MemoryReactor:
    """A reactor in memory that has every address of the network `memory_network`."""
    return memory_network.reactor()


@attrs.frozen
class RunningServer:
    """A server on a thread of its own; the result of the fixture `reactor_server`.

    reactor: the reactor that runs it; call its methods by `submit`. address: the one it listens on.
    errors: its `on_error`.

        from reactor.apps.echo import Echo

        def test_echo(reactor_server):
            server = reactor_server(Echo)
            with server.connect() as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
    """

    reactor: Reactor
    address: Address
    errors: Errors

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Return a blocking socket that is connected to the server. timeout: of its calls, in seconds."""
        if self.address.path is not None:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(timeout)
            client.connect(self.address.path)
            return client
        return socket.create_connection((self.address.host, self.address.port), timeout)


@pytest.fixture
def reactor_server() -> Iterator[Callable[..., RunningServer]]:
    """Start a server: `reactor_server(factory, address="127.0.0.1:0", drain_timeout=5.0, **options)`.

    It accepts connections when the call returns, and runs on a thread of its own until the test is over, when
    it is drained. The test fails if a connection is still busy after `drain_timeout` seconds, or if an error
    of a callback is left in its `errors`. options: those of `Reactor.listen`.
    """
    with ExitStack() as servers:

        def start(
            factory: Callable[[], Any],
            address: Any = "127.0.0.1:0",
            *,
            drain_timeout: float = 5.0,
            **options: Any,
        ) -> RunningServer:
            reactor, errors = _running(servers, drain_timeout)
            listener = reactor.submit(lambda: reactor.listen(address, factory, **options)).result()
            return RunningServer(reactor, listener.addresses[0], errors)

        yield start


@attrs.frozen
class RunningEndpoint:
    """A datagram endpoint on a thread of its own; the result of the fixture `datagram_server`.

    reactor: the reactor that runs it; call its methods by `submit`. endpoint: likewise. address: the one that
    it is bound to. errors: its `on_error`.

        from reactor.apps.echo import DatagramEcho

        def test_echo(datagram_server):
            with datagram_server(DatagramEcho).connect() as client:
                client.send(b"hello")
                assert client.recv(100) == b"hello"
    """

    reactor: Reactor
    endpoint: Endpoint
    address: Address
    errors: Errors

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Return a blocking datagram socket connected to the endpoint. timeout: of its calls, in seconds."""
        family, sockaddr = self.address.resolve()[0]
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(timeout)
        client.connect(sockaddr)
        return client


@pytest.fixture
def datagram_server() -> Iterator[Callable[..., RunningEndpoint]]:
    """Start an endpoint: `datagram_server(factory, address="127.0.0.1:0", drain_timeout=5.0, **options)`.

    It is bound when the call returns, and runs on a thread of its own until the test is over, when it is
    drained. The test fails if an error of a callback is left in its `errors`. options: those of
    `Reactor.bind_datagram`.
    """
    with ExitStack() as servers:

        def start(
            factory: Callable[[], Any],
            address: Any = "127.0.0.1:0",
            *,
            drain_timeout: float = 5.0,
            **options: Any,
        ) -> RunningEndpoint:
            reactor, errors = _running(servers, drain_timeout)
            endpoint = reactor.submit(lambda: reactor.bind_datagram(address, factory, **options)).result()
            return RunningEndpoint(reactor, endpoint, endpoint.address, errors)

        yield start


def _running(servers: ExitStack, drain_timeout: float) -> tuple[Reactor, Errors]:
    """Return a reactor on a thread, and its errors. `servers` drains it, and fails for errors and leaks."""
    errors = Errors()
    reactor = servers.enter_context(Reactor(on_error=errors))
    servers.callback(_fail_of, errors)
    servers.callback(_fail_of_leaks, reactor)
    servers.enter_context(reactor.background(drain_timeout=drain_timeout))
    return reactor, errors


def _fail_of(errors: Errors) -> None:
    if errors.seen:
        where = ", ".join(callback for _, callback, _ in errors.seen)
        problems = [exc for exc, _, _ in errors.seen]
        raise BaseExceptionGroup(f"callbacks of the reactor raised, in {where}", problems)


def _fail_of_leaks(reactor: Reactor) -> None:
    leaked = reactor.stats().closed.get("DrainTimeout", 0)
    if leaked:
        pytest.fail(f"connections that were still busy when the server was drained: {leaked}", pytrace=False)
