"""Lingering close: input is discarded until the peer's FIN, so that the answer arrives."""

import errno
import gc
import select
import socket
import struct
import weakref

import pytest

from reactor import Limits, Protocol, Reactor, Timeouts
from reactor.connection.closing import is_quiet, lingering_of
from reactor.reactor import loop_of
from reactor.testing import ManualClock, Recorder, ScriptedSocket
from tests.helpers import DEADLINE, Echo, connect, pair, receive, spin

ANSWER = bytes(range(256)) * 8192  # 2 MiB, more than the kernel accepts at once


class Answer(Recorder):
    """Answers the first byte with `ANSWER` and closes; further input is not read."""

    def data_received(self, data):
        super().data_received(data)
        self.connection.write(ANSWER)
        self.connection.close()


@pytest.mark.parametrize("text", ["127.0.0.1:0", "unix:{tmp_path}/s"])
def test_answer_arrives_complete_though_input_is_unread(reactor, tmp_path, text):
    listener = reactor.listen(text.format(tmp_path=tmp_path), Answer)
    for _ in range(20):
        with connect(reactor, listener.addresses[0]) as client:
            client.sendall(b"question")
            spin(reactor, lambda: reactor.stats().open)
            client.sendall(b"and more, which nobody reads" * 1000)
            assert receive(reactor, client) == ANSWER
            client.sendall(b"even now")
        spin(reactor, lambda: not reactor.stats().lingering)
    assert reactor.stats().closed == {"clean": 20}


def test_connection_lost_is_called_before_the_peer_s_fin(reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    connection.close()
    reactor.run_once(0)
    assert recorder.reason is None
    assert reactor.connections() == []
    assert reactor.stats().lingering == 1
    peer.close()
    spin(reactor, lambda: not reactor.stats().lingering)


def test_lingering_close_keeps_neither_connection_nor_protocol(reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    connection.close()
    reactor.run_once(0)
    alive = [weakref.ref(connection), weakref.ref(recorder)]
    del connection, recorder
    gc.collect()
    assert [one() for one in alive] == [None, None]
    peer.close()


def test_lingering_close_ends_at_the_close_timeout(make_selector, descriptors):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, Recorder(), timeouts=Timeouts(close=8))
        connection.close()
        peer.send(b"still talking")
        clock.advance(7.9)
        reactor.run_once(0)
        reactor.run_once(0)
        assert reactor.stats().lingering == 1
        clock.advance(0.7)
        reactor.run_once(0)
        assert reactor.stats().lingering == 0
        assert reactor.next_timeout() is None
        peer.close()


def test_close_timeout_counts_from_the_call_of_close(make_selector):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, Recorder(), timeouts=Timeouts(close=8))
        connection.write(ANSWER)
        connection.close()
        reactor.run_once(0)
        clock.advance(6)  # meanwhile the peer accepts nothing
        assert receive(reactor, peer) == ANSWER
        assert reactor.stats().lingering == 1
        clock.advance(1.9)
        reactor.run_once(0)
        assert reactor.stats().lingering == 1
        clock.advance(0.6)  # eight seconds and a sixteenth of them
        reactor.run_once(0)
        assert reactor.stats().lingering == 0
        peer.close()


def test_reset_ends_a_lingering_close(reactor):
    listener = reactor.listen("127.0.0.1:0", Answer)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)
    reactor.connections()[0].close()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    spin(reactor, lambda: not reactor.stats().lingering)


def test_lingering_socket_counts_under_max_connections(reactor):
    listener = reactor.listen("127.0.0.1:0", Echo, limits=Limits(max_connections=1))
    with connect(reactor, listener.addresses[0]) as first, connect(reactor, listener.addresses[0]):
        spin(reactor, reactor.connections)
        reactor.connections()[0].close()
        reactor.run_once(0)
        reactor.run_once(0.01)
        assert (listener.connections, reactor.stats().accepted) == (1, 1)
        first.close()
        spin(reactor, lambda: reactor.stats().accepted == 2)


def test_end_of_both_directions_does_not_linger(reactor):
    recorder = Recorder()
    _, peer = pair(reactor, recorder)
    peer.shutdown(socket.SHUT_WR)
    spin(reactor, lambda: recorder.lost)
    assert recorder.reason is None
    assert reactor.stats().lingering == 0
    peer.close()


def test_shutdown_error_is_the_reason_of_connection_lost(reactor):
    ours, theirs = socket.socketpair()
    problem = OSError(errno.ENOBUFS, "no buffers")
    recorder = Recorder()
    connection = reactor.adopt(ScriptedSocket(ours, shutdown=[problem]), lambda: recorder)
    connection.close()
    reactor.run_once(0)
    assert recorder.reason is problem
    theirs.close()


def test_reset_found_by_close_is_the_reason_of_connection_lost(reactor):
    recorder = Recorder()
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    recorder.connection.close()
    reactor.run_once(0)
    assert recorder.reason.errno == errno.ECONNRESET


def test_close_after_both_ends_of_file_is_clean(reactor):
    """The peer's FIN was not read, because reading is paused: the kernel has nothing more to shut down."""
    recorder = Recorder()
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, reactor.connections)
        recorder.connection.pause_reading()
        recorder.connection.write_eof()
        assert client.recv(1) == b""
        client.shutdown(socket.SHUT_WR)
        recorder.connection.close()
        spin(reactor, lambda: recorder.lost)
        assert recorder.reason is None


@pytest.mark.parametrize("end", ["nothing", "a byte", "end of file", "reset"])
def test_is_quiet_is_true_without_input(end):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname(), DEADLINE)
        ours, _ = listening.accept()
    with ours, theirs:
        if end == "a byte":
            theirs.send(b"x")
        elif end == "end of file":
            theirs.shutdown(socket.SHUT_WR)
        elif end == "reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
        if end != "nothing":
            assert select.select([ours], [], [], DEADLINE)[0]
        ours.setblocking(False)
        if end == "reset":
            with pytest.raises(ConnectionResetError):
                is_quiet(ours)
        else:
            assert is_quiet(ours) is (end == "nothing")


def test_is_delivered_is_true_when_all_is_acknowledged_and_no_input_is_unread(reactor, monkeypatch):
    listener = reactor.listen("127.0.0.1:0", Recorder)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, reactor.connections)
        reactor.connections()[0].close()
        (lingering,) = lingering_of(loop_of(reactor).registry)
        spin(reactor, lingering.is_delivered)
        with monkeypatch.context() as patched:

            def refuse(*args):
                raise OSError(errno.EINVAL, "no such request")

            patched.setattr("reactor.connection.closing.fcntl.ioctl", refuse)
            assert lingering.is_delivered() is False
        with monkeypatch.context() as patched:
            patched.setattr("reactor.connection.closing._SENT_AND_UNCONFIRMED", None)
            assert lingering.is_delivered() is False
        client.send(b"x")
        while lingering.is_delivered():  # no tick: it would discard the input
            pass


def test_closing_the_reactor_closes_lingering_sockets(make_selector, descriptors):
    with Reactor(selector=make_selector()) as reactor:
        connection, peer = pair(reactor, Protocol())
        connection.close()
    assert peer.recv(1) == b""
    peer.close()
