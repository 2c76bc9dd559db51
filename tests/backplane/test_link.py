"""A connection to the broker: commands, replies in any pieces, and what is no reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.backplane.link import Link, Refusable
from reactor.errors import BrokerError
from reactor.testing import MemoryReactor, Recorder


class Peer:
    """A link, and the other end of its connection."""

    def __init__(self, reactor, **options):
        self.made, self.lost, self.pushed, self.resumed = [], [], [], []
        self.link = Link(
            on_made=self.made.append,
            on_lost=lambda link, exc: self.lost.append(exc),
            on_push=self.pushed.append,
            on_resumed=lambda: self.resumed.append(True),
            may_end=lambda: False,
            **options,
        )
        self.server, _ = reactor.pair(Recorder, lambda: self.link)
        self.received = self.server.get_protocol()


@pytest.fixture
def peer():
    with MemoryReactor() as reactor:
        yield Peer(reactor)


def test_commands_leave_as_resp_and_replies_come_in_their_order(peer):
    replies = []
    peer.link.send(replies.append, "SET", b"key", 5)
    peer.link.send(replies.append, "GET", "é")
    peer.link.connection.reactor.settle()
    assert peer.received.received == (
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\n5\r\n*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa9\r\n"
    )
    peer.server.write(b"+OK\r\n$-1\r\n*2\r\n$1\r\na\r\n:1\r\n")
    peer.link.connection.reactor.settle()
    assert replies == [b"OK", None]
    assert peer.pushed == [[b"a", 1]]
    assert peer.made == [peer.link]
    assert peer.link.draining()


@given(st.lists(st.integers(1, 40), max_size=20))
def test_pieces_make_no_difference(sizes):
    data = b"+OK\r\n:12\r\n$6\r\n\r\n\r\n\r\n\r\n*2\r\n$1\r\na\r\n*1\r\n$-1\r\n"
    with MemoryReactor() as reactor:
        peer, replies = Peer(reactor), []
        for _ in range(3):
            peer.link.send(replies.append, "X")
        for size in [*sizes, len(data)]:
            peer.server.write(data[:size])
            data = data[size:]
            reactor.settle()
        assert replies == [b"OK", 12, b"\r\n\r\n\r\n"]
        assert peer.pushed == [[b"a", [None]]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"-ERR no\r\n", "the broker has answered: ERR no"),
        (b":1\r\n", "without being asked"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak RESP"),
        (b"*-5\r\n", "does not speak RESP"),
    ],
)
def test_what_is_no_reply_ends_the_connection(peer, data, message):
    peer.server.write(data)
    peer.link.connection.reactor.settle()
    (reason,) = peer.lost
    assert isinstance(reason, BrokerError)
    assert message in str(reason)


def test_an_error_that_is_allowed_is_none(peer):
    replies = []
    peer.link.send(Refusable(replies.append), "CONFIG", "GET", "x")
    peer.link.send(Refusable(replies.append), "CONFIG", "GET", "x")
    peer.server.write(b"-NOPERM\r\n:1\r\n")
    peer.link.connection.reactor.settle()
    assert replies == [None, 1]
    assert peer.lost == []


def test_nothing_is_passed_on_after_the_connection_was_closed(peer):
    replies = []
    peer.link.send(lambda reply: peer.link.connection.close(), "X")
    peer.link.send(replies.append, "X")
    peer.server.write(b":1\r\n:2\r\n")
    peer.link.connection.reactor.settle()
    assert replies == []


def test_a_broker_that_does_not_keep_up_is_noted(peer):
    peer.server.pause_reading()
    peer.link.send(None, "X", b"x" * 1_000_000)
    peer.link.connection.reactor.settle()
    assert not peer.link.writable
    peer.server.resume_reading()
    peer.link.connection.reactor.settle()
    assert peer.link.writable
    assert peer.resumed == [True]
