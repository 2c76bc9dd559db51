"""How connections over TLS end: close_notify, truncation, abort, and close during a handshake."""

import contextlib
import itertools
import socket
import ssl
from functools import partial

import pytest

from reactor import (
    CloseTimeout,
    Reactor,
    UsageError,
)
from reactor.errors import TLSTruncated
from reactor.testing import ManualClock, Recorder
from tests.helpers import spin
from tests.tls_peers import BIG, VERSIONS, established, secured, upgraded


def test_close_sends_close_notify_after_all_written_bytes(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (connection, peer):
        connection.write(BIG)
        connection.close()
        spin(reactor, lambda: peer.step() and peer.ended)
        assert peer.ended == "close_notify"
        assert peer.received == BIG
        spin(reactor, lambda: protocol.lost)
        assert protocol.reason is None


def test_close_notify_from_the_peer_is_the_end_of_file(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (_connection, peer):
        peer.write(b"the last")
        peer.close()
        peer.flush()
        spin(reactor, lambda: peer.step() and protocol.lost)
        assert protocol.received == b"the last"
        assert protocol.names == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.reason is None
        spin(reactor, lambda: peer.step() and peer.ended)


def test_end_without_close_notify_is_a_truncation(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (_connection, peer):
        peer.write(b"maybe not the last")
        peer.flush()
        peer.sock.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: protocol.lost)
        assert protocol.received == b"maybe not the last"
        assert isinstance(protocol.reason, TLSTruncated)
        assert "eof_received" not in protocol.names


def test_tls_1_3_can_be_half_closed(reactor, side):
    protocol = Recorder()
    protocol.keep_open = True
    with established(reactor, protocol, side) as (connection, peer):
        assert connection.can_write_eof()
        connection.write(b"all of it")
        connection.write_eof()
        spin(reactor, lambda: peer.step() and peer.ended == "close_notify")
        assert peer.received == b"all of it"
        peer.write(b"and more from here")
        peer.flush()
        spin(reactor, lambda: protocol.received == b"and more from here")
        assert not protocol.lost
        with contextlib.suppress(ssl.SSLError):
            peer.ssl.unwrap()
        peer.flush()
        spin(reactor, lambda: protocol.lost)
        assert protocol.reason is None


def test_tls_1_2_cannot_be_half_closed(reactor, certificates):
    client = certificates.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with established(reactor, Recorder(), (certificates.server(), client, True)) as (connection, _):
        assert not connection.can_write_eof()
        with pytest.raises(UsageError, match="can't end one direction alone"):
            connection.write_eof()


def test_abort_sends_no_close_notify(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (connection, peer):
        connection.abort()
        spin(reactor, lambda: peer.step() and peer.ended)
        assert peer.ended in {"eof", "reset"}  # a pair of Unix sockets has no reset


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("callback", ["connection_made", "data_received", "eof_received"])
def test_exception_in_a_callback_resets_the_connection(reactor, certificates, errors, callback, version):
    problem = RuntimeError("mine")

    def raise_it(*args):
        raise problem

    half, client = Recorder(), Recorder()
    setattr(half, callback, raise_it)
    context = certificates.client()
    context.maximum_version = version
    listener = reactor.listen("127.0.0.1:0", lambda: half, tls=certificates.server())
    reactor.connect(listener.addresses[0], lambda: client, tls=context)
    spin(reactor, lambda: client.calls)
    if callback == "data_received":
        client.connection.write(b"x")
    elif callback == "eof_received":
        client.connection.close()
    spin(reactor, lambda: client.lost and half.lost)
    assert half.reason is problem
    assert errors.take()[0] is problem
    if callback != "eof_received":
        assert isinstance(client.reason, ConnectionResetError)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("upgrade", [False, True])
@pytest.mark.parametrize("steps", range(8))
def test_close_during_the_handshake_sends_close_notify_to_a_peer_that_completed_it(
    certificates, errors, side, version, upgrade, steps
):
    """A peer that completed its handshake gets close_notify; any other sees the handshake fail."""
    ours, theirs, server_side = side
    for context in (ours, theirs):
        context.maximum_version = version
    protocol = Recorder()
    begin = partial(upgraded, b"ready") if upgrade else secured
    with (
        Reactor(on_error=errors) as reactor,
        begin(reactor, protocol, theirs, ours, server_side=server_side, wrap=lambda sock: sock) as made,
    ):
        connection, peer = made
        steps_in_order = itertools.cycle([peer.flush, partial(reactor.run_once, 0), peer.receive])
        for step in itertools.islice(steps_in_order, 2 + steps):  # the peer's first bytes have arrived
            step()
        for step in itertools.islice(steps_in_order, 9):
            if not connection.is_closing():
                connection.close()
            step()
        spin(reactor, lambda: peer.step() and peer.ended and connection.get_protocol() is None)
        if peer.established:
            assert peer.ended == "close_notify"
        if upgrade:
            assert protocol.reason is None
            assert peer.in_clear == b"ready"
    assert errors.seen == []


def test_close_during_the_handshake_waits_for_it_until_the_close_timeout(certificates, errors):
    clock = ManualClock()
    protocol = Recorder()
    ours, theirs = certificates.server(), certificates.client()
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        upgraded(b"", reactor, protocol, theirs, ours, server_side=True, wrap=lambda sock: sock) as made,
    ):
        connection, peer = made
        spin(
            reactor, lambda: peer.receive() or peer.established or peer.flush()
        )  # and sends nothing after it
        connection.close(timeout=3)
        clock.advance(2.9)
        reactor.run_once(0)
        assert not protocol.lost
        clock.advance(1)
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, CloseTimeout)
        assert str(protocol.reason) == "the TLS handshake was not done in the 3 s that close gave it"


def test_close_sends_queued_clear_text_and_begins_no_handshake(reactor, certificates):
    protocol = Recorder()
    ours, theirs = certificates.server(), certificates.client()
    with upgraded(BIG, reactor, protocol, theirs, ours, server_side=True, wrap=lambda sock: sock) as made:
        connection, peer = made
        connection.close()
        spin(reactor, lambda: peer.receive() or peer.ended)
        assert peer.in_clear == BIG
        spin(reactor, lambda: protocol.lost)
        assert protocol.reason is None
