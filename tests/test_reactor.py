"""The reactor as a whole: adopt, signals, use after `close`, and two in one process."""

import os
import signal
import socket

import pytest

from reactor import ConnectionAborted, Reactor, UsageError
from reactor.testing import Recorder
from tests.helpers import Echo, pair, spin

BIG = 4 * 1024 * 1024


def test_adopt_makes_a_connection_from_a_connected_socket(reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    assert reactor.connections() == [connection]
    peer.send(b"x")
    reactor.run_once(1)
    assert recorder.received == b"x"
    peer.close()


def test_unconnected_socket_is_refused_and_stays_open(reactor):
    with socket.socket() as sock:
        with pytest.raises(OSError, match="not connected"):
            reactor.adopt(sock, Recorder)
        assert sock.fileno() >= 0


def test_repr_of_a_closed_reactor():
    reactor = Reactor()
    assert repr(reactor) == "<Reactor without listeners>"
    reactor.close()
    assert repr(reactor) == "<Reactor closed>"


def test_first_signal_drains_and_second_stops():
    previous = signal.getsignal(signal.SIGUSR1)
    recorder = Recorder()
    with Reactor() as reactor:
        connection, peer = pair(reactor, recorder)
        connection.write(b"x" * BIG)
        reactor.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        reactor.call_later(0.05, os.kill, os.getpid(), signal.SIGUSR1)
        reactor.run(signals={signal.SIGUSR1})
        assert reactor.connections() == [connection]
        assert signal.getsignal(signal.SIGUSR1) is previous
    assert isinstance(recorder.reason, ConnectionAborted)
    peer.close()


def test_one_signal_ends_a_run_without_connections():
    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Echo)
        reactor.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        reactor.run(signals=[signal.SIGUSR1])
        assert listener.is_closed()


def test_signal_that_cannot_be_handled_leaves_the_others_as_they_were():
    previous = signal.getsignal(signal.SIGUSR1)
    with Reactor() as reactor:
        with pytest.raises(OSError, match="Invalid argument"):
            reactor.run(signals=[signal.SIGUSR1, signal.SIGKILL])
        assert signal.getsignal(signal.SIGUSR1) is previous


def test_reactor_stopped_during_a_drain_can_drain_again():
    with Reactor() as reactor:
        connection, peer = pair(reactor, Recorder())
        connection.write(b"x" * BIG)
        for _ in range(2):
            reactor.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            reactor.call_later(0.05, os.kill, os.getpid(), signal.SIGUSR1)
            reactor.run(signals={signal.SIGUSR1})
            assert reactor.connections() == [connection]
        peer.close()


def test_methods_of_a_closed_reactor_raise():
    reactor = Reactor()
    reactor.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for use in (
            lambda: reactor.listen("127.0.0.1:0", Echo),
            lambda: reactor.connect("127.0.0.1:1", Echo),
            lambda: reactor.adopt(ours, Echo),
            reactor.drain,
            reactor.run,
            reactor.run_once,
            reactor.fileno,
            reactor.__enter__,
        ):
            with pytest.raises(UsageError, match="the reactor is closed: make a new one"):
                use()


def test_echo_between_two_reactors_of_one_process(make_selector):
    recorder = Recorder()
    with Reactor(selector=make_selector()) as one, Reactor(selector=make_selector()) as two:
        listener = one.listen("127.0.0.1:0", Echo)
        two.connect(listener.addresses[0], lambda: recorder)
        spin(two, lambda: recorder.calls)
        recorder.connection.write(b"hello")
        one.run_once(1)
        one.run_once(1)
        spin(two, lambda: recorder.received)
    assert recorder.received == b"hello"
