"""Drain: the backlog is served, idle connections are closed at once, busy ones have until the deadline."""

import logging
import socket
import struct
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Drained, DrainTimeout, Limits, Protocol, Reactor, Timeouts, UsageError
from reactor.listening.drain import FIRST_BYTES
from reactor.reactor import loop_of
from reactor.streams import handler
from reactor.testing import MemoryReactor, Recorder
from tests.helpers import DEADLINE, Echo, connect, examples, pair, spin

BIG = bytes(4 << 20)


@pytest.fixture
def reactor(make_selector, clock):
    with Reactor(selector=make_selector(), clock=clock) as made:
        yield made


@pytest.fixture
def reports():
    return []


def go_on(reactor, clock, until, limit=100.0):
    """Drive the reactor, and its clock from timer to timer, until `until()`."""
    start = clock.now

    def step():
        clock.advance(0.01)
        assert clock.now - start < limit
        return until()

    spin(reactor, step, wait=0)


def test_idle_connections_are_closed_at_once(reactor, clock, reports):
    recorders = [Recorder() for _ in range(3)]
    peers = [pair(reactor, recorder)[1] for recorder in recorders]
    reactor.drain(30, reports.append)
    go_on(reactor, clock, lambda: reports, limit=1)
    assert reports == [Drained(idle=3, finished=0, failed=0, aborted=0)]
    assert [recorder.reason for recorder in recorders] == [None] * 3
    for peer in peers:
        assert peer.recv(1) == b""
        peer.close()


def test_connection_lost_is_called_for_all_before_run_returns(make_selector):
    recorders = [Recorder() for _ in range(3)]
    with Reactor(selector=make_selector()) as reactor:
        peers = [pair(reactor, recorder)[1] for recorder in recorders]
        reactor.drain(30)
        reactor.run()
        assert [recorder.reason for recorder in recorders] == [None] * 3
    for peer in peers:
        peer.close()


def test_what_is_queued_is_sent_first(reactor, clock, reports):
    connection, peer = pair(reactor, Recorder())
    connection.write(BIG)
    reactor.drain(30, reports.append)
    received = bytearray()

    def receive():
        try:
            received.extend(peer.recv(1 << 20))
        except BlockingIOError:
            pass
        return reports

    go_on(reactor, clock, receive)
    assert bytes(received) == BIG
    assert reports == [Drained(idle=0, finished=1, failed=0, aborted=0)]
    peer.close()


def test_silent_peer_is_aborted_at_the_deadline(reactor, clock, reports):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    connection.write(BIG)
    start = clock.now
    reactor.drain(5, reports.append)
    go_on(reactor, clock, lambda: reports)
    assert 5 <= clock.now - start <= 5.1
    assert reports == [Drained(idle=0, finished=0, failed=0, aborted=1)]
    assert isinstance(recorder.reason, DrainTimeout)
    assert str(recorder.reason) == "still open after the 5 s of the drain"
    peer.close()


def test_unread_input_is_handled_before_the_end(reactor, clock, reports):
    echo = Echo()
    _, peer = pair(reactor, echo)
    peer.send(b"a last question")
    reactor.drain(30, reports.append)
    go_on(reactor, clock, lambda: reports)
    assert peer.recv(100) == b"a last question"
    assert echo.reason is None
    peer.close()


def test_connections_in_the_backlog_are_served(reactor, clock, reports):
    served = []

    def factory():
        served.append(Echo())
        return served[-1]

    listener = reactor.listen("127.0.0.1:0", factory, limits=Limits(accept_batch=2))
    listener.pause()
    clients = [connect(reactor, listener.addresses[0]) for _ in range(7)]
    reactor.drain(30, reports.append)
    spin(reactor, listener.is_closed)
    assert len(served) == 7
    with pytest.raises(ConnectionRefusedError):
        connect(reactor, listener.addresses[0])
    clock.advance(0.001)
    for client in clients:
        client.sendall(b"question")
        client.setblocking(False)
    spin(reactor, lambda: reactor.stats().bytes_sent == 7 * 8)
    go_on(reactor, clock, lambda: reports)
    assert [client.recv(100) for client in clients] == [b"question"] * 7
    assert reports == [Drained(idle=0, finished=7, failed=0, aborted=0)]
    for client in clients:
        client.close()


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2", "127.0.0.3"]])
def test_connections_made_after_the_start_do_not_prolong_the_drain(reactor, reports, monkeypatch, hosts):
    """Each connection makes the next: a drain that waited for empty backlogs would never end."""
    backlog, clients = 3, []

    class Next(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            served.append(connection.get_extra_info("sockname")[0])
            if len(served) < 100:
                clients.append(socket.create_connection(connection.get_extra_info("sockname"), DEADLINE))

    with monkeypatch.context() as patched:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts]
        patched.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        listener = reactor.listen("several:0", Next, backlog=backlog)
    served = []
    listener.pause()
    clients += [connect(reactor, address) for address in listener.addresses]
    listener.drain(30, reports.append)
    spin(reactor, listener.is_closed)
    assert Counter(served) == dict.fromkeys(hosts, backlog + 1)
    for client in clients:
        client.close()
    spin(reactor, lambda: reports)


def test_connection_from_the_backlog_may_close_the_draining_listener(reactor, reports):
    class Closer(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            listener.close()

    listener = reactor.listen("127.0.0.1:0", Closer, backlog=0)
    listener.pause()
    with connect(reactor, listener.addresses[0]):
        listener.drain(30, reports.append)
        spin(reactor, listener.is_closed)
    spin(reactor, lambda: reports)
    assert reports == [Drained(idle=0, finished=1, failed=0, aborted=0)]


def test_full_listener_serves_its_backlog_as_connections_end(make_selector, reports):
    with Reactor(selector=make_selector()) as reactor:
        listener = reactor.listen("127.0.0.1:0", Echo, limits=Limits(max_connections=1))
        clients = [connect(reactor, listener.addresses[0]) for _ in range(4)]
        for client in clients:
            client.sendall(b"question")
        reactor.drain(3600, reports.append)
        spin(reactor, lambda: reports)
        assert [client.recv(100) for client in clients] == [b"question"] * 4
        assert (reports[0].failed, reports[0].aborted) == (0, 0)
        for client in clients:
            client.close()


def test_draining_may_return_that_the_protocol_is_busy(reactor, clock, reports):
    class Worker(Recorder):
        busy = True

        def draining(self):
            return self.busy

    worker = Worker()
    _, peer = pair(reactor, worker)
    reactor.drain(30, reports.append)
    reactor.call_later(3, setattr, worker, "busy", False)
    start = clock.now
    go_on(reactor, clock, lambda: worker.lost)
    assert 3 <= clock.now - start <= 3.3
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=0, finished=1, failed=0, aborted=0)]
    peer.close()


def test_busy_protocol_is_asked_again_after_growing_pauses(reactor, clock, reports):
    class Busy(Recorder):
        def draining(self):
            asked.append(clock.now)
            return True

    asked = []
    _, peer = pair(reactor, Busy())
    reactor.drain(30, reports.append)
    while len(asked) < 8:
        reactor.run_once(0)
        clock.advance(reactor.next_timeout())
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1])
    peer.close()


def test_report_distinguishes_idle_and_finished_connections(reactor, clock, reports):
    class Once(Recorder):
        busy = True

        def draining(self):
            was, self.busy = self.busy, False
            return was

    peers = [pair(reactor, kind())[1] for kind in (Once, Once, Recorder, Recorder)]
    reactor.drain(30, reports.append)
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=2, finished=2, failed=0, aborted=0)]
    for peer in peers:
        peer.close()


def test_closed_connection_with_a_queue_has_until_the_deadline(reactor, clock, reports):
    """A socket of a pair counts what its peer has not read as not delivered."""
    connection, peer = pair(reactor, Recorder(), timeouts=Timeouts(close=60))
    connection.write(b"the end")
    connection.close()
    start = clock.now
    reactor.drain(5, reports.append)
    go_on(reactor, clock, lambda: reports)
    assert 5 <= clock.now - start <= 5.1
    assert reports == [Drained(idle=0, finished=1, failed=0, aborted=0)]
    peer.close()


def test_drain_timeout_is_30_seconds_by_default(reactor, clock):
    recorder = Recorder()
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    with connect(reactor, listener.addresses[0]):
        spin(reactor, reactor.connections)
        recorder.connection.write(BIG)
        start = clock.now
        listener.drain()
        go_on(reactor, clock, lambda: recorder.lost)
        assert 30 <= clock.now - start <= 30.1


def test_connection_that_awaits_the_rest_of_a_message_is_busy(reactor, clock, reports):
    class Messages(Echo):
        def data_received(self, data):
            super().data_received(data)
            if data.endswith(b"\n"):
                self.connection.set_timeouts(read=None)

    _, peer = pair(reactor, Messages(), timeouts=Timeouts(read=20))
    peer.send(b"half of a ")
    reactor.drain(30, reports.append)
    reactor.call_later(2, peer.send, b"message\n")
    start = clock.now
    received = bytearray()

    def receive():
        try:
            received.extend(peer.recv(100))
        except BlockingIOError:
            pass
        return reports

    go_on(reactor, clock, receive)
    assert 2 <= clock.now - start <= 2.3
    assert received == b"half of a message\n"
    peer.close()


def test_stream_with_a_partial_message_is_busy(reactor, clock, reports):
    async def answer(stream):
        while True:
            await stream.send(await stream.receive_exactly(10))

    client, stream = socket.socketpair()
    reactor.adopt(stream, handler(answer))
    client.send(b"half ")
    spin(reactor, lambda: reactor.stats().bytes_received)
    reactor.drain(30, reports.append)
    reactor.call_later(2, client.send, b"a day")
    start = clock.now
    go_on(reactor, clock, lambda: not reactor.connections())
    assert 2 <= clock.now - start <= 2.3
    assert client.recv(100) == b"half a day"
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=0, finished=1, failed=0, aborted=0)]
    client.close()


def test_report_counts_connections_that_failed(reactor, clock, reports):
    connection, peer = pair(reactor, Recorder())
    connection.write(BIG)
    reactor.drain(30, reports.append)
    peer.close()
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=0, finished=0, failed=1, aborted=0)]


def test_draining_that_raises_is_reported(make_selector, errors, reports):
    class Broken(Recorder):
        def draining(self):
            raise ZeroDivisionError

    with Reactor(selector=make_selector(), on_error=errors) as reactor:
        broken = Broken()
        connection, peer = pair(reactor, broken)
        reactor.drain(30, reports.append)
        spin(reactor, lambda: reports)
        exc, name, of = errors.take()
        assert (type(exc), of) == (ZeroDivisionError, connection)
        assert name.endswith("Broken.draining")
        assert broken.reason is exc
        peer.close()


def test_drain_of_one_listener_leaves_the_others(reactor, clock, reports):
    one, other = (reactor.listen("127.0.0.1:0", Echo) for _ in range(2))
    clients = [connect(reactor, listener.addresses[0]) for listener in (one, other)]
    clients[0].sendall(b"x")
    spin(reactor, lambda: len(reactor.connections()) == 2 and reactor.stats().bytes_sent == 1)
    one.drain(30, reports.append)
    one.drain(1, reports.append)
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=1, finished=0, failed=0, aborted=0)]
    assert reactor.listeners() == [other]
    assert clients[0].recv(2) == b"x"
    assert clients[0].recv(1) == b""
    clients[1].sendall(b"x")
    spin(reactor, lambda: reactor.stats().bytes_sent == 2)
    for client in clients:
        client.close()
    other.close()
    with pytest.raises(UsageError, match="the listener is closed"):
        other.drain()


def test_connections_from_the_backlog_count_in_both_of_two_drains(reactor, clock, reports):
    listener = reactor.listen("127.0.0.1:0", Echo)
    listener.pause()
    client = connect(reactor, listener.addresses[0])
    reactor.drain(30, reports.append)
    reactor.run_once(0)
    listener.drain(30, reports.append)
    go_on(reactor, clock, listener.is_closed)
    start = clock.now
    go_on(reactor, clock, lambda: clock.now - start > 1)
    assert reports == []
    client.sendall(b"at last")
    spin(reactor, lambda: reactor.stats().bytes_sent == 7)
    go_on(reactor, clock, lambda: len(reports) == 2)
    assert client.recv(100) == b"at last"
    client.close()


@pytest.mark.parametrize(("timeout", "patience"), [(30, 5), (4, 2)])
@pytest.mark.parametrize("kind", ["127.0.0.1:0", "unix"])
def test_accepted_connection_has_a_time_for_its_first_bytes(
    reactor, clock, reports, timeout, patience, kind, tmp_path
):
    listener = reactor.listen(f"unix:{tmp_path}/s" if kind == "unix" else kind, Echo)
    silent, late = (connect(reactor, listener.addresses[0]) for _ in range(2))
    spin(reactor, lambda: len(reactor.connections()) == 2)
    clock.advance(1)
    start = clock.now
    reactor.drain(timeout, reports.append)
    go_on(reactor, clock, lambda: clock.now - start > 1)
    late.sendall(b"at last")
    spin(reactor, lambda: reactor.stats().bytes_sent == 7)
    go_on(reactor, clock, lambda: len(reactor.connections()) == 1)
    assert late.recv(100) == b"at last"
    assert clock.now - start < 1.5
    go_on(reactor, clock, lambda: not reactor.connections())
    assert patience <= clock.now - start <= patience + 0.2
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=0, finished=2, failed=0, aborted=0)]
    silent.close()
    late.close()


def test_connection_that_has_been_silent_for_long_is_closed_at_once(reactor, clock, reports):
    listener = reactor.listen("127.0.0.1:0", Echo)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)
    clock.advance(FIRST_BYTES + 0.1)
    reactor.drain(30, reports.append)
    go_on(reactor, clock, lambda: not reactor.connections(), limit=1)
    go_on(reactor, clock, lambda: reports)
    assert reports == [Drained(idle=1, finished=0, failed=0, aborted=0)]
    client.close()


def test_drain_of_one_listener_aborts_only_its_own(reactor, clock, reports):
    listener = reactor.listen("127.0.0.1:0", Recorder)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)
    reactor.connections()[0].write(BIG)
    mine, peer = pair(reactor, Recorder())
    listener.drain(1, reports.append)
    go_on(reactor, clock, lambda: reports)
    assert reports[0].aborted == 1
    assert reactor.connections() == [mine]
    client.close()
    peer.close()


def test_report_is_logged_without_a_callback(reactor, clock, caplog):
    caplog.set_level(logging.INFO)
    listener = reactor.listen("127.0.0.1:0", Echo)
    listener.drain()
    go_on(reactor, clock, lambda: "drained" in caplog.text)
    assert f"{listener!r} drained: 0 idle, 0 finished, 0 failed, 0 aborted" in caplog.text
    reactor.drain()
    reactor.run()
    assert "drained: 0 idle" in caplog.text.splitlines()[-1]


@pytest.mark.parametrize("whole", [True, False])
def test_peers_that_send_no_fin_do_not_delay_the_drain(make_selector, reports, whole):
    with Reactor(selector=make_selector()) as reactor:
        listener = reactor.listen("127.0.0.1:0", Protocol)
        client = connect(reactor, listener.addresses[0])
        spin(reactor, reactor.connections)
        reactor.connections()[0].close()
        (reactor if whole else listener).drain(3600, reports.append)
        spin(reactor, lambda: reports)
        assert client.recv(1) == b""
        client.close()


def test_second_drain_of_the_reactor_changes_nothing(reactor, clock, reports):
    connection, peer = pair(reactor, Recorder())
    connection.write(BIG)
    reactor.drain(5, reports.append)
    reactor.drain(1, reports.append)
    start = clock.now
    go_on(reactor, clock, lambda: reports)
    assert clock.now - start >= 5
    reactor.run_once(0)
    assert len(reports) == 1
    peer.close()


def test_many_connections_are_asked_over_several_ticks(reactor, clock, reports):
    class Asked(Protocol):
        def draining(self):
            asked.append(self)

    asked, before = [], 0
    pairs = [socket.socketpair() for _ in range(300)]
    for ours, _ in pairs:
        reactor.adopt(ours, Asked)
    reactor.drain(30, reports.append)
    while not reports:
        reactor.run_once(0)
        assert len(asked) - before <= 256
        before = len(asked)
        clock.advance(0.01)
    assert reports == [Drained(idle=300, finished=0, failed=0, aborted=0)]
    assert len(asked) == 300
    for _, theirs in pairs:
        theirs.close()


def test_reset_found_by_a_drain_is_a_failure(reactor, clock, reports):
    recorder = Recorder()
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)

    def reset():
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    reactor.call_soon(reset)  # before the drain asks, and after the poll of the tick
    listener.drain(30, reports.append)
    go_on(reactor, clock, lambda: reports, limit=40)
    assert isinstance(recorder.reason, ConnectionResetError)
    assert reports == [Drained(idle=0, finished=0, failed=1, aborted=0)]


def test_drain_counts_its_own_connections(reactor):
    _, peer = pair(reactor, Recorder())
    counters = loop_of(reactor).counters
    counters.accepted += 5
    counters.connected += 5
    drained = []
    with peer:
        reactor.drain(20, drained.append)
        spin(reactor, lambda: not reactor.connections())
    spin(reactor, lambda: drained)
    assert drained == [Drained(idle=1, finished=0, failed=0, aborted=0)]


def test_drain_waits_for_a_connection_made_during_it(reactor):
    busy = Recorder()
    busy.draining = lambda: True
    _, peer = pair(reactor, busy)
    drained = []
    reactor.drain(20, drained.append)
    reactor.run_once(0)
    late = Recorder()
    late.draining = lambda: True
    _, other = pair(reactor, late)
    busy.connection.abort()
    spin(reactor, lambda: busy.lost)
    reactor.run_once(0)
    assert drained == []
    late.connection.abort()
    spin(reactor, lambda: drained)
    assert drained == [Drained(idle=0, finished=0, failed=2, aborted=0)]
    peer.close()
    other.close()


def test_draining_may_clear_the_read_deadline(reactor, clock, reports):
    class Waiting(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.set_timeouts(read=1000)

        def draining(self):
            self.connection.set_timeouts(read=None)
            return False

    waiting = []
    listener = reactor.listen("127.0.0.1:0", lambda: waiting.append(Waiting()) or waiting[-1])
    with connect(reactor, listener.addresses[0]) as client:
        client.send(b"x")
        spin(reactor, lambda: waiting and waiting[0].received)
        reactor.drain(30, reports.append)
        spin(reactor, lambda: waiting[0].lost)
        assert waiting[0].reason is None


class Owed(Recorder):
    """A protocol whose peer owes it the next message; `busy`: it has something to finish."""

    busy = False
    ended = None

    def data_received(self, data):
        super().data_received(data)
        self.connection.set_timeouts(read=1000.0)

    def draining(self):
        return self.busy

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.ended = self.connection.reactor.time()


@contextmanager
def drained(timeout, reports):
    """A connection that has been served for a while, whose listener begins to drain."""
    server, client = Owed(), Recorder()
    with MemoryReactor() as reactor:
        listener = reactor.listen("10.0.0.1:80", lambda: server)
        reactor.connect("10.0.0.1:80", lambda: client)
        reactor.advance(0)
        client.connection.write(b"x")
        reactor.advance(20)
        listener.drain(timeout, reports.append)
        yield reactor, server, client


@examples(50)
@given(timeout=st.floats(1, 100), pauses=st.lists(st.floats(0, 30), max_size=8))
def test_what_waits_for_its_peer_is_closed_after_a_silence_as_long_as_what_is_left(timeout, pauses):
    reports = []
    with drained(timeout, reports) as (reactor, server, client):
        silent_since = start = reactor.time()
        for pause in pauses:
            closing, now = (silent_since + start + timeout) / 2, reactor.time() + pause
            if now > closing:
                break
            reactor.advance(pause)
            assert server.ended is None
            client.connection.write(b"x")
            reactor.advance(0)
            silent_since = now
        reactor.advance(timeout)
        closing, due = (silent_since + start + timeout) / 2, start + timeout
        assert closing <= server.ended <= min(closing + 0.11, due)
        if server.ended < due:
            assert (client.reason, reports) == (None, [Drained(idle=0, finished=1, failed=0, aborted=0)])


@pytest.mark.parametrize("reason", ["queue", "busy"])
def test_what_is_late_and_has_something_to_send_or_to_finish_has_until_the_deadline(reason):
    reports = []
    with drained(10.0, reports) as (reactor, server, client):
        start = reactor.time()
        if reason == "queue":
            client.connection.pause_reading()
            server.connection.write(BIG)
        server.busy = reason == "busy"
        reactor.advance(9)
        assert server.connection.is_closing() is (reason == "queue")
        client.connection.resume_reading()
        reactor.advance(2)
        assert (reports[0].finished, reports[0].aborted) == ((1, 0) if reason == "queue" else (0, 1))
        assert server.ended == pytest.approx(start + (9 if reason == "queue" else 10), abs=0.2)
        assert len(client.received) == (len(BIG) if reason == "queue" else 0)
