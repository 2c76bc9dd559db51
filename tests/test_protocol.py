"""The base classes of protocols: no callback need be overridden, and slots save the instance dictionary."""

import pytest

from reactor import BufferedProtocol, Protocol
from tests.helpers import pair, spin


@pytest.mark.parametrize("kind", [Protocol, BufferedProtocol])
def test_callbacks_need_not_be_overridden(kind):
    protocol = kind()
    assert protocol.connection_made(None) is None
    assert protocol.eof_received() is None
    assert protocol.pause_writing() is None
    assert protocol.resume_writing() is None
    assert protocol.connection_lost(None) is None


def test_data_received_need_not_be_overridden():
    assert Protocol().data_received(b"x") is None
    assert BufferedProtocol().buffer_updated(1) is None


def test_protocols_with_slots_have_no_instance_dictionary():
    class Small(Protocol):
        __slots__ = ("connection",)

    assert not hasattr(Small(), "__dict__")


def test_buffered_protocol_without_get_buffer_raises(reactor, errors):
    _, peer = pair(reactor, BufferedProtocol())
    peer.send(b"x")
    spin(reactor, lambda: errors.seen)
    assert str(errors.take()[0]) == "BufferedProtocol must define get_buffer"
    peer.close()
