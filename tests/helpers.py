"""Real objects for the tests: a protocol that remembers, a socket that follows a script, a clock."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from hypothesis import settings

from reactor import Connection, Reactor
from reactor.testing import Recorder

_HYPOTHESIS_EXAMPLES = 100  # what a profile has that does not say how many

DEADLINE = 20.0  # seconds after which a wait for something has failed; nothing waits for it


def spin(
    reactor: Reactor, until: Callable[[], object], deadline: float = DEADLINE, wait: float = 0.05
) -> None:
    """Drive `reactor` until `until()` is true, which is asked after each tick or `wait` seconds of it."""
    end = time.monotonic() + deadline
    while not until():
        left = end - time.monotonic()
        assert left > 0, "what was waited for did not come"
        reactor.run_once(min(left, wait))


def examples(count: int) -> settings:
    """Let a test that is slow try `count` examples where the profile asks for no certain number."""
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


class Echo(Recorder):
    """A recorder that sends back what it gets."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.connection.write(data)


def connect(reactor: Reactor, address: Any) -> socket.socket:
    """Return a plain blocking client of a listener's address."""
    if address.path is not None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(address.path)
        return client
    return socket.create_connection((address.host, address.port), timeout=DEADLINE)


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
    """Give the address of a listener whose backlog is full: connecting to it gets no answer."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class ScriptedSocket:
    """A real socket whose calls follow a script where there is one.

    Each entry of `script[name]` stands for one call of that method: an exception is raised; a number
    is the most bytes that `send`, `sendmsg` or `recv` pass through; None lets the call through as it
    is. When the entries are used up, calls go through. `calls` keeps the names of all calls.
    """

    def __init__(self, sock: socket.socket, **script: list[Any]) -> None:
        self._sock = sock
        self.script = {name: deque(entries) for name, entries in script.items()}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _next(self, name: str) -> int | None:
        self.calls.append(name)
        entries = self.script.get(name)
        entry = entries.popleft() if entries else None
        if isinstance(entry, BaseException):
            raise entry
        return entry

    def send(self, data: Any) -> int:
        most = self._next("send")
        return self._sock.send(data if most is None else memoryview(data)[:most])

    def sendmsg(self, pieces: list[Any]) -> int:
        most = self._next("sendmsg")
        if most is None:
            return self._sock.sendmsg(pieces)
        return self._sock.send(b"".join(pieces)[:most])

    def recv(self, size: int) -> bytes:
        most = self._next("recv")
        return self._sock.recv(size if most is None else min(size, most))

    def recv_into(self, buffer: Any) -> int:
        most = self._next("recv_into")
        view = memoryview(buffer)
        return self._sock.recv_into(view if most is None else view[:most])

    def shutdown(self, how: int) -> None:
        self._next("shutdown")
        self._sock.shutdown(how)

    def setsockopt(self, *args: Any) -> None:
        self._next("setsockopt")
        self._sock.setsockopt(*args)

    def close(self) -> None:
        self._next("close")
        self._sock.close()
