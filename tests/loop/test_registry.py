"""The registry: the handler of each descriptor, and which events of a batch are stale."""

import errno
import socket
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from reactor import UsageError
from reactor.loop.registry import Registry
from reactor.testing import Recorder
from tests.helpers import pair, refuse_changes


class Handler:
    def on_event(self, events):
        raise AssertionError


@pytest.fixture
def registry(make_selector):
    made = Registry(make_selector())
    yield made
    made.close()


@pytest.fixture
def sock():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def watched(registry, sock):
    key = registry.selector.get_map().get(sock.fileno())
    return key.events if key else 0


def test_no_interest_is_not_registered(registry, sock):
    handler = Handler()
    registry.register(sock.fileno(), EVENT_READ, Handler.on_event, handler)
    registry.modify(sock.fileno(), 0)
    assert watched(registry, sock) == 0
    assert registry.owner_of(sock.fileno()) is handler
    registry.modify(sock.fileno(), EVENT_READ | EVENT_WRITE)
    registry.modify(sock.fileno(), EVENT_WRITE)
    assert watched(registry, sock) == EVENT_WRITE
    registry.unregister(sock.fileno())
    assert watched(registry, sock) == 0
    assert registry.owned() == []


def test_unknown_descriptors_have_no_handler(registry):
    assert registry.owner_of(-1) is None
    assert registry.owner_of(10**6) is None


def test_reused_descriptor_belongs_to_its_new_owner(registry, sock):
    registry.register(sock.fileno(), EVENT_READ, Handler.on_event, Handler())
    number = sock.fileno()
    sock.close()
    new, other = socket.socketpair()  # the kernel gives out the lowest free number
    assert new.fileno() == number
    mine = Handler()
    registry.register(number, EVENT_READ, Handler.on_event, mine)
    assert registry.owner_of(number) is mine
    other.send(b"x")
    assert [fd for fd, _ in registry.poll(1, 10)] == [number]
    registry.unregister(number)
    new.close()
    other.close()


def test_descriptor_that_the_selector_refuses_is_not_registered(registry, sock, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "full")

    refuse_changes(monkeypatch, registry.selector, "register", refuse)
    with pytest.raises(OSError, match="full"):
        registry.register(sock.fileno(), EVENT_READ, Handler.on_event, Handler())
    assert registry.owned() == []
    monkeypatch.undo()
    registry.register(sock.fileno(), EVENT_READ, Handler.on_event, Handler())


@pytest.mark.parametrize("dropped", [True, False])
def test_descriptor_is_unregistered_if_a_change_is_refused(registry, sock, monkeypatch, dropped):
    registry.register(sock.fileno(), EVENT_READ, Handler.on_event, Handler())
    unregister = registry.selector.unregister

    def refuse(fd, events, data=None):
        if dropped:
            unregister(fd)
        raise OSError(errno.ENOMEM, "full")

    refuse_changes(monkeypatch, registry.selector, "modify", refuse)
    with pytest.raises(OSError, match="full"):
        registry.modify(sock.fileno(), EVENT_READ | EVENT_WRITE)
    assert watched(registry, sock) == 0
    registry.unregister(sock.fileno())


def test_new_descriptor_and_withdrawn_interest_are_stale(registry, sock):
    registry.register(sock.fileno(), EVENT_READ, Handler.on_event, Handler())
    assert sock.fileno() in registry.stale
    registry.stale.clear()
    registry.modify(sock.fileno(), EVENT_READ | EVENT_WRITE)
    assert registry.stale == set()
    registry.modify(sock.fileno(), EVENT_WRITE)
    assert sock.fileno() in registry.stale


def test_batch_keeps_the_events_above_its_limit(registry):
    assert registry.batch([(1, 1), (2, 1), (3, 1)], 2) == [(1, 1), (2, 1)]
    assert registry.leftover == [(3, 1)]


def test_descriptor_of_a_connection_cannot_be_added_as_reader(reactor):
    connection, peer = pair(reactor, Recorder())
    sock = connection.get_extra_info("socket")
    with pytest.raises(UsageError, match=f"descriptor {sock.fileno()} belongs to <Connection"):
        reactor.add_reader(sock, print)
    assert reactor.remove_reader(sock) is False
    peer.close()
