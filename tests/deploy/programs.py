"""Deployments as processes of their own, and clients of them."""

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import DEADLINE, client_of

ROOT = Path(__file__).parent.parent.parent

#: An app that says which process, and which version of the code, has answered.
APP = """
import os
from reactor import Protocol


class Who(Protocol):
    def connection_made(self, connection):
        self.connection = connection

    def data_received(self, data):
        self.connection.write(b"%d VERSION %s" % (os.getpid(), data))
"""


#: The beginning of an app whose process says "waiting", and waits, where `held` has made its FIFO.
GATE = """
import os, sys
if os.path.exists("gate"):
    print("waiting", file=sys.stderr, flush=True)
    open("gate").close()
"""


@contextmanager
def held(folder):
    """Let the next process of an app with a `GATE` wait until the end of the block."""
    gate = folder / "gate"
    os.mkfifo(gate)
    yield
    opened = os.open(gate, os.O_WRONLY)
    gate.unlink()
    os.close(opened)


class Deployment:
    """A supervisor, with all processes that come from it: a session of its own.

    pid: of the supervisor; another one after a replacement.
    """

    def __init__(self, process):
        self.process = process
        self.pid = process.pid
        self.lines = []
        self._seen = 0
        self._partial = b""

    def wait_for(self, pattern, deadline=DEADLINE):
        """Return the match of the next line of the log that has the pattern."""
        end = time.monotonic() + deadline
        while True:
            while self._seen < len(self.lines):
                self._seen += 1
                found = re.search(pattern, self.lines[self._seen - 1])
                if found:
                    return found
            assert self._read(end - time.monotonic()), self.report(f"the log ended without {pattern!r}")

    def wait_for_all(self, count, pattern):
        """Wait until `count` lines of the log, from its beginning, have the pattern."""
        end = time.monotonic() + DEADLINE
        while len([line for line in self.lines if re.search(pattern, line)]) < count:
            assert self._read(end - time.monotonic()), self.report(f"the log ended without {pattern!r}")

    def _read(self, timeout):
        """Read more of the log; return False at its end, which comes when all processes have ended."""
        ready, _, _ = select.select([self.process.stderr], [], [], max(0, timeout))
        assert ready, self.report("what was waited for did not come")
        data = os.read(self.process.stderr.fileno(), 65536)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return bool(data)

    def report(self, problem):
        return "\n".join([problem, *self.lines])

    def started(self, workers):
        """Wait until all workers are ready; return the first address."""
        address = self.wait_for(r"listening on (\S+)")[1]
        assert len([line for line in self.lines if "is ready" in line]) == workers
        return address

    def workers(self, count):
        """The processes of the next `count` lines that say that a worker is ready, by index."""
        found = [self.wait_for(r"worker (\d+) \(process (\d+)\) is ready") for _ in range(count)]
        return {int(match[1]): int(match[2]) for match in found}

    def signal(self, signum, pid=None):
        os.kill(self.pid if pid is None else pid, signum)

    def follow(self):
        """Take the successor for the supervisor, once it is."""
        self.pid = int(self.wait_for(r"process (\d+) is the supervisor now")[1])

    def ended(self):
        """Wait until every process has ended; return the exit status of the first supervisor."""
        end = time.monotonic() + DEADLINE
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(DEADLINE)

    def stop(self):
        """Drain, and return the exit status when every process has ended."""
        self.signal(signal.SIGTERM)
        return self.ended()


# No bytecode: that of an app is taken for the next one's, if both are of one second and one size.
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def started(words, folder, **environment):
    """Run a command in `folder`; yield its `Deployment`, and kill what is left of it at the end."""
    process = subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, **_ENVIRONMENT, "PWD": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    )
    try:
        yield Deployment(process)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def deployed(command, folder, **environment):
    """Run a command of Python, as `started` does."""
    return started([sys.executable, *command], folder, **environment)


def serving(folder, *words, app="app:Who", workers=2, listen="127.0.0.1:0", **environment):
    """Run `serve` with workers; the app is in `folder`."""
    command = ["-m", "reactor", "serve", app, "--workers", str(workers), "--listen", listen]
    return deployed([*command, "--drain-timeout", "5", *words], folder, **environment)


def write_app(folder, version=b"1", app=APP):
    (folder / "app.py").write_text(app.replace("VERSION", version.decode()))


def ask(client, question=b"?"):
    """Return the process and the version that answer."""
    client.sendall(question)
    pid, version, answer = client.recv(100).split(b" ", 2)
    assert answer == question
    return int(pid), version


def ask_anew(address):
    with client_of(address) as client:
        return ask(client)


def until(condition):
    """Ask again and again, each time by a connection: an old worker accepts until it is asked to end."""
    for _ in range(2000):
        if condition():
            return
    raise AssertionError("what was waited for did not come")


class Load:
    """Clients that connect at a steady rate, each for one exchange, every fourth one after a pause."""

    def __init__(self, address, rate=50, pause=0.5):
        self.address = address
        self.pause = pause
        self.interval = 1 / rate
        self.failures = []
        self.answers = 0
        self._stop = threading.Event()
        self._threads = []
        self._driver = threading.Thread(target=self._drive)

    def _drive(self):
        number = 0
        while not self._stop.wait(self.interval):
            number += 1
            thread = threading.Thread(target=self._exchange, args=(number,))
            self._threads.append(thread)
            thread.start()

    def _exchange(self, number):
        try:
            with client_of(self.address) as client:
                if number % 4 == 0:
                    time.sleep(self.pause)  # a client that is slow to send
                ask(client, b"%d" % number)
                self.answers += 1
        except Exception as exc:
            self.failures.append(f"{number}: {exc!r}")

    def __enter__(self):
        self._driver.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._driver.join()
        for thread in self._threads:
            thread.join()
