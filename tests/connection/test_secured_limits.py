"""Deadlines, limits, rates and drains over TLS, and what is refused before a byte is sent."""

import array
import contextlib
import ctypes
import socket
import sys

import pytest

from reactor import (
    BufferedProtocol,
    CloseTimeout,
    Limits,
    Reactor,
    Reconnect,
    Timeouts,
    UsageError,
    WriteTimeout,
)
from reactor.errors import ConnectError, TLSHandshakeError, TLSHandshakeTimeout
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.testing import Errors, ManualClock, Recorder
from tests.connection.test_secure_channel import Greeter, Peer, established, secured
from tests.helpers import pair, spin


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def timed(clock):
    """A reactor whose time stands still until it is moved."""
    with Reactor(clock=clock, on_error=Errors()) as reactor:
        yield reactor


def settle(reactor):
    """Have all been done that can be done now."""
    for _ in range(5):
        reactor.run_once(0)


@pytest.fixture
def server(certificates):
    """The contexts of a server and its client, for `established`."""
    return certificates.server(), certificates.client(), True


def test_what_waits_for_the_handshake_is_not_late_when_it_is_done(timed, clock, certificates):
    recorder = Recorder()
    connection, theirs = pair(timed, recorder, timeouts=Timeouts(write=2, handshake=10))
    with theirs:
        connection.start_tls(certificates.server(), server_side=True)
        connection.write(b"later")
        clock.advance(5)
        settle(timed)
        peer = Peer(theirs, certificates.client(), server_hostname="localhost")
        spin(timed, lambda: peer.turn() and peer.received == b"later")
        settle(timed)
        assert not recorder.lost


def test_close_in_a_handshake_has_its_own_deadline(timed, clock, certificates):
    recorder = Recorder()
    connection, theirs = pair(timed, recorder, timeouts=Timeouts(handshake=10))
    with theirs:
        connection.start_tls(certificates.server(), server_side=True)
        connection.write(b"never sent")
        connection.close(timeout=1)
        settle(timed)
        assert not recorder.lost
        clock.advance(1.5)
        settle(timed)
        assert isinstance(recorder.reason, CloseTimeout)


def test_peer_that_takes_what_was_written_in_clear_is_not_late(timed, clock, certificates):
    """The handshake's time begins when the clear text before it is gone."""
    recorder = Recorder()
    connection, theirs = pair(timed, recorder, timeouts=Timeouts(handshake=4))
    with theirs:
        data = bytes(1 << 22)
        connection.write(data)
        connection.start_tls(certificates.server(), server_side=True)
        settle(timed)
        taken = 0
        while taken < len(data):
            clock.advance(0.5)
            with contextlib.suppress(BlockingIOError):
                taken += len(theirs.recv(1 << 17))
            timed.run_once(0)
        assert clock.now > 4
        assert not recorder.lost
        clock.advance(5)
        settle(timed)
        assert isinstance(recorder.reason, TLSHandshakeTimeout)


def test_peer_that_takes_none_of_it_is_reset(timed, clock, certificates):
    """What was written in clear is under `Timeouts.write`, and its handshake has not begun."""
    recorder = Recorder()
    connection, theirs = pair(timed, recorder, timeouts=Timeouts(write=16, handshake=4))
    with theirs:
        connection.write(bytes(1 << 22))
        connection.start_tls(certificates.server(), server_side=True)
        settle(timed)
        clock.advance(15.9)
        settle(timed)
        assert not recorder.lost
        clock.advance(1.2)
        settle(timed)
        assert isinstance(recorder.reason, WriteTimeout)
        assert str(recorder.reason) == "the peer took none of what was written before start_tls for 16 s"
        assert timed.stats().lingering == 0


def test_record_that_comes_slowly_is_no_silence(timed, clock, server):
    recorder = Recorder()
    with established(timed, recorder, server, timeouts=Timeouts(idle=5)) as (_, peer):
        peer.ssl.write(bytes(16384))
        record = peer.outgoing.read()
        for at in range(0, len(record), 1000):
            peer.sock.send(record[at : at + 1000])
            settle(timed)
            clock.advance(0.5)
            settle(timed)
        assert clock.now > 8
        assert recorder.received == bytes(16384)
        clock.advance(6)
        settle(timed)
        assert recorder.lost


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_place_of_a_silent_client_is_free_with_its_deadline(timed, clock, certificates, said):
    told = []
    listener = timed.listen(
        "127.0.0.1:0",
        Recorder,
        tls=certificates.server(),
        on_tls_error=told.append,
        timeouts=Timeouts(handshake=10),
    )
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port)) as sock:
        sock.sendall(said)
        spin(timed, lambda: listener.connections)
        clock.advance(11)
        settle(timed)
        assert listener.connections == 0
        assert isinstance(told[0], TLSHandshakeTimeout)


def test_read_rate_is_that_of_the_clear_bytes(timed, clock, server):
    rate = 70_000
    recorder = Recorder()
    with established(timed, recorder, server, limits=Limits(read_rate=rate)) as (_, peer):
        total = 300_000
        left = memoryview(bytes(total))
        while left:
            left = left[peer.ssl.write(left) :]
        started = clock.now
        while len(recorder.received) < total:
            for _ in range(10):
                peer.put()
                timed.run_once(0)
            assert len(recorder.received) <= rate * (clock.now - started + 1)
            clock.advance(0.1)


def test_drain_waits_for_the_rest_of_a_record(reactor, certificates):
    made, reports = [], []

    class Server(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            made.append(self)

        def data_received(self, data):
            super().data_received(data)
            self.connection.write(b"answer")

    listener = reactor.listen("127.0.0.1:0", Server, tls=certificates.server())
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port)) as sock:
        peer = Peer(sock, certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: peer.turn() and peer.established and made)
        peer.ssl.write(bytes(8000))
        record = peer.outgoing.read()
        before = reactor.stats().bytes_received
        sock.send(record[:4000])
        settle(reactor)
        assert reactor.stats().bytes_received == before
        listener.drain(60, reports.append)
        settle(reactor)
        assert not made[0].connection.is_closing()
        sock.send(record[4000:])
        spin(reactor, lambda: peer.turn() and reports)
        assert made[0].received == bytes(8000)
        assert peer.received == b"answer"


# What a protocol and its user may do


def test_interrupt_in_connection_made_leaves_no_connection_half_made(reactor, certificates):
    class Interrupted(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            raise KeyboardInterrupt

    recorder = Interrupted()
    with secured(reactor, recorder, certificates.client(), certificates.server()) as (_, peer):
        with pytest.raises(KeyboardInterrupt):
            spin(reactor, lambda: peer.turn() and recorder.lost)
        spin(reactor, lambda: recorder.lost)
        assert recorder.names == ["connection_made", "connection_lost"]
        assert reactor.connections() == []


class Into(BufferedProtocol):
    """Receives into what it is made with."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.calls = []
        self.nbytes = 0
        self.lost = False

    def connection_made(self, connection):
        self.calls.append("connection_made")

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.nbytes += nbytes

    def connection_lost(self, exc):
        self.lost = True
        self.reason = exc


@pytest.mark.parametrize(
    "buffer", [array.array("b", bytes(64)), array.array("I", bytes(64)), (ctypes.c_char * 64)()]
)
def test_any_writable_buffer_is_received_into(reactor, server, buffer):
    protocol = Into(buffer)
    with established(reactor, protocol, server) as (_, peer):
        peer.ssl.write(b"hello")
        spin(reactor, lambda: peer.turn() and protocol.nbytes == 5)
        assert memoryview(buffer).cast("B")[:5] == b"hello"


@pytest.mark.parametrize("buffer", [bytes(64), memoryview(bytes(64))])
@pytest.mark.parametrize("tls", [False, True])
def test_buffer_that_is_not_writable_is_the_protocol_s_fault(reactor, errors, server, buffer, tls):
    protocol = Into(buffer)
    with contextlib.ExitStack() as stack:
        if tls:
            _, peer = stack.enter_context(established(reactor, protocol, server))
            peer.ssl.write(b"hello")
            peer.put()
        else:
            _, theirs = pair(reactor, protocol)
            stack.enter_context(theirs).send(b"hello")
        spin(reactor, lambda: protocol.lost)
        exc, callback, _ = errors.take()
        assert isinstance(exc, TypeError)
        assert callback == "Into.get_buffer"


def test_facts_before_the_handshake_is_done(reactor, certificates):
    connection, theirs = pair(reactor, Recorder())
    with theirs:
        connection.start_tls(certificates.server(), server_side=True)
        for name in ("peercert", "cipher", "alpn_protocol", "sni"):
            assert connection.get_extra_info(name, "not known") == "not known"


def test_name_that_no_host_can_have_is_refused_and_nothing_is_lost(reactor, certificates):
    context = certificates.client()
    with pytest.raises(UsageError, match="server_hostname"):
        reactor.connect("127.0.0.1:1", Recorder, tls=context, server_hostname=".bad")
    recorder = Recorder()
    connection, theirs = pair(reactor, recorder)
    with theirs:
        data = bytes(1 << 22)
        connection.write(data)
        with pytest.raises(UsageError, match="server_hostname"):
            connection.start_tls(context, server_side=False, server_hostname=".bad")
        got = bytearray()

        def arrives():
            with contextlib.suppress(BlockingIOError):
                got.extend(theirs.recv(1 << 20))
            return len(got) == len(data)

        spin(reactor, arrives)
        assert not recorder.lost


def test_session_of_another_context_is_refused(reactor, certificates):
    listener = reactor.listen("127.0.0.1:0", Greeter, tls=certificates.server())
    recorder = Recorder()
    reactor.connect(listener.addresses[0], lambda: recorder, tls=certificates.client())
    spin(reactor, lambda: recorder.calls and recorder.received == b"hello")
    session = recorder.connection.get_extra_info("ssl_object").session
    with pytest.raises(UsageError, match="tls_session"):
        reactor.connect(listener.addresses[0], Recorder, tls=certificates.client(), tls_session=session)


def test_client_that_asks_for_a_name_that_is_not_ascii(reactor, certificates, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    recorder = Recorder()
    with secured(reactor, recorder, certificates.client(), certificates.server()) as (_, peer):
        peer.go_on()
        peer.sock.send(peer.outgoing.read().replace(b"localhost", b"local\xe4ost"))
        reactor.run_once(1)
        assert peer.sock.recv(5)[0] == 22  # the server goes on with the handshake
        assert not printed


# A connector


def test_connector_has_one_connection_whatever_becomes_of_earlier_ones(reactor, certificates):
    made, failures = [], []

    class Client(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            made.append(self)

    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as stack:
        listening.setblocking(False)
        accepted = []

        def has_accepted(times):
            with contextlib.suppress(BlockingIOError):
                accepted.append(stack.enter_context(listening.accept()[0]))
            return len(accepted) >= times

        connector = reactor.connect(
            listening.getsockname(),
            Client,
            tls=certificates.client(),
            server_hostname="localhost",
            on_failure=failures.append,
            reconnect=Reconnect(first=0.01, most=0.02),
        )
        spin(reactor, lambda: has_accepted(1))
        accepted[0].send(b"HTTP/1.0 400 no\r\n\r\n")
        spin(reactor, lambda: failures and has_accepted(2))
        peer = Peer(accepted[1], certificates.server(), server_side=True)
        spin(reactor, lambda: peer.turn() and made)
        assert reactor.stats().lingering == 1  # the first one's
        accepted[0].close()
        spin(reactor, lambda: not reactor.stats().lingering)
        settle(reactor)
        assert reactor.next_timeout() > 1  # no round is about to begin
        connector.cancel()


def test_handshake_that_is_aborted_is_a_failure(reactor, certificates):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        failures = []
        connector = reactor.connect(
            listening.getsockname(),
            Recorder,
            tls=certificates.client(),
            server_hostname="localhost",
            on_failure=failures.append,
        )
        spin(reactor, reactor.connections)
        reactor.connections()[0].abort()
        spin(reactor, lambda: failures)
        assert isinstance(failures[0], ConnectError)
        assert connector.is_done()


# Frames


class Mail(FramedProtocol):
    """Upgrades when it is told to, or by itself."""

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


def test_frames_that_wait_in_clear_are_not_served_over_tls(reactor, certificates):
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
def test_upgrade_outside_of_a_frame(reactor, certificates, when):
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
        peer = Peer(theirs, certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: peer.turn() and protocol.calls)
        peer.ssl.write(b"one\ntwo\nthree\n")
        spin(reactor, lambda: peer.turn() and len(protocol.frames) == 3)
        assert not protocol.lost
