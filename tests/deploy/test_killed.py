"""SIGKILL at every step of a restart: the old processes go on, and nobody who connects is lost."""

import shutil
import signal
import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from tests.deploy.programs import APP, GATE, Load, ask, ask_anew, deployed, held, serving, until, write_app
from tests.helpers import DEADLINE, client_of

#: `reactor`, whose processes of one role kill themselves before their n-th message, if they start while the
#: file "armed" has that role and n. A second one of them does not: the first has renamed the file.
PROGRAM = """
import json, os, runpy, signal, sys
from reactor.deploy import process
from reactor.deploy.channel import Channel

role = json.loads(process._ROLE)["kind"] if process.is_child() else "supervisor"
victim, left = open("armed").read().split() if os.path.exists("armed") else ("", 0)
left = int(left) if victim == role else 0

def dying(method):
    def call(self, *args, **kwargs):
        global left
        result = method(self, *args, **kwargs) if method is receive else None
        if left and (method is send or result is not None):
            left -= 1
            if not left and os.path.exists("armed"):
                os.rename("armed", "done")
                os.kill(os.getpid(), signal.SIGKILL)
        return result if method is receive else method(self, *args, **kwargs)
    return call

send, receive = Channel.send, Channel.receive
Channel.send, Channel.receive = dying(send), dying(receive)
sys.argv[0] = "reactor"
runpy.run_module("reactor", run_name="__main__")
"""


@pytest.fixture
def folder(tmp_path):
    write_app(tmp_path)
    return tmp_path


def mortal(folder, workers):
    words = ["serve", "app:Who", "--workers", str(workers), "--listen", "127.0.0.1:0", "--drain-timeout", "5"]
    return deployed(["-c", PROGRAM, *words], folder)


def arm(folder, role, step):
    (folder / "new").write_text(f"{role} {step}")
    (folder / "new").rename(folder / "armed")


def test_new_worker_at_each_step_until_it_is_ready(folder):
    with mortal(folder, 2) as deployment:
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        with Load(address) as load:
            for step in (1, 2, 3):  # "bind", "bound", "ready"
                arm(folder, "worker", step)
                deployment.signal(signal.SIGHUP)
                deployment.wait_for(r"was killed by SIGKILL before it was ready: the restart is abandoned")
                assert ask_anew(address)[0] in old
        assert load.failures == []
        deployment.signal(signal.SIGHUP)
        deployment.wait_for("all workers are restarted")
        until(lambda: ask_anew(address)[0] not in old)
        assert deployment.stop() == 0


def test_new_worker_that_dies_when_the_old_one_is_told_to_end(folder):
    with mortal(folder, 1) as deployment:
        deployment.workers(1)
        address = deployment.started(1)
        arm(folder, "worker", 4)  # "take_over"
        deployment.signal(signal.SIGHUP)
        (dead,) = deployment.workers(1).values()
        deployment.wait_for(rf"\(process {dead}\) was killed by SIGKILL: another is started")
        deployment.workers(1)
        assert ask_anew(address)[0] != dead
        assert deployment.stop() == 0


def test_successor_at_each_step_until_it_is_ready(folder):
    with mortal(folder, 2) as deployment:
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        with Load(address, rate=20) as load:
            # Two queues, "begin"; of each worker "bind", "bound", "ready"; "take_over" twice; "ready".
            for step in range(1, 13):
                arm(folder, "successor", step)
                deployment.signal(signal.SIGUSR2)
                deployment.wait_for(
                    "was killed by SIGKILL before it could replace the supervisor: nothing has"
                )
                assert not (folder / "armed").exists()
            until_served_by(old, address)
        assert load.failures == []
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        assert deployment.stop() == 0


def until_served_by(pids, address):
    """Workers of a successor that has died drain, and may still be served from until they have."""
    for _ in range(2000):
        if all(ask_anew(address)[0] in pids for _ in range(10)):
            return
    raise AssertionError("others serve")


def test_supervisor_that_is_killed_while_its_successor_starts_leaves_it_in_charge(folder):
    write_app(folder, app=GATE + APP)
    with serving(folder, workers=2) as deployment:
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        with ExitStack() as opened:
            with held(folder):
                deployment.signal(signal.SIGUSR2)
                deployment.wait_for("is to replace the supervisor")
                deployment.wait_for("waiting")  # it has the listening sockets then
                client = opened.enter_context(client_of(address))
                deployment.signal(signal.SIGKILL)
                deployment.wait_for_all(1, "the supervisor has gone: draining")
                assert ask(client)[0] in old
                waiting = opened.enter_context(client_of(address))
                waiting.sendall(b"?")
            deployment.follow()
            assert waiting.recv(100)
        deployment.process.wait(DEADLINE)
        deployment.workers(2)
        until(lambda: ask_anew(address)[0] not in old)
        assert deployment.stop() == -signal.SIGKILL


@contextmanager
def injecting(deployment, injection):
    """Let system calls of a supervisor that runs fail: those of its children go on as they do."""
    strace = shutil.which("strace")
    assert strace, "strace is missing: install the package strace"
    command = [strace, "-o", "/dev/null", "-p", str(deployment.pid), "-e", f"inject={injection}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()


@pytest.mark.parametrize(
    "injection",
    [
        # To start a worker: its channel, the process. Then "bound", "take_over" and "drain" are sent.
        "socketpair:error=EMFILE:when=1",
        pytest.param("vfork,clone,clone3:error=EAGAIN:when=1", marks=pytest.mark.slow),
        "sendmsg:error=ENOBUFS:when=1",
        "sendmsg:error=ETOOMANYREFS:when=2",
        "sendmsg:error=ENOBUFS:when=3",
        pytest.param("sendmsg:error=EAGAIN:when=1", marks=pytest.mark.slow),
        "socketpair:error=EMFILE:when=2",
        # "bind", "ready" and "draining" are received.
        pytest.param("recvmsg:error=ENOMEM:when=1..3", marks=pytest.mark.slow),
        pytest.param("recvmsg:error=EAGAIN:when=1", marks=pytest.mark.slow),
    ],
)
def test_system_calls_of_the_supervisor_that_fail_lose_no_connection(folder, injection):
    with serving(folder, workers=1) as deployment:
        deployment.workers(1)
        address = deployment.started(1)
        with Load(address, rate=20, pause=0.1) as load:
            with injecting(deployment, injection):
                deployment.signal(signal.SIGHUP)
                deployment.wait_for("all workers are restarted|the restart is abandoned")
            deployment.signal(signal.SIGHUP)
            deployment.wait_for("all workers are restarted")
            ask_anew(address)
        assert load.failures == []
        assert load.answers
        assert deployment.stop() == 0


def test_supervisor_that_cannot_send_its_successor_a_socket_goes_on(folder):
    with serving(folder, workers=1) as deployment:
        deployment.workers(1)
        address = deployment.started(1)
        with injecting(deployment, "sendmsg:error=ENOBUFS:when=1"):
            deployment.signal(signal.SIGUSR2)
            deployment.wait_for("before it could replace the supervisor: nothing has changed")
        ask_anew(address)
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        ask_anew(address)
        assert deployment.stop() == 0
