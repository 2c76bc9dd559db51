"""Commands to a broker that is there, or not, and its keys."""

import pytest

from reactor.backplane.commands import Commands
from reactor.backplane.scripts import MEMBERS, digest
from reactor.testing import MemoryReactor
from tests.backplane.test_link import Peer


@pytest.fixture
def peer():
    with MemoryReactor() as reactor:
        yield Peer(reactor)


def sent(peer):
    peer.link.connection.reactor.settle()
    return peer.received.received


def test_keys_have_the_prefix_and_the_kind():
    assert Commands("app:0:").key("t", "rääm") == "app:0:t:rääm".encode()


def test_without_a_connection_nothing_is_sent(peer):
    commands, replies = Commands("app:0:"), []
    commands.send(replies.append, "GET", b"key")
    commands.run(replies.append, MEMBERS, (b"group",))
    commands.link = peer.link
    commands.send(replies.append, "PING")
    assert sent(peer) == b"*1\r\n$4\r\nPING\r\n"
    peer.server.write(b"+PONG\r\n")
    peer.link.connection.reactor.settle()
    assert replies == [b"PONG"]


def test_replies_that_nobody_wants_are_counted_off(peer):
    commands, replies = Commands("app:0:"), []
    commands.link = peer.link
    commands.send(None, "SET", b"key", 1)
    commands.send(replies.append, "GET", b"key")
    sent(peer)
    peer.server.write(b"+OK\r\n$1\r\n1\r\n")
    peer.link.connection.reactor.settle()
    assert replies == [b"1"]


def test_a_script_is_run_by_its_digest_with_its_keys_and_arguments(peer):
    commands = Commands("app:0:")
    commands.link = peer.link
    commands.run(None, MEMBERS, (b"group",), "argument", 5)
    name = digest(MEMBERS).encode()
    parts = b"EVALSHA", name, b"1", b"group", b"argument", b"5"
    assert sent(peer) == b"*6\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
