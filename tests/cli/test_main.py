"""The command line: what it serves, what it says, and how it ends."""

import errno
import os
import re
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from reactor import ListenError, Reactor
from reactor.cli.main import main
from tests.helpers import DEADLINE


@contextmanager
def command(*words, **options):
    """Run `python -m reactor` with `words`; give the process, and end it whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reactor", *words],
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def server(*words, **options):
    """Run a server; give the process and the address that it says it listens on."""
    with command(*words, **options) as process:
        yield process, listening_on(process)


@contextmanager
def listening_socket():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)
        yield listening, f"127.0.0.1:{listening.getsockname()[1]}"


def listening_on(process):
    ready, _, _ = select.select([process.stderr], [], [], DEADLINE)
    assert ready, "the server said nothing"
    line = process.stderr.readline().decode()
    found = re.search(r"listening on (\S+)\n$", line)
    assert found, line
    return found[1]


def client_of(address):
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(address.removeprefix("unix:"))
        return client
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=DEADLINE)


def read_all(client):
    data = b""
    while more := client.recv(65536):
        data += more
    return data


def usage_error(capfd, *words):
    """Return the one line that `words` are refused with."""
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_echoes_by_default():
    with server("--listen", "127.0.0.1:0") as (_, address), client_of(address) as client:
        client.sendall(b"hi\n")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"hi\n"


def test_default_address_is_the_one_of_the_readme(monkeypatch, capfd):
    """Whoever has the port now: nothing listens there for it."""

    def refuse(self, address, *args, **options):
        raise ListenError(errno.EADDRINUSE, f"not on {address}")

    monkeypatch.setattr(Reactor, "listen", refuse)
    assert main([]) == 1
    assert capfd.readouterr().err == "reactor: not on 127.0.0.1:9092\n"


@pytest.mark.parametrize(
    ("app", "sent", "received"),
    [("echo", b"abc", b"abc"), ("discard", b"abc", b""), ("greet", b"", b"Hello from reactor.\n")],
)
def test_apps(app, sent, received):
    with server("serve", app, "--listen", "127.0.0.1:0") as (_, address), client_of(address) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == received


def test_several_addresses_each_get_their_line(tmp_path):
    path = str(tmp_path / "s")
    with server("--listen", "127.0.0.1:0", "--listen", f"unix:{path}") as (process, first):
        assert listening_on(process) == f"unix:{path}"
        for address in (first, f"unix:{path}"):
            with client_of(address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"


def test_serves_a_factory_of_a_module_in_the_working_directory(tmp_path):
    (tmp_path / "shout.py").write_text(
        "from reactor import Protocol\n"
        "class Shout(Protocol):\n"
        "    def connection_made(self, connection): self.connection = connection\n"
        "    def data_received(self, data): self.connection.write(data.upper())\n"
    )
    words = ("serve", "shout:Shout", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (_, address), client_of(address) as client:
        client.sendall(b"hi")
        assert client.recv(2) == b"HI"


def test_inherited_descriptor():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = ("--listen", f"fd:{listening.fileno()}")
        with server(*words, pass_fds=[listening.fileno()]) as (_, address), client_of(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_idle_client_is_cut_off():
    words = ("--listen", "127.0.0.1:0", "--idle-timeout", "0.05")
    with server(*words) as (_, address), client_of(address) as client:
        assert client.recv(1) == b""


def test_max_connections_leaves_the_next_in_the_backlog():
    words = ("--listen", "127.0.0.1:0", "--max-connections", "1")
    with server(*words) as (_, address), client_of(address) as first:
        first.sendall(b"1")
        assert first.recv(1) == b"1"
        with client_of(address) as second:
            second.sendall(b"2")
            first.close()
            assert second.recv(1) == b"2"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_drains_and_exits_0(signum):
    with server("--listen", "127.0.0.1:0") as (process, address), client_of(address) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        process.send_signal(signum)
        assert client.recv(1) == b""
        assert process.wait(DEADLINE) == 0
        assert b"Traceback" not in process.stderr.read()


@contextmanager
def flood(tmp_path, *words):
    """Run a server that has more queued for its one client than any kernel takes; the client reads none."""
    (tmp_path / "flood.py").write_text(
        "from reactor import Protocol\n"
        "class Flood(Protocol):\n"
        "    def connection_made(self, connection): connection.write(bytes(1 << 28))\n"
    )
    words = ("serve", "flood:Flood", "--listen", "127.0.0.1:0", *words)
    with server(*words, cwd=tmp_path) as (process, address), client_of(address) as client:
        assert client.recv(1)
        yield process, address


def wait_until_refused(address):
    while True:
        try:
            client_of(address).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it was in the backlog when the listener closed


@pytest.mark.slow
def test_second_signal_leaves_at_once(tmp_path):
    with flood(tmp_path, "--drain-timeout", "1000") as (process, address):
        process.send_signal(signal.SIGTERM)
        wait_until_refused(address)  # the drain has begun
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 1
        told = process.stderr.read()
        # How many of those that asked whether it still accepts were taken in is chance.
        assert re.search(rb"stopped at once, with [1-9]\d* connections? still open\n$", told), told


def test_drain_gives_up_at_its_deadline(tmp_path):
    with flood(tmp_path, "--drain-timeout", "0.1") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_port_in_use_is_one_line_and_status_1():
    with listening_socket() as (_, address):
        with command("--listen", address) as process:
            out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert out == b""
    assert err.decode() == (
        f"python -m reactor: cannot listen on {address}: Address already in use: "
        "stop what listens there, or choose another\n"
    )


def test_address_that_is_not_permitted_is_one_line_and_status_1(capfd, tmp_path):
    (tmp_path / "file").write_text("not a socket")
    assert main(["--listen", f"unix:{tmp_path}/file"]) == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "move it away" in told


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            ["serve", "json:loads"],
            "'json:loads' can't be called without arguments: missing a required argument",
        ),
        (["serve", "reactor.apps.proxy:Proxy"], "can't be called without arguments: missing a required"),
        (["serve", "builtins:dict"], "'builtins:dict' is not a protocol class: it has no connection_made"),
        (["serve", "reactor.apps.chat:Hall"], "is not a protocol class: it has no connection_made"),
        (
            ["serve", "asyncio:sleep"],
            "'asyncio:sleep' is a coroutine function: a factory is a plain function",
        ),
        (["serve", "my_app.py"], "names a file: name the module as Python imports it, my_app:FACTORY"),
        (["serve", "./app.py:Factory"], "name the module as Python imports it, app:Factory"),
        (["serve", "apps/mine.py:F"], "name the module as Python imports it, apps.mine:F"),
        (["serve", "../app.py:F"], "name the module as Python imports it, module:factory"),
        (["serve", "/my-app.py"], "name the module as Python imports it, module:factory"),
        (["serve", "a\nb"], r"there is no app 'a\nb'"),
        (["serve", "nonsense"], "there is no app 'nonsense': choose echo, discard, greet, daytime, lines"),
        (["serve", "nonsense:"], "there is no app 'nonsense:'"),
        (["serve", "no_such_module:F"], "cannot import 'no_such_module:F': ModuleNotFoundError"),
        (["serve", "os:no_such_name"], "cannot import 'os:no_such_name': AttributeError"),
        (["serve", "os:sep"], "'os:sep' is not a factory: it is a str, which can't be called"),
        (["--listen", "[::1]"], "argument --listen: '[::1]' has no port: write [IPV6]:PORT"),
        (["--listen", "http://127.0.0.1:80"], "'http://127.0.0.1:80' is a URL: write HOST:PORT"),
        (["--listen", "x" * 64 + ":80"], "is no host name: label"),
        (["--listen", "nonsense"], "'nonsense' has no port: write HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "port 99999 in '127.0.0.1:99999' is out of range: 0 to 65535"),
        (["--listen", "127.0.0.1:http"], "'http' in '127.0.0.1:http' is no port number"),
        (["--idle-timeout", "-1"], "argument --idle-timeout: '-1' is not a number of seconds above 0"),
        (["--idle-timeout", "soon"], "argument --idle-timeout: 'soon' is not a number of seconds above 0"),
        (["--max-connections", "0"], "argument --max-connections: '0' is not a whole number of 1 or more"),
        (["--max-per-ip", "-1"], "argument --max-per-ip: '-1' is not a whole number of 1 or more"),
        (["--drain-timeout", "nan"], "argument --drain-timeout: 'nan' is not a number of seconds above 0"),
        (["--log-level", "loud"], "invalid choice: 'loud'"),
        (["bogus"], "invalid choice: 'bogus'"),
        (["--max-connections", "many"], "argument --max-connections: 'many' is not a whole number"),
        (["--max-connections", "9" * 5000], "argument --max-connections: '999"),
        (["--idle-timeout", "nan"], "argument --idle-timeout: 'nan' is not a number of seconds"),
        (["--idle-timeout=-inf"], "argument --idle-timeout: '-inf' is not a number of seconds"),
        (["connect", "127.0.0.1:1", "--timeout", "0"], "argument --timeout: '0' is not a number of seconds"),
        (["bogus\n\x1b[2J"], r"invalid choice: 'bogus\n\x1b[2J'"),
        (["--bogus\n\x1b[2J"], r"unrecognized arguments: --bogus\n\x1b[2J"),
        (["connect"], "the following arguments are required: ADDRESS"),
        (["connect", "fd:3"], "fd:3 can't be connected to"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_bad_word_is_one_line_with_the_cause(capfd, words, cause):
    assert cause in usage_error(capfd, *words)


def test_module_that_fails_to_import_is_one_line(capfd, tmp_path, monkeypatch):
    (tmp_path / "broken_app.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    told = usage_error(capfd, "serve", "broken_app:App")
    assert "cannot import 'broken_app:App': ZeroDivisionError: division by zero" in told


def test_module_that_exits_when_it_is_imported_is_one_line(capfd, tmp_path, monkeypatch):
    (tmp_path / "leaving_app.py").write_text("import sys\nsys.exit('goodbye\\nfor ever')")
    monkeypatch.syspath_prepend(tmp_path)
    told = usage_error(capfd, "serve", "leaving_app:App")
    assert r"cannot import 'leaving_app:App': SystemExit: goodbye\nfor ever" in told


@pytest.mark.parametrize("body", ["return 'text'", "return print", "yield"])
def test_factory_that_makes_no_protocol_is_reported_and_closes_the_connection(tmp_path, body):
    (tmp_path / "no_protocol.py").write_text(f"def make():\n    {body}\n")
    words = ("serve", "no_protocol:make", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (process, address):
        with client_of(address) as client:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        told = []
        while not told or not told[-1].startswith(b"TypeError: "):
            told.append(process.stderr.readline())
    assert b"ERROR exception in the protocol factory of <Listener" in told[0]
    expected = (
        rb"TypeError: no_protocol:make must return a protocol: it returned a \w+, without connection_made\n"
    )
    assert re.fullmatch(expected, told[-1])


def test_classes_of_other_libraries_and_functions_may_be_factories(tmp_path):
    (tmp_path / "makers.py").write_text(
        "import asyncio, functools\n"
        "from reactor.apps.greet import Greet\n"
        "class Buffered(asyncio.BufferedProtocol): pass\n"
        "class Anything:\n"
        "    def __init__(self): self._it = Greet()\n"
        "    def __getattr__(self, name): return getattr(self._it, name)\n"
        "def make(): return Greet()\n"
        "partly = functools.partial(Greet)\n"
    )
    for factory, greeting in (("Buffered", b""), ("Anything", b"H"), ("make", b"H"), ("partly", b"H")):
        words = ("serve", f"makers:{factory}", "--listen", "127.0.0.1:0")
        with server(*words, cwd=tmp_path) as (_, address), client_of(address) as client:
            client.shutdown(socket.SHUT_WR)
            if greeting:
                assert read_all(client)[:1] == greeting
            else:  # its get_buffer returns none
                with pytest.raises(ConnectionResetError):
                    read_all(client)


def test_installed_command_calls_itself_by_its_own_name(capfd):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capfd.readouterr().out.startswith("usage: reactor ")
    assert usage_error(capfd, "--bogus").startswith("reactor: ")
    assert usage_error(capfd, "--listen", "x").endswith("(try reactor serve --help)\n")


def test_directory_to_listen_on_is_one_line_and_status_1(capfd, tmp_path):
    assert main(["--listen", f"unix:{tmp_path}"]) == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert f"cannot listen on unix:{tmp_path}: a directory is there: name a socket in it" in told


def test_what_a_client_sends_is_not_raw_in_the_log(tmp_path):
    (tmp_path / "telling.py").write_text(
        "import logging\n"
        "from reactor import Protocol\n"
        "class Telling(Protocol):\n"
        "    def data_received(self, data):\n"
        "        logging.getLogger('app').info('got %s', data.decode('latin-1'))\n"
        "        raise ValueError(data.decode('utf-8', 'surrogateescape'))\n"
    )
    words = ("serve", "telling:Telling", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (process, address):
        with client_of(address) as client:
            client.sendall(b"\x1b[2J\xff\r\n2026-01-01 INFO listening on 0.0.0.0:22\n")
            with pytest.raises(ConnectionResetError):
                read_all(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        told = process.stderr.read()
    assert rb"INFO got \x1b[2J" + "ÿ".encode() + rb"\r\n2026-01-01 INFO listening on 0.0.0.0:22\n" in told
    assert rb"ValueError: \x1b[2J\udcff\r\n2026-01-01 INFO listening" in told
    assert b"\x1b" not in told
    assert not [line for line in told.splitlines() if line.startswith(b"2026-01-01")]


def test_version(capfd):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert re.fullmatch(r"reactor \d+\.\d+\.\d+\n", capfd.readouterr().out)


def test_connect_passes_its_input_to_the_peer_and_back():
    data = bytes(range(256)) * 4096
    with server("--listen", "127.0.0.1:0") as (_, address):
        with command("connect", address, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(data, timeout=DEADLINE)
            assert process.returncode == 0
            assert out == data
            assert err == b""


def test_connect_reads_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"from a file\n")
    with server("--listen", "127.0.0.1:0") as (_, address), (tmp_path / "file").open() as file:
        with command("connect", address, stdin=file) as process:
            out, _ = process.communicate(timeout=DEADLINE)
    assert out == b"from a file\n"


def test_connect_ends_when_the_peer_does_though_input_is_open():
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
    told = capfd.readouterr().err
    assert told == f"reactor: cannot connect to {address}: Connection refused\n"


def test_connect_tells_a_reset(capfd):
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


def test_connect_tells_that_its_output_was_closed():
    with server("--listen", "127.0.0.1:0") as (_, address):
        with command("connect", address, stdin=subprocess.PIPE) as process:
            process.stdout.close()
            process.stdout = None
            _, err = process.communicate(b"x", timeout=DEADLINE)
    assert process.returncode == 1
    assert err == b"python -m reactor: cannot write to standard output: Broken pipe\n"


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


def test_connect_tells_that_its_input_cannot_be_read(tmp_path):
    with server("--listen", "127.0.0.1:0") as (_, address):
        write_only = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
        with command("connect", address, stdin=write_only) as process:
            os.close(write_only)
            _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert err == b"python -m reactor: cannot read standard input: Bad file descriptor\n"


@contextmanager
def redirected(redirection, *words, **options):
    """Run `python -m reactor` with `words` and a redirection of the shell."""
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "reactor", *words],
        stdin=options.pop("stdin", subprocess.PIPE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def connected(redirection, data=b"x", app="echo"):
    """Return the status, output and errors of a client of the command line that is redirected."""
    with server("serve", app, "--listen", "127.0.0.1:0") as (_, address):
        with redirected(redirection, "connect", address) as process:
            out, err = process.communicate(data, timeout=DEADLINE)
    return process.returncode, out, err


def test_closed_standard_input_is_an_empty_one():
    assert connected("<&-") == (0, b"", b"")
    assert connected("<&-", app="greet") == (0, b"Hello from reactor.\n", b"")


def test_closed_standard_output_is_one_line_and_status_1():
    told = b"python -m reactor: standard output is closed, and what the peer sends would go there\n"
    assert connected(">&-") == (1, b"", told)
    assert connected("<&- >&-") == (1, b"", told)


def test_full_disk_for_standard_output_is_one_line_and_status_1():
    told = b"python -m reactor: cannot write to standard output: No space left on device\n"
    assert connected(">/dev/full") == (1, b"", told)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_standard_error_that_takes_nothing_changes_neither_output_nor_status(redirection):
    assert connected(redirection) == (0, b"x", b"")
    with listening_socket() as (_, address):
        pass
    for words, status in ((["connect", address], 1), (["--bogus"], 2)):
        with redirected(redirection, *words) as process:
            assert process.communicate(timeout=DEADLINE) == (b"", b"")
        assert process.returncode == status


def test_all_three_closed():
    assert connected("<&- >&- 2>&-") == (1, b"", b"")


def test_log_is_never_sent_to_a_peer_where_standard_error_is_closed(tmp_path):
    """The first descriptors are free then, and sockets would get them."""
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


def test_input_that_does_not_block_is_waited_for():
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


def test_output_that_does_not_block_is_waited_for(tmp_path):
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


def test_max_per_ip_closes_the_second_client():
    words = ("--listen", "127.0.0.1:0", "--max-per-ip", "1")
    with server(*words) as (_, address), client_of(address) as first:
        first.sendall(b"1")
        assert first.recv(1) == b"1"
        with client_of(address) as second:
            assert second.recv(1) == b""
        first.sendall(b"2")
        assert first.recv(1) == b"2"


def talked(address, words):
    """Return what `python -m reactor connect` prints for `words`."""
    told = subprocess.run(
        [sys.executable, "-m", "reactor", "connect", address],
        input=words,
        capture_output=True,
        timeout=DEADLINE,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_apps_with_options(tmp_path):
    """A file, through a proxy, to the client of the command line."""
    (tmp_path / "hello").write_bytes(b"hello from a file\n")
    with (
        server("serve", "files", "--root", str(tmp_path), "--listen", "127.0.0.1:0") as (_, files),
        server("serve", "proxy", "--to", files, "--listen", "127.0.0.1:0") as (_, proxy),
    ):
        assert talked(proxy, b"hello\n") == b"ok 18\nhello from a file\n"


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
def test_client_of_the_command_line_talks_with_each_app(app, sent, pattern):
    with server("serve", app, "--listen", "127.0.0.1:0") as (_, address):
        assert re.fullmatch(pattern, talked(address, sent), re.DOTALL)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["proxy"], "this app needs --to: it forwards to --to ADDRESS"),
        (["files"], "this app needs --root: it sends the files of --root DIR"),
        (["echo", "--to", "127.0.0.1:1"], "--to is for the app proxy"),
        (["proxy", "--to", "127.0.0.1:1", "--root", "/"], "--root is for the app files"),
        (["files", "--root", "/no/such/place"], "'/no/such/place' is not a directory"),
        (["proxy", "--to", "nowhere"], "'nowhere' has no port"),
    ],
)
def test_option_of_an_app_is_asked_for_and_refused_elsewhere(capfd, words, cause):
    assert cause in usage_error(capfd, "serve", *words)
