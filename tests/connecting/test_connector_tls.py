"""Connectors over TLS: the handshake is a part of connecting."""

import contextlib
import socket

from reactor import (
    ConnectError,
    ConnectTimeout,
    Reactor,
    Reconnect,
    Timeouts,
)
from reactor.testing import ManualClock, Recorder
from tests.helpers import settle, spin
from tests.tls_peers import TlsPeer


def test_connect_timeout_covers_the_handshake(certificates, errors):
    clock = ManualClock()
    failures = []
    with Reactor(clock=clock, on_error=errors) as reactor, socket.create_server(("127.0.0.1", 0)) as silent:
        connector = reactor.connect(
            silent.getsockname(),
            Recorder,
            tls=certificates.client(),
            timeouts=Timeouts(connect=3, handshake=60),
            on_failure=failures.append,
        )
        spin(reactor, reactor.connections)
        clock.advance(3.1)
        spin(reactor, lambda: failures)
        assert isinstance(failures[0], ConnectTimeout)
        assert connector.is_done()


def test_cancel_in_the_handshake_is_no_failure(reactor, certificates, descriptors):
    failures = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connector = reactor.connect(
            silent.getsockname(), Recorder, tls=certificates.client(), on_failure=failures.append
        )
        spin(reactor, reactor.connections)
        connector.cancel()
        spin(reactor, lambda: not reactor.connections())
        reactor.run_once(0)
    assert connector.is_done()
    assert failures == []


def test_abort_in_the_handshake_is_a_failure(reactor, certificates):
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


def test_reconnect_after_a_handshake_that_failed(reactor, certificates):
    server_failures = []
    listener = reactor.listen(
        "127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=server_failures.append
    )
    failures = []
    connector = reactor.connect(
        listener.addresses[0],
        Recorder,
        tls=certificates.client(),
        server_hostname="somebody.else",
        on_failure=failures.append,
        reconnect=Reconnect(first=0.001, max_delay=0.002, attempts=3),
    )
    spin(reactor, connector.is_done)
    spin(reactor, lambda: len(server_failures) == 3)
    assert len(failures) == 3


def test_end_of_an_earlier_connection_does_not_end_the_current_one(reactor, certificates):
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
            reconnect=Reconnect(first=0.01, max_delay=0.02),
        )
        spin(reactor, lambda: has_accepted(1))
        accepted[0].send(b"HTTP/1.0 400 no\r\n\r\n")
        spin(reactor, lambda: failures and has_accepted(2))
        peer = TlsPeer(accepted[1], certificates.server(), server_side=True)
        spin(reactor, lambda: peer.step() and made)
        assert reactor.stats().lingering == 1  # of the first connection
        accepted[0].close()
        spin(reactor, lambda: not reactor.stats().lingering)
        settle(reactor)
        assert reactor.next_timeout() > 1  # no round is due
        connector.cancel()
