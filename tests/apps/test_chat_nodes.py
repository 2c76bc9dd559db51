"""The chat of several processes on a real Redis: restarts with members, a broker that is killed."""

import contextlib
import signal
import threading
import time

import pytest

from tests.backplane.conftest import RedisServer
from tests.deploy.programs import serving
from tests.helpers import DEADLINE, client_of


@pytest.fixture
def redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


def hear(client, what):
    """Return what a client receives up to and with the line that has `what`."""
    heard = b""
    while what not in heard or not heard.endswith(b"\r\n"):
        data = client.recv(10_000)
        assert data, f"the connection has ended after {heard!r}"
        heard += data
    return heard.decode().splitlines()


@contextlib.contextmanager
def member_of(address, name, room="room"):
    with client_of(address) as client:
        client.sendall(f"/nick {name}\r\n/join {room}\r\n".encode())
        hear(client, f"* {name} has joined {room}".encode())
        yield client


@contextlib.contextmanager
def chat(folder, redis, workers=2):
    words = ("--backplane", redis.url)
    with serving(folder, *words, app="chat", workers=workers) as deployment:
        deployment.processes = deployment.workers(workers)
        deployment.address = deployment.started(workers)
        deployment.wait_for_all(workers, "messages pass")
        yield deployment
        assert deployment.stop() == 0


@contextlib.contextmanager
def one_in_each(address, names):
    """Members in one room, in both workers: as many are made as it takes until the two have one."""
    with contextlib.ExitStack() as stack:
        members = {}
        while len(members) < 2:
            client = stack.enter_context(client_of(address))
            (greeting,) = hear(client, b"you are ")[:1]
            node = greeting.split()[3].rstrip(";").partition("-")[2]
            if node not in members:
                name = names[len(members)]
                client.sendall(f"/nick {name}\r\n/join room\r\n".encode())
                hear(client, f"* {name} has joined room".encode())
                members[node] = client
        yield list(members.values())


def test_two_workers_are_one_chat_through_a_restart(tmp_path, redis):
    with chat(tmp_path, redis) as deployment:
        with one_in_each(deployment.address, ["ann", "bob"]) as (ann, bob):
            ann.sendall(b"hello\r\n")
            assert hear(bob, b"hello")[-1] == "ann: hello"
            bob.sendall(b"/nick ann\r\n/who\r\n")
            assert hear(bob, b"in room")[-2:] == ["* ann is taken", "* in room: ann, bob"]
            hear(ann, b"hello")

            # Each line is heard once, in order, while both members move to other processes.
            stop = threading.Event()
            talker = threading.Thread(target=talk, args=(ann, stop))
            talker.start()
            deployment.signal(signal.SIGHUP)
            try:
                deployment.wait_for("all workers are restarted")
                deployment.wait_for_all(4, r"connections: \d handed over")
            finally:
                stop.set()
                talker.join(DEADLINE)
            ann.sendall(b"the end\r\n")
            heard = [line for line in hear(bob, b"ann: the end") if line.startswith("ann: ")]
            count = len(heard) - 1
            assert heard == [*(f"ann: {number}" for number in range(count)), "ann: the end"]
            own = [line for line in hear(ann, b"ann: the end") if line.startswith("ann: ")]
            assert own == heard
            assert count > 10
            bob.sendall(b"/nick ann\r\n/who\r\n")
            assert hear(bob, b"in room")[-2:] == ["* ann is taken", "* in room: ann, bob"]
            with member_of(deployment.address, "cat") as cat:
                cat.sendall(b"/nick bob\r\n")
                assert hear(cat, b"taken")[-1] == "* bob is taken"


def together_again(redis, ann, bob, line):
    """Start the broker again, and have bob answer when he is shown `line`; return what each has heard."""
    redis.start()
    heard = {member: hear(member, b"* the others can be reached again") for member in (ann, bob)}
    while line not in heard[bob]:
        heard[bob] += hear(bob, line.encode())
    bob.sendall(b"yes\r\n")
    for member in (ann, bob):
        heard[member] += hear(member, b"bob: yes")
    return heard


def talk(client, stop):
    number = 0
    while not stop.wait(0.005):
        client.sendall(b"%d\r\n" % number)
        number += 1


def test_a_broker_that_is_killed_and_comes_back(tmp_path, redis):
    with chat(tmp_path, redis) as deployment:
        with one_in_each(deployment.address, ["ann", "bob"]) as (ann, bob):
            redis.kill()
            for member in (ann, bob):
                hear(member, b"* the others can't be reached")
            ann.sendall(b"is anybody there?\r\n")
            assert hear(ann, b"there?")[-1] == "ann: is anybody there?"
            heard = together_again(redis, ann, bob, "ann: is anybody there?")
            assert heard[ann].count("ann: is anybody there?") == 0
            assert heard[bob].count("ann: is anybody there?") == 1
            bob.sendall(b"/who\r\n")
            assert hear(bob, b"in room")[-1] == "* in room: ann, bob"


@pytest.mark.slow
def test_a_restart_while_the_broker_is_away_loses_no_line(tmp_path, redis):
    with chat(tmp_path, redis) as deployment:
        with one_in_each(deployment.address, ["ann", "bob"]) as (ann, bob):
            redis.kill()
            for member in (ann, bob):
                hear(member, b"* the others can't be reached")
            ann.sendall(b"before\r\n")
            hear(ann, b"ann: before")
            deployment.signal(signal.SIGHUP)
            deployment.wait_for("all workers are restarted")
            deployment.wait_for_all(4, r"connections: \d handed over")
            ann.sendall(b"after\r\n")
            hear(ann, b"ann: after")
            heard = together_again(redis, ann, bob, "ann: after")
            assert [line for line in heard[bob] if ": " in line and line[0] != "*"] == [
                "ann: before", "ann: after", "bob: yes",
            ]  # fmt: skip
            assert not [line for line in heard[ann] if line.startswith("ann: ")]
        deployment.wait_for_all(1, "messages that the process before had not sent are queued here")


@pytest.mark.slow
def test_names_of_a_worker_that_was_killed_are_free_again(tmp_path, redis):
    with chat(tmp_path, redis) as deployment:
        with one_in_each(deployment.address, ["ann", "bob"]) as (ann, bob):
            deployment.signal(signal.SIGKILL, deployment.processes[0])
            deployment.signal(signal.SIGKILL, deployment.processes[1])
            for member in (ann, bob):
                with contextlib.suppress(ConnectionError):
                    while member.recv(10_000):
                        pass
        deployment.workers(2)
        end = time.monotonic() + DEADLINE
        with client_of(deployment.address) as cat:
            hear(cat, b"joined lobby")
            heard = ["taken"]
            while "taken" in heard[-1]:
                assert time.monotonic() < end
                cat.sendall(b"/nick ann\r\n")
                heard = hear(cat, b"ann")
            assert heard[-1].endswith("is now ann")


def test_several_machines_need_no_workers(tmp_path, redis):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with chat(tmp_path / "a", redis, workers=1) as one, chat(tmp_path / "b", redis, workers=1) as two:
        with member_of(one.address, "ann") as ann, member_of(two.address, "bob") as bob:
            ann.sendall(b"hello\r\n")
            assert hear(bob, b"hello")[-1] == "ann: hello"
            with client_of(two.address) as cat:
                cat.sendall(b"/join room\r\n")
                assert "ann: hello" in hear(cat, b"has joined room")
