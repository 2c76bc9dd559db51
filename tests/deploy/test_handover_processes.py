"""Live connections handed over between processes, which are killed at every step."""

import select
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

import pytest

from tests.helpers import DEADLINE

ROOT = Path(__file__).parent.parent.parent

#: Calls on the channel before which a process is killed; more are made by neither side for three connections.
STEPS = range(1, 15)


def tracing(*injections):
    """The beginning of a command whose system calls have results, or signals, that the test chose."""
    if not injections:
        return []
    strace = shutil.which("strace")
    assert strace, "strace is missing: install the package strace"
    traced = ",".join(injection.partition(":")[0] for injection in injections)
    chosen = [word for injection in injections for word in ("-e", f"inject={injection}")]
    return [strace, "-D", "-f", "-o", "/dev/null", "-e", f"trace={traced}", *chosen]


class Worker:
    """A process of `tests.deploy.worker`."""

    def __init__(self, app, listening, channel=None, *, kill_at=0, keep=(), tracer=()):
        descriptors = [listening.fileno(), *(sock.fileno() for sock in keep)]
        number = -1
        if channel is not None:
            number = channel.fileno()
            descriptors.append(number)
        command = [*tracing(*tracer), sys.executable, "-m", "tests.deploy.worker", app]
        self.process = subprocess.Popen(
            [*command, str(listening.fileno()), str(number), str(kill_at)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            pass_fds=descriptors,
        )
        assert self.line() == "ready"

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def has_line(self):
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def hand_over(self, channel):
        self.process.stdin.write(f"{channel.fileno()}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait(DEADLINE)
        self.process.stdin.close()
        self.process.stdout.close()


class Shop:
    """A listening socket, its workers one after the other, and their clients."""

    def __init__(self, stack, app):
        self.stack = stack
        self.app = app
        self.listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        self.listening.setblocking(False)

    def channel(self):
        return [self.stack.enter_context(end) for end in socket.socketpair()]

    def worker(self, *args, **options):
        worker = Worker(self.app, self.listening, *args, **options)
        self.stack.callback(worker.close)
        return worker

    def connect(self, count):
        clients = []
        for _ in range(count):
            client = socket.create_connection(self.listening.getsockname(), timeout=DEADLINE)
            clients.append(self.stack.enter_context(client))
        return clients

    def restart(self, old, ends, **options):
        """Start another worker, and hand over to it."""
        ours, theirs = ends
        new = self.worker(theirs, **options)
        theirs.close()
        old.hand_over(ours)
        return new


@contextmanager
def shop(app):
    with ExitStack() as stack:
        yield Shop(stack, app)


def ask(client, data):
    client.sendall(data)
    return client.recv(1000)


def still_answers(client):
    """Whether a client gets each byte back once; False if its connection has ended."""
    try:
        client.sendall(b"one")
        answer = client.recv(1000)
        if not answer:
            return False
        client.sendall(b"two")
        while answer != b"onetwo":
            assert b"onetwo".startswith(answer)
            answer += client.recv(1000)
    except ConnectionError:
        return False
    return True


def transferred(old, new, killed):
    """How many connections went over, as the process says that lives."""
    worker, words = (new, "taken over") if killed is old else (old, "handed over")
    line = worker.line()
    assert line.startswith(words)
    return int(line.split()[2])


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[pytest.mark.slow] * (step not in {4, 9})) for step in STEPS]
)
@pytest.mark.parametrize("side", ["old", "new"])
def test_whoever_is_killed_each_connection_has_one_owner(side, step):
    with shop("echo") as made:
        ends = made.channel()
        old = made.worker(keep=ends[:1], kill_at=step if side == "old" else 0)
        clients = made.connect(3)
        assert [ask(client, b"before") for client in clients] == [b"before"] * 3
        new = made.restart(old, ends, kill_at=step if side == "new" else 0)
        ends[0].close()
        killed = old if side == "old" else new
        moved = transferred(old, new, killed)
        alive = [still_answers(client) for client in clients]
        died = not killed.line()  # it has said nothing
        if side == "new":
            assert sum(alive) == (0 if moved and died else 3)
        else:
            assert sum(alive) == moved
        assert died or step > 6


@pytest.mark.parametrize(
    ("side", "injection", "owner"),
    [
        ("old", "sendmsg:signal=KILL:when=1", "none"),
        ("old", "sendmsg:signal=KILL:when=3", "new"),
        ("old", "sendmsg:error=ENOBUFS:when=1", "old"),
        ("old", "sendmsg:error=ENOBUFS:when=4", "old"),
        ("old", "sendmsg:error=ETOOMANYREFS:when=2..4", "new"),
        ("old", "shutdown:error=ENOTCONN", "new"),
        ("new", "recvmsg:signal=KILL:when=1", "old"),
        ("new", "recvmsg:signal=KILL:when=4", "old"),
        ("new", "recvmsg:error=ECONNRESET:when=1", "old"),
        ("new", "recvmsg:error=ENOMEM:when=3", "old"),
        ("new", "recvmsg:error=EINTR:when=2..5", "new"),
    ],
)
def test_system_calls_that_fail_or_kill(side, injection, owner):
    with shop("echo") as made:
        ends = made.channel()
        old = made.worker(keep=ends[:1], tracer=[injection] if side == "old" else ())
        clients = made.connect(3)
        assert [ask(client, b"before") for client in clients] == [b"before"] * 3
        new = made.restart(old, ends, tracer=[injection] if side == "new" else ())
        ends[0].close()
        said = {"old": old.line(), "new": new.line()}
        alive = [still_answers(client) for client in clients]
        if "KILL" in injection:
            assert said[side] == ""
        if owner == "old":
            assert said["old"].startswith("handed over 0 ")
            assert alive == [True] * 3
        elif side == "old" and "KILL" in injection:
            assert sum(alive) == int(said["new"].split()[2]) == (0 if owner == "none" else alive.count(True))
            assert (sum(alive) > 0) is (owner == "new")
        else:
            assert said == {"old": "handed over 3 None", "new": "taken over 3 None"}
            assert alive == [True] * 3


class Flood:
    """A client that sends at full speed, and checks that each byte comes back once and in order."""

    BLOCK = bytes(range(251)) * 60  # its period is prime: any loss shows

    def __init__(self, sock):
        self.sock = sock
        sock.setblocking(False)
        self.sent = self.received = 0
        self.stopped = False

    def turn(self):
        if not self.stopped:
            with suppress(BlockingIOError):
                at = self.sent % 251
                self.sent += self.sock.send(memoryview(self.BLOCK)[at:])
        with suppress(BlockingIOError):
            data = self.sock.recv(65536)
            assert data, "the connection has ended"
            at = self.received % 251
            whole = self.BLOCK * (len(data) // len(self.BLOCK) + 2)
            assert data == whole[at : at + len(data)], "a byte is lost, doubled or out of order"
            self.received += len(data)

    def is_done(self):
        return self.stopped and self.sent == self.received


@pytest.mark.parametrize(("count", "restarts"), [(8, 2), pytest.param(64, 20, marks=pytest.mark.slow)])
def test_echo_at_full_speed_through_restarts(count, restarts):
    with shop("echo") as made, DefaultSelector() as selector:
        pairs = [made.channel() for _ in range(restarts)]
        worker = made.worker(keep=[pairs[0][0]])
        floods = [Flood(client) for client in made.connect(count)]
        for flood in floods:
            selector.register(flood.sock, EVENT_READ | EVENT_WRITE, flood)

        def pump(until):
            end = time.monotonic() + DEADLINE
            while not until():
                assert time.monotonic() < end
                for key, _ in selector.select(0.05):
                    key.data.turn()

        for number, ends in enumerate(pairs):
            following = [pairs[number + 1][0]] if number + 1 < restarts else []
            new = made.restart(worker, ends, keep=following)
            ends[0].close()
            pump(lambda new=new: new.has_line())
            assert new.line() == f"taken over {count} None"
            before = [flood.received for flood in floods]
            pump(lambda before=before: all(f.received > b for f, b in zip(floods, before, strict=True)))
            assert worker.line() == f"handed over {count} None"
            assert worker.process.wait(DEADLINE) == 0
            worker = new
        for flood in floods:
            flood.stopped = True
            selector.modify(flood.sock, EVENT_READ, flood)
        pump(lambda: all(flood.is_done() for flood in floods))


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_idle_members_of_a_chat_stay_with_name_and_room(count):
    with shop("chat") as made:
        ends = made.channel()
        old = made.worker(keep=ends[:1])
        rooms = count // 20
        members = made.connect(count)
        for number, member in enumerate(members):
            member.sendall(b"/nick m%d\r\n/join r%d\r\n" % (number, number % rooms))
        for number, member in enumerate(members):
            hear(member, b"* m%d has joined r%d\r\n" % (number, number % rooms))
        for room in range(rooms):  # the last to join has seen nobody else do so
            members[room].sendall(b"all in\r\n")
        for number, member in enumerate(members):
            hear(member, b"m%d: all in\r\n" % (number % rooms))
        new = made.worker(ends[1])
        ends[1].close()
        old.hand_over(ends[0])
        for number in range(0, count, 10):
            members[number].sendall(b"meanwhile\r\n")
        assert new.line() == f"taken over {count} None"
        ends[0].close()
        for room in range(rooms):
            members[-1 - room].sendall(b"/who\r\n")
        for number in range(count):
            speakers = {b"m%d" % n for n in range(number % rooms, count, rooms) if n % 10 == 0}
            heard = b""
            while heard.count(b": meanwhile\r\n") < len(speakers):
                heard += members[number].recv(10_000)
            said = [
                line.partition(b": meanwhile")[0] for line in heard.splitlines() if b": meanwhile" in line
            ]
            assert sorted(said) == sorted(speakers)


def hear(client, what):
    heard = b""
    while what not in heard:
        data = client.recv(10_000)
        assert data
        heard += data
