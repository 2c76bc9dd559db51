"""Proxy: both directions, end of file, and one side's failure ending the other."""

import contextlib
import socket
import struct
from types import SimpleNamespace

import pytest

from reactor import Limits, Protocol
from reactor.apps import APPS
from reactor.errors import ConnectError
from reactor.testing import Recorder
from tests.helpers import Echo, connect, silent_address, spin

BIG = bytes(range(256)) * 4096 * 4  # 4 MiB


@pytest.fixture
def target(reactor):
    """The proxy's target, and the protocols of its connections."""
    served = []

    class Target(Recorder):
        def __init__(self):
            super().__init__()
            self.keep_open = True
            served.append(self)

    listener = reactor.listen("127.0.0.1:0", Target)
    return SimpleNamespace(addresses=listener.addresses, served=served)


@pytest.fixture
def proxied(reactor, target):
    """A client of the proxy, and its connection at the target."""
    listener = reactor.listen("127.0.0.1:0", APPS["proxy"].start(target.addresses[0]))
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: target.served)
        yield client, target.served[0]


def test_bytes_and_end_of_file_are_forwarded_both_ways(reactor, proxied):
    client, served = proxied
    client.sendall(b"to the target")
    client.shutdown(socket.SHUT_WR)
    spin(reactor, lambda: "eof_received" in served.names)
    assert served.received == b"to the target"
    served.connection.write(b"and back")
    served.connection.write_eof()
    for _ in range(5):
        reactor.run_once(0.01)
    assert client.recv(100) == b"and back"
    assert client.recv(100) == b""
    spin(reactor, lambda: served.lost)
    assert served.reason is None


def test_half_close_before_the_target_is_connected_is_forwarded(reactor):
    listener = reactor.listen("127.0.0.1:0", Echo)
    proxy = reactor.listen("127.0.0.1:0", APPS["proxy"].start(listener.addresses[0]))
    with connect(reactor, proxy.addresses[0]) as client:
        client.sendall(b"at once")
        client.shutdown(socket.SHUT_WR)
        client.setblocking(False)
        got = bytearray()

        def step():
            with contextlib.suppress(BlockingIOError):
                more = client.recv(100)
                got.extend(more)
                return not more

        spin(reactor, step, wait=0.01)
        assert got == b"at once"


@pytest.mark.slow
def test_side_that_reads_nothing_pauses_the_other(reactor, target):
    limits = Limits(high_water=65536, low_water=0)
    proxy = reactor.listen("127.0.0.1:0", APPS["proxy"].start(target.addresses[0]), limits=limits)
    with connect(reactor, proxy.addresses[0]) as client:
        spin(reactor, lambda: target.served)
        served = target.served[0]
        served.connection.pause_reading()
        client.setblocking(False)
        rest = memoryview(BIG * 8)
        stuck = 0
        while stuck < 20 and rest:
            try:
                rest = rest[client.send(rest) :]
                stuck = 0
            except BlockingIOError:
                stuck += 1
            reactor.run_once(0)
        assert rest, "everything was accepted, though the peer does not read"
        assert reactor.stats().queued_bytes < 1 << 20
        served.connection.resume_reading()
        while rest:
            with contextlib.suppress(BlockingIOError):
                rest = rest[client.send(rest) :]
            reactor.run_once(0.01)
        spin(reactor, lambda: reactor.stats().bytes_received == 2 * len(BIG) * 8)  # and by the proxy
        assert served.received == BIG * 8


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_reset_of_the_client_resets_the_target(reactor, proxied):
    client, served = proxied
    reset(client)
    spin(reactor, lambda: served.lost)
    assert isinstance(served.reason, ConnectionResetError)
    spin(reactor, lambda: not reactor.connections())


def test_reset_of_the_target_resets_the_client(reactor, proxied):
    client, served = proxied
    served.connection.abort()
    spin(reactor, lambda: not reactor.connections())
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_client_is_reset_if_the_target_refuses_and_the_log_says_so(reactor, caplog):
    closed = reactor.listen("127.0.0.1:0", Protocol)
    address = closed.addresses[0]
    closed.close()
    proxy = reactor.listen("127.0.0.1:0", APPS["proxy"].start(address))
    with connect(reactor, proxy.addresses[0]) as client:
        spin(reactor, lambda: reactor.stats().closed)
        assert reactor.stats().closed == {ConnectError.__name__: 1}
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert caplog.messages == [f"proxy: cannot connect to {address}: Connection refused"]


def test_client_that_disconnects_cancels_the_attempt_to_the_target(reactor):
    with silent_address() as silent:
        proxy = reactor.listen("127.0.0.1:0", APPS["proxy"].start(silent))
        with connect(reactor, proxy.addresses[0]):
            spin(reactor, reactor.connections)
        reactor.connections()[0].abort()
        reactor.run_once(0)
        assert reactor.stats().closed == {"ConnectionAborted": 1}
        assert reactor.next_timeout() is None, "a connect timer is left"
