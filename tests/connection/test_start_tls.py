"""`start_tls`: a connection that began in clear goes on over TLS."""

import contextlib
import socket

import pytest

from reactor import (
    Reactor,
    UsageError,
)
from reactor.errors import TLSHandshakeError, TLSHandshakeTimeout
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.testing import ManualClock, Recorder
from tests.helpers import pair, settle, spin
from tests.tls_peers import BIG, TlsPeer, established


class Upgrading(Recorder):
    """Calls `start_tls` at a line STARTTLS; the rest of the same piece is `early`."""

    def __init__(self, context, **options):
        super().__init__()
        self.context = context
        self.options = options

    def data_received(self, data):
        super().data_received(data)
        if data.startswith(b"STARTTLS\r\n"):
            self.connection.write(b"ready\r\n")
            self.connection.start_tls(self.context, early=data[10:], **self.options)
            self.connection.write(b"first over TLS")

    def handshake_completed(self):
        self.calls.append(("handshake_completed", ()))


@contextlib.contextmanager
def upgrading(reactor, protocol, peer_context):
    ours, theirs = socket.socketpair()
    reactor.adopt(ours, lambda: protocol)
    with theirs:
        yield TlsPeer(theirs, peer_context, server_hostname="localhost")


def read_clear(reactor, peer, size):
    got = b""
    while len(got) < size:
        reactor.run_once(0.01)
        with contextlib.suppress(BlockingIOError):
            got += peer.sock.recv(size - len(got))
    return got


@pytest.mark.parametrize("early", [0, 1, 100, 10_000])
def test_server_upgrades_to_tls(reactor, certificates, early):
    """Bytes written before are sent in clear; the ClientHello may arrive with the line that asks for it."""
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.process()
        hello = peer.outgoing.read()
        peer.sock.sendall(b"STARTTLS\r\n" + hello[:early])
        assert read_clear(reactor, peer, 7) == b"ready\r\n"
        peer.unsent += hello[early:]
        spin(reactor, lambda: peer.step() and peer.received == b"first over TLS")
        assert "handshake_completed" in protocol.names
        assert protocol.names.count("connection_made") == 1
        peer.write(b"secret")
        spin(reactor, lambda: peer.step() and protocol.received.endswith(b"secret"))


def test_client_upgrades_to_tls(reactor, certificates):
    protocol = Upgrading(certificates.client(), server_hostname="localhost")
    ours, theirs = socket.socketpair()
    connection = reactor.adopt(ours, lambda: protocol)
    with theirs:
        peer = TlsPeer(theirs, certificates.server(), server_side=True)
        connection.write(BIG)  # sent before the ClientHello
        peer.sock.sendall(b"STARTTLS\r\n")
        assert read_clear(reactor, peer, len(BIG)) == BIG
        assert read_clear(reactor, peer, 7) == b"ready\r\n"
        spin(reactor, lambda: peer.step() and peer.received == b"first over TLS")


def test_clear_text_after_start_tls_ends_the_connection(reactor, certificates):
    """As in CVE-2011-0411: a command in clear that was injected behind STARTTLS."""
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.sock.sendall(b"STARTTLS\r\nMAIL FROM:<eve@example.org>\r\n")
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, TLSHandshakeError)
        assert protocol.names.count("data_received") == 1


def test_start_tls_has_the_handshake_timeout(certificates, errors):
    clock = ManualClock()
    protocol = Upgrading(certificates.server(), server_side=True)
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        upgrading(reactor, protocol, certificates.client()) as peer,
    ):
        peer.sock.sendall(b"STARTTLS\r\n")
        read_clear(reactor, peer, 7)
        clock.advance(9.9)
        reactor.run_once(0)
        assert not protocol.lost
        clock.advance(1)
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, TLSHandshakeTimeout)


def test_start_tls_is_refused_over_tls_and_behind_a_file(reactor, side, tmp_path):
    ours, _, server_side = side
    hostname = None if server_side else "localhost"
    with (
        established(reactor, Recorder(), side) as (connection, _),
        pytest.raises(UsageError, match="in clear"),
    ):
        connection.start_tls(ours, server_side=server_side, server_hostname=hostname)
    path = tmp_path / "file"
    path.write_bytes(BIG)
    one, other = socket.socketpair()
    connection = reactor.adopt(one, Recorder)
    with other:
        connection.sendfile(path.open("rb"))
        with pytest.raises(UsageError, match="until the file is sent"):
            connection.start_tls(ours, server_side=server_side, server_hostname=hostname)
        connection.abort()
        reactor.run_once(0)


def test_abort_during_start_tls_ends_the_connection(reactor, certificates):
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.sock.sendall(b"STARTTLS\r\n")
        read_clear(reactor, peer, 7)
        protocol.connection.abort()
        spin(reactor, lambda: protocol.lost)


def test_only_connection_lost_is_called_after_close_during_start_tls(reactor, certificates):
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.sock.sendall(b"STARTTLS\r\n")
        read_clear(reactor, peer, 7)
        protocol.connection.close()
        spin(reactor, lambda: peer.step() and protocol.lost)
        assert protocol.names == ["connection_made", "data_received", "connection_lost"]
        assert peer.received == b"first over TLS"
        assert peer.ended == "close_notify"


class Mail(FramedProtocol):
    """Lines, answered in bulk for the line BIG; `upgrade` calls `start_tls`."""

    def __init__(self, context):
        super().__init__(Lines())
        self.context = context
        self.frames = []
        self.calls = []
        self.lost = False

    def upgrade(self):
        self.start_tls(self.context, server_side=True)

    def handshake_completed(self):
        self.calls.append("handshake_completed")

    def frame_received(self, frame):
        self.frames.append(bytes(frame))
        if frame == b"BIG":
            for _ in range(200):
                self.send(b"x" * 30_000)

    def connection_lost(self, exc):
        self.lost = True
        self.reason = exc


def test_frames_received_in_clear_are_not_handled_over_tls(reactor, certificates):
    protocol = Mail(certificates.server())
    _, theirs = pair(reactor, protocol)
    with theirs:
        theirs.sendall(b"BIG\nMAIL FROM eve\n")
        spin(reactor, lambda: protocol.frames)
        protocol.upgrade()
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, TLSHandshakeError)
        assert protocol.frames == [b"BIG"]


@pytest.mark.parametrize("when", ["at once", "later"])
def test_framed_protocol_may_call_start_tls_outside_of_frame_received(reactor, certificates, when):
    protocol = Mail(certificates.server())
    if when == "at once":
        protocol.connection_made = lambda connection: (
            setattr(protocol, "connection", connection),
            protocol.upgrade(),
        )
    _, theirs = pair(reactor, protocol)
    with theirs:
        if when == "later":
            reactor.call_soon(protocol.upgrade)
            settle(reactor)
        peer = TlsPeer(theirs, certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: peer.step() and protocol.calls)
        peer.write(b"one\ntwo\nthree\n")
        spin(reactor, lambda: peer.step() and len(protocol.frames) == 3)
        assert not protocol.lost
