"""Faults of the real kernel: failed system calls, stopped clients, storms of signals."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from reactor import Reactor, Timeouts, WriteTimeout
from reactor.testing import ManualClock, Recorder
from tests.helpers import DEADLINE, Echo, connect, spin

pytestmark = pytest.mark.slow

SERVER = ("-m", "reactor", "serve", "echo", "--listen", "127.0.0.1:0")


@pytest.fixture
def strace():
    found = shutil.which("strace")
    assert found, "strace is missing: install the package strace"
    return found


@pytest.fixture
def injected(strace, tmp_path):
    """Run an echo server whose system calls strace makes fail; yield its port and the trace."""
    running = []

    def start(*injections):
        words = [strace, "-D", "-f", "-o", str(tmp_path / "trace")]
        for injection in injections:
            words += ["-e", f"inject={injection}"]
        process = subprocess.Popen([*words, sys.executable, *SERVER], stderr=subprocess.PIPE, text=True)
        running.append(process)
        line = process.stderr.readline()
        while "listening on" not in line:
            assert line, "the server ended"
            line = process.stderr.readline()
        return int(re.search(r":(\d+)$", line)[1])

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, "the drain failed"


def echoes(port, message=b"hello" * 100):
    """Return whether one client gets its message back; False if it was disconnected."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        received = b""
        try:
            client.sendall(message)
            while len(received) < len(message):
                more = client.recv(1 << 16)
                if not more:
                    return False
                received += more
        except ConnectionResetError:
            return False
        assert received == message
        return True


@pytest.mark.parametrize(
    "error", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPROTO", "EINTR"]
)
def test_accept_that_fails_serves_the_client_later(injected, tmp_path, error):
    port = injected(f"accept4:error={error}:when=1..2")
    assert all(echoes(port) for _ in range(3))
    assert (tmp_path / "trace").read_text().count("(INJECTED)") == 2


@pytest.mark.parametrize("call", ["recvfrom", "sendto"])
@pytest.mark.parametrize("error", ["ECONNRESET", "ETIMEDOUT", "ENOBUFS"])
def test_failed_call_ends_only_its_connection(injected, tmp_path, call, error):
    port = injected(f"{call}:error={error}:when=3")
    results = [echoes(port) for _ in range(6)]
    assert results.count(False) <= 1
    assert results[-3:] == [True] * 3
    assert "(INJECTED)" in (tmp_path / "trace").read_text()


@pytest.mark.parametrize("call", ["recvfrom", "sendto", "epoll_wait"])
@pytest.mark.parametrize("error", ["EINTR", "EAGAIN"])
def test_interrupted_system_call_loses_nothing(injected, tmp_path, call, error):
    if (call, error) == ("epoll_wait", "EAGAIN"):
        error = "EINTR"  # the only temporary error of epoll_wait(2)
    port = injected(f"{call}:error={error}:when=3+4")
    assert all(echoes(port) for _ in range(8))
    assert "(INJECTED)" in (tmp_path / "trace").read_text()


def test_stopped_client_is_ended_and_others_are_served():
    clock, recorder = ManualClock(), Recorder()
    program = textwrap.dedent("""
        import socket, sys
        client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        print("connected", flush=True)
        while client.recv(1 << 16):
            pass
    """)
    made = iter([recorder])
    timeouts = Timeouts(write=10)
    with Reactor(clock=clock) as reactor:
        listener = reactor.listen("127.0.0.1:0", lambda: next(made, None) or Echo(), timeouts=timeouts)
        port = listener.addresses[0].port
        words = [sys.executable, "-c", program, str(port)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as stopped:
            assert stopped.stdout.readline() == "connected\n"
            spin(reactor, reactor.connections)
            stopped.send_signal(signal.SIGSTOP)
            recorder.connection.write(bytes(64 << 20))
            with connect(reactor, listener.addresses[0]) as honest:
                for _ in range(60):  # the kernel may accept some more when a deadline is checked
                    honest.sendall(b"x")
                    spin(reactor, lambda: reactor.run_once(0) == 0)
                    assert honest.recv(1) == b"x"
                    clock.advance(0.6)
                spin(reactor, lambda: recorder.lost)
            stopped.kill()
    assert isinstance(recorder.reason, WriteTimeout)


@contextlib.contextmanager
def alarms():
    before = signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


@contextlib.contextmanager
def children():
    """Send SIGCHLD again and again, as children that end would."""
    loop = f"while kill -CHLD {os.getpid()}; do sleep 0.0005; done"
    with subprocess.Popen(["nice", "sh", "-c", loop], stderr=subprocess.DEVNULL) as storm:
        try:
            yield
        finally:
            storm.kill()


@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("storm", [alarms, children])
def test_storm_of_signals_loses_no_event(reactor, storm, handled):
    """With a handler of the loop or without one, each byte arrives and each timer fires."""
    seen, fired, echo = [], [], Echo()
    signum = {alarms: signal.SIGALRM, children: signal.SIGCHLD}[storm]
    previous = signal.signal(signum, lambda *args: seen.append(1))
    if handled:
        reactor.add_signal_handler(signum, seen.append, 1)
    ours, theirs = socket.socketpair()
    reactor.adopt(ours, lambda: echo)
    sent = bytearray()

    def served():
        return len(fired) == len(echo.received) == len(sent)

    with theirs, storm():
        while len(seen) < 50:
            sent += b"x"
            theirs.send(b"x")
            reactor.call_later(0.0001, fired.append, len(sent))
            spin(reactor, served)
            reactor.run_once(0)
            assert theirs.recv(100) == b"x"
        assert fired == list(range(1, len(sent) + 1))
    spin(reactor, lambda: echo.lost)
    if handled:
        reactor.remove_signal_handler(signum)
    signal.signal(signum, previous)
