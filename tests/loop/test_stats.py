"""Statistics: counters, gauges and the histogram of ticks."""

import socket
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Histogram, Limits, Protocol, Reactor, Timeouts
from reactor.loop.stats import LAG_BOUNDS, Counters
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import Echo, connect, pair, spin


@given(st.lists(st.floats(0.0011, 100), max_size=200), st.integers(0, 1000))
def test_lag_is_counted_by_its_bounds(slow, quick):
    counters = Counters()
    for seconds in slow:
        counters.add_lag(seconds)
    lag = counters.lag(len(slow) + quick)
    assert lag.total() == len(slow) + quick
    assert lag.counts[0] == quick
    edges = [0.001, *LAG_BOUNDS[1:], float("inf")]
    for (low, high), count in zip(pairwise(edges), lag.counts[1:], strict=True):
        assert count == sum(low < seconds <= high for seconds in slow)


def test_quantile_is_the_bound_of_its_bucket():
    lag = Histogram((1.0, 2.0, 3.0), (50, 40, 9, 1))
    assert [lag.quantile(part) for part in (0, 0.5, 0.51, 0.9, 0.99, 1)] == [1, 1, 2, 2, 3, float("inf")]
    with pytest.raises(ValueError, match=r"no 0\.5 quantile of 0 values"):
        Histogram((1.0,), (0, 0)).quantile(0.5)
    with pytest.raises(ValueError, match="no 2 quantile"):
        lag.quantile(2)


def test_bytes_and_connections_are_counted(reactor):
    listener = reactor.listen("127.0.0.1:0", Echo)
    with connect(reactor, listener.addresses[0]) as client:
        client.sendall(b"x" * 1000)
        spin(reactor, lambda: reactor.stats().bytes_sent == 1000)
        stats = reactor.stats()
        assert (stats.accepted, stats.open, stats.bytes_received) == (1, 1, 1000)
        assert stats.ticks >= 2
        assert stats.events >= 2
        assert stats.lag.total() == stats.ticks
        assert len(client.recv(1000)) == 1000
    spin(reactor, lambda: not reactor.connections())
    assert reactor.stats().closed == {"clean": 1}


def test_bytes_are_counted_for_every_kind_of_transfer(reactor):
    connection, peer = pair(reactor, Recorder())
    connection.write(b"outside of a tick")
    connection.writelines([b"two", b"pieces"])
    reactor.call_soon(connection.write, b"inside")
    reactor.call_soon(connection.write, b"again")
    reactor.call_soon(connection.write, bytes(10_000))
    reactor.run_once(0)
    reactor.run_once(0)
    received = len(peer.recv(1 << 20))
    assert reactor.stats().bytes_sent == received == 17 + 9 + 6 + 5 + 10_000
    peer.close()


def test_open_paused_and_lingering_are_gauges(reactor):
    connection, peer = pair(reactor, Recorder())
    connection.write(bytes(4 << 20))
    stats = reactor.stats()
    assert (stats.connected, stats.open, stats.paused) == (1, 1, 1)
    assert stats.queued_bytes == connection.get_write_buffer_size() > 0
    connection.abort()
    reactor.run_once(0)
    stats = reactor.stats()
    assert (stats.open, stats.paused, stats.queued_bytes) == (0, 0, 0)
    assert stats.closed == {"ConnectionAborted": 1}
    peer.close()


def test_ends_are_counted_by_reason(make_selector):
    clock, errors = ManualClock(), Errors()

    class Broken(Protocol):
        def data_received(self, data):
            raise ZeroDivisionError

    with Reactor(selector=make_selector(), clock=clock, on_error=errors) as reactor:
        limits = Limits(max_connections=3, when_full="refuse")
        listener = reactor.listen("127.0.0.1:0", Broken, limits=limits, timeouts=Timeouts(idle=10))
        clients = [connect(reactor, listener.addresses[0]) for _ in range(5)]
        spin(reactor, lambda: reactor.stats().refused)
        clients[0].send(b"x")
        clients[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        clients[1].close()
        spin(reactor, lambda: len(reactor.connections()) == 1)
        clock.advance(11)
        spin(reactor, lambda: not reactor.connections())
        stats = reactor.stats()
        assert stats.refused == {"max_connections": 2}
        assert stats.closed == {"ZeroDivisionError": 1, "ECONNRESET": 1, "IdleTimeout": 1}
        assert stats.handler_errors == len(errors.seen) == 1
        for client in clients:
            client.close()


def test_drain_is_counted_while_it_goes_on_and_afterwards(reactor):
    _, idle = pair(reactor, Recorder())
    busy, peer = pair(reactor, Recorder())
    busy.write(bytes(4 << 20))
    assert (reactor.stats().draining, reactor.stats().drained) == (False, {})
    reactor.drain(30)
    spin(reactor, lambda: len(reactor.connections()) == 1)
    stats = reactor.stats()
    assert (stats.draining, stats.open) == (True, 1)
    assert stats.drained == {"idle": 1, "finished": 0, "failed": 0, "aborted": 0}
    busy.abort()
    spin(reactor, lambda: not reactor.stats().draining)
    assert reactor.stats().drained == {"idle": 1, "finished": 0, "failed": 1, "aborted": 0}
    idle.close()
    peer.close()


def test_exception_after_the_end_is_counted_and_is_not_the_reason(reactor, errors):
    class Broken(Recorder):
        def data_received(self, data):
            peer.close()
            self.connection.write(bytes(1 << 20))
            raise ZeroDivisionError

    broken = Broken()
    _, peer = pair(reactor, broken)
    peer.send(b"x")
    spin(reactor, lambda: broken.lost)
    assert isinstance(broken.reason, BrokenPipeError)
    assert isinstance(errors.take()[0], ZeroDivisionError)
    stats = reactor.stats()
    assert (stats.closed, stats.handler_errors) == ({"EPIPE": 1}, 1)


def test_writes_after_the_end_are_counted(reactor):
    connection, peer = pair(reactor, Recorder())
    connection.abort()
    for _ in range(3):
        assert connection.write(b"x") is False
    assert reactor.stats().dropped_writes == 3
    peer.close()


def test_slow_tick_is_in_the_histogram():
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        reactor.call_soon(clock.advance, 0.15)
        reactor.run_once(0)
        reactor.run_once(0)
        assert reactor.stats().lag.quantile(1) == 0.2
