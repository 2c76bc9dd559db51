"""Live connections through restarts of a whole deployment."""

import http.client
import signal
import threading

import pytest

from tests.deploy.programs import serving, write_app
from tests.helpers import DEADLINE, client_of

RESTARTS = 3


def hear(client, what):
    heard = b""
    while what not in heard:
        data = client.recv(10_000)
        assert data, f"the connection has ended after {heard!r}"
        heard += data
    return heard


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:chat"])
def test_members_of_a_chat_notice_neither_restarts_nor_replacements(tmp_path, listen, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, app="chat", workers=1, listen=listen) as deployment:
        deployment.workers(1)
        address = deployment.started(1)
        with client_of(address) as ann, client_of(address) as bob:
            for name, client in ((b"ann", ann), (b"bob", bob)):
                client.sendall(b"/nick %b\r\n/join room\r\nhel" % name)
                hear(client, b"* %b has joined room\r\n" % name)
            for restart in range(4):
                if restart % 2:
                    deployment.signal(signal.SIGUSR2)
                    deployment.follow()
                else:
                    deployment.signal(signal.SIGHUP)
                # The old worker and the new one each say it.
                deployment.wait_for_all(2 * restart + 2, "connections: 2 handed over, 0 kept")
                ann.sendall(b"lo %d\r\nhel" % restart)
                assert hear(bob, b"\r\n").endswith(b"ann: hello %d\r\n" % restart)
                hear(ann, b"ann: hello %d\r\n" % restart)
            ann.sendall(b"lo\r\n/who\r\n")
            assert hear(ann, b"* in room: ").endswith(b"\r\n")
        deployment.stop()


#: A page that writes down what is posted, in the order in which it comes.
POSTED = """
import os
from reactor.http import HTTP, Response

def post(request):
    file = os.open("posted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, request.body)
    os.close(file)
    return Response(200, request.body)

page = HTTP({"POST /": post})
"""


class Poster(threading.Thread):
    """A client that posts until `enough` is set, and connects again only where an answer says so."""

    def __init__(self, address):
        super().__init__()
        self.client = http.client.HTTPConnection(address, timeout=DEADLINE)
        self.enough = threading.Event()
        self.posted = []
        self.problem = None

    def run(self):
        try:
            while not self.enough.is_set():
                body = b"%d\n" % len(self.posted)
                self.client.request("POST", "/", body)
                assert self.client.getresponse().read() == body
                self.posted.append(body)
        except Exception as exc:
            self.problem = exc
        finally:
            self.client.close()


def test_posts_on_a_kept_connection_are_handled_once_through_restarts(tmp_path):
    write_app(tmp_path, app=POSTED)
    with serving(tmp_path, app="app:page", workers=1) as deployment:
        deployment.workers(1)
        poster = Poster(deployment.started(1))
        poster.start()
        for restart in range(RESTARTS):
            if restart == 1:
                deployment.signal(signal.SIGUSR2)
                deployment.follow()
            else:
                deployment.signal(signal.SIGHUP)
            deployment.wait_for_all(2 * restart + 2, "connections: . handed over")
        before = len(poster.posted)
        while len(poster.posted) < before + 10 and poster.is_alive():
            poster.join(0.01)
        poster.enough.set()
        poster.join()
        assert poster.problem is None
        assert (tmp_path / "posted").read_bytes() == b"".join(poster.posted)
        deployment.stop()
