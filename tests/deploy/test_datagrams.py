"""Datagrams of a deployment: each that is sent is answered, while workers and supervisors are replaced."""

import select
import signal
import socket
import threading
import time
from collections import Counter

import pytest

from tests.cli.test_datagrams import exchanged
from tests.deploy.programs import deployed
from tests.helpers import DEADLINE

#: Says which process has answered, a little later: a worker has something to finish at any time.
PROGRAM = """
import logging, os, sys
from reactor.datagrams import DatagramProtocol
from reactor.deploy import Supervisor


class Who(DatagramProtocol):
    waiting = 0

    def connection_made(self, endpoint):
        self.endpoint = endpoint

    def datagram_received(self, data, address, info=None):
        self.waiting += 1
        self.endpoint.reactor.call_later(0.02, self.answer, data, address)

    def answer(self, data, address):
        self.waiting -= 1
        self.endpoint.send(b"%d %s" % (os.getpid(), data), address)

    def draining(self):
        return self.waiting > 0


def setup(reactor):
    reactor.bind_datagram(sys.argv[1], Who, reuse_port=sys.argv[2] == "spread")


logging.basicConfig(level=logging.INFO, format="%(message)s")
Supervisor(setup, workers=2, drain_timeout=5).run()
"""

SERVE = [*["-m", "reactor", "serve", "echo", "--udp", "--drain-timeout", "5", "--listen"]]


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return str(tmp_path / "program.py")


class Load:
    """Clients, each with a port or path of its own, that send numbers at a steady rate and count the answers.

    pids: those that have answered each client.
    """

    def __init__(self, name, folder, clients=8, pause=0.002):
        self.sent = 0
        self.answers = Counter()
        self.pids = [set() for _ in range(clients)]
        self._pause = pause
        self._stop = threading.Event()
        self._clients = [
            self._open(name.removeprefix("udp:"), folder / f"{place}") for place in range(clients)
        ]
        self._thread = threading.Thread(target=self._drive)

    def _open(self, address, path):
        if address.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.bind(str(path))
            sock.connect(address.removeprefix("unix:"))
        else:
            host, port = address.rsplit(":", 1)
            sock = socket.socket(type=socket.SOCK_DGRAM)
            sock.connect((host, int(port)))
        return sock

    def _drive(self):
        while not self._stop.is_set():
            self._clients[self.sent % len(self._clients)].send(b"%d" % self.sent)
            self.sent += 1
            self._receive(self._pause)
        end = time.monotonic() + DEADLINE
        while self.answers.total() < self.sent and time.monotonic() < end:
            self._receive(0.1)

    def _receive(self, timeout):
        for client in select.select(self._clients, [], [], timeout)[0]:
            pid, number = client.recv(100).split()
            self.answers[int(number)] += 1
            self.pids[self._clients.index(client)].add(int(pid))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()
        for client in self._clients:
            client.close()


def restart(deployment, restarts, replacements):
    for _ in range(restarts):
        deployment.signal(signal.SIGHUP)
        deployment.wait_for("all workers are restarted")
    for _ in range(replacements):
        deployment.signal(signal.SIGUSR2)
        deployment.follow()


@pytest.mark.parametrize(
    ("address", "how", "restarts", "replacements"),
    [
        ("127.0.0.1:0", "spread", 1, 1),
        ("127.0.0.1:0", "shared", 1, 1),
        ("unix:{}/server", "shared", 1, 1),
        pytest.param("127.0.0.1:0", "spread", 5, 2, marks=pytest.mark.slow),
        pytest.param("127.0.0.1:0", "shared", 5, 2, marks=pytest.mark.slow),
    ],
)
def test_restarts_and_replacements_lose_no_datagram(program, tmp_path, address, how, restarts, replacements):
    with deployed([program, address.format(tmp_path), how], tmp_path) as deployment:
        name = deployment.started(2)
        with Load(name, tmp_path) as load:
            restart(deployment, restarts, replacements)
        assert load.sent > 100
        assert load.answers == Counter(range(load.sent))
        assert len(set().union(*load.pids)) > restarts + replacements
        assert deployment.stop() == 0
        assert not (tmp_path / "server").exists()


def test_workers_are_added_and_removed_without_a_loss(program, tmp_path):
    with deployed([program, "127.0.0.1:0", "spread"], tmp_path) as deployment:
        name = deployment.started(2)
        with Load(name, tmp_path) as load:
            deployment.signal(signal.SIGTTIN)
            deployment.workers(1)
            deployment.signal(signal.SIGTTOU)
            deployment.wait_for("has drained")
        assert load.answers == Counter(range(load.sent))
        assert deployment.stop() == 0


def test_what_waits_for_a_killed_worker_is_answered_by_the_next(tmp_path):
    with deployed([*SERVE, "127.0.0.1:0", "--workers", "1"], tmp_path) as deployment:
        (pid,) = deployment.workers(1).values()
        name = deployment.started(1)
        assert name.startswith("udp:127.0.0.1:")
        assert exchanged(name, b"before", "--wait", "0.1") == (0, b"before", b"")
        deployment.signal(signal.SIGSTOP, pid)
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.sendto(b"waits", ("127.0.0.1", int(name.rpartition(":")[2])))
            deployment.signal(signal.SIGKILL, pid)
            assert client.recv(100) == b"waits"
        assert deployment.stop() == 0


def test_address_in_use_is_one_line(tmp_path):
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with deployed([*SERVE, address, "--workers", "2"], tmp_path) as deployment:
            assert deployment.ended() == 1
            assert any(f"cannot bind {address}: Address already in use" in line for line in deployment.lines)
