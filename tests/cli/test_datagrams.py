"""`connect udp:ADDRESS`: lines to datagrams and back, and the end."""

import os
import socket

import pytest

from reactor.cli.main import main
from tests.cli.programs import command, redirected, server, usage_error
from tests.helpers import DEADLINE


def exchanged(address, data, *words):
    """Return the status, output and errors of a client with this input."""
    with redirected("", "connect", address, *words) as process:
        out, err = process.communicate(data, timeout=DEADLINE)
    return process.returncode, out, err


@pytest.fixture
def peer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        sock.bind(("127.0.0.1", 0))
        yield sock, f"udp:127.0.0.1:{sock.getsockname()[1]}"


def test_server_and_client_of_the_command_line():
    with server("serve", "echo", "--udp", "--listen", "127.0.0.1:0") as (_, address):
        assert exchanged(address, b"one\ntwo\n\nlast", "--wait", "0.2") == (0, b"one\ntwo\n\nlast", b"")


def test_unix_client_of_the_command_line_is_answered(tmp_path):
    path = f"unix:{tmp_path}/server"
    with server("serve", "echo", "--udp", "--listen", path) as (_, address):
        assert exchanged(address, b"one\ntwo\n", "--wait", "0.2") == (0, b"one\ntwo\n", b"")


def test_each_line_is_a_datagram(peer):
    sock, address = peer
    reading, writing = os.pipe()
    with command("connect", address, stdin=reading) as process:
        os.close(reading)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(b"one\ntw")
            assert sock.recv(100) == b"one\n"
            pipe.write(b"o\n" + b"x" * 3)
        data, client = sock.recvfrom(100)
        assert (data, sock.recv(100)) == (b"two\n", b"xxx")
        sock.sendto(b"answer", client)
        assert process.stdout.read() == b"answer"
        assert process.wait(DEADLINE) == 0


def test_many_lines_wait_for_the_kernel(peer):
    sock, address = peer
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    lines = [b"%04d\n" % number for number in range(500)]
    assert exchanged(address, b"".join(lines), "--wait", "0.1") == (0, b"", b"")
    received = [sock.recv(100) for _ in range(100)]
    assert received == lines[:100]


@pytest.fixture
def unix_peer(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        sock.bind(str(tmp_path / "peer"))
        yield sock, f"udp:unix:{tmp_path}/peer"


def test_no_line_is_lost_on_a_slow_reader(unix_peer):
    sock, address = unix_peer
    lines = [b"%d\n" % number for number in range(20_000)]
    with redirected("", "connect", address, "--wait", "0.01") as process:
        with process.stdin as pipe:
            pipe.write(b"".join(lines))
        assert [sock.recv(100) for _ in lines] == lines
        assert process.wait(DEADLINE) == 0


def test_lines_that_nobody_reads_are_one_line_and_status_1(unix_peer):
    _, address = unix_peer
    status, _, err = exchanged(address, b"x\n" * 2000, "--wait", "0.01")
    assert (status, err.count(b"took none in time")) == (1, 1)


def test_closed_port_is_one_line_and_status_1():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"udp:127.0.0.1:{sock.getsockname()[1]}"
    message = f"python -m reactor: cannot reach {address}: Connection refused (ICMP from 127.0.0.1)\n"
    assert exchanged(address, b"x") == (1, b"", message.encode())


def test_unknown_unix_socket_is_one_line_and_status_1(capfd):
    assert main(["connect", "udp:unix:/no/such/socket"]) == 1
    assert capfd.readouterr().err == (
        "reactor: cannot connect to unix:/no/such/socket: No such file or directory\n"
    )


def test_full_disk_for_standard_output_is_one_line_and_status_1():
    with server("serve", "echo", "--udp", "--listen", "127.0.0.1:0") as (_, address):
        with redirected(">/dev/full", "connect", address) as process:
            _, err = process.communicate(b"x", timeout=DEADLINE)
    message = b"python -m reactor: cannot write to standard output: No space left on device\n"
    assert (process.returncode, err) == (1, message)


def test_input_that_cannot_be_read_is_one_line_and_status_1(tmp_path, peer):
    write_only = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    with command("connect", peer[1], stdin=write_only) as process:
        os.close(write_only)
        _, err = process.communicate(timeout=DEADLINE)
    message = b"python -m reactor: cannot read standard input: Bad file descriptor\n"
    assert (process.returncode, err) == (1, message)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("udp:127.0.0.1",), "'127.0.0.1' has no port"),
        (("udp:127.0.0.1:9", "--tls"), "--tls is for connections, and udp has none"),
        (("127.0.0.1:9", "--wait", "1"), "--wait is for udp: a connection ends when its peer ends it"),
        (("udp:fd:3",), "fd:3 can't be connected"),
    ],
)
def test_invalid_argument_is_one_line_with_the_cause(capfd, words, cause):
    assert cause in usage_error(capfd, "connect", *words)
