"""The loop in a background thread: it serves during the block, and drains at its end."""

import math
import signal
import socket
import threading
import time
from concurrent.futures import CancelledError

import pytest

from reactor import Reactor, UsageError
from reactor.errors import ReactorError
from reactor.loop import background as room
from tests.helpers import DEADLINE, Echo


@pytest.fixture
def reactor(descriptors):
    with Reactor() as made:
        yield made


def leave():
    raise SystemExit(7)


def test_serves_while_the_block_runs(reactor):
    with reactor.background(name="mine") as same:
        assert same is reactor
        address = reactor.submit(reactor.listen, "127.0.0.1:0", Echo).result(DEADLINE).addresses[0]
        with socket.create_connection((address.host, address.port), DEADLINE) as client:
            client.sendall(b"Hello")
            assert client.recv(100) == b"Hello"
        assert reactor.submit(lambda: threading.current_thread().name).result(DEADLINE) == "mine"
    assert not reactor.is_closed()
    assert reactor.listeners() == []
    with reactor.background():
        assert reactor.submit(int).result(DEADLINE) == 0


def test_end_of_the_block_drains(reactor):
    with socket.socket() as client:
        client.settimeout(DEADLINE)
        with reactor.background():
            listener = reactor.submit(reactor.listen, "127.0.0.1:0", Echo).result(DEADLINE)
            client.connect((listener.addresses[0].host, listener.addresses[0].port))
            client.sendall(b"last words")
        assert client.recv(100) == b"last words"
        assert client.recv(100) == b""


def test_end_of_the_block_aborts_connections_at_the_drain_timeout(reactor):
    with socket.socket() as client:
        client.settimeout(DEADLINE)
        with reactor.background(drain_timeout=0.01):
            listener = reactor.submit(reactor.listen, "127.0.0.1:0", Flood).result(DEADLINE)
            client.connect((listener.addresses[0].host, listener.addresses[0].port))
            assert client.recv(1)
        assert reactor.stats().closed == {"DrainTimeout": 1}


class Flood(Echo):
    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(bytes(30_000_000))


def test_exception_of_the_thread_is_raised_at_the_end_of_the_block(reactor):
    with pytest.raises(SystemExit, match="7"), reactor.background():
        reactor.call_soon_threadsafe(leave)
        with pytest.raises((CancelledError, UsageError)):
            reactor.submit(threading.Event().wait, DEADLINE).result(DEADLINE)
    assert reactor.is_closed()


def test_exception_of_the_block_has_a_note_about_the_thread(reactor):
    with pytest.raises(LookupError) as caught, reactor.background():
        reactor.call_soon_threadsafe(leave)
        raise LookupError("mine")
    assert caught.value.__notes__ == ["And the reactor's thread broke: SystemExit(7)"]


def test_background_of_a_driven_reactor_is_refused(reactor):
    with reactor.background():
        with pytest.raises(UsageError, match="driven by another thread already"), reactor.background():
            pass
        assert reactor.submit(int).result(DEADLINE) == 0


def test_stop_and_close_in_the_block_end_the_thread(reactor):
    with reactor.background():
        reactor.stop()
    assert not reactor.is_closed()
    with reactor.background():
        reactor.close()
    assert reactor.is_closed()
    with pytest.raises(UsageError, match="closed"):
        reactor.background()


def test_drain_with_a_longer_timeout_does_not_delay_the_end(reactor, monkeypatch):
    monkeypatch.setattr(room, "_GRACE", 0.05)
    ours, theirs = socket.socketpair()
    with theirs, reactor.background(drain_timeout=0.01):
        reactor.submit(reactor.adopt, ours, Flood).result(DEADLINE)
        reactor.drain(DEADLINE)
    assert not reactor.is_closed()


def test_drain_timeout_may_be_infinite(reactor):
    with reactor.background(drain_timeout=math.inf):
        reactor.submit(reactor.listen, "127.0.0.1:0", Echo).result(DEADLINE)


def test_thread_that_does_not_end_is_an_error(reactor, monkeypatch):
    monkeypatch.setattr(room, "_GRACE", 0.01)
    release, blocked = threading.Event(), threading.Event()

    def block():
        blocked.set()
        release.wait(DEADLINE)

    background = reactor.background(drain_timeout=0.01)
    with pytest.raises(ReactorError, match="thread reactor does not come out of its callback"):
        with background:
            reactor.call_soon_threadsafe(block)
            assert blocked.wait(DEADLINE)
    release.set()
    background._thread.join(DEADLINE)


def test_interrupt_at_the_end_of_the_block_stops_the_thread(reactor):
    release = threading.Event()
    ours, theirs = socket.socketpair()

    class Interrupting(Echo):
        def connection_lost(self, exc):  # because of the drain
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            release.wait(DEADLINE)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    background = reactor.background()
    try:
        with pytest.raises(KeyboardInterrupt), background:
            reactor.submit(reactor.adopt, ours, Interrupting).result(DEADLINE)
    finally:
        signal.signal(signal.SIGINT, previous)
        release.set()
    end = time.monotonic() + DEADLINE
    while background._thread in threading.enumerate():  # is_alive is wrong after an interrupted join
        assert time.monotonic() < end
    theirs.close()
