"""What is open: listed, counted, drained and closed; nothing of it stays."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import ConnectionAborted, DrainTimeout, Reactor
from reactor.reactor import loop_of, stats_in_parts
from reactor.testing import ManualClock, Recorder
from tests.helpers import Echo, connect, pair, spin

BIG = 4 * 1024 * 1024


def test_listeners_are_the_open_ones(reactor):
    first, second = (reactor.listen("127.0.0.1:0", Echo) for _ in range(2))
    first.close()
    assert reactor.listeners() == [second]
    assert str(second.addresses[0]) in repr(reactor)


@pytest.fixture
def part(monkeypatch):
    """Make parts so small that a look at any reactor takes several ticks; return the descriptors in one."""
    monkeypatch.setattr("reactor.open_sockets.DESCRIPTORS_PER_TICK", 8)
    return 8


def test_statistics_in_parts_are_those_of_one_look(reactor, part):
    pairs = [pair(reactor, Recorder()) for _ in range(30)]
    pairs[3][0].write(bytes(BIG))
    pairs[20][0].write(bytes(BIG))
    pairs[21][0].close()  # lingers: the peer does not close
    reactor.run_once(0)
    found, ticks = [], 0
    stats_in_parts(reactor, found.append)
    while not found:
        reactor.run_once(0)
        ticks += 1
    slots = len(loop_of(reactor).registry.owners)
    assert slots > 60
    assert ticks == -(-slots // part) - 1  # the first part is looked at before the first of them
    names = ("open", "paused", "lingering", "queued_bytes", "connected", "closed")
    whole = reactor.stats()
    assert {name: getattr(found[0], name) for name in names} == {name: getattr(whole, name) for name in names}
    assert (whole.open, whole.paused, whole.lingering) == (29, 2, 1)
    for _, peer in pairs:
        peer.close()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=10))
def test_connections_that_come_and_go_meanwhile_are_counted_once_or_not_at_all(part, plan):
    """plan: how many connections are closed, and how many opened, before each tick."""
    with Reactor() as reactor:
        pairs = [pair(reactor, Recorder()) for _ in range(24)]
        stay, brief = pairs[::4], [pairs[i] for i in range(24) if i % 4]
        for connection, _ in stay:
            connection.set_write_buffer_limits(high=0)
            connection.write(bytes(BIG))
        seen, found, steps = len(pairs), [], iter(plan)
        stats_in_parts(reactor, found.append)
        while not found:
            closed, opened = next(steps, (0, 0))
            for connection, _ in brief[:closed]:
                connection.abort()
            made = [pair(reactor, Recorder()) for _ in range(opened)]
            seen += opened
            pairs += made
            brief = brief[closed:] + made
            reactor.run_once(0)
        (stats,) = found
        assert stats.paused == len(stay)
        assert stats.queued_bytes == sum(connection.get_write_buffer_size() for connection, _ in stay)
        assert len(stay) <= stats.open <= seen
        assert stats.connected == seen
        for _, peer in pairs:
            peer.close()


def test_statistics_in_parts_are_left_when_the_reactor_is_closed(part):
    found = []
    with Reactor() as reactor:
        stats_in_parts(reactor, found.append)
        reactor.run_once(0)
    assert found == []


def test_drain_sends_what_is_queued_then_run_returns(reactor, descriptors):
    listener = reactor.listen("127.0.0.1:0", Recorder)
    clients = [connect(reactor, listener.addresses[0]) for _ in range(3)]
    for client in clients:
        client.send(b"x")  # a drain waits for the first bytes
    spin(reactor, lambda: reactor.stats().bytes_received == 3)
    received = []

    def read(client):
        data = b""
        while more := client.recv(1 << 20):
            data += more
        received.append(data)

    threads = [threading.Thread(target=read, args=(client,)) for client in clients]
    for connection in reactor.connections():
        connection.write(b"x" * BIG)
    for thread in threads:
        thread.start()
    reactor.drain()
    reactor.run()
    for thread in threads:
        thread.join()
    assert received == [b"x" * BIG] * 3
    assert reactor.connections() == []
    assert listener.is_closed()
    for client in clients:
        client.close()


def test_drain_without_connections_ends_at_once(reactor):
    reactor.connect("127.0.0.1:1", Recorder, on_failure=lambda exc: None)
    reactor.drain()
    reactor.run()
    assert reactor.next_timeout() is None


def test_drain_counts_a_connection_that_was_lost_just_before(reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    reactor.drain()
    reactor.call_soon(connection.abort)
    reactor.run()
    spin(reactor, lambda: recorder.lost)
    peer.close()


def test_drain_aborts_a_silent_peer_at_its_deadline(make_selector):
    clock = ManualClock()
    recorder = Recorder()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder)
        connection.write(b"x" * BIG)
        reactor.drain(5)
        reactor.run_once(0)
        reactor.run_once(0)
        assert not recorder.lost
        clock.advance(5.1)
        reactor.run()
        assert isinstance(recorder.reason, DrainTimeout)
        peer.close()


def test_reactor_can_run_again_after_a_drain(reactor):
    reactor.drain()
    reactor.run()
    reactor.listen("127.0.0.1:0", Echo)
    reactor.call_soon(reactor.drain)
    reactor.run()


def test_close_calls_connection_lost_of_each_connection_once(make_selector, descriptors):
    recorders = [Recorder() for _ in range(5)]
    reactor = Reactor(selector=make_selector())
    listener = reactor.listen("127.0.0.1:0", Echo)
    reactor.connect(listener.addresses[0], Echo)
    peers = [pair(reactor, recorder)[1] for recorder in recorders]
    recorders[0].connection.close()
    reactor.close()
    reactor.close()
    assert recorders[0].reason is None
    assert {str(recorder.reason) for recorder in recorders[1:]} == {"the reactor was closed"}
    for peer in peers:
        peer.close()


def test_connection_lost_may_use_the_reactor_while_it_closes():
    class Stubborn(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            reactor.call_later(1, print)

    stubborn = Stubborn()
    reactor = Reactor()
    _, peer = pair(reactor, stubborn)
    reactor.close()
    assert isinstance(stubborn.reason, ConnectionAborted)
    peer.close()


def test_reactors_leak_nothing(make_selector, descriptors):
    threads = threading.active_count()
    for _ in range(100):
        with Reactor(selector=make_selector()) as reactor:
            listener = reactor.listen("127.0.0.1:0", Echo)
            recorder = Recorder()
            reactor.connect(listener.addresses[0], lambda recorder=recorder: recorder)
            spin(reactor, lambda: recorder.calls)  # noqa: B023
    assert threading.active_count() == threads
