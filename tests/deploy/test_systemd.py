"""systemd: sockets by name, notifications, units; with `systemd-socket-activate` and a notify socket."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from reactor import AddressError
from reactor.deploy.systemd import ServiceManager, inherited
from tests.deploy.programs import ROOT, ask_anew, started, until, write_app
from tests.helpers import DEADLINE, client_of


def program(name):
    found = shutil.which(name)
    assert found, f"{name} is missing: install the package systemd"
    return found


class NotifySocket:
    """A service manager's end."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(os.fspath(path))
        self.sock.settimeout(DEADLINE)

    def wait_for(self, *assignments):
        """Return the next message with all of the assignments."""
        while True:
            message = self.sock.recv(4096).decode().split("\n")
            if set(assignments) <= set(message):
                return message


@pytest.fixture
def notified(tmp_path):
    made = NotifySocket(tmp_path / "notify")
    yield made
    made.sock.close()


def serve(*words):
    return [sys.executable, "-m", "reactor", "serve", *words]


def test_life_of_a_service_in_its_notifications(tmp_path, notified):
    write_app(tmp_path)
    command = serve("app:Who", "--workers", "2", "--listen", "127.0.0.1:0", "--drain-timeout", "5")
    with started(
        command, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="2000000"
    ) as deployment:
        notified.wait_for("READY=1", "STATUS=2 workers")
        address = deployment.started(2)
        notified.wait_for("WATCHDOG=1")
        deployment.signal(signal.SIGHUP)
        reloading = notified.wait_for("RELOADING=1")
        assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in reloading)
        notified.wait_for("READY=1", "STATUS=2 workers")
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        notified.wait_for(f"MAINPID={deployment.pid}")
        notified.wait_for("READY=1", "STATUS=2 workers")
        ask_anew(address)
        deployment.signal(signal.SIGTERM)
        notified.wait_for("STOPPING=1", "STATUS=draining")
        assert deployment.ended() == 0


def test_restart_that_is_abandoned_ends_the_reload(tmp_path, notified):
    write_app(tmp_path)
    command = serve("app:Who", "--workers", "1", "--listen", "127.0.0.1:0")
    with started(command, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as deployment:
        notified.wait_for("READY=1")
        (tmp_path / "app.py").write_text("broken")
        deployment.signal(signal.SIGHUP)
        notified.wait_for("RELOADING=1")
        notified.wait_for("READY=1")
        assert deployment.stop() == 0


def test_server_without_workers_says_that_it_is_ready(tmp_path, notified):
    command = serve("echo", "--listen", "127.0.0.1:0")
    with started(command, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as deployment:
        notified.wait_for("READY=1")
        assert deployment.stop() == 0


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_socket_that_systemd_holds(tmp_path, port, workers):
    write_app(tmp_path)
    address = f"127.0.0.1:{port}"
    activate = [program("systemd-socket-activate"), "--listen", address, "--fdname=who"]
    kept = [f"--setenv={name}" for name in ("PYTHONPATH", "PWD")]
    command = [*activate, *kept, *serve("app:Who", "--listen", "systemd:who", *workers)]
    with started(command, tmp_path) as deployment:
        deployment.wait_for("Listening on")
        with client_of(address) as client:
            client.sendall(b"?")
            first = int(client.recv(100).split()[0])
        assert deployment.wait_for(r"listening on (\S+)")[1] == address
        if workers:
            deployment.signal(signal.SIGUSR2)
            deployment.follow()
            until(lambda: ask_anew(address)[0] != first)
        assert deployment.stop() == 0


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_datagram_socket_that_systemd_holds(tmp_path, workers):
    """ListenDatagram= of a socket unit."""
    with socket.socket(type=socket.SOCK_DGRAM) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    activate = [program("systemd-socket-activate"), "--datagram", "--listen", f"127.0.0.1:{port}"]
    command = [*activate, "--fdname=echo", "--setenv=PYTHONPATH", "--setenv=PWD"]
    command += serve("echo", "--udp", "--listen", "systemd:echo", *workers)
    with started(command, tmp_path) as deployment, socket.socket(type=socket.SOCK_DGRAM) as client:
        deployment.wait_for("Listening on")
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", port))
        client.send(b"starts it")
        assert client.recv(100) == b"starts it"
        deployment.wait_for(rf"listening on udp:127.0.0.1:{port}")
        if workers:
            deployment.signal(signal.SIGUSR2)
            deployment.follow()
            client.send(b"again")
            assert client.recv(100) == b"again"
        assert deployment.stop() == 0


def test_units_of_the_readme_are_accepted(tmp_path):
    text = (ROOT / "reactor" / "deploy" / "README.md").read_text()
    units = re.findall(r"^```ini\n# \S+/([\w.]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in units] == ["chat.socket", "chat.service"]
    for name, unit in units:
        (tmp_path / name).write_text(unit)
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *(tmp_path / name for name, _ in units)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_names_stand_for_descriptors(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_FDNAMES", "web:admin:web")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert [str(address) for address in inherited("web")] == ["fd:3", "fd:5"]
    with pytest.raises(AddressError, match=r"systemd:other: .* the names are: web, admin;"):
        inherited("other")
    monkeypatch.setenv("LISTEN_PID", "1")
    with pytest.raises(AddressError, match="the names are: none"):
        inherited("web")


def test_listen_option_says_which_names_there_are(tmp_path):
    done = subprocess.run(
        serve("--listen", "systemd:chat"), capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE
    )
    assert done.returncode == 2
    assert "argument --listen: systemd:chat: no socket of this name was passed" in done.stderr


def test_service_manager_that_has_gone_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    ServiceManager().ready("serving")


def test_abstract_notify_socket(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0reactor-test-{os.getpid()}")
        sock.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@reactor-test-{os.getpid()}")
        ServiceManager().stopping("draining")
        assert sock.recv(100) == b"STOPPING=1\nSTATUS=draining"


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "500000"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_watchdog_is_for_the_process_that_it_names(monkeypatch, environment, watchdog):
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ServiceManager().watchdog == watchdog
