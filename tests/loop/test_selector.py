"""The flat selector: it behaves as the platform's own, and `poll` returns at most its limit."""

import os
import selectors
import socket

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reactor.loop.selector import ERRORS, FlatSelector, default_selector, poll_of

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def test_default_is_a_default_selector():
    with default_selector() as selector:
        assert isinstance(selector, selectors.DefaultSelector)
        assert isinstance(selector, FlatSelector)


def test_platform_without_epoll_gets_its_own_default(monkeypatch):
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.PollSelector)
    with default_selector() as selector:
        assert type(selector) is selectors.PollSelector


def test_change_that_the_kernel_refuses_leaves_the_descriptor_off_the_selector():
    ours, theirs = socket.socketpair()
    with FlatSelector() as selector, theirs:
        selector.change(ours.fileno(), 0, READ)
        fd = ours.fileno()
        ours.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            selector.change(fd, READ, WRITE)
        assert not selector.get_map()


class SelectorMachine(RuleBasedStateMachine):
    """Two selectors, ours and the standard one, over the same sockets."""

    def __init__(self):
        super().__init__()
        self.pairs = [socket.socketpair() for _ in range(3)]
        self.socks = [sock for pair in self.pairs for sock in pair]
        for sock in self.socks:
            sock.setblocking(False)
        self.both = [FlatSelector(), selectors.EpollSelector()]

    def do(self, call):
        results = []
        for selector in self.both:
            try:
                key = call(selector)
            except (KeyError, ValueError) as exc:
                results.append(type(exc))
            else:
                results.append((key.fileobj, key.fd, key.events))
        assert results[0] == results[1]

    @rule(number=st.integers(0, 5), events=st.sampled_from([0, READ, WRITE, READ | WRITE, 8]))
    def register(self, number, events):
        self.do(lambda selector: selector.register(self.socks[number], events))

    @rule(number=st.integers(0, 5), events=st.integers(1, 3))
    def modify(self, number, events):
        self.do(lambda selector: selector.modify(self.socks[number], events))

    @rule(number=st.integers(0, 5))
    def unregister(self, number):
        self.do(lambda selector: selector.unregister(self.socks[number]))

    @rule(number=st.integers(0, 5))
    def send(self, number):
        try:
            self.socks[number].send(b"x")
        except (BlockingIOError, BrokenPipeError):
            pass

    @rule(number=st.integers(0, 5))
    def receive(self, number):
        try:
            self.socks[number].recv(100)
        except BlockingIOError:
            pass

    @rule(number=st.integers(0, 5))
    def end(self, number):
        self.socks[number].shutdown(socket.SHUT_WR)

    @invariant()
    def both_report_the_same(self):
        ready = [{(key.fd, events) for key, events in selector.select(0)} for selector in self.both]
        assert ready[0] == ready[1]
        flat, _ = self.both
        folded = {(fd, flat.fold(fd, mask)) for fd, mask in flat.poll(0, 100)}
        assert {(fd, events) for fd, events in folded if events} == ready[1]

    @invariant()
    def both_maps_hold_the_same(self):
        maps = [selector.get_map() for selector in self.both]
        assert len(maps[0]) == len(maps[1])
        assert set(maps[0]) == set(maps[1])
        for fd in maps[0]:
            assert maps[0][fd].events == maps[1][fd].events

    def teardown(self):
        for selector in self.both:
            selector.close()
        for sock in self.socks:
            sock.close()


TestSelector = SelectorMachine.TestCase


@pytest.fixture
def selector():
    with FlatSelector() as made:
        yield made


def test_selector_keeps_no_data(selector):
    with pytest.raises(ValueError, match="keeps no data"):
        selector.register(0, READ, data="something")


@pytest.mark.parametrize("fileobj", [-1, "nothing"])
def test_object_that_is_no_descriptor_is_refused(selector, fileobj):
    with pytest.raises((ValueError, AttributeError)):
        selector.register(fileobj, READ)


def test_invalid_events_are_refused_on_change(selector):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        selector.register(ours, READ)
        with pytest.raises(ValueError, match="Invalid events: 0"):
            selector.modify(ours, 0)


def test_descriptor_that_its_owner_closed_can_be_unregistered(selector):
    ours, theirs = socket.socketpair()
    selector.register(ours, READ)
    fd = ours.fileno()
    ours.close()
    selector.unregister(fd)
    theirs.close()
    assert len(selector.get_map()) == 0


def test_regular_file_is_refused_and_not_registered(selector, tmp_path):
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            selector.register(file, READ)
        assert file.fileno() not in selector.get_map()


def test_negative_timeout_does_not_wait(selector):
    assert selector.select(-1) == []


def test_poll_returns_at_most_its_limit(selector):
    pairs = [socket.socketpair() for _ in range(5)]
    for ours, theirs in pairs:
        selector.register(ours, READ)
        theirs.send(b"x")
    assert len(selector.poll(0, 3)) == 3
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_poll_of_another_selector_returns_its_events(make_selector):
    reading, writing = os.pipe()
    os.write(writing, b"x")
    with make_selector() as selector:
        selector.register(reading, READ)
        poll, fold = poll_of(selector)
        ((fd, mask),) = poll(0, 10)
        assert (fd, fold(fd, mask)) == (reading, READ)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_hang_up_is_reported_once(selector, when):
    ours, theirs = socket.socketpair()
    if when == "before":
        theirs.close()
    selector.register(ours, READ if when == "between" else ERRORS)
    if when == "between":
        theirs.close()
        selector.modify(ours, ERRORS)
    theirs.close()
    assert [(key.fd, events) for key, events in selector.select(0)] == [(ours.fileno(), ERRORS)]
    assert selector.select(0) == []
    ours.close()


def test_readable_and_writable_are_no_errors(selector):
    ours, theirs = socket.socketpair()
    selector.register(ours, ERRORS)
    theirs.send(b"x")
    theirs.shutdown(socket.SHUT_WR)
    assert selector.select(0) == []
    ours.close()
    theirs.close()
