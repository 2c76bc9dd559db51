"""`serve`: apps and factories, limits, signals and the drain; TLS with OpenSSL's client and curl."""

import errno
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager

import pytest

from reactor import ListenError, Reactor
from reactor.cli.main import main
from tests.cli.programs import command, listening_on, listening_socket, read_all, server, usage_error
from tests.helpers import DEADLINE, client_of
from tests.status.clients import get, metrics


def test_echo_is_the_default_app():
    with server("--listen", "127.0.0.1:0") as (_, address), client_of(address) as client:
        client.sendall(b"hi\n")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"hi\n"


def test_default_address_is_that_of_the_readme(monkeypatch, capfd):
    """`listen` is replaced: the port may be in use."""

    def refuse(self, address, *args, **options):
        raise ListenError(errno.EADDRINUSE, f"not on {address}")

    monkeypatch.setattr(Reactor, "listen", refuse)
    assert main([]) == 1
    assert capfd.readouterr().err == "reactor: not on 127.0.0.1:9092\n"


@pytest.mark.parametrize(
    ("app", "sent", "received"),
    [("echo", b"abc", b"abc"), ("discard", b"abc", b""), ("greet", b"", b"Hello from reactor.\n")],
)
def test_every_app_answers(app, sent, received):
    with server("serve", app, "--listen", "127.0.0.1:0") as (_, address), client_of(address) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == received


def test_several_addresses_are_served_and_logged(tmp_path):
    path = str(tmp_path / "s")
    with server("--listen", "127.0.0.1:0", "--listen", f"unix:{path}") as (process, first):
        assert listening_on(process) == f"unix:{path}"
        for address in (first, f"unix:{path}"):
            with client_of(address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"


def test_inherited_descriptor_is_served():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = ("--listen", f"fd:{listening.fileno()}")
        with server(*words, pass_fds=[listening.fileno()]) as (_, address), client_of(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_idle_connection_is_closed():
    words = ("--listen", "127.0.0.1:0", "--idle-timeout", "0.05")
    with server(*words) as (_, address), client_of(address) as client:
        assert client.recv(1) == b""


def test_max_connections_leaves_the_next_in_the_accept_queue():
    words = ("--listen", "127.0.0.1:0", "--max-connections", "1")
    with server(*words) as (_, address), client_of(address) as first:
        first.sendall(b"1")
        assert first.recv(1) == b"1"
        with client_of(address) as second:
            second.sendall(b"2")
            first.close()
            assert second.recv(1) == b"2"


def test_max_per_ip_closes_the_second_client():
    words = ("--listen", "127.0.0.1:0", "--max-per-ip", "1")
    with server(*words) as (_, address), client_of(address) as first:
        first.sendall(b"1")
        assert first.recv(1) == b"1"
        with client_of(address) as second:
            assert second.recv(1) == b""
        first.sendall(b"2")
        assert first.recv(1) == b"2"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_sends_its_client_s_address_to_a_server_behind_it(version):
    words = ("--listen", "127.0.0.1:0", "--proxy-protocol", "--proxy-trust", "127.0.0.1", "--max-per-ip", "1")
    with server("serve", "echo", *words) as (_, behind):
        names = ("serve", "proxy", "--listen", "127.0.0.1:0", "--to", behind, "--send-proxy", version)
        with server(*names) as (_, address), client_of(address) as first:
            first.sendall(b"1")
            assert first.recv(1) == b"1"
            with client_of(address) as second:  # one more of its client
                assert second.recv(1) == b""
            with client_of(behind) as other:  # of another client, as it says
                other.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n3")
                assert other.recv(1) == b"3"


def test_client_that_is_no_trusted_proxy_is_refused():
    words = (
        "--listen",
        "127.0.0.1:0",
        "--proxy-protocol",
        "--proxy-trust",
        "10.0.0.0/8",
        "--proxy-trust",
        "unix:",
    )
    with server(*words) as (process, address), client_of(address) as client:
        assert client.recv(1) == b""
        assert b"is refused: it is none of the trusted proxies" in process.stderr.readline()


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
    """Run a server with more queued for its one client than the kernel buffers; the client does not read."""
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
            continue  # it was in the accept queue when the listener closed


@pytest.mark.slow
def test_second_signal_stops_at_once(tmp_path):
    with flood(tmp_path, "--drain-timeout", "1000") as (process, address):
        process.send_signal(signal.SIGTERM)
        wait_until_refused(address)  # the drain has begun
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 1
        message = process.stderr.read()
        # How many of those that asked whether it still accepts were taken in is chance.
        assert re.search(rb"stopped at once, with [1-9]\d* connections? still open\n$", message), message


def test_drain_ends_at_its_timeout(tmp_path):
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
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert "move it away" in message


def test_directory_to_listen_on_is_one_line_and_status_1(capfd, tmp_path):
    assert main(["--listen", f"unix:{tmp_path}"]) == 1
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert f"cannot listen on unix:{tmp_path}: a directory is there: name a socket in it" in message


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["proxy"], "this app needs --to: it forwards to --to ADDRESS"),
        (["files"], "this app needs --root: it sends the files of --root DIR"),
        (["echo", "--to", "127.0.0.1:1"], "--to is for the app proxy"),
        (["proxy", "--to", "127.0.0.1:1", "--root", "/"], "--root is for the app files"),
        (["files", "--root", "/no/such/place"], "'/no/such/place' is not a directory"),
        (["proxy", "--to", "nowhere"], "'nowhere' has no port"),
        (["echo", "--send-proxy", "v1"], "--send-proxy is for the app proxy"),
        (
            ["proxy", "--to", "127.0.0.1:1", "--send-proxy", "v3"],
            "argument --send-proxy: invalid choice: 'v3'",
        ),
        (["echo", "--proxy-protocol"], "--proxy-protocol needs --proxy-trust"),
        (["echo", "--proxy-trust", "10.0.0.0/8"], "--proxy-trust needs --proxy-protocol"),
        (
            ["echo", "--proxy-protocol", "--proxy-trust", "10.0.0.1/8"],
            "argument --proxy-trust: trusted has '10.0.0.1/8', which is neither a network nor 'unix:'",
        ),
    ],
)
def test_option_of_an_app_is_required_by_it_and_refused_for_others(capfd, words, cause):
    assert cause in usage_error(capfd, "serve", *words)


def run(words, data=b""):
    """Run another program; return its output and exit status."""
    assert shutil.which(words[0]), f"{words[0]} is missing: install its package"
    return subprocess.run(words, input=data, capture_output=True, timeout=DEADLINE, check=False)


def s_client(certificates, address, *words):
    return [
        *["openssl", "s_client", "-connect", address, "-servername", "localhost", "-quiet", "-no_ign_eof"],
        *["-CAfile", certificates.file("ca.pem"), "-verify_return_error", *words],
    ]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client_is_served(certificates, tls, version):
    with server("serve", "echo", *tls) as (_, address):
        words = s_client(certificates, address, version)
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as client:
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"hello\n"
            client.stdin.close()
            assert client.wait(DEADLINE) == 0


def test_openssl_resumes_a_session(certificates, tls, tmp_path):
    session = str(tmp_path / "session")
    with server("serve", "greet", *tls) as (_, address):
        words = ["openssl", "s_client", "-connect", address, "-servername", "localhost"]
        first = run([*words, "-sess_out", session, "-ign_eof"])
        again = run([*words, "-sess_in", session, "-ign_eof"])
    assert b"Hello from reactor." in first.stdout
    assert b"New, TLSv1.3" in first.stdout
    assert b"Reused, TLSv1.3" in again.stdout


def test_key_updates_of_openssl_are_answered(certificates, tls):
    """A line with a K asks the other side for new keys too: s_client(1)."""
    with server("serve", "echo", *tls) as (_, address):
        words = ["openssl", "s_client", "-connect", address, "-servername", "localhost"]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            for line in (b"before\n", b"K\n", b"after\n"):
                client.stdin.write(line)
                client.stdin.flush()
                while (answer := client.stdout.readline()) != line and line != b"K\n":
                    assert answer, "the client ended"
                if line == b"K\n":
                    while answer.strip() != b"KEYUPDATE":
                        assert answer, "the client ended"
                        answer = client.stdout.readline()
            client.stdin.close()
            client.wait(DEADLINE)


def test_client_certificate_is_required(certificates, tls):
    ca = certificates.file("ca.pem")
    with server("serve", "greet", *tls, "--tls-client-ca", ca) as (process, address):
        refused = run(s_client(certificates, address, "-ign_eof"))
        assert b"Hello" not in refused.stdout
        assert b"certificate required" in refused.stderr
        assert b"peer did not return a certificate" in process.stderr.readline()
        own = ["-cert", certificates.file("client.pem"), "-key", certificates.file("client.key")]
        assert run(s_client(certificates, address, "-ign_eof", *own)).stdout == b"Hello from reactor.\n"


def test_server_selects_an_application_protocol(certificates, tls):
    with server("serve", "greet", *tls, "--alpn", "two,one") as (_, address):
        done = run(["openssl", "s_client", "-connect", address, "-alpn", "one,two", "-ign_eof"])
    assert b"ALPN protocol: two" in done.stdout


def test_curl_reads_from_the_server(certificates, tls, tmp_path):
    (tmp_path / "http.py").write_text(
        "from reactor import Protocol\n"
        "class Hello(Protocol):\n"
        "    def connection_made(self, connection):\n"
        "        self.connection = connection\n"
        "    def data_received(self, data):\n"
        "        self.connection.write(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + b'x' * 1000000)\n"
        "        self.connection.close()\n"
    )
    with server("serve", "http:Hello", *tls, cwd=tmp_path) as (_, address):
        done = run(["curl", "-sS", "--cacert", certificates.file("ca.pem"), f"https://{address}/"])
    assert done.stderr == b""
    assert done.stdout == b"x" * 1_000_000


def test_client_in_clear_is_logged_in_one_short_line(tls):
    with server("serve", "echo", *tls) as (process, address), client_of(address) as client:
        client.sendall(b"hello\r\n")
        assert client.recv(100)[0] == 21
        line = process.stderr.readline()
        assert b": what the peer sends is not TLS" in line
        assert len(line) < 120


@pytest.mark.parametrize("first", [b"hello\r\n\r\n", b"\x94\x03\x8c\xe8q^\x06\x1b\x9b`\x89\x03" * 20])
def test_client_that_does_not_speak_tls_is_logged(tls, first):
    with server("serve", "echo", *tls) as (process, address), client_of(address) as client:
        client.sendall(first)
        assert process.stderr.readline().endswith(b": what the peer sends is not TLS\n")


def test_certificate_is_reloaded_at_sighup(certificates, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(name):
        shutil.copy(certificates.file(f"{name}.pem"), cert)
        shutil.copy(certificates.file(f"{name}.key"), key)

    def names(address):
        host, port = address.rsplit(":", 1)
        pem = ssl.get_server_certificate((host, int(port)))
        shown = run(["openssl", "x509", "-noout", "-ext", "subjectAltName"], pem.encode()).stdout
        return shown.decode()

    install("server")
    with server("serve", "echo", "--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key) as (
        process,
        address,
    ):
        assert "localhost" in names(address)
        install("other")
        process.send_signal(signal.SIGHUP)
        assert b"new connections get the certificate of" in process.stderr.readline()
        assert "other.example" in names(address)
        key.write_text("")
        process.send_signal(signal.SIGHUP)
        message = process.stderr.readline()
        assert b"the old certificate stays: no certificate and private key" in message
        assert "other.example" in names(address)
        cert.unlink()
        os.mkfifo(cert)
        process.send_signal(signal.SIGHUP)
        message = process.stderr.readline().decode()
        assert message.endswith(f"the old certificate stays: cannot read {cert}: it is not a regular file\n")
        assert "other.example" in names(address)


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
            "'asyncio:sleep' is a coroutine function: give the factory that reactor.streams",
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
        (["serve", "--tls-key", "x"], "--tls-key needs --tls-cert"),
        (["serve", "--alpn", "x"], "--alpn needs --tls-cert"),
        (
            ["serve", "chat", "--workers", "2"],
            "with --workers 2 each worker would have rooms and names of its own: join them with --backplane",
        ),
        (["serve", "echo", "--backplane", "redis://localhost"], "--backplane is for the app chat"),
        (["serve", "os:getpid", "--web", ":0"], "--web is for the app chat"),
        (["serve", "chat", "--web", "nowhere"], "argument --web: "),
        (
            ["serve", "chat", "--backplane", "http://localhost"],
            "argument --backplane: the broker's URL is invalid: give redis://",
        ),
    ],
)
def test_invalid_argument_is_one_line_with_the_cause(capfd, words, cause):
    assert cause in usage_error(capfd, *words)


def test_certificate_that_cannot_be_used_is_one_line_and_status_1(certificates, capfd):
    cert, key = certificates.file("server.pem"), certificates.file("client.key")
    assert main(["serve", "--tls-cert", cert, "--tls-key", key]) == 1
    line = capfd.readouterr().err
    assert "does not belong to the certificate" in line
    assert line.count("\n") == 1


def test_status_page_of_a_process_alone():
    with command("serve", "echo", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0") as process:
        status = re.search(r"status page: http://(\S+)/\n", process.stderr.readline().decode())[1]
        address = listening_on(process)
        with client_of(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert metrics(status)["reactor_connections",] == 1
        assert "<title>reactor serve echo</title>" in get(status, "/")[2]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("0.0.0.0:0", "argument --status: the status page would be open to all who reach 0.0.0.0:0: "),
        ("nowhere", "argument --status: 'nowhere' has no port: "),
    ],
)
def test_status_address_that_can_not_be_meant(capfd, workers, status, error):
    line = usage_error(capfd, "serve", "echo", "--listen", "127.0.0.1:0", "--status", status, *workers)
    assert error in line


def test_status_open_is_about_an_address(capfd):
    assert "--status-open needs --status" in usage_error(capfd, "serve", "--status-open")


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_status_address_in_use(workers):
    with listening_socket() as (_, address):
        with command("serve", "echo", "--listen", "127.0.0.1:0", "--status", address, *workers) as process:
            assert process.wait(DEADLINE) == 1
            (line,) = process.stderr.read().decode().splitlines()
            assert f"cannot listen on {address}" in line


def test_status_page_that_is_open_is_warned_of():
    words = ("serve", "echo", "--listen", "127.0.0.1:0", "--status", "0.0.0.0:0", "--status-open")
    with command(*words) as process:
        assert b"WARNING the status page on 0.0.0.0:" in process.stderr.readline()


@pytest.mark.parametrize("package", ["h11", "prometheus_client"])
@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_status_page_without_the_extra_is_one_line(package, workers):
    words = ["serve", "echo", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", *workers]
    run = f"from reactor.cli.main import main; sys.exit(main({words!r}))"
    program = f"import sys; sys.modules[{package!r}] = None; {run}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "needs" in line
    assert "pip install 'selectors-reactor[" in line


# Datagrams


@pytest.mark.parametrize(
    ("app", "answer"), [("echo", b"hello"), ("daytime", rb"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00\r\n")]
)
def test_app_answers_datagrams(app, answer):
    with server("serve", app, "--udp", "--listen", "127.0.0.1:0") as (process, address):
        assert address.startswith("udp:127.0.0.1:")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
            client.send(b"hello")
            assert re.fullmatch(answer, client.recv(100))
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_unix_datagrams_are_served(tmp_path):
    path = str(tmp_path / "socket")
    with server("serve", "echo", "--udp", "--listen", f"unix:{path}") as (process, address):
        assert address == f"udp:unix:{path}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.bind(str(tmp_path / "client"))
            client.sendto(b"hello", path)
            assert client.recv(100) == b"hello"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert not os.path.exists(path)


def test_factory_of_a_module_serves_datagrams(tmp_path):
    (tmp_path / "loud.py").write_text(
        "from reactor.datagrams import DatagramProtocol\n"
        "class Loud(DatagramProtocol):\n"
        "    def connection_made(self, endpoint): self.endpoint = endpoint\n"
        "    def datagram_received(self, data, address, info=None):\n"
        "        self.endpoint.send(data.upper(), address)\n"
    )
    words = ("serve", "loud:Loud", "--udp", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (_, address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
            client.send(b"hello")
            assert client.recv(100) == b"HELLO"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("chat",), "--udp is for echo, daytime and module:factory: this app has connections only"),
        (("chat", "--workers", "2"), "--udp is for echo, daytime and module:factory: this app has"),
        (("echo", "--idle-timeout", "5"), "--idle-timeout is for connections, and --udp has none"),
        (("echo", "--tls-cert", "file"), "--tls-cert is for connections, and --udp has none"),
        (
            ("reactor:Protocol",),
            "it has no datagram_received; derive it from reactor.datagrams.DatagramProtocol",
        ),
        (("echo", "--listen", "unix:/no/such"), "cannot bind unix:/no/such"),
    ],
)
def test_what_datagrams_have_no_use_for_is_refused_in_one_line(capfd, words, message):
    if "cannot bind" in message:
        assert main(["serve", *words, "--udp"]) == 1
        error = capfd.readouterr().err
        assert error.count("\n") == 1
    else:
        error = usage_error(capfd, "serve", *words, "--udp")
    assert message in error


@pytest.mark.parametrize("listen", [(), ("--listen", ":80", "--listen", "127.0.0.1:9092")])
def test_proxy_to_itself_is_refused(capfd, listen):
    error = usage_error(capfd, "serve", "proxy", "--to", "127.0.0.1:9092", *listen)
    assert "the proxy listens on 127.0.0.1:9092 itself: give another --listen" in error


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("hiredis", ["--backplane", "redis://localhost"], "redis"),
        ("wsproto", ["--web", "127.0.0.1:0"], "web"),
        ("h11", ["--web", "127.0.0.1:0"], "web"),
        ("h11", ["--status", "127.0.0.1:0"], "status"),
        ("prometheus_client", ["--status", "127.0.0.1:0", "--workers", "1"], "status"),
    ],
)
def test_chat_without_an_extra_is_one_line_that_names_all_it_needs(package, words, extra):
    words = ["serve", "chat", "--listen", "127.0.0.1:0", *words]
    run = f"from reactor.cli.main import main; sys.exit(main({words!r}))"
    program = f"import sys; sys.modules[{package!r}] = None; {run}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f": {words[4]} needs {package.replace('_', '-')}: pip install 'selectors-reactor[{extra}]'" in line


def test_chat_serves_while_its_broker_is_away_and_is_not_ready(tmp_path):
    words = ["--backplane", f"unix://{tmp_path}/nothing", "--status", "127.0.0.1:0"]
    with command("serve", "chat", "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", *words) as process:
        said = ""
        addresses = []
        while len(addresses) < 4 or "cannot connect" not in said:
            said += process.stderr.readline().decode()
            addresses = re.findall(r"(?:status page: http://|chat: http://|listening on )(127[0-9.:]+)", said)
        status, page, lines, again = addresses
        assert again == page
        answer = get(status, "/ready")
        assert answer[0] == 503
        assert "other processes can't be reached" in str(answer)
        assert get(page, "/")[0] == 200
        with client_of(lines) as client:
            heard = b""
            while b"the others can't be reached" not in heard:
                heard += client.recv(1000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
