"""Live connections through restarts of a whole deployment."""

import signal

import pytest

from tests.deploy.programs import client_of, serving


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
