"""The wake-up: one byte for a burst, no blocking, and no other process in its pair."""

import select
import socket

import pytest

from reactor.errors import ReactorError
from reactor.loop.wakeup import Wakeup


@pytest.fixture
def wakeup():
    made = Wakeup(run)
    yield made
    made.close()


def run(handle):
    callback, args = handle.pending()
    handle.clear()
    callback(*args)


def readable(wakeup):
    return bool(select.select([wakeup.fileno()], [], [], 0)[0])


def test_burst_of_wake_ups_sends_one_byte(wakeup):
    for _ in range(1000):
        wakeup.wake()
    with socket.socket(fileno=socket.dup(wakeup.fileno())) as receiver:
        assert receiver.recv(100, socket.MSG_PEEK) == b"\0"
    wakeup.on_event(1)
    assert not readable(wakeup)
    wakeup.wake()
    assert readable(wakeup)


def test_wake_up_is_readable_until_the_scheduled_read_has_run():
    later = []
    wakeup = Wakeup(later.append)
    wakeup.wake()
    wakeup.on_event(1)
    wakeup.wake()
    assert readable(wakeup)
    run(later.pop())
    assert not readable(wakeup)
    wakeup.close()


def test_wake_with_a_full_buffer_does_not_block(wakeup):
    with socket.socket(fileno=socket.dup(wakeup.signal_fileno())) as sender:
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(bytes(4096))
    wakeup.wake()
    assert readable(wakeup)
    while readable(wakeup):
        wakeup.on_event(1)
    wakeup.wake()
    assert readable(wakeup)


def test_event_without_a_byte_is_ignored(wakeup):
    wakeup.on_event(1)
    wakeup.wake()
    assert readable(wakeup)


def tcp_pair(strange):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        receiver, _ = listening.accept()
        if strange:
            stranger = socket.create_connection(listening.getsockname())
            sender.close()
            sender = stranger
    return receiver, sender


def test_pair_over_loopback_is_accepted_from_this_process(monkeypatch):
    monkeypatch.setattr(socket, "socketpair", lambda: tcp_pair(strange=False))
    wakeup = Wakeup(run)
    wakeup.wake()
    assert readable(wakeup)
    wakeup.on_event(1)
    assert not readable(wakeup)
    wakeup.close()


def test_pair_with_another_process_s_socket_is_refused(monkeypatch, descriptors):
    monkeypatch.setattr(socket, "socketpair", lambda: tcp_pair(strange=True))
    with pytest.raises(ReactorError, match="another process connected to the wake-up's socket pair"):
        Wakeup(run)
