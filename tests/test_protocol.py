"""The base classes: every call may be left out, and nothing costs an instance dictionary."""

import pytest

from reactor import BufferedProtocol, Protocol
from tests.helpers import pair, spin


@pytest.mark.parametrize("kind", [Protocol, BufferedProtocol])
def test_every_notice_may_be_left_alone(kind):
    protocol = kind()
    assert protocol.connection_made(None) is None
    assert protocol.eof_received() is None
    assert protocol.pause_writing() is None
    assert protocol.resume_writing() is None
    assert protocol.connection_lost(None) is None


def test_data_may_be_left_alone():
    assert Protocol().data_received(b"x") is None
    assert BufferedProtocol().buffer_updated(1) is None


def test_slots_of_a_protocol_are_all_it_has():
    class Small(Protocol):
        __slots__ = ("connection",)

    assert not hasattr(Small(), "__dict__")


def test_buffered_protocol_without_a_buffer_is_told_what_is_missing(reactor, errors):
    _, peer = pair(reactor, BufferedProtocol())
    peer.send(b"x")
    spin(reactor, lambda: errors.seen)
    assert str(errors.take()[0]) == "BufferedProtocol must define get_buffer"
    peer.close()
