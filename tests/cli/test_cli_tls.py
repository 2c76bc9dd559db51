"""TLS on the command line, with OpenSSL's own programs and curl at the other end."""

import os
import shutil
import signal
import ssl
import subprocess

import pytest

from reactor.cli.main import main
from tests.cli.test_main import client_of, command, server, usage_error
from tests.helpers import DEADLINE, accepting


@pytest.fixture
def tls(certificates):
    """The words of a server with TLS."""
    cert, key = certificates.file("server.pem"), certificates.file("server.key")
    return ["--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key]


def run(words, data=b""):
    """Return what another program says: its output, and its status."""
    assert shutil.which(words[0]), f"{words[0]} is missing: install its package"
    return subprocess.run(words, input=data, capture_output=True, timeout=DEADLINE, check=False)


def talking(*words):
    """Return another program, whose input and output are pipes."""
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def s_client(certificates, address, *words):
    return [
        *["openssl", "s_client", "-connect", address, "-servername", "localhost", "-quiet", "-no_ign_eof"],
        *["-CAfile", certificates.file("ca.pem"), "-verify_return_error", *words],
    ]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_talks_with_the_server(certificates, tls, version):
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


def test_openssl_updates_its_keys(certificates, tls):
    """A line with a K asks the other side for new keys too: s_client(1)."""
    with server("serve", "echo", *tls) as (_, address):
        words = ["openssl", "s_client", "-connect", address, "-servername", "localhost"]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            for line in (b"before\n", b"K\n", b"after\n"):
                client.stdin.write(line)
                client.stdin.flush()
                while (told := client.stdout.readline()) != line and line != b"K\n":
                    assert told, "the client ended"
                if line == b"K\n":
                    while told.strip() != b"KEYUPDATE":
                        assert told, "the client ended"
                        told = client.stdout.readline()
            client.stdin.close()
            client.wait(DEADLINE)


def test_openssl_is_asked_for_its_certificate(certificates, tls):
    ca = certificates.file("ca.pem")
    with server("serve", "greet", *tls, "--tls-client-ca", ca) as (process, address):
        refused = run(s_client(certificates, address, "-ign_eof"))
        assert b"Hello" not in refused.stdout
        assert b"certificate required" in refused.stderr
        assert b"peer did not return a certificate" in process.stderr.readline()
        own = ["-cert", certificates.file("client.pem"), "-key", certificates.file("client.key")]
        assert run(s_client(certificates, address, "-ign_eof", *own)).stdout == b"Hello from reactor.\n"


def test_server_tells_the_protocol_that_was_agreed_on(certificates, tls):
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


def test_client_and_server_of_the_command_line(certificates, tls):
    data = bytes(range(256)) * 4096
    with server("serve", "echo", *tls) as (_, address):
        words = ["--tls", "--ca", certificates.file("ca.pem"), "--verbose"]
        with command("connect", address, *words, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(data, timeout=DEADLINE)
    assert process.returncode == 0
    assert out == data
    told = err.decode()
    assert "connected with TLSv1.3, TLS_" in told
    assert "for: localhost, " in told
    assert "valid from " in told


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
    ("words", "told"),
    [
        (["--tls"], "certificate is not accepted: unable to get local issuer certificate"),
        (
            ["--tls", "--ca", "CA", "--server-name", "somebody.else"],
            "certificate is not accepted: Hostname mismatch",
        ),
    ],
)
def test_client_refuses_a_certificate_in_one_line(certificates, tls, capfd, words, told):
    words = [certificates.file("ca.pem") if word == "CA" else word for word in words]
    with server("serve", "echo", *tls) as (_, address):
        assert main(["connect", address, *words]) == 1
    line = capfd.readouterr().err
    assert told in line
    assert line.count("\n") == 1


def test_client_takes_any_certificate_if_it_is_told_to(tls):
    with server("serve", "greet", *tls) as (_, address):
        with command("connect", address, "--tls", "--insecure", "--verbose") as process:
            out, err = process.communicate(timeout=DEADLINE)
    assert out == b"Hello from reactor.\n"
    assert b"the peer's certificate was not checked" in err


def test_client_without_tls_tells_so():
    with server("serve", "greet", "--listen", "127.0.0.1:0") as (_, address):
        with command("connect", address, "--verbose") as process:
            _, err = process.communicate(timeout=DEADLINE)
    assert b"connected without TLS" in err


def test_plain_text_client_is_one_short_line(tls):
    with server("serve", "echo", *tls) as (process, address), client_of(address) as client:
        client.sendall(b"hello\r\n")
        assert client.recv(100)[0] == 21
        line = process.stderr.readline()
        assert b": what the peer sends is not TLS" in line
        assert len(line) < 120


def test_client_says_that_the_server_does_not_speak_tls(capfd):
    with server("serve", "echo", "--listen", "127.0.0.1:0") as (_, address):
        assert main(["connect", address, "--tls"]) == 1
        assert capfd.readouterr().err == (
            f"reactor: cannot connect to {address}: "
            "the peer does not speak TLS, or not in turn: unexpected message\n"
        )
    with server("serve", "greet", "--listen", "127.0.0.1:0") as (_, address):
        assert main(["connect", address, "--tls"]) == 1
    assert capfd.readouterr().err == (
        f"reactor: cannot connect to {address}: what the peer sends is not TLS\n"
    )


@pytest.mark.parametrize("first", [b"hello\r\n\r\n", b"\x94\x03\x8c\xe8q^\x06\x1b\x9b`\x89\x03" * 20])
def test_server_says_that_a_client_does_not_speak_tls(tls, first):
    with server("serve", "echo", *tls) as (process, address), client_of(address) as client:
        client.sendall(first)
        assert process.stderr.readline().endswith(b": what the peer sends is not TLS\n")


def test_new_certificate_at_sighup(certificates, tmp_path):
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
        told = process.stderr.readline()
        assert b"the old certificate stays: no certificate and private key" in told
        assert "other.example" in names(address)
        cert.unlink()
        os.mkfifo(cert)
        process.send_signal(signal.SIGHUP)
        told = process.stderr.readline().decode()
        assert told.endswith(f"the old certificate stays: cannot read {cert}: it is not a regular file\n")
        assert "other.example" in names(address)


def test_files_that_cannot_be_used_are_one_line(certificates, capfd):
    words = [
        "serve",
        "--tls-cert",
        certificates.file("server.pem"),
        "--tls-key",
        certificates.file("client.key"),
    ]
    assert main(words) == 1
    told = capfd.readouterr().err
    assert "does not belong to the certificate" in told
    assert told.count("\n") == 1
    assert main(["connect", "127.0.0.1:1", "--tls", "--ca", "/nowhere"]) == 1
    assert capfd.readouterr().err == "reactor: cannot read /nowhere: No such file or directory\n"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["serve", "--tls-key", "x"], "--tls-key needs --tls-cert"),
        (["serve", "--alpn", "x"], "--alpn needs --tls-cert"),
        (["connect", "127.0.0.1:1", "--insecure"], "--insecure needs --tls"),
        (["connect", "127.0.0.1:1", "--server-name", "x"], "--server-name needs --tls"),
        (
            ["connect", "127.0.0.1:1", "--tls", "--alpn", ""],
            "argument --alpn: the ALPN name '' must have 1 to",
        ),
        (
            ["connect", "127.0.0.1:1", "--tls", "--alpn", "a,,b"],
            "argument --alpn: the ALPN name '' must have",
        ),
        (["serve", "--tls-cert", "x", "--alpn", "x" * 256], "argument --alpn: the ALPN name 'xxx"),
        (
            ["serve", "--tls-cert", "x", "--alpn", "h\n2\u00e9"],
            r"argument --alpn: the ALPN name 'h\n2é' must",
        ),
        (
            ["connect", "127.0.0.1:1", "--tls", "--server-name", ""],
            "--server-name: a host name can't be empty",
        ),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "x" * 64], "is no host name: label"),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "a..b"], "'a..b' is no host name: label empty"),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "x." * 127 + "x"], "255 bytes, and 253 fit"),
        (["connect", "127.0.0.1:1", "--tls", "--server-name", "a\nb"], r"'a\nb' is no host name"),
        (["connect", "x" * 64 + ":1", "--tls"], "argument ADDRESS: 'xxx"),
        (
            ["connect", "unix:/x", "--tls"],
            "TLS to unix:/x needs --server-name: whose certificate is expected?",
        ),
    ],
)
def test_words_that_belong_together(capfd, words, cause):
    assert cause in usage_error(capfd, *words)
