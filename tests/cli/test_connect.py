"""`connect`: standard input and output, how it ends, and TLS with OpenSSL's server as the peer."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from reactor.cli.main import main
from tests.cli.programs import command, connected, listening_socket, server, usage_error
from tests.helpers import DEADLINE, accepting


def test_connect_copies_its_input_to_the_peer_and_the_answer_to_its_output():
    data = bytes(range(256)) * 4096
    with server("--listen", "127.0.0.1:0") as (_, address):
        with command("connect", address, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(data, timeout=DEADLINE)
            assert process.returncode == 0
            assert out == data
            assert err == b""


def test_connect_sends_a_file_on_standard_input(tmp_path):
    (tmp_path / "file").write_bytes(b"from a file\n")
    with server("--listen", "127.0.0.1:0") as (_, address), (tmp_path / "file").open() as file:
        with command("connect", address, stdin=file) as process:
            out, _ = process.communicate(timeout=DEADLINE)
    assert out == b"from a file\n"


def test_connect_ends_at_the_peer_s_end_of_file_though_input_is_open():
    reading, writing = os.pipe()
    try:
        with server("serve", "greet", "--listen", "127.0.0.1:0") as (_, address):
            with command("connect", address, stdin=reading) as process:
                out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert out == b"Hello from reactor.\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_connect_refused_is_one_line_and_status_1(capfd):
    with listening_socket() as (_, address):
        pass
    assert main(["connect", address]) == 1
    message = capfd.readouterr().err
    assert message == f"reactor: cannot connect to {address}: Connection refused\n"


def test_connect_reports_a_reset(capfd):
    with listening_socket() as (listening, address):
        with command("connect", address, stdin=subprocess.PIPE) as process:
            peer, _ = listening.accept()
            peer.send(b"x")
            assert process.stdout.read(1) == b"x"  # it knows that it is connected
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert err.decode() == f"python -m reactor: lost the connection to {address}: Connection reset by peer\n"


def test_connect_reports_that_its_output_was_closed():
    with server("--listen", "127.0.0.1:0") as (_, address):
        with command("connect", address, stdin=subprocess.PIPE) as process:
            process.stdout.close()
            process.stdout = None
            _, err = process.communicate(b"x", timeout=DEADLINE)
    assert process.returncode == 1
    assert err == b"python -m reactor: cannot write to standard output: Broken pipe\n"


def test_connect_reports_that_its_input_cannot_be_read(tmp_path):
    with server("--listen", "127.0.0.1:0") as (_, address):
        write_only = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
        with command("connect", address, stdin=write_only) as process:
            os.close(write_only)
            _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert err == b"python -m reactor: cannot read standard input: Bad file descriptor\n"


def test_interrupted_connect_exits_130():
    with listening_socket() as (listening, address):
        with command("connect", address, stdin=subprocess.PIPE) as process:
            peer, _ = listening.accept()
            with peer:
                peer.send(b"x")
                assert process.stdout.read(1) == b"x"
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err == b""


def test_closed_standard_output_is_one_line_and_status_1():
    message = b"python -m reactor: standard output is closed: what the peer sends has nowhere to go\n"
    assert connected(">&-") == (1, b"", message)
    assert connected("<&- >&-") == (1, b"", message)


def test_full_disk_for_standard_output_is_one_line_and_status_1():
    message = b"python -m reactor: cannot write to standard output: No space left on device\n"
    assert connected(">/dev/full") == (1, b"", message)


def test_input_error_after_the_end_is_ignored(monkeypatch):
    """The thread that reads it outlives the connection: its exception would be printed."""
    problems = []
    monkeypatch.setattr(threading, "excepthook", problems.append)
    before = set(threading.enumerate())
    terminal, program = pty.openpty()
    standard_input = os.dup(0)
    os.dup2(terminal, 0)
    try:
        with server("serve", "greet", "--listen", "127.0.0.1:0") as (_, address):
            assert main(["connect", address]) == 0
        started = set(threading.enumerate()) - before
        assert started
        os.close(program)  # the reader gets EIO
        for thread in started:
            thread.join(DEADLINE)
        assert problems == []
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)
        os.close(terminal)


def test_non_blocking_input_is_waited_for():
    """O_NONBLOCK belongs to the open file: another process that shares it may have set it."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "wb", buffering=0) as pipe, listening_socket() as (listening, address):
        with command("connect", address, stdin=reading) as process:
            os.close(reading)
            peer, _ = listening.accept()
            with peer:
                peer.settimeout(DEADLINE)
                peer.send(b"x")
                assert process.stdout.read(1) == b"x"
                pipe.write(b"y")
                assert peer.recv(1) == b"y"
                pipe.close()
                assert peer.recv(1) == b""
            assert process.wait(DEADLINE) == 0


def test_non_blocking_output_is_waited_for(tmp_path):
    data = bytes(range(256)) * 4096  # more than a pipe holds
    (tmp_path / "file").write_bytes(data)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as pipe, (tmp_path / "file").open() as file:
        with server("--listen", "127.0.0.1:0") as (_, address):
            with subprocess.Popen(
                [sys.executable, "-m", "reactor", "connect", address], stdin=file, stdout=writing
            ) as process:
                os.close(writing)
                assert pipe.read() == data
                assert process.wait(DEADLINE) == 0


def answer_of(address, words):
    """Return the output of `python -m reactor connect` for the input `words`."""
    done = subprocess.run(
        [sys.executable, "-m", "reactor", "connect", address],
        input=words,
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_file_is_received_through_a_proxy(tmp_path):
    """A file, through a proxy, to the client of the command line."""
    (tmp_path / "hello").write_bytes(b"hello from a file\n")
    with (
        server("serve", "files", "--root", str(tmp_path), "--listen", "127.0.0.1:0") as (_, files),
        server("serve", "proxy", "--to", files, "--listen", "127.0.0.1:0") as (_, proxy),
    ):
        assert answer_of(proxy, b"hello\n") == b"ok 18\nhello from a file\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "sent", "pattern"),
    [
        ("lines", b"one\ntwo", rb"ONE\nTWO\n"),
        (
            "chat",
            b"hello\n/quit\n",
            rb"\* you are guest1.* joined lobby\r\nguest1: hello\r\n\* bye\r\n",
        ),
        ("daytime", b"", rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\r\n"),
        ("greet", b"ignored", rb"Hello from reactor\.\n"),
        ("echo", b"abc", rb"abc"),
        ("discard", b"abc", rb""),
    ],
)
def test_client_of_the_command_line_gets_the_answer_of_each_app(app, sent, pattern):
    with server("serve", app, "--listen", "127.0.0.1:0") as (_, address):
        assert re.fullmatch(pattern, answer_of(address, sent), re.DOTALL)


def test_client_and_server_of_the_command_line(certificates, tls):
    data = bytes(range(256)) * 4096
    with server("serve", "echo", *tls) as (_, address):
        words = ["--tls", "--ca", certificates.file("ca.pem"), "--verbose"]
        with command("connect", address, *words, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(data, timeout=DEADLINE)
    assert process.returncode == 0
    assert out == data
    log = err.decode()
    assert "connected with TLSv1.3, TLS_" in log
    assert "for: localhost, " in log
    assert "valid from " in log


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_client_talks_with_openssl(certificates, version):
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-rev", version]
    own = ["-cert", certificates.file("server.pem"), "-key", certificates.file("server.key")]
    with subprocess.Popen([*words, *own], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as served:
        address = accepting(served)
        words = ["--tls", "--ca", certificates.file("ca.pem"), "--server-name", "example.org"]
        with command("connect", address, *words, stdin=subprocess.PIPE) as process:
            process.stdin.write(b"hello\n")
            assert process.stdout.read(6) == b"olleh\n"
            process.stdin.close()
            process.stdin = None
            assert process.wait(DEADLINE) == 0
        served.kill()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tls"], "certificate is not accepted: unable to get local issuer certificate"),
        (
            ["--tls", "--ca", "CA", "--server-name", "somebody.else"],
            "certificate is not accepted: Hostname mismatch",
        ),
    ],
)
def test_client_refuses_a_certificate_in_one_line(certificates, tls, capfd, words, message):
    words = [certificates.file("ca.pem") if word == "CA" else word for word in words]
    with server("serve", "echo", *tls) as (process, address):
        assert main(["connect", address, *words]) == 1
        assert b"the peer does not accept our certificate: " in process.stderr.readline()
    line = capfd.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_insecure_accepts_any_certificate(tls):
    with server("serve", "greet", *tls) as (_, address):
        with command("connect", address, "--tls", "--insecure", "--verbose") as process:
            out, err = process.communicate(timeout=DEADLINE)
    assert out == b"Hello from reactor.\n"
    assert b"the peer's certificate was not checked" in err


def test_verbose_without_tls_logs_that_there_is_none():
    with server("serve", "greet", "--listen", "127.0.0.1:0") as (_, address):
        with command("connect", address, "--verbose") as process:
            _, err = process.communicate(timeout=DEADLINE)
    assert b"connected without TLS" in err


def test_client_reports_that_the_server_does_not_speak_tls(capfd):
    with server("serve", "echo", "--listen", "127.0.0.1:0") as (_, address):
        assert main(["connect", address, "--tls"]) == 1
        assert capfd.readouterr().err == (
            f"reactor: cannot connect to {address}: "
            "the peer does not speak TLS, or breaks its rules: unexpected message\n"
        )
    with server("serve", "greet", "--listen", "127.0.0.1:0") as (_, address):
        assert main(["connect", address, "--tls"]) == 1
    assert capfd.readouterr().err == (
        f"reactor: cannot connect to {address}: what the peer sends is not TLS\n"
    )


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["connect", "fd:3"], "fd:3 can't be connected to"),
        (["connect", "127.0.0.1:1", "--insecure"], "--insecure needs --tls"),
        (["connect", "127.0.0.1:1", "--server-name", "x"], "--server-name needs --tls"),
        (
            ["connect", "127.0.0.1:1", "--tls", "--server-name", ""],
            "--server-name: a host name can't be empty",
        ),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "x" * 64], "is no host name: label"),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "a..b"], "'a..b' is no host name: label empty"),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "x." * 127 + "x"], "255 bytes, and 253 fit"),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "a\nb"], r"'a\nb' is no host name"),
        (
            ["connect", "unix:/x", "--tls"],
            "TLS to unix:/x needs --server-name: whose certificate is expected?",
        ),
    ],
)
def test_invalid_argument_is_one_line_with_the_cause(capfd, words, cause):
    assert cause in usage_error(capfd, *words)


def test_authorities_that_cannot_be_read_are_one_line_and_status_1(capfd):
    assert main(["connect", "127.0.0.1:1", "--tls", "--ca", "/nowhere"]) == 1
    assert capfd.readouterr().err == "reactor: cannot read /nowhere: No such file or directory\n"
