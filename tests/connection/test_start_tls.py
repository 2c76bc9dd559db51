"""`start_tls`: a connection that began in clear goes on over TLS."""

import contextlib
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    Limits,
    Reactor,
    SlowConsumer,
    Timeouts,
    UsageError,
)
from reactor.errors import TLSHandshakeError, TLSHandshakeTimeout
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import examples, pair, settle, spin
from tests.tls_peers import BIG, VERSIONS, TlsPeer, established, peer_of


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


def test_start_tls_is_refused_over_tls(reactor, side):
    ours, _, server_side = side
    hostname = None if server_side else "localhost"
    with (
        established(reactor, Recorder(), side) as (connection, _),
        pytest.raises(UsageError, match="without TLS"),
    ):
        connection.start_tls(ours, server_side=server_side, server_hostname=hostname)


def upgrade(connection, side):
    context, _, server_side = side
    connection.start_tls(
        context, server_side=server_side, server_hostname=None if server_side else "localhost"
    )


@contextlib.contextmanager
def clear_first(reactor, recorder, side, clear, **options):
    """Yield a connection that has written `clear`, and its peer, which expects that before TLS."""
    connection, theirs = pair(reactor, recorder, **options)
    connection.write(clear)
    with peer_of(theirs, side[1], server_side=side[2]) as peer:
        peer.clear_left = len(clear)
        yield connection, peer


def test_file_that_is_queued_is_sent_in_clear(reactor, side, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)
    with clear_first(reactor, Recorder(), side, b"ready") as (connection, peer):
        file = path.open("rb")
        connection.sendfile(file)
        upgrade(connection, side)
        connection.sendfile(path.open("rb"), 1, 100)
        peer.clear_left += len(BIG)
        spin(reactor, lambda: peer.step() and len(peer.received) == 100)
        assert peer.in_clear == b"ready" + BIG
        assert peer.received == BIG[1:101]
        assert file.closed


@given(
    clear=st.integers(0, 3_000_000),
    later=st.lists(st.integers(0, 400_000), max_size=4),
    rate=st.none() | st.integers(300_000, 2_000_000),
    take=st.integers(10_000, 1_000_000),
    server_side=st.booleans(),
)
@examples(40)
def test_clear_bytes_are_counted_throttled_and_under_the_water_marks(
    certificates, clear, later, rate, take, server_side
):
    """As all that is queued; and they come before the first byte of TLS, whichever side begins."""
    clock, recorder, errors = ManualClock(0), Recorder(), Errors()
    side = (certificates.server(), certificates.client(), True)
    if not server_side:
        side = (side[1], side[0], False)
    data = [bytes([65 + number]) * size for number, size in enumerate(later)]
    limits = Limits(high_water=100_000, low_water=20_000, write_rate=rate)
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        clear_first(reactor, recorder, side, b"c" * clear, limits=limits) as (connection, peer),
    ):
        upgrade(connection, side)
        for piece in data:
            connection.write(piece)
        written = clear + sum(later)

        def check():
            queued, sent = connection.get_write_buffer_size(), reactor.stats().bytes_sent
            assert queued + sent == written
            assert reactor.stats().queued_bytes == queued
            assert rate is None or sent <= rate * (clock.now + 1)
            assert queued > 20_000 if connection.is_paused() else queued <= 100_000
            pauses = recorder.names.count("pause_writing") - recorder.names.count("resume_writing")
            assert pauses == connection.is_paused()
            return len(peer.in_clear) + len(peer.received) == written and peer.established

        def turn():
            peer.receive(take)
            peer.flush()
            clock.advance(0.05)
            return check()

        spin(reactor, turn, wait=0)
        assert peer.in_clear == b"c" * clear
        assert peer.received == b"".join(data)
        assert recorder.names.count("pause_writing") == recorder.names.count("resume_writing")
        assert not recorder.lost


def test_max_write_buffer_counts_clear_bytes(reactor, side):
    recorder = Recorder()
    limits = Limits(max_write_buffer=1_000_000)
    with clear_first(reactor, recorder, side, bytes(4_000_000), limits=limits) as (connection, _):
        upgrade(connection, side)
        assert not connection.write(b"one more")
        spin(reactor, lambda: recorder.lost)
        assert isinstance(recorder.reason, SlowConsumer)


def test_write_rate_of_clear_bytes_is_no_fault_of_the_peer(certificates):
    """A `Timeouts.write` shorter than the pauses of the rate."""
    clock, recorder = ManualClock(0), Recorder()
    side = (certificates.server(), certificates.client(), True)
    options = {"limits": Limits(write_rate=2), "timeouts": Timeouts(write=0.2)}
    with (
        Reactor(clock=clock) as reactor,
        clear_first(reactor, recorder, side, b"in clear", **options) as (connection, peer),
    ):
        upgrade(connection, side)
        while peer.in_clear != b"in clear":
            assert clock.now < 10
            peer.step()
            clock.advance(0.05)
            reactor.run_once(0)
        assert not recorder.lost


def test_upgrade_keeps_the_debt_of_read_rate(certificates):
    """Which read a second's worth at once in clear, and has to wait over TLS."""
    clock, recorder, rate = ManualClock(0), Recorder(), 50_000
    with Reactor(clock=clock, on_error=Errors()) as reactor:
        connection, theirs = pair(reactor, recorder, limits=Limits(read_rate=rate))
        with peer_of(theirs, certificates.client(), server_side=True) as peer:
            theirs.send(bytes(rate))
            spin(reactor, lambda: len(recorder.received) == rate)
            connection.start_tls(certificates.server(), server_side=True)
            spin(reactor, lambda: peer.step() and peer.established and peer.write(bytes(rate)) is None)
            for _ in range(20):
                for _ in range(5):
                    peer.flush()
                    reactor.run_once(0)
                assert len(recorder.received) <= rate * (clock.now + 1)
                clock.advance(0.05)
            assert len(recorder.received) > rate


@pytest.mark.parametrize("end", ["close", "abort", "peer"])
def test_connection_ends_with_clear_bytes_queued(reactor, side, end):
    recorder = Recorder()
    with clear_first(reactor, recorder, side, BIG) as (connection, peer):
        upgrade(connection, side)
        connection.write(b"never sent") if end == "abort" else None
        if end == "peer":
            peer.sock.close()
        else:
            getattr(connection, end)()
        if end == "close":  # what was written in clear is delivered
            spin(reactor, lambda: peer.step() and len(peer.in_clear) == len(BIG))
        spin(reactor, lambda: recorder.lost)
        assert connection.get_write_buffer_size() == 0


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


@given(
    clear=st.integers(0, 1_000_000),
    later=st.integers(0, 60_000),
    steps=st.integers(0, 6),
    take=st.sampled_from([300, 10_000, 1_000_000]),
    version=st.sampled_from(VERSIONS),
    server_side=st.booleans(),
    closes=st.booleans(),
)
@examples(60)
def test_write_eof_in_a_handshake_waits_for_its_end(
    certificates, clear, later, steps, take, version, server_side, closes
):
    """Whatever step of it is reached; the version that is agreed on decides what comes of it."""
    recorder = Recorder()
    recorder.keep_open = True
    ours, theirs = certificates.server(), certificates.client()
    theirs.maximum_version = version
    side = (ours, theirs, True)
    if not server_side:
        ours.maximum_version = version
        theirs.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        side = (theirs, ours, False)
    with (
        Reactor(on_error=Errors()) as reactor,
        clear_first(reactor, recorder, side, b"c" * clear) as (connection, peer),
    ):

        def turn():
            peer.receive(take if len(peer.in_clear) >= clear else max(take, 10_000))
            peer.flush(take)
            return True

        upgrade(connection, side)
        connection.write(b"l" * later)
        while steps and not connection.get_extra_info("cipher"):
            steps -= 1
            turn()
            reactor.run_once(0)
        if connection.can_write_eof():
            connection.write_eof()
            with pytest.raises(UsageError, match="write after write_eof"):
                connection.write(b"too late")
        else:  # it is agreed on already
            assert version is ssl.TLSVersion.TLSv1_2
            with pytest.raises(UsageError, match="can't end one direction alone"):
                connection.write_eof()
            connection.close()
        if closes:
            connection.close()
        spin(reactor, lambda: turn() and len(peer.received) == later and peer.ended, wait=0)
        assert peer.ended == "close_notify" or (closes and not later)  # then the handshake is broken off
        assert peer.in_clear == b"c" * clear
        if version is ssl.TLSVersion.TLSv1_3 and not closes:
            peer.write(b"more")
            spin(reactor, lambda: turn() and recorder.received == b"more", wait=0)
            peer.close()
        spin(reactor, lambda: turn() and recorder.lost, wait=0)
        refused = isinstance(recorder.reason, UsageError)
        assert refused or recorder.reason is None


def test_write_eof_before_tls_1_2_is_agreed_on_is_the_reason_of_the_end(reactor, certificates):
    recorder = Recorder()
    client = certificates.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    side = (certificates.server(), client, True)
    with clear_first(reactor, recorder, side, b"ready") as (connection, peer):
        upgrade(connection, side)
        connection.write(b"all")
        connection.write_eof()
        spin(reactor, lambda: peer.step() and recorder.lost)
        spin(reactor, lambda: peer.step() and peer.ended)
        assert (peer.received, peer.ended) == (b"all", "close_notify")
        assert isinstance(recorder.reason, UsageError)
        assert "can't end one direction alone" in str(recorder.reason)


@pytest.mark.parametrize("server_side", [False, True])
def test_write_eof_is_refused_at_once_by_a_context_without_tls_1_3(reactor, certificates, server_side):
    side = (certificates.server(), certificates.client(), True)
    if not server_side:
        side = (side[1], side[0], False)
    side[0].maximum_version = ssl.TLSVersion.TLSv1_2
    with clear_first(reactor, Recorder(), side, b"ready") as (connection, _):
        upgrade(connection, side)
        assert not connection.can_write_eof()
        with pytest.raises(UsageError, match="can't end one direction alone"):
            connection.write_eof()
        connection.abort()
        settle(reactor)


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
