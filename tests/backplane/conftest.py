"""Fixtures of the backplane's tests: a Redis, and worlds of nodes on each engine."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest

from reactor import Reactor
from reactor.backplane import Backplane, BackplaneState, LocalBackplane, RedisBackplane
from tests.backplane.broker import Broker
from tests.helpers import spin


@attrs.define(eq=False)
class RedisServer:
    """A redis-server on a Unix socket in `folder`. options: of its command line."""

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: install the package redis-server"
        given = ("--port", "0", "--unixsocket", "redis.sock", "--save", "", "--logfile", "log", *self.options)
        self.process = subprocess.Popen([program, "--dir", str(self.folder), *given], cwd=self.folder)
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                assert self.call("PING").startswith((b"+PONG", b"-NOAUTH"))
                return
            except (ConnectionError, FileNotFoundError, AssertionError):
                pass

    def call(self, *command: str) -> bytes:
        """Send a command; return the beginning of the reply."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / "redis.sock"))
            parts = [f"${len(part)}\r\n{part}\r\n" for part in command]
            client.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
            return client.recv(65536)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests that neither stop it nor need options of their own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a redis-server of the test's own, with options of its command line."""
    made: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        server = RedisServer(tmp_path, options)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def reactor_selector() -> None:
    """The platform's default alone: a backplane has no descriptors of its own."""


_numbers = count(1)


@attrs.define(eq=False)
class World:
    """Nodes on one broker, all on the reactor of the test. kind: "local", "redis" or "scripted"."""

    kind: str
    reactor: Reactor
    url: str = ""
    broker: Broker | None = None
    prefix: str = attrs.field(factory=lambda: f"test{next(_numbers)}")
    nodes: list[Backplane] = attrs.field(factory=list)
    steps: list[str] = attrs.field(factory=list)  # that were done in it

    def node(self, **options: Any) -> Any:
        if self.kind == "local":
            made: Backplane = LocalBackplane(self.reactor, **options)
        else:
            made = RedisBackplane(self.reactor, self.url, prefix=self.prefix, **options)
        self.nodes.append(made)
        self.spin(lambda: made.state is BackplaneState.UP)
        return made

    def spin(self, until: Callable[[], object], **options: Any) -> None:
        spin(self.reactor, until, **options)

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        if self.broker is not None:
            self.broker.stop()


def _world(request: pytest.FixtureRequest, reactor: Reactor, tmp_path: Path) -> Iterator[World]:
    if request.param == "redis":
        made = World("redis", reactor, request.getfixturevalue("shared_redis").url)
    elif request.param == "scripted":
        made = World("scripted", reactor, f"unix://{tmp_path}/broker.sock")
        made.broker = Broker(reactor, f"unix:{tmp_path}/broker.sock")
    else:
        made = World("local", reactor)
    yield made
    made.close()


@pytest.fixture(params=["local", "redis", "scripted"])
def anywhere(request: pytest.FixtureRequest, reactor: Reactor, tmp_path: Path) -> Iterator[World]:
    """A world of each engine."""
    yield from _world(request, reactor, tmp_path)


@pytest.fixture(params=["redis", "scripted"])
def world(request: pytest.FixtureRequest, reactor: Reactor, tmp_path: Path) -> Iterator[World]:
    """A world with a broker: Redis, and the one in Python."""
    yield from _world(request, reactor, tmp_path)
