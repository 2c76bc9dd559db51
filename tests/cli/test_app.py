"""The app that `serve` runs: factories of modules, and what is wrong with them."""

import re
import socket

import pytest

from tests.cli.programs import read_all, server, usage_error
from tests.helpers import client_of


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


def test_module_that_fails_to_import_is_one_line(capfd, tmp_path, monkeypatch):
    (tmp_path / "broken_app.py").write_text("def divide():\n    1 / 0\n\ndivide()")
    monkeypatch.syspath_prepend(tmp_path)
    message = usage_error(capfd, "serve", "broken_app:App")
    assert "cannot import 'broken_app:App': ZeroDivisionError: division by zero" in message
    assert f" ({tmp_path}/broken_app.py, line 2) " in message


def test_module_that_exits_when_it_is_imported_is_one_line(capfd, tmp_path, monkeypatch):
    (tmp_path / "leaving_app.py").write_text("import sys\nsys.exit('goodbye\\nfor ever')")
    monkeypatch.syspath_prepend(tmp_path)
    message = usage_error(capfd, "serve", "leaving_app:App")
    assert r"cannot import 'leaving_app:App': SystemExit: goodbye\nfor ever" in message


@pytest.mark.parametrize("body", ["return 'text'", "return print", "yield"])
def test_factory_that_makes_no_protocol_is_reported_and_closes_the_connection(tmp_path, body):
    (tmp_path / "no_protocol.py").write_text(f"def make():\n    {body}\n")
    words = ("serve", "no_protocol:make", "--listen", "127.0.0.1:0")
    with server(*words, cwd=tmp_path) as (process, address):
        with pytest.raises(ConnectionResetError), client_of(address) as client:
            client.recv(1)
        log = []
        while not log or not log[-1].startswith(b"TypeError: "):
            log.append(process.stderr.readline())
    assert b"ERROR exception in the protocol factory of <Listener" in log[0]
    expected = (
        rb"TypeError: no_protocol:make must return a protocol: it returned a \w+, without connection_made\n"
    )
    assert re.fullmatch(expected, log[-1])


def test_classes_and_functions_may_be_factories(tmp_path):
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
