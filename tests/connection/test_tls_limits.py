"""Deadlines, limits, rates and drains of connections over TLS."""

import contextlib
import socket

import pytest

from reactor import (
    CloseTimeout,
    IdleTimeout,
    Limits,
    Reactor,
    Timeouts,
    WriteTimeout,
)
from reactor.errors import TLSHandshakeTimeout
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import DEADLINE, pair, settle, spin
from tests.tls_peers import TlsPeer, established, secured


@pytest.fixture
def timed(clock):
    """A reactor on the manual clock `clock`."""
    with Reactor(clock=clock, on_error=Errors()) as reactor:
        yield reactor


def test_handshake_timeout_is_not_extended_by_received_bytes(certificates, errors):
    clock = ManualClock()
    failures = []
    with Reactor(clock=clock, on_error=errors) as reactor:
        timeouts = Timeouts(handshake=8, idle=2)
        listener = reactor.listen(
            "127.0.0.1:0",
            Recorder,
            tls=certificates.server(),
            timeouts=timeouts,
            on_tls_error=failures.append,
        )
        address = listener.addresses[0]
        with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
            hello = TlsPeer(client, certificates.client(), server_hostname="localhost")
            hello.process()
            data = hello.outgoing.read()
            for at in range(15):
                client.setblocking(True)
                client.send(data[at : at + 1])
                clock.advance(0.5)
                reactor.run_once(0.01)
                assert failures == []
            clock.advance(1.1)
            spin(reactor, lambda: failures)
        assert isinstance(failures[0], TLSHandshakeTimeout)
        assert "not done within 8 s" in str(failures[0])


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_silent_client_counts_until_the_handshake_timeout(timed, clock, certificates, said):
    failures = []
    listener = timed.listen(
        "127.0.0.1:0",
        Recorder,
        tls=certificates.server(),
        on_tls_error=failures.append,
        timeouts=Timeouts(handshake=10),
    )
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port)) as sock:
        sock.sendall(said)
        spin(timed, lambda: listener.connections)
        clock.advance(11)
        settle(timed)
        assert listener.connections == 0
        assert isinstance(failures[0], TLSHandshakeTimeout)


def test_pending_handshakes_count_under_the_limits(reactor, certificates):
    listener = reactor.listen(
        "127.0.0.1:0",
        Recorder,
        tls=certificates.server(),
        limits=Limits(max_connections=2, when_full="refuse"),
    )
    address = listener.addresses[0]
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection((address.host, address.port)))
        spin(reactor, lambda: reactor.stats().refused)
        assert listener.connections == 2
        assert reactor.stats().refused == {"max_connections": 1}


def test_idle_timeout_starts_after_the_handshake(certificates, errors):
    clock = ManualClock()
    protocol = Recorder()
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        secured(
            reactor, protocol, certificates.client(), certificates.server(), timeouts=Timeouts(idle=5)
        ) as (_, peer),
    ):
        clock.advance(9)
        spin(reactor, lambda: peer.step() and peer.established and protocol.calls)
        clock.advance(4.9)
        reactor.run_once(0)
        assert not protocol.lost
        clock.advance(1)
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, IdleTimeout)


def test_part_of_a_record_restarts_the_idle_timeout(timed, clock, server):
    recorder = Recorder()
    with established(timed, recorder, server, timeouts=Timeouts(idle=5)) as (_, peer):
        peer.write(bytes(16384))
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


def test_write_timeout_does_not_count_the_handshake(timed, clock, certificates):
    recorder = Recorder()
    connection, theirs = pair(timed, recorder, timeouts=Timeouts(write=2, handshake=10))
    with theirs:
        connection.start_tls(certificates.server(), server_side=True)
        connection.write(b"later")
        clock.advance(5)
        settle(timed)
        peer = TlsPeer(theirs, certificates.client(), server_hostname="localhost")
        spin(timed, lambda: peer.step() and peer.received == b"later")
        settle(timed)
        assert not recorder.lost


def test_close_during_the_handshake_has_the_close_timeout(timed, clock, certificates):
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


def test_handshake_timeout_starts_when_clear_text_is_sent(timed, clock, certificates):
    """The handshake timeout starts when the clear text before it is sent."""
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


def test_clear_text_that_the_peer_does_not_accept_is_a_write_timeout(timed, clock, certificates):
    """Clear text is under `Timeouts.write`: the handshake has not begun."""
    recorder = Recorder()
    connection, theirs = pair(timed, recorder, timeouts=Timeouts(write=16, handshake=4))
    with theirs:
        connection.write(bytes(1 << 22))
        connection.start_tls(certificates.server(), server_side=True)
        settle(timed)
        left = connection.get_write_buffer_size()
        clock.advance(15.9)
        settle(timed)
        assert not recorder.lost
        clock.advance(1.2)
        settle(timed)
        assert isinstance(recorder.reason, WriteTimeout)
        assert str(recorder.reason) == f"the peer took none of {left} queued bytes for 16 s"
        assert timed.stats().lingering == 0


def test_read_rate_counts_decrypted_bytes(timed, clock, server):
    rate = 70_000
    recorder = Recorder()
    with established(timed, recorder, server, limits=Limits(read_rate=rate)) as (_, peer):
        total = 300_000
        peer.write(bytes(total))
        started = clock.now
        while len(recorder.received) < total:
            for _ in range(10):
                peer.flush()
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
        peer = TlsPeer(sock, certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: peer.step() and peer.established and made)
        peer.write(bytes(8000))
        record = peer.outgoing.read()
        before = reactor.stats().bytes_received
        sock.send(record[:4000])
        settle(reactor)
        assert reactor.stats().bytes_received == before
        listener.drain(60, reports.append)
        settle(reactor)
        assert not made[0].connection.is_closing()
        sock.send(record[4000:])
        spin(reactor, lambda: peer.step() and reports)
        assert made[0].received == bytes(8000)
        assert peer.received == b"answer"
