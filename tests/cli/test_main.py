"""`main`: the parser, the exit status, standard descriptors that are closed or full, and the log."""

import re
import signal
import socket

import pytest

from reactor.cli.main import main
from tests.cli.programs import connected, listening_socket, read_all, redirected, server, usage_error
from tests.helpers import DEADLINE, client_of


def test_messages_name_the_command_as_it_was_called(capfd):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capfd.readouterr().out.startswith("usage: reactor ")
    assert usage_error(capfd, "bogus").startswith("reactor: ")
    assert usage_error(capfd, "--bogus").endswith("(try reactor serve --help)\n")
    assert usage_error(capfd, "--listen", "x").endswith("(try reactor serve --help)\n")


def test_bytes_from_a_peer_are_escaped_in_the_log(tmp_path):
    (tmp_path / "logging_app.py").write_text(
        "import logging\n"
        "from reactor import Protocol\n"
        "class Logging(Protocol):\n"
        "    def data_received(self, data):\n"
        "        logging.getLogger('app').info('got %s', data.decode('latin-1'))\n"
        "        raise ValueError(data.decode('utf-8', 'surrogateescape'))\n"
    )
    words = ("serve", "logging_app:Logging", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (process, address):
        with client_of(address) as client:
            client.sendall(b"\x1b[2J\xff\r\n2026-01-01 INFO listening on 0.0.0.0:22\n")
            with pytest.raises(ConnectionResetError):
                read_all(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        log = process.stderr.read()
    assert rb"INFO got \x1b[2J" + "ÿ".encode() + rb"\r\n2026-01-01 INFO listening on 0.0.0.0:22\n" in log
    assert rb"ValueError: \x1b[2J\udcff\r\n2026-01-01 INFO listening" in log
    assert b"\x1b" not in log
    assert not [line for line in log.splitlines() if line.startswith(b"2026-01-01")]


def test_version(capfd):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert re.fullmatch(r"reactor \d+\.\d+\.\d+\n", capfd.readouterr().out)


def test_closed_standard_input_is_empty():
    assert connected("<&-") == (0, b"", b"")
    assert connected("<&-", app="greet") == (0, b"Hello from reactor.\n", b"")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_closed_or_full_standard_error_changes_neither_output_nor_status(redirection):
    assert connected(redirection) == (0, b"x", b"")
    with listening_socket() as (_, address):
        pass
    for words, status in ((["connect", address], 1), (["--bogus"], 2)):
        with redirected(redirection, *words) as process:
            assert process.communicate(timeout=DEADLINE) == (b"", b"")
        assert process.returncode == status


def test_all_three_standard_streams_may_be_closed():
    assert connected("<&- >&- 2>&-") == (1, b"", b"")


def test_log_is_not_sent_to_a_peer_if_standard_error_is_closed(tmp_path):
    """The first descriptors are free then; sockets would get their numbers."""
    path = tmp_path / "s"
    (tmp_path / "noisy.py").write_text(
        "import logging\n"
        "from reactor.apps.echo import Echo\n"
        "class Noisy(Echo):\n"
        "    def data_received(self, data):\n"
        "        logging.getLogger('reactor').error('noise')\n"
        "        print('noise')\n"
        "        super().data_received(data)\n"
    )
    words = ("serve", "noisy:Noisy", "--listen", f"unix:{path}")
    with redirected("<&- >&- 2>&-", *words, cwd=tmp_path) as process:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            while True:
                try:
                    client.connect(str(path))
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    assert process.poll() is None
            client.sendall(b"x")
            assert client.recv(100) == b"x"
            process.send_signal(signal.SIGTERM)
            assert read_all(client) == b""
        assert process.wait(DEADLINE) == 0


@pytest.mark.slow
def test_full_standard_error_does_not_stop_the_server(tmp_path):
    (tmp_path / "noisy.py").write_text(
        "import logging\n"
        "from reactor.apps.echo import Echo\n"
        "class Noisy(Echo):\n"
        "    def data_received(self, data):\n"
        "        logging.getLogger('reactor').error('x' * 1024)\n"
        "        super().data_received(data)\n"
    )
    words = ("serve", "noisy:Noisy", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (process, address), client_of(address) as client:
        for _ in range(200):  # more than the pipe to this test holds
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--log-level", "loud"], "invalid choice: 'loud'"),
        (["bogus"], "invalid choice: 'bogus'"),
        (["bogus\n\x1b[2J"], r"invalid choice: 'bogus\n\x1b[2J'"),
        (["--bogus\n\x1b[2J"], r"unrecognized arguments: --bogus\n\x1b[2J"),
        (["connect"], "the following arguments are required: ADDRESS"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_invalid_argument_is_one_line_with_the_cause(capfd, words, cause):
    assert cause in usage_error(capfd, *words)
