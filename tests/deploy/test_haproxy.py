"""HAProxy in front of a server and behind a proxy: the PROXY protocol with the real thing."""

import json
import logging
import os
import shutil
import socket
import threading
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from reactor import Address, Protocol, ProxyProtocol, Reactor
from reactor.apps.proxy import Proxy
from reactor.connection import pending_header
from reactor.http import HTTP, Response
from reactor.loop.selector import default_selector
from reactor.testing import Recorder
from tests.deploy.balancers import documented, processes
from tests.helpers import DEADLINE, Echo, Factory, spin
from tests.tls_peers import TlsPeer

PROXIES = ProxyProtocol(trusted=["127.0.0.1"])

DEFAULTS = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""

# Answers with what it has learned of the client.
BEHIND = """
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h

frontend behind
    bind fd@{fd} accept-proxy
    http-request return status 200 content-type text/plain lf-string \
"[\\"%[src]\\",%[src_port],\\"%[dst]\\",%[dst_port],\\"%[fc_pp_authority]\\",\\"%[fc_pp_unique_id]\\"]"
"""


@pytest.fixture
def reactor_selector():
    """One selector is enough: what differs between them is tested elsewhere."""
    return default_selector()


@pytest.fixture
def haproxy(tmp_path):
    """Return a function that starts HAProxy with a configuration, until the end of the test."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "haproxy is missing: install its package"
    with processes() as start_process:

        def start(configuration, *listening):
            file = tmp_path / f"{len(list(tmp_path.iterdir()))}.cfg"
            file.write_text(configuration)
            descriptors = [sock.fileno() for sock in listening]
            start_process([program, "-db", "-q", "-f", file], pass_fds=descriptors)

        yield start


@pytest.fixture
def public():
    """The socket that HAProxy is to listen on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def checked(reactor):
    """Return how many health checks have come and gone."""
    return reactor.stats().closed.get("clean", 0)


@contextmanager
def client_of(public):
    with socket.create_connection(public.getsockname(), DEADLINE) as sock:
        yield sock


def test_documented_configuration_names_client_and_tls_and_its_checks_are_quiet(
    reactor, public, haproxy, certificates, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(pending_header, "LOCAL_SILENCE", DEADLINE)  # a busy HAProxy leaves late
    caplog.set_level(logging.INFO)
    served = Factory(Echo)
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=PROXIES)
    both = tmp_path / "server.pem"
    both.write_bytes(
        b"".join(Path(certificates.file(name)).read_bytes() for name in ("server.key", "server.pem"))
    )
    configuration = documented(
        "haproxy",
        {
            "bind :4000": f"bind fd@{public.fileno()}",
            "/etc/haproxy/server.pem": both,
            "/etc/haproxy/clients.pem": certificates.file("ca.pem"),
            "127.0.0.1:9092": listener.addresses[0],
            "inter 2s": "inter 50ms",
        },
    )
    haproxy(configuration, public)
    spin(reactor, lambda: checked(reactor) >= 3)
    assert (served.made, reactor.stats().refused, caplog.records) == ([], {}, [])
    context = certificates.client()
    context.load_cert_chain(certificates.file("client.pem"), certificates.file("client.key"))
    with client_of(public) as sock:
        ours = sock.getsockname()
        peer = TlsPeer(sock, context, server_hostname="localhost")
        spin(reactor, lambda: peer.step() and peer.established, wait=0.01)
        peer.write(b"hello")
        spin(reactor, lambda: peer.step() and peer.received == b"hello", wait=0.01)
        (echo,) = served.made
        connection = echo.connection
        assert connection.get_extra_info("peername") == ours
        header = connection.get_extra_info("proxy")
        assert (header.version, header.source, header.destination) == (2, ours, public.getsockname())
        assert (header.authority, header.checksum, len(header.unique_id)) == ("localhost", True, 36)
        assert (header.tls.version, header.tls.verified) == (peer.ssl.version(), True)
        assert header.tls.cipher == peer.ssl.cipher()[0]
    before = checked(reactor)
    spin(reactor, lambda: checked(reactor) > before + 2)  # the checks go on to find it alive
    assert len(served.made) == 1


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_client_without_tls_and_its_end_of_file(reactor, public, haproxy, version):
    served = Factory(Echo)
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=PROXIES)
    haproxy(
        f"{DEFAULTS}\nlisten front\n    bind fd@{public.fileno()}\n"
        f"    server one {listener.addresses[0]} {version}\n",
        public,
    )
    with client_of(public) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: served.made and served.made[0].lost)
        assert served.made[0].connection.get_extra_info("peername") == client.getsockname()
        assert served.made[0].names == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert client.recv(100) == b"hello"


@pytest.mark.parametrize("version", ["check-send-proxy send-proxy", "send-proxy-v2"])
def test_check_that_expects_a_banner_finds_the_server_up(reactor, public, haproxy, tmp_path, version):
    class Greeting(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.write(b"220 ready\r\n")

    served = Factory(Greeting)
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=PROXIES)
    admin = str(tmp_path / "admin")
    haproxy(
        f"global\n    stats socket {admin}\n{DEFAULTS}\nlisten front\n    bind fd@{public.fileno()}\n"
        '    option tcp-check\n    tcp-check expect rstring "^220 "\n'
        f"    server one {listener.addresses[0]} check inter 400ms {version}\n",
        public,
    )
    spin(reactor, lambda: served.made and served.made[0].lost)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(DEADLINE)
        asking.connect(admin)
        asking.sendall(b"show servers state\n")
        state = b""
        while data := asking.recv(10000):
            state += data
    (line,) = (line.split() for line in state.decode().splitlines() if " one " in line)
    assert line[5] == "2", state  # srv_op_state: running


def asked(reactor, address):
    """Return what HAProxy learns of a client that comes by way of `address`, and the client's address."""
    with socket.create_connection((address.host, address.port), DEADLINE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.setblocking(False)
        answer = b""

        def step():
            nonlocal answer
            try:
                data = client.recv(10000)
            except BlockingIOError:
                return False
            answer += data
            return not data

        spin(reactor, step, wait=0.01)
        return json.loads(answer.partition(b"\r\n\r\n")[2]), client.getsockname()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_names_its_client_to_haproxy(reactor, public, haproxy, version):
    haproxy(BEHIND.format(fd=public.fileno()), public)
    target = public.getsockname()
    listener = reactor.listen("127.0.0.1:0", lambda: Proxy(target, version))
    (host, port, *rest), client = asked(reactor, listener.addresses[0])
    assert (host, port) == client
    assert rest == [listener.addresses[0].host, listener.addresses[0].port, "", ""]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_between_two_haproxies_passes_on_what_the_first_says(reactor, public, haproxy, version):
    with socket.create_server(("127.0.0.1", 0)) as behind:
        haproxy(BEHIND.format(fd=behind.fileno()), behind)
        target = behind.getsockname()
        listener = reactor.listen("127.0.0.1:0", lambda: Proxy(target, version), proxy_protocol=PROXIES)
        haproxy(
            f"{DEFAULTS}\n    unique-id-format number-%Ts\nlisten front\n    bind fd@{public.fileno()}\n"
            f"    server one {listener.addresses[0]} send-proxy-v2 proxy-v2-options unique-id,crc32c\n",
            public,
        )
        where = Address.from_sockaddr(public.getsockname())
        (host, port, *rest, authority, unique_id), client = asked(reactor, where)
        assert (host, port) == client
        assert rest == [*public.getsockname()]
        assert authority == ""
        assert unique_id.startswith("number-") is (version == "v2")


@pytest.mark.parametrize("header", ["v1", "v2"])
def test_connector_s_own_addresses_are_understood_by_haproxy(reactor, public, haproxy, header):
    haproxy(BEHIND.format(fd=public.fileno()), public)

    class Asking(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.write(b"GET / HTTP/1.0\r\n\r\n")

    recorder = Asking()
    reactor.connect(public.getsockname(), lambda: recorder, proxy_protocol=header)
    spin(reactor, lambda: recorder.lost)
    host, port, *_ = json.loads(recorder.received.partition(b"\r\n\r\n")[2])
    assert (host, port) == recorder.connection.get_extra_info("sockname", (host, port))


def test_documented_configuration_for_pages_names_the_client_of_each_connection(
    public, haproxy, reactor_server
):
    checks, names = threading.Semaphore(0), []

    def page(request):
        if request.connection.get_extra_info("proxy").local:
            checks.release()
        else:
            names.append(request.peername)
        return Response(200, "hello")

    server = reactor_server(HTTP(page), proxy_protocol=PROXIES)
    replacements = {
        "bind :8000": f"bind fd@{public.fileno()}",
        "127.0.0.1:9094": server.address,
        "inter 2s": "inter 50ms",
        # Else a check fails that has no answer before the next is due, as on a busy machine.
        "timeout server 75s": f"timeout server 75s\n    timeout check {DEADLINE:g}s",
    }
    haproxy(documented("haproxy", replacements, number=1), public)
    for _ in range(4):
        assert checks.acquire(timeout=DEADLINE)  # a server is down after three that fail
    with ExitStack() as stack:
        clients = [HTTPConnection(*public.getsockname(), timeout=DEADLINE) for _ in range(2)]
        for client in clients * 2:
            stack.callback(client.close)
            client.request("GET", "/")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"hello")
        assert names == [client.sock.getsockname() for client in clients * 2]
    assert server.reactor.stats().refused == {}


def test_server_that_does_not_trust_haproxy_is_down_for_it(public, haproxy):
    with Reactor() as reactor:
        listener = reactor.listen(
            "127.0.0.1:0", Protocol, proxy_protocol=ProxyProtocol(trusted=["10.0.0.0/8"])
        )
        haproxy(
            f"{DEFAULTS}\nlisten front\n    bind fd@{public.fileno()}\n"
            f"    server one {listener.addresses[0]} send-proxy-v2\n",
            public,
        )
        with client_of(public) as client:
            spin(reactor, lambda: reactor.stats().refused.get("proxy_untrusted"))
            assert client.recv(1) == b""
