"""Shared by the tests: servers, clients, pairs of sockets, and waiting for them."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from selectors import BaseSelector
from typing import Any

import pytest
from hypothesis import settings

from reactor import Connection, Reactor
from reactor.loop.selector import FlatSelector
from reactor.testing import ManualClock, Recorder

_HYPOTHESIS_EXAMPLES = 100  # Hypothesis's default

DEADLINE = 20.0  # seconds after which a wait has failed; no test waits so long otherwise


def spin(
    reactor: Reactor, until: Callable[[], object], deadline: float = DEADLINE, wait: float = 0.05
) -> None:
    """Drive `reactor` until `until()` is true; it is called after each tick of at most `wait` seconds."""
    end = time.monotonic() + deadline
    while not until():
        left = end - time.monotonic()
        assert left > 0, "what was waited for did not come"
        reactor.run_once(min(left, wait))


def refuse_changes(
    monkeypatch: pytest.MonkeyPatch, selector: BaseSelector, method: str, refuse: Callable[..., Any]
) -> None:
    """Call `refuse(fd, events)` instead of the `method` of `selector`, "register" or "modify"."""
    if not isinstance(selector, FlatSelector):
        monkeypatch.setattr(selector, method, refuse)
        return
    epoll = selector._epoll

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return refuse if name == method else getattr(epoll, name)

    monkeypatch.setattr(selector, "_epoll", Refusing())


def receive(
    reactor: Reactor, sock: socket.socket, enough: Callable[[bytearray], object] = lambda received: False
) -> bytes:
    """Drive `reactor` while `sock` receives; return the bytes at the end of file, or if `enough(bytes)`."""
    received = bytearray()
    sock.setblocking(False)

    def step() -> object:
        with suppress(BlockingIOError):
            more = sock.recv(1 << 20)
            received.extend(more)
            return not more or enough(received)
        return enough(received)

    spin(reactor, step, wait=0.005)
    return bytes(received)


def pass_time(reactor: Reactor, clock: ManualClock, seconds: float) -> None:
    """Advance `clock`, then run the tick in which deadlines fire and that of `connection_lost`."""
    clock.advance(seconds)
    reactor.run_once(0)
    reactor.run_once(0)


def settle(reactor: Reactor) -> None:
    """Run a few ticks, enough for all that is due now."""
    for _ in range(5):
        reactor.run_once(0)


def examples(count: int) -> settings:
    """Return settings with `count` examples for a slow test, unless the profile sets their number."""
    asked = settings.default.max_examples
    return settings(max_examples=count if asked == _HYPOTHESIS_EXAMPLES else asked)


@contextmanager
def serving(server: Any, threads: int = 1) -> Iterator[Any]:
    """Let threads of their own be in `server.serve_forever`; at the end shut down, and see them return.

    It begins when every one is serving: `shutdown` ends those that are, and can't know of a later one.
    """
    begun: set[int] = set()
    changed = threading.Condition()

    class Server(type(server)):  # type: ignore[misc]
        def service_actions(self) -> None:
            with changed:
                begun.add(threading.get_ident())
                changed.notify()

    if threads > 1:
        server.__class__ = Server
    running = [threading.Thread(target=server.serve_forever) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        with changed:
            assert threads == 1 or changed.wait_for(lambda: len(begun) == threads, DEADLINE)
        yield server
    finally:
        server.shutdown()
        for thread in running:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in running)
        server.server_close()


def assert_transition(after: Callable[..., Any], table: Mapping[Any, Any], state: Any, event: Any) -> None:
    """Check that `after(state, event)` is the state in `table`, or raises with both names."""
    if (state, event) in table:
        assert after(state, event) is table[state, event]
    else:
        with pytest.raises(KeyError, match=f"no move from {state.name} on {event.name}"):
            after(state, event)


class Echo(Recorder):
    """A recorder that echoes."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.connection.write(data)


class Factory:
    """A factory of recorders, or of other protocols, that keeps them."""

    def __init__(self, kind: Callable[[], Any] = Recorder) -> None:
        self.kind = kind
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(self.kind())
        return self.made[-1]

    @property
    def only(self) -> Any:
        """The protocol, if there is one."""
        (one,) = self.made
        return one


def connect(reactor: Reactor, address: Any) -> socket.socket:
    """Return a plain blocking client of a listener's address."""
    if address.path is not None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(address.path)
        return client
    return socket.create_connection((address.host, address.port), timeout=DEADLINE)


def client_of(address: str) -> socket.socket:
    """Connect to the address of a server, as its log has it."""
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(address.removeprefix("unix:"))
        return client
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=DEADLINE)


def pair(reactor: Reactor, protocol: Any, **options: Any) -> tuple[Connection, socket.socket]:
    """Return a connection of `reactor` with `protocol`, and a non-blocking socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return reactor.adopt(ours, lambda: protocol, **options), theirs


def accepting(server: subprocess.Popen[bytes]) -> str:
    """Return the address that `openssl s_server` says it accepts on."""
    assert server.stdout is not None
    while not (line := server.stdout.readline()).startswith(b"ACCEPT "):
        assert line, "s_server ended"
    return line.split()[1].decode()


@contextmanager
def silent_address() -> Iterator[str]:
    """Yield the address of a listener whose backlog is full: connecting to it gets no answer."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"
