"""Messages with descriptors over a Unix socket."""

import errno
import os
import resource
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Reactor
from reactor.deploy.messages import Messages
from tests.helpers import examples, settle, spin


class End:
    """One end of a channel, with what it has received."""

    def __init__(self, reactor, sock):
        self.received = []
        self.ended = []
        self.interrupts = []
        self.clear = 0
        self.messages = Messages(
            reactor,
            sock,
            on_message=lambda *message: self.received.append(message),
            on_end=self.ended.append,
            on_clear=self.cleared,
            on_interrupt=self.interrupts.append,
        )
        self.messages.begin()

    def cleared(self):
        self.clear += 1

    def close(self):
        self.messages.close()
        for _, _, descriptor in self.received:
            if descriptor is not None:
                os.close(descriptor)


@pytest.fixture
def ends(reactor):
    made = [End(reactor, sock) for sock in socket.socketpair()]
    yield made
    for end in made:
        end.close()


MESSAGES = st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), max_size=20)


@examples(40)
@given(MESSAGES)
def test_messages_arrive_whole_and_in_order_with_their_descriptors(messages):
    with Reactor() as reactor:
        first, second = (End(reactor, sock) for sock in socket.socketpair())
        for number, (size, has_descriptor) in enumerate(messages):
            reading, writing = os.pipe()
            os.write(writing, bytes([number]))
            first.messages.send({"n": number}, bytes([number]) * size, reading if has_descriptor else None)
            os.close(reading)
            os.close(writing)
        spin(reactor, lambda: len(second.received) == len(messages), wait=0.001)
        assert first.messages.is_clear()
        for number, (header, body, descriptor) in enumerate(second.received):
            size, has_descriptor = messages[number]
            assert (header, body) == ({"n": number}, bytes([number]) * size)
            assert (descriptor is not None) is has_descriptor
            if descriptor is not None:
                assert os.read(descriptor, 2) == bytes([number])
                assert not os.get_inheritable(descriptor)
        first.close()
        settle(reactor)
        assert second.ended == [None]
        second.close()


def test_it_says_when_the_kernel_has_all(reactor, ends):
    first, second = ends
    first.messages.send({}, bytes(10_000_000))
    assert not first.messages.is_clear()
    spin(reactor, lambda: second.received)
    assert (first.messages.is_clear(), first.clear) == (True, 1)
    assert len(second.received[0][1]) == 10_000_000


def test_after_it_has_ended_receiving_nothing_more_can_be_sent_to_it(reactor, ends):
    first, second = ends
    first.messages.send({"in": "time"})
    second.messages.end_receiving()
    assert second.received == [({"in": "time"}, b"", None)]
    first.messages.send({"too": "late"})
    settle(reactor)
    assert not first.messages.is_clear()
    assert first.ended[0].errno == errno.EPIPE
    second.messages.send({"still": "works"})
    assert second.messages.is_clear()
    assert len(second.received) == 1


@pytest.mark.parametrize("data", [b"\0\0\0\2\0\0\0\0\0\0\0\0\0{x", b"\0\0\0\2\0\0\0\0\0\0\0\0\1{}"])
def test_what_can_not_be_understood_ends_it(reactor, data):
    ours, theirs = socket.socketpair()
    end = End(reactor, ours)
    theirs.send(data)
    spin(reactor, lambda: end.ended)
    assert "a message can't be understood" in str(end.ended[0])
    end.close()
    theirs.close()


def test_no_descriptor_left_is_said_in_one_line(reactor, ends):
    first, second = ends
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first.messages.send({}, b"", 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        settle(reactor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    spin(reactor, lambda: second.ended)
    assert "no descriptors are left: raise the limit, ulimit -n" in str(second.ended[0])


def test_closing_closes_what_is_on_its_way():
    before = len(os.listdir("/proc/self/fd"))
    with Reactor() as reactor:
        first, second = (End(reactor, sock) for sock in socket.socketpair())
        for _ in range(10):
            first.messages.send({}, bytes(1_000_000), 0)
        reactor.run_once(0)
        first.close()
        first.close()
        second.close()
    assert len(os.listdir("/proc/self/fd")) == before
