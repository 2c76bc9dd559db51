"""The TLS handshake of a connection, and the pending handshake in place of its protocol."""

import contextlib
import gc
import random
import re
import socket
from pathlib import Path

import pytest

from reactor import (
    Protocol,
    Reactor,
)
from reactor.connection.handshake import PendingHandshake, pending_handshake_of
from reactor.errors import TLSHandshakeError
from reactor.testing import Recorder
from tests.helpers import DEADLINE, connect, pair, spin
from tests.tls_peers import TlsPeer, secured


def test_factory_may_define_its_pending_handshake():
    class Own(PendingHandshake):
        """A factory that defines `pending_handshake`."""

    class Factory:
        pending_handshake = Own

        def __call__(self):
            raise AssertionError

    assert pending_handshake_of(Protocol) is PendingHandshake
    assert pending_handshake_of(Factory()) is Own


def test_protocol_is_made_after_the_handshake(certificates):
    made = []
    with Reactor() as reactor:
        listener = reactor.listen(
            "127.0.0.1:0", lambda: made.append(Recorder()) or made[-1], tls=certificates.server()
        )
        with connect(reactor, listener.addresses[0]):
            spin(reactor, reactor.connections)
            assert isinstance(reactor.connections()[0].get_protocol(), PendingHandshake)
            assert made == []
        client = Recorder()
        reactor.connect(f"localhost:{listener.addresses[0].port}", lambda: client, tls=certificates.client())
        spin(reactor, lambda: made)
        assert made[0].names == ["connection_made"]


def test_failed_handshake_is_reported_once_and_makes_no_protocol(certificates):
    failed = []
    with Reactor() as reactor:
        listener = reactor.listen(
            "127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=failed.append
        )
        with connect(reactor, listener.addresses[0]) as client:
            client.sendall(b"no TLS\r\n" * 10)
            spin(reactor, lambda: failed)
        spin(reactor, lambda: not reactor.connections())
    assert [type(exc) for exc in failed] == [TLSHandshakeError]


def test_connection_made_is_called_when_the_handshake_is_done(reactor, side):
    recorder = Recorder()
    ours, theirs, server_side = side
    with secured(reactor, recorder, theirs, ours, server_side=server_side) as (connection, peer):
        for _ in range(3):
            reactor.run_once(0)
        assert recorder.calls == []
        spin(reactor, lambda: peer.step() and recorder.calls)
        assert recorder.names == ["connection_made"]
        assert connection.get_extra_info("cipher")[1] == "TLSv1.3"
        assert connection.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert connection.get_extra_info("sslcontext") is ours
        assert connection.get_extra_info("sni") == "localhost"
        assert isinstance(connection.get_extra_info("socket"), socket.socket)


def test_bytes_received_with_the_end_of_the_handshake_are_delivered(reactor, certificates):
    recorder = Recorder()
    with secured(reactor, recorder, certificates.client(), certificates.server()) as (_, peer):
        peer.process()
        spin(reactor, lambda: peer.flush() or peer.receive() or peer.established)
        peer.write(b"at once")
        peer.flush()
        spin(reactor, lambda: recorder.received == b"at once")


def test_get_extra_info_of_tls_is_none_before_the_handshake_is_complete(reactor, certificates):
    connection, theirs = pair(reactor, Recorder())
    with theirs:
        connection.start_tls(certificates.server(), server_side=True)
        for name in ("peercert", "cipher", "alpn_protocol", "sni"):
            assert connection.get_extra_info(name, "not known") == "not known"


@pytest.mark.parametrize(
    "clear", [b"hello\r\n", b"GET / HTTP/1.0\r\n\r\n", b"EHLO me\r\n", b"\x16\x03\x01\x00\x05hello"]
)
def test_peer_that_does_not_speak_tls_gets_an_alert_and_is_reported_in_one_line(
    reactor, certificates, clear, descriptors
):
    failures = []
    listener = reactor.listen(
        "127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=failures.append
    )
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
        client.sendall(clear)
        spin(reactor, lambda: failures)
        answer = client.recv(100)
        assert answer[0] == 21, "no alert"
        assert client.recv(100) == b""
        (problem,) = failures
        assert isinstance(problem, TLSHandshakeError)
        assert str(problem).startswith(f"no TLS with 127.0.0.1:{client.getsockname()[1]}: ")
        assert "\n" not in str(problem)
    spin(reactor, lambda: listener.connections == 0)


def test_failed_handshake_is_logged_in_one_short_line(reactor, certificates, caplog):
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
    address = listener.addresses[0]
    with caplog.at_level("INFO"), contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(
                socket.create_connection((address.host, address.port), timeout=DEADLINE)
            )
            client.sendall(b"hello\r\n")
        spin(reactor, lambda: reactor.stats().closed.get("TLSHandshakeError") == 50)
    (record,) = caplog.records
    assert record.getMessage().startswith("no TLS with 127.0.0.1:")
    assert record.getMessage().endswith(": what the peer sends is not TLS")
    assert record.exc_info is None


def test_alert_of_openssl_reaches_the_peer(reactor, certificates):
    """A client without a certificate gets the alert although it was sending."""
    server = certificates.server(client_ca=certificates.file("ca.pem"))
    failures = []
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=server, on_tls_error=failures.append)
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port), timeout=DEADLINE) as sock:
        peer = TlsPeer(sock, certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: peer.step() and peer.established)
        peer.write(bytes(16384))
        spin(reactor, lambda: peer.step() and peer.ended)
        assert "CERTIFICATE_REQUIRED" in peer.ended
    assert "did not return a certificate" in str(failures[0])


def test_factory_that_raises_is_reported_and_ends_the_connection(reactor, certificates, errors):
    def factory():
        raise LookupError("no protocol")

    listener = reactor.listen("127.0.0.1:0", factory, tls=certificates.server())
    recorder = Recorder()
    reactor.connect(listener.addresses[0], lambda: recorder, tls=certificates.client())
    spin(reactor, lambda: recorder.lost)
    exc, callback, _ = errors.take()
    assert isinstance(exc, LookupError)
    assert callback == f"the protocol factory of {listener}"
    assert isinstance(recorder.reason, ConnectionResetError)


def test_interrupt_in_connection_made_ends_the_connection(reactor, certificates):
    class Interrupted(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            raise KeyboardInterrupt

    recorder = Interrupted()
    with secured(reactor, recorder, certificates.client(), certificates.server()) as (_, peer):
        with pytest.raises(KeyboardInterrupt):
            spin(reactor, lambda: peer.step() and recorder.lost)
        spin(reactor, lambda: recorder.lost)
        assert recorder.names == ["connection_made", "connection_lost"]
        assert reactor.connections() == []


def test_adopted_socket_whose_handshake_fails_is_reported(reactor, certificates, errors):
    ours, theirs = socket.socketpair()
    recorder = Recorder()
    reactor.adopt(ours, lambda: recorder, tls=certificates.server(), server_side=True)
    with theirs:
        theirs.sendall(b"hello\r\n")
        spin(reactor, lambda: errors.seen)
        exc, callback, _ = errors.take()
        assert isinstance(exc, TLSHandshakeError)
        assert callback == "a TLS handshake"
        assert recorder.calls == []


def test_handshake_aborted_by_closing_the_reactor_is_no_error(certificates, errors):
    ours, theirs = socket.socketpair()
    with theirs, Reactor(on_error=errors) as reactor:
        reactor.adopt(ours, Recorder, tls=certificates.server(), server_side=True)
    assert errors.seen == []


def test_drain_aborts_pending_handshakes(certificates, descriptors):
    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
        address = listener.addresses[0]
        with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
            spin(reactor, reactor.connections)
            reports = []
            reactor.drain(0.05, reports.append)
            spin(reactor, lambda: reports)
            assert reports[0].aborted == 1
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


def anonymous_memory():
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +(\d+)", text, re.MULTILINE)[1]) * 1024


@pytest.mark.slow
def test_thousands_of_failed_handshakes_leak_nothing(certificates, descriptors, caplog):
    hello = TlsPeer(socket.socket(), certificates.client(), server_hostname="localhost")
    hello.process()
    hello.sock.close()
    good = hello.outgoing.read()
    numbers = random.Random(5)

    def bad():
        kind = numbers.randrange(4)
        if kind == 0:
            return numbers.randbytes(numbers.randrange(1, 2000))
        if kind == 1:
            return good[: numbers.randrange(1, len(good))]
        at = numbers.randrange(len(good))
        return good[:at] + numbers.randbytes(20) + good[at + 20 :]

    with caplog.at_level("INFO"), Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
        address = listener.addresses[0]

        def visit(times):
            for first in range(0, times, 50):
                with contextlib.ExitStack() as stack:
                    for _ in range(first, first + 50):
                        client = socket.create_connection((address.host, address.port), timeout=DEADLINE)
                        stack.enter_context(client).sendall(bad())
                    reactor.run_once(0)
                spin(reactor, lambda: listener.connections == 0)

        visit(3000)  # the heap grows once to the size that so many need
        grown = []
        while not grown or (min(grown) > 3_000_000 and len(grown) < 5):
            before, lines = anonymous_memory(), len(caplog.records)
            visit(3000)
            grown.append(anonymous_memory() - before)
            assert len(caplog.records) - lines < 300, "a line for each"
        # A leak shows each time; the heap of a process with many tests grows now and then.
        assert min(grown) <= 3_000_000, "a thousand bytes for each"
        assert reactor.stats().closed == {"TLSHandshakeError": 3000 * (1 + len(grown))}
