"""Blocking handlers: their socket, the number of workers, and how deadlines free them."""

import contextlib
import errno
import inspect
import os
import socket
import threading

import pytest

from reactor import ConnectionAborted, Limits, Reactor, Timeouts, WriteTimeout
from reactor.pool import Pool
from tests.helpers import DEADLINE, connect, receive, settle, spin
from tests.pools import BIG, BLOCKING_CALLS, assert_byte_is_activity, blocked_in, echo, hears, serve

__all__ = ["serve"]


def test_blocking_echo_handler_serves(reactor, serve):
    address = serve(echo)
    with connect(reactor, address) as client:
        client.sendall(b"Hello\n")
        client.shutdown(socket.SHUT_WR)
        assert receive(reactor, client) == b"Hello\n"
    spin(reactor, lambda: not reactor.connections())


def test_socket_supports_makefile_and_with(reactor, serve):
    def lines(connection):
        with connection, connection.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()

    address = serve(lines)
    with connect(reactor, address) as client:
        client.sendall(b"one\ntwo\n")
        client.shutdown(socket.SHUT_WR)
        assert receive(reactor, client) == b"ONE\nTWO\n"
    spin(reactor, lambda: not reactor.connections())


def test_large_answer_arrives_though_input_is_unread(reactor, serve):
    address = serve(lambda connection: connection.sendall(BIG), timeouts=Timeouts(write=None))
    with connect(reactor, address) as client:
        client.sendall(b"never read")
        assert receive(reactor, client) == BIG


def test_connections_wait_for_a_worker_in_order(reactor, serve):
    order, gates = [], threading.Semaphore(0)

    def handler(connection):
        order.append(connection.recv(10))
        assert gates.acquire(timeout=DEADLINE)

    address = serve(handler, workers=2)
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(5):
            clients.append(stack.enter_context(connect(reactor, address)))
            spin(reactor, lambda number=number: len(reactor.connections()) == number + 1)
            clients[-1].sendall(b"%d" % number)
        spin(reactor, lambda: len(order) == 2)
        assert sorted(order) == [b"0", b"1"]
        for served in (3, 4, 5):
            gates.release()
            spin(reactor, lambda served=served: len(order) == served)
        assert order[2:] == [b"2", b"3", b"4"]
        gates.release(2)
        spin(reactor, lambda: not reactor.connections())


def test_max_connections_counts_served_and_waiting_connections(reactor, serve):
    gate = threading.Event()
    limits = Limits(max_connections=3, when_full="refuse")
    address = serve(lambda connection: gate.wait(DEADLINE), workers=1, limits=limits)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(reactor, address)) for _ in range(5)]
        spin(reactor, lambda: sum(reactor.stats().refused.values()) == 2)
        assert len(reactor.connections()) == 3
        gate.set()
        spin(reactor, lambda: not reactor.connections())
        assert [receive(reactor, client) for client in clients[:3]] == [b""] * 3


def test_client_that_disconnects_while_waiting_is_not_served(reactor, serve):
    gate, served = threading.Event(), []

    def handler(connection):
        served.append(connection.getpeername())
        gate.wait(DEADLINE)

    address = serve(handler, workers=1)
    with connect(reactor, address) as first, connect(reactor, address) as second:
        spin(reactor, lambda: len(reactor.connections()) == 2)
        spin(reactor, lambda: served)
        for connection in reactor.connections():
            if connection.get_extra_info("peername") == second.getsockname():
                connection.abort()
        reactor.run_once(0)
        gate.set()
        spin(reactor, lambda: not reactor.connections())
        assert served == [first.getsockname()]


@pytest.mark.parametrize(
    ("timeouts", "blocks", "error"),
    BLOCKING_CALLS,
)
def test_deadline_frees_a_blocked_worker(reactor, serve, timeouts, blocks, error):
    raised = []
    again = blocks if error is WriteTimeout else lambda connection: connection.recv(1)
    address = serve(blocked_in(raised, blocks, again), timeouts=timeouts)
    with connect(reactor, address):
        spin(reactor, lambda: raised and not reactor.connections())
        assert type(raised[0]) is error
        assert reactor.stats().closed == {error.__name__: 1}
        assert reactor.stats().handler_errors == 0


def test_connection_that_waits_for_a_worker_is_not_idle(errors, clock):
    gate, served = threading.Event(), []

    def handler(connection):
        served.append(connection.getpeername())
        gate.wait(DEADLINE)

    with Reactor(clock=clock, on_error=errors) as reactor, Pool(handler, workers=1) as pool:
        timeouts = Timeouts(idle=10, read=10)
        address = reactor.listen("127.0.0.1:0", pool, timeouts=timeouts).addresses[0]
        with connect(reactor, address) as first:
            spin(reactor, lambda: served)
            with connect(reactor, address) as second:
                spin(reactor, lambda: len(reactor.connections()) == 2)
                clock.advance(12)
                spin(reactor, lambda: len(reactor.connections()) == 1)
                clock.advance(12)
                settle(reactor)
                gate.set()
                spin(reactor, lambda: len(served) == 2 and not reactor.connections())
                assert served == [first.getsockname(), second.getsockname()]
    assert errors.seen == []


def test_bytes_restart_the_idle_timeout(reactor, serve):
    heard = []

    address = serve(hears(heard), timeouts=Timeouts(idle=10))
    with connect(reactor, address) as client:
        assert_byte_is_activity(reactor, client, heard)


def test_exception_is_reported_and_ends_the_connection(reactor, serve, errors):
    def broken(connection):
        raise LookupError("not found")

    address = serve(broken)
    with connect(reactor, address) as client:
        spin(reactor, lambda: errors.seen)
        exc, name, connection = errors.take()
        assert str(exc) == "not found"
        assert name.endswith("broken")
        assert connection.get_extra_info("peername")
        assert reactor.stats().closed == {"LookupError": 1}
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_reset_by_the_peer_is_not_reported(reactor, serve):
    address = serve(echo)
    with connect(reactor, address) as client:
        spin(reactor, reactor.connections)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    spin(reactor, lambda: reactor.stats().closed)
    assert reactor.stats().closed == {"ECONNRESET": 1}
    assert reactor.stats().handler_errors == 0


def test_connection_that_ends_just_before_its_handler_returns_is_not_reported(reactor, serve, monkeypatch):
    running, gate, posted = threading.Event(), threading.Event(), threading.Event()
    post = reactor.call_soon_threadsafe

    def posting(*args):
        post(*args)
        posted.set()

    def handler(connection):
        running.set()
        gate.wait(DEADLINE)

    def end():
        """Abort behind the handler's return, so that `connection_lost` is due after it."""
        gate.set()
        assert posted.wait(DEADLINE)
        reactor.connections()[0].abort()

    monkeypatch.setattr(reactor, "call_soon_threadsafe", posting)
    with connect(reactor, serve(handler)):
        spin(reactor, running.is_set)
        posted.clear()
        reactor.call_soon(end)
        spin(reactor, lambda: reactor.stats().closed)
        settle(reactor)
    assert reactor.stats().handler_errors == 0


def test_drain_waits_for_handlers_and_aborts_them_at_its_deadline(reactor, serve):
    reports, raised = [], []

    def handler(connection):
        try:
            while data := connection.recv(10):
                connection.sendall(data)
        except OSError as exc:
            raised.append(exc)
            raise

    address = serve(handler)
    with connect(reactor, address) as done, connect(reactor, address):
        spin(reactor, lambda: len(reactor.connections()) == 2)
        reactor.drain(0.3, reports.append)
        done.sendall(b"x")
        done.shutdown(socket.SHUT_WR)
        assert receive(reactor, done) == b"x"
        spin(reactor, lambda: reports and raised)
        assert (reports[0].finished, reports[0].aborted) == (1, 1)


def test_closing_the_reactor_frees_the_workers(make_selector, errors, descriptors):
    raised = threading.Event()

    def handler(connection):
        try:
            connection.recv(1)
        except ConnectionAborted:
            raised.set()
            raise

    with Pool(handler, workers=2) as pool:
        with Reactor(selector=make_selector(), on_error=errors) as reactor:
            address = reactor.listen("127.0.0.1:0", pool).addresses[0]
            with connect(reactor, address), connect(reactor, address), connect(reactor, address):
                spin(reactor, lambda: len(reactor.connections()) == 3)
                reactor.close()
                assert raised.wait(DEADLINE)
        assert pool.close(DEADLINE)
    assert errors.seen == []


def test_handler_may_close_its_socket(reactor, serve):
    address = serve(lambda connection: connection.close())
    with connect(reactor, address) as client:
        assert receive(reactor, client) == b""
    with connect(reactor, address) as client:
        client.sendall(b"unread")
        assert receive(reactor, client) == b""
    spin(reactor, lambda: not reactor.connections() and not reactor.stats().lingering)


def test_workers_must_be_positive():
    with pytest.raises(ValueError, match="workers must be 1 or more, not 0"):
        Pool(echo, workers=0)


@pytest.mark.parametrize("handler", [None, "echo", 3])
def test_handler_must_be_callable(handler):
    with pytest.raises(TypeError) as refused:
        Pool(handler)
    assert str(refused.value) == f"handler must be callable, not {handler!r}"


@pytest.mark.parametrize("workers", ["8", 2.0, None, True])
def test_workers_must_be_a_whole_number(workers):
    with pytest.raises(TypeError) as refused:
        Pool(echo, workers=workers)
    assert str(refused.value) == f"workers must be a whole number of 1 or more, not {workers!r}"


@pytest.fixture
def no_threads(monkeypatch):
    """Return an event; while it is set, no thread of a pool can be started."""
    refusing, start = threading.Event(), threading.Thread.start

    def start_or_not(thread):
        if refusing.is_set() and thread.name.startswith("reactor-pool"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    return refusing


def test_connection_ends_if_no_thread_can_be_started(descriptors, reactor, serve, errors, no_threads):
    address = serve(echo)
    no_threads.set()
    for number in range(5):
        with connect(reactor, address) as client:
            spin(reactor, lambda number=number: reactor.stats().closed == {"RuntimeError": number + 1})
            with contextlib.suppress(ConnectionResetError):
                assert receive(reactor, client) == b""
        exc, name, _ = errors.take()
        assert (str(exc), name) == ("can't start new thread", "echo")
    no_threads.clear()
    with connect(reactor, address) as client:
        client.sendall(b"Hello\n")
        client.shutdown(socket.SHUT_WR)
        assert receive(reactor, client) == b"Hello\n"
    spin(reactor, lambda: not reactor.connections() and not reactor.stats().lingering)


def test_connections_wait_if_only_one_thread_can_be_started(reactor, serve, no_threads):
    entered, gate = threading.Semaphore(0), threading.Event()

    def handler(connection):
        entered.release()
        assert gate.wait(DEADLINE)
        connection.sendall(b"done")

    address = serve(handler)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(reactor, address))]
        spin(reactor, lambda: entered.acquire(blocking=False))
        no_threads.set()
        clients += [stack.enter_context(connect(reactor, address)) for _ in range(3)]
        spin(reactor, lambda: len(reactor.connections()) == 4)
        gate.set()
        assert [receive(reactor, client) for client in clients] == [b"done"] * 4


def test_waiting_connections_end_without_recursion_if_no_descriptor_is_left(monkeypatch):
    gate, entered, depths = threading.Event(), threading.Event(), []

    def on_error(exc, callback, connection):
        depths.append((exc.errno, len(inspect.stack(0))))

    with (
        Reactor(on_error=on_error) as reactor,
        Pool(lambda connection: entered.set() or gate.wait(), workers=1) as pool,
    ):
        pairs = [socket.socketpair() for _ in range(5)]
        for ours, _ in pairs:
            reactor.adopt(ours, pool)
        spin(reactor, entered.is_set)

        def refuse(fd):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "dup", refuse)
        gate.set()
        spin(reactor, lambda: len(depths) == 4)
        assert set(depths) == {(errno.EMFILE, depths[0][1])}
        for _, theirs in pairs:
            theirs.close()
        assert pool.close(DEADLINE)
