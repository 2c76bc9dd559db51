"""Servers of the standard library on the reactor: the base class is replaced, the clients are real."""

import contextlib
import http.server
import json
import logging
import logging.config
import shutil
import socket
import struct
import subprocess
import threading
import wsgiref.simple_server
import xmlrpc.client
import xmlrpc.server

import pytest

from reactor.compat import socketserver
from tests.helpers import DEADLINE, serving


@contextlib.contextmanager
def serving_http(server):
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


def curl(*words):
    assert shutil.which("curl"), "curl is missing: install the package curl"
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", str(DEADLINE), *words],
        capture_output=True,
        check=True,
    )
    return done.stdout


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = None

    def __init__(self, *args):
        super().__init__(*args, directory=self.root)

    def log_message(self, *args):
        """Log nothing."""


@pytest.mark.parametrize("mixin", ["", "ThreadingMixIn", "ForkingMixIn"])
def test_http_server(tmp_path, mixin, descriptors):
    content = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(content)
    bases = [http.server.HTTPServer, socketserver.TCPServer]
    if mixin:
        bases.insert(0, getattr(socketserver, mixin))
    server_class = type("Server", tuple(bases), {})
    handler = type("Handler", (Quiet,), {"root": str(tmp_path)})
    with serving_http(server_class(("127.0.0.1", 0), handler)) as url:
        assert curl(f"{url}/file") == content
        assert curl(f"{url}/file", f"{url}/file") == content * 2  # on one connection
        status = curl("--output", "/dev/null", "--write-out", "%{http_code}", f"{url}/none")
        assert status == b"404"


def test_xmlrpc_server(descriptors):
    class Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer, socketserver.TCPServer):
        pass

    server = Server(("127.0.0.1", 0), logRequests=False)
    server.register_function(pow)
    server.register_introspection_functions()
    with serving_http(server) as url, xmlrpc.client.ServerProxy(url) as proxy:
        assert proxy.pow(2, 10) == 1024
        assert "pow" in proxy.system.listMethods()
        with pytest.raises(xmlrpc.client.Fault, match="unsupported operand"):
            proxy.pow("a", 1)


def test_wsgi_server(descriptors):
    class Server(wsgiref.simple_server.WSGIServer, socketserver.TCPServer):
        pass

    class Handler(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *args):
            """Log nothing."""

    def app(environ, start_response):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["REQUEST_METHOD"].encode(), b" ", body]

    with serving_http(wsgiref.simple_server.make_server("127.0.0.1", 0, app, Server, Handler)) as url:
        assert curl("--data", "hello", url) == b"POST hello"


@pytest.mark.slow
def test_logging_config_listen(monkeypatch, descriptors):
    name = "reactor.tests.listened"
    config = {"version": 1, "incremental": True, "loggers": {name: {"level": "ERROR"}}}
    bound, known = [], threading.Event()

    class Receiver(socketserver.ThreadingTCPServer):
        """Records the port, which `listen` does not return."""

        def server_activate(self):
            super().server_activate()
            bound.append(self.server_address[1])
            known.set()

    monkeypatch.setattr(logging.config, "ThreadingTCPServer", Receiver)
    thread = logging.config.listen(0)
    thread.start()
    try:
        assert known.wait(DEADLINE)
        with socket.create_connection(("127.0.0.1", bound[0]), timeout=DEADLINE) as client:
            words = json.dumps(config).encode()
            client.sendall(struct.pack(">L", len(words)) + words)
            assert client.recv(1) == b""
        assert logging.getLogger(name).level == logging.ERROR
    finally:
        logging.config.stopListening()
        thread.join(DEADLINE)
    assert not thread.is_alive()
