"""The built-in apps, and real clients talking to them."""

import contextlib
import hashlib
import os
import random
import shutil
import socket
import subprocess

import pytest

from reactor import Reactor
from reactor.apps import APPS
from reactor.apps.echo import Echo
from reactor.testing import DatagramRecorder, MemoryNetwork
from tests.helpers import DEADLINE, connect, pair, spin

PACKAGES = {"nc": "netcat-openbsd", "socat": "socat", "telnet": "telnet"}


def program(name):
    path = shutil.which(name)
    assert path, f"{name} is missing: install the package {PACKAGES[name]}"
    return path


@pytest.fixture
def address(reactor):
    return reactor.listen("127.0.0.1:0", Echo).addresses[0]


def talk(reactor, words, data):
    """Run a client with `data` as its input beside the reactor; return what it printed.

    Its input ends after `data`; with None there is none, and it stays open.
    """
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    os.set_blocking(process.stdin.fileno(), False)
    out = bytearray()
    rest = memoryview(data or b"")

    def read():
        more = process.stdout.read1(65536)
        out.extend(more)
        if not more:
            reactor.remove_reader(process.stdout)
            process.stdout.close()

    def write():
        nonlocal rest
        rest = rest[process.stdin.raw.write(rest[:65536]) :]
        if not rest:
            reactor.remove_writer(process.stdin)
            process.stdin.close()

    reactor.add_reader(process.stdout, read)
    if data is not None:
        reactor.add_writer(process.stdin, write)
    try:
        spin(reactor, lambda: process.stdout.closed)
        assert process.wait(DEADLINE) in {0, 1}  # telnet says 1 when the server closes
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    return bytes(out)


def test_nc_gets_its_bytes_back(reactor, address):
    assert talk(reactor, [program("nc"), "-N", address.host, str(address.port)], b"hi\n") == b"hi\n"


def test_socat_gets_every_byte_back(reactor, address):
    data = random.Random(1).randbytes(4_000_000)
    words = [program("socat"), "-t", "10", "-", f"TCP:{address.host}:{address.port}"]
    back = talk(reactor, words, data)
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


def test_telnet_gets_its_lines_back(reactor):
    address = reactor.listen("127.0.0.1:0", APPS["greet"].start()).addresses[0]
    out = talk(reactor, [program("telnet"), address.host, str(address.port)], None)
    assert b"Hello from reactor." in out


def test_documented_blocking_client_gets_its_bytes_back(reactor, address):
    with connect(reactor, address) as client:
        client.sendall(b"Hello\n")
        spin(reactor, reactor.connections)
        reactor.run_once(DEADLINE)
        assert client.recv(8192) == b"Hello\n"


def test_echo_does_not_read_from_a_client_that_does_not_read(reactor):
    echo = Echo()
    connection, peer = pair(reactor, echo)
    sent = 0
    with peer:
        while connection.is_reading():
            try:
                sent += peer.send(bytes(65536))
            except BlockingIOError:
                pass
            reactor.run_once(0)
        queued = connection.get_write_buffer_size()
        assert 0 < queued < 256 * 1024
        received = 0
        while received < sent:
            try:
                received += len(peer.recv(65536))
            except BlockingIOError:
                pass
            reactor.run_once(0)
        assert connection.is_reading()


def test_a_client_that_never_reads_does_not_stop_another(reactor, address):
    with connect(reactor, address) as stuck, connect(reactor, address) as other:
        stuck.setblocking(False)
        other.setblocking(False)
        spin(reactor, lambda: len(reactor.connections()) == 2)
        spin(reactor, lambda: fill(stuck) and not all(c.is_reading() for c in reactor.connections()))
        other.send(b"x")
        spin(reactor, lambda: peek(other))
        assert other.recv(10) == b"x"


def fill(sock):
    try:
        sock.send(bytes(65536))
    except BlockingIOError:
        pass
    return True


def peek(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def test_discard_answers_nothing(reactor):
    _, peer = pair(reactor, APPS["discard"].start()())
    with peer:
        peer.send(b"x" * 1000)
        peer.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: reactor.connections() == [])
        assert peer.recv(10) == b""


def test_greet_greets_and_closes(reactor):
    _, peer = pair(reactor, APPS["greet"].start()())
    with peer:
        reactor.run_once(0)
        assert peer.recv(100) == b"Hello from reactor.\n"
        assert peer.recv(100) == b""


def test_lines_answers_a_burst_over_several_ticks(reactor):
    connection, peer = pair(reactor, APPS["lines"].start()())
    with peer:
        assert peer.send(b"\n" * 65536) == 65536
        reactor.run_once(1)
        assert connection.get_write_buffer_size() <= 2000
        got = 0
        while got < 65536:
            reactor.run_once(1)
            with contextlib.suppress(BlockingIOError):
                got += len(peer.recv(1 << 17))


def test_reactors_of_one_process_serve_each_other():
    with Reactor() as first, Reactor() as second:
        address = first.listen("127.0.0.1:0", APPS["greet"].start()).addresses[0]
        got = []

        class Client(APPS["discard"].start()):
            def data_received(self, data):
                got.append(data)

        second.connect(address, Client)
        spin(second, lambda: (first.run_once(0), got)[1])
        assert b"".join(got) == b"Hello from reactor.\n"


@pytest.mark.parametrize("port", [19, 9092])
@pytest.mark.parametrize("app", ["echo", "daytime"])
def test_a_forged_sender_does_not_set_two_services_at_each_other(app, port):
    with MemoryNetwork() as network:
        one = network.reactor("10.0.0.1").bind_datagram("10.0.0.1:9092", APPS[app].datagrams())
        two = network.reactor("10.0.0.2").bind_datagram(f"10.0.0.2:{port}", APPS["echo"].datagrams())
        client = network.reactor("10.0.0.3").bind_datagram("10.0.0.3:0", DatagramRecorder)
        two.send(b"as if it were from there", one.address)
        client.send(b"asked", one.address)
        network.run_out()
        assert (one.stats().received, one.stats().sent) == (2, 1)
        assert len(client.get_protocol().received) == 1
