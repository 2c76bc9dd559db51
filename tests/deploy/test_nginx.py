"""nginx in front, by the configuration in the README: the PROXY protocol, and reactor.http behind it."""

import getpass
import os
import shutil
import socket
import threading
from http.client import HTTPConnection
from pathlib import Path

import pytest
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import TextMessage

from reactor import ProxyProtocol
from reactor.apps.chat import Hall
from reactor.apps.chat_web import chat_page
from reactor.apps.proxy import Proxy
from reactor.http import HTTP, Response
from tests.deploy.balancers import documented, processes
from tests.helpers import DEADLINE, Echo, Factory
from tests.http.test_websocket import handshake

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

# In the foreground, with all its files in its prefix, which nobody else may read.
AROUND = """
daemon off;
user {user};
pid pid;
error_log stderr;
load_module {module};
events {{ worker_connections 64; }}
"""

HTTP_AROUND = """
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxied;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {}
}}
"""


@pytest.fixture
def nginx(tmp_path):
    """Return a function that starts nginx with a configuration, until the end of the test.

    It finds the listening socket in its environment, as the next nginx does when it replaces itself.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "nginx is missing: install its package"
    assert MODULE.exists(), f"{MODULE} is missing: install the package libnginx-mod-stream"
    with processes() as start_process, socket.create_server(("127.0.0.1", 0)) as public:

        def start(configuration):
            host, port = public.getsockname()
            configuration = configuration.replace("listen PUBLIC", f"listen {host}:{port}")
            file = tmp_path / "nginx.conf"
            file.write_text(AROUND.format(module=MODULE, user=getpass.getuser()) + configuration)
            start_process(
                [program, "-p", tmp_path, "-c", file, "-e", "stderr"],
                pass_fds=[public.fileno()],
                env={**os.environ, "NGINX": f"{public.fileno()};"},
            )
            return host, port

        yield start


@pytest.fixture
def behind_nginx(nginx, reactor_server):
    """Return a function that serves HTTP behind nginx, and returns the address of nginx."""

    def start(factory, without=()):
        server = reactor_server(factory)
        changes = {"listen 8000": "listen PUBLIC", "127.0.0.1:9094": server.address}
        changes.update(dict.fromkeys(without, ""))
        return nginx(HTTP_AROUND.format(documented("nginx", changes, number=1)))

    return start


def test_stream_names_the_client_and_passes_its_end_of_file_on(nginx, reactor_server):
    factory = Factory(Echo)
    server = reactor_server(factory, proxy_protocol=ProxyProtocol(trusted=["127.0.0.1"]))
    public = nginx(documented("nginx", {"listen 4000": "listen PUBLIC", "127.0.0.1:9092": server.address}))
    with socket.create_connection(public, DEADLINE) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert file.read() == b"hello"
        connection = factory.only.connection
        header = connection.get_extra_info("proxy")
        assert (header.version, header.source, header.destination) == (1, client.getsockname(), public)
        assert connection.get_extra_info("peername") == client.getsockname()
    assert server.reactor.stats().refused == {}


# Answers with what it has learned of the client.
BEHIND = """
server {
    listen PUBLIC proxy_protocol;
    return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port";
}
"""


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_names_its_client_to_nginx(nginx, reactor_server, version):
    target = nginx(HTTP_AROUND.format(BEHIND))
    server = reactor_server(lambda: Proxy(target, version))
    client = HTTPConnection(server.address.host, server.address.port, timeout=DEADLINE)
    client.request("GET", "/")
    with client.getresponse() as answer:
        host, port = client.sock.getsockname()
        assert answer.read().decode() == f"{host} {port} {server.address.port}"
    client.close()


def test_connections_to_the_server_are_kept_and_the_client_is_named(behind_nginx):
    seen = []

    def page(request):
        seen.append((request.connection, request.headers))
        return Response(200, f"{request.method} {request.host} {len(request.body)}")

    host, port = behind_nginx(HTTP(page, max_body=200_000))
    for body in (None, b"x" * 100_000):
        client = HTTPConnection(host, port, timeout=DEADLINE)  # another connection, to nginx
        method = "POST" if body else "GET"
        client.request(method, "/", body, {"X-Forwarded-For": "192.0.2.66"})
        answer = client.getresponse()
        assert (answer.status, answer.read().decode()) == (200, f"{method} {host}:{port} {len(body or b'')}")
        client.close()
    (first, headers), (second, _) = seen
    assert first is second
    assert headers["x-forwarded-for"] == f"192.0.2.66, {host}"
    assert headers["x-forwarded-proto"] == "http"


@pytest.mark.parametrize("without", [(), ("proxy_buffering off;",)])
def test_events_come_one_by_one_and_the_end_of_the_browser_is_seen(behind_nginx, without):
    streams, ended = [], threading.Event()

    def subscribe(request):
        events = request.events()
        events.on_close = lambda exc: ended.set()
        streams.append(events)
        events.send("first")

    client = HTTPConnection(*behind_nginx(HTTP({"/events": subscribe}), without), timeout=DEADLINE)
    client.request("GET", "/events")
    with client.getresponse() as answer:
        assert (answer.readline(), answer.readline()) == (b"data: first\n", b"\n")
        (events,) = streams
        events.connection.reactor.submit(events.send, "second").result(DEADLINE)
        assert answer.readline() == b"data: second\n"
    client.close()
    assert ended.wait(DEADLINE)


def test_pieces_of_an_answer_come_one_by_one(behind_nginx):
    streams = []

    def begin(request):
        streams.append(request.start(content_type="text/plain"))
        streams[0].write(b"first\n")

    client = HTTPConnection(*behind_nginx(HTTP(begin)), timeout=DEADLINE)
    client.request("GET", "/")
    with client.getresponse() as answer:
        assert answer.readline() == b"first\n"
        streams[0].connection.reactor.submit(streams[0].end).result(DEADLINE)
        assert answer.read() == b""
    client.close()


def test_page_of_the_chat_talks_over_its_websocket(behind_nginx):
    host, port = behind_nginx(chat_page(Hall()))
    origin = f"Origin: http://{host}:{port}"
    with socket.create_connection((host, port), DEADLINE) as client, client.makefile("rb") as file:
        client.sendall(handshake(origin, path="/socket", host=f"{host}:{port}"))
        assert file.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while file.readline() != b"\r\n":
            pass
        frames = Frames(ConnectionType.CLIENT)
        client.sendall(frames.send(TextMessage("hello")))
        heard = ""
        while '"text": "hello"' not in heard:
            frames.receive_data(file.read1())
            heard += "".join(event.data for event in frames.events())
