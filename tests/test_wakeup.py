"""The wake-up: one byte for a burst, never blocked, and no stranger in it."""

import select
import socket

import pytest

from reactor.errors import ReactorError
from reactor.wakeup import Wakeup


@pytest.fixture
def woken():
    return []


@pytest.fixture
def wakeup(woken):
    made = Wakeup(lambda: woken.append(True))
    yield made
    made.close()


def readable(wakeup):
    return bool(select.select([wakeup.fileno()], [], [], 0)[0])


def test_burst_is_one_byte_and_one_call(wakeup, woken):
    for _ in range(1000):
        wakeup.wake()
    with socket.socket(fileno=socket.dup(wakeup.fileno())) as receiver:
        assert receiver.recv(100, socket.MSG_PEEK) == b"\0"
    wakeup.on_event(1)
    assert woken == [True]
    assert not readable(wakeup)
    wakeup.wake()
    assert readable(wakeup)


def test_full_is_as_good_as_woken(wakeup, woken):
    with socket.socket(fileno=socket.dup(wakeup.signal_fileno())) as sender:
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(bytes(4096))
    wakeup.wake()
    while readable(wakeup):
        wakeup.on_event(1)
    assert woken


def test_event_without_a_byte_calls_back_all_the_same(wakeup, woken):
    wakeup.on_event(1)
    assert woken == [True]


def tcp_pair(strange):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        receiver, _ = listening.accept()
        if strange:
            stranger = socket.create_connection(listening.getsockname())
            sender.close()
            sender = stranger
    return receiver, sender


def test_pair_over_loopback_is_taken_when_it_is_ours(monkeypatch, woken):
    monkeypatch.setattr(socket, "socketpair", lambda: tcp_pair(strange=False))
    wakeup = Wakeup(lambda: woken.append(True))
    wakeup.wake()
    wakeup.on_event(1)
    assert woken
    wakeup.close()


def test_stranger_in_the_pair_is_refused(monkeypatch, woken, descriptors):
    monkeypatch.setattr(socket, "socketpair", lambda: tcp_pair(strange=True))
    with pytest.raises(ReactorError, match="another process connected to the wake-up's socket pair"):
        Wakeup(lambda: None)
