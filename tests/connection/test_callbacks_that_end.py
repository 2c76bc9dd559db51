"""Callbacks that end or pause their connection, and files that fail: other connections are not affected."""

import os
import socket

import pytest

from reactor import BufferedProtocol
from reactor.testing import Recorder
from tests.helpers import DEADLINE, connect, pair, spin


class Filled(BufferedProtocol):
    """Calls `act` in `get_buffer`."""

    def __init__(self, act):
        self.act = act
        self.connection = None
        self.updated = 0
        self.lost = []

    def connection_made(self, connection):
        self.connection = connection

    def get_buffer(self, sizehint):
        self.act(self.connection)
        return bytearray(10)

    def buffer_updated(self, nbytes):
        self.updated += nbytes

    def connection_lost(self, exc):
        self.lost.append(exc)


ACTS = {
    "close": lambda connection: connection.close(),
    "abort": lambda connection: connection.abort(),
    "pause": lambda connection: connection.pause_reading(),
    "hand over": lambda connection: connection.set_protocol(Filled(lambda connection: None)),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("sent", [b"data", b""])
def test_nothing_is_received_after_get_buffer_ended_or_paused_the_connection(reactor, act, sent):
    protocol, other = Filled(ACTS[act]), Recorder()
    _, peer = pair(reactor, protocol)
    _, other_peer = pair(reactor, other)
    with peer, other_peer:
        peer.sendall(sent) if sent else peer.shutdown(socket.SHUT_WR)
        other_peer.sendall(b"x")
        spin(reactor, lambda: other.received)
        for _ in range(5):
            reactor.run_once(0)
        assert protocol.updated == 0
        if act in ("close", "abort"):
            assert len(protocol.lost) == 1


def test_file_closed_by_its_owner_ends_only_its_connection(reactor, errors, tmp_path):
    (tmp_path / "file").write_bytes(b"content")

    class Careless(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            with open(tmp_path / "file", "rb") as file:
                connection.sendfile(file)  # sent at the end of the tick

    careless, other = Careless(), Recorder()
    listener = reactor.listen("127.0.0.1:0", lambda: careless)
    _, other_peer = pair(reactor, other)
    with other_peer, connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: careless.lost)
        other_peer.sendall(b"x")
        spin(reactor, lambda: other.received)
        client.settimeout(DEADLINE)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert isinstance(careless.reason, ValueError)
    assert errors.take()[1] == "sendfile"


def test_file_that_became_shorter_ends_with_a_reset(reactor, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(20_000_000))
    recorder = Recorder()
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    with connect(reactor, listener.addresses[0]) as client, open(path, "rb") as file:
        spin(reactor, reactor.connections)
        recorder.connection.sendfile(file)
        os.truncate(path, 15_000_000)
        client.setblocking(False)

        def is_at_end():
            try:
                return client.recv(1 << 20) == b""
            except BlockingIOError:
                return False

        with pytest.raises(ConnectionResetError):
            spin(reactor, is_at_end)
    assert isinstance(recorder.reason, OSError)


def test_set_protocol_after_the_end_is_ignored(reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    peer.close()
    spin(reactor, lambda: recorder.lost)
    connection.set_protocol(Recorder())
    assert connection.get_protocol() is None


def test_empty_writes_queue_nothing(reactor):
    connection, peer = pair(reactor, Recorder())
    with peer:
        assert connection.write(b"") is True
        assert connection.writelines([b"", b""]) is True
        assert connection.get_write_buffer_size() == 0
