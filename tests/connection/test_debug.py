"""Debug mode: each misuse is logged as a warning with its cause."""

import logging
import socket
import threading

import pytest

from reactor import Protocol, Reactor
from reactor.testing import ManualClock, Recorder
from tests.helpers import connect, pair, spin


@pytest.fixture
def reactor(make_selector):
    with Reactor(selector=make_selector(), debug=True) as made:
        yield made


def on_another_thread(call, *args):
    thread = threading.Thread(target=call, args=args, name="stranger")
    thread.start()
    thread.join()


def test_write_after_the_end_is_logged_with_its_line(reactor, caplog):
    connection, peer = pair(reactor, Recorder())
    connection.abort()
    assert connection.write(b"four") is False
    assert "4 bytes written to <Connection closed, Recorder> after its end, at " + __file__ in caplog.text
    peer.close()


def test_connections_left_open_are_logged_with_their_origin(make_selector, caplog):
    with Reactor(selector=make_selector(), debug=True) as reactor:
        listener = reactor.listen("127.0.0.1:0", Protocol)
        client = connect(reactor, listener.addresses[0])
        spin(reactor, reactor.connections)
        _, peer = pair(reactor, Recorder())
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert any("still open at close: <Connection 127.0.0.1" in line for line in messages)
    assert any(f"accepted on {listener.addresses[0]}" in line for line in messages)
    assert any("adopted at " in line for line in messages)
    client.close()
    peer.close()


@pytest.mark.parametrize(
    "name", ["write", "writelines", "close", "abort", "write_eof", "pause_reading", "resume_reading"]
)
def test_connection_call_on_another_thread_is_logged(reactor, caplog, name):
    connection, peer = pair(reactor, Recorder())
    args = {"write": [b"x"], "writelines": [[b"x"]]}.get(name, [])
    reactor.call_soon(on_another_thread, getattr(connection, name), *args)
    reactor.run_once(0)
    line = caplog.records[0].getMessage()
    assert line.startswith(f"Connection.{name} was called on thread stranger, and another drives the reactor")
    assert "use call_soon_threadsafe, at " in line
    peer.close()


@pytest.mark.parametrize("name", ["call_soon", "call_later"])
def test_reactor_call_on_another_thread_is_logged(reactor, caplog, name):
    args = [print] if name == "call_soon" else [1000, print]
    reactor.call_soon(on_another_thread, getattr(reactor, name), *args)
    reactor.run_once(0)
    assert "was called on thread stranger" in caplog.text


def test_calls_on_the_loop_s_thread_are_not_logged(reactor, caplog):
    connection, peer = pair(reactor, Recorder())
    reactor.call_soon(connection.write, b"x")
    reactor.run_once(0)
    connection.write(b"y")
    on_another_thread(reactor.call_soon_threadsafe, connection.write, b"z")
    reactor.run_once(1)
    reactor.run_once(0)
    connection.abort()
    assert caplog.text == ""
    peer.close()


def test_slow_callback_is_logged_with_its_duration(make_selector, caplog):
    clock = ManualClock()

    class Slow(Recorder):
        def data_received(self, data):
            clock.advance(0.5)

        def pause_writing(self):
            clock.advance(0.7)

    def slow_timer():
        clock.advance(0.3)

    def quick():
        clock.advance(0.09)

    with Reactor(selector=make_selector(), clock=clock, slow_callback=0.1) as reactor:
        _, peer = pair(reactor, Recorder())
        slow, other = pair(reactor, Slow())
        for sock in (peer, other):
            sock.send(b"x")
        reactor.call_soon(quick)
        reactor.call_later(0, slow_timer)
        reactor.run_once(0)
        reactor.run_once(0)
        reactor.call_soon(slow.writelines, [bytes(1000)] * 4000)
        reactor.run_once(0)
        lines = [record.getMessage() for record in caplog.records]
        assert lines[0] == "slow callback: <Connection open, Slow> took 0.500 s, and everything else waited"
        assert "slow_timer took 0.300 s" in lines[1]
        assert "writelines took 0.700 s" in lines[2]
        assert len(lines) == 3
        peer.close()
        other.close()


def test_many_quick_callbacks_are_not_logged_as_a_slow_one(make_selector, caplog):
    clock = ManualClock()

    class Quick(Protocol):
        def data_received(self, data):
            clock.advance(0.06)

    with Reactor(selector=make_selector(), clock=clock, debug=True) as reactor:
        pairs = [socket.socketpair() for _ in range(10)]
        for ours, theirs in pairs:
            reactor.adopt(ours, Quick)
            theirs.send(b"x")
        reactor.run_once(0)
        assert "slow" not in caplog.text
        for connection in reactor.connections():
            connection.abort()
        for _, theirs in pairs:
            theirs.close()


def test_slow_resume_writing_at_the_end_of_a_tick_is_logged(make_selector, caplog):
    clock = ManualClock()

    class Slow(Recorder):
        def pause_writing(self):
            clock.advance(0.5)

    with Reactor(selector=make_selector(), clock=clock, slow_callback=0.1) as reactor:
        connection, peer = pair(reactor, Slow())
        connection.set_write_buffer_limits(high=0)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        while not connection.get_protocol().calls[1:]:
            reactor.call_soon(connection.write, bytes(4000))
            reactor.run_once(0)
            if "pause_writing or resume_writing" in caplog.text:
                break
        assert "pause_writing or resume_writing of what was written in the tick took 0.500 s" in caplog.text
        peer.close()


def test_without_debug_nothing_is_timed_or_logged(make_selector, caplog):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, Recorder())
        reactor.call_soon(clock.advance, 5)
        reactor.call_soon(on_another_thread, connection.pause_reading)
        reactor.run_once(0)
        connection.abort()
        connection.write(b"x")
        pair(reactor, Recorder())[1].close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    peer.close()
