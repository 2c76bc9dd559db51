"""The load generator, in C and in Python: each message is answered and counted, wrong answers are found."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from bench.harness.native import compiled
from reactor import Protocol, Reactor
from tests.helpers import DEADLINE


class Echo(Protocol):
    def connection_made(self, connection):
        self.connection = connection

    def data_received(self, data):
        self.connection.write(data)


class Wrong(Echo):
    def data_received(self, data):
        self.connection.write(bytes(len(data)))


class Leaving(Echo):
    def data_received(self, data):
        self.connection.abort()


@pytest.fixture(params=["C", "Python"])
def command(request, tmp_path, monkeypatch):
    if request.param == "Python":
        return [sys.executable, "-m", "bench.harness.load"]
    assert shutil.which("cc"), "apt-get install build-essential"
    return [os.fspath(compiled("load"))]


@pytest.fixture(params=[Echo])
def port(request):
    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", request.param, backlog=1000)
        with reactor.background():
            yield listener.addresses[0].port


def load(command, port, message, connections=4, depth=1, seconds=0.1, rate=0, mode="echo"):
    """The result of a run, or the error that it ended with."""
    words = [port, connections, len(message), depth, seconds, rate, mode, 0]
    with subprocess.Popen(
        [*command, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output, errors = process.communicate(message + message + b"go\n", timeout=DEADLINE)
    if process.returncode:
        return errors.decode().strip()
    ready, result = output.decode().splitlines()
    assert ready == "ready"
    return json.loads(result)


@pytest.mark.parametrize("connections", [1, 16])
@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize("size", [1, 64, 200_000])
def test_closed_loop_counts_every_message_once(command, port, size, depth, connections):
    result = load(command, port, bytes(i % 251 for i in range(size)), connections, depth)
    assert result["messages"] == sum(number for _, number in result["latencies"])
    assert result["messages"] + connections * depth == result["answered"]  # those after the end
    assert result["seconds"] >= 0.1


def test_open_loop_sends_at_its_rate(command, port):
    result = load(command, port, b"x" * 64, rate=1000, seconds=0.2)
    assert result["answered"] == result["messages"] == 200


def test_open_loop_counts_latency_from_the_intended_send(command):
    """A server that stalls delays all messages that were due meanwhile, not one for each connection."""
    stall = 0.1

    class Stalling(Echo):
        seen = 0

        def data_received(self, data):
            seen, Stalling.seen = Stalling.seen, Stalling.seen + len(data)
            if seen < 20 <= Stalling.seen:
                reactor.call_later(stall, resume)
                self.connection.pause_reading()
                held.append(self.connection)
            self.connection.write(data)

    held = []

    def resume():
        held.pop().resume_reading()

    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Stalling)
        with reactor.background():
            port = listener.addresses[0].port
            result = load(command, port, b"x", connections=1, rate=1000, seconds=0.3)
    late = sum(number for nanoseconds, number in result["latencies"] if nanoseconds > stall * 1e9 / 2)
    assert late >= 40  # of the hundred that were due in the stall, the first half


def test_churn_opens_a_connection_for_each_message(command):
    made = []

    class Counting(Echo):
        def connection_made(self, connection):
            made.append(connection)
            super().connection_made(connection)

    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Counting, backlog=1000)
        with reactor.background():
            result = load(command, listener.addresses[0].port, b"x" * 64, mode="churn")
    assert len(made) == result["answered"] + 4  # the four that were verified


@pytest.mark.parametrize("port", [Wrong], indirect=True)
def test_wrong_answer_is_found(command, port):
    assert load(command, port, b"x") == "the server did not answer what it should"


@pytest.mark.parametrize("port", [Leaving], indirect=True)
def test_server_that_leaves_is_found(command, port):
    assert load(command, port, b"x") == "the server does not answer: Connection reset by peer"
