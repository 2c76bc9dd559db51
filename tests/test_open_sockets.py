"""What is open: listed, drained and closed; nothing of it stays."""

import threading

from reactor import ConnectionAborted, DrainTimeout, Reactor
from reactor.testing import ManualClock, Recorder
from tests.helpers import Echo, connect, pair, spin

BIG = 4 * 1024 * 1024


def test_listeners_are_the_open_ones(reactor):
    first, second = (reactor.listen("127.0.0.1:0", Echo) for _ in range(2))
    first.close()
    assert reactor.listeners() == [second]
    assert str(second.addresses[0]) in repr(reactor)


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
