"""What an endpoint asks of a protocol, once, when it is made."""

import pytest

from reactor.datagrams.interface import error_handler, make_protocol


class Base:
    def datagram_received(self, data, address):
        pass


class TakesOne(Base):
    def error_received(self, exc):
        self.seen = (exc,)


class TakesTwo(Base):
    def error_received(self, exc, address):
        self.seen = (exc, address)


class TakesAny(Base):
    def error_received(self, *args):
        self.seen = args


class MayTakeTwo(Base):
    def error_received(self, exc, address=None):
        self.seen = (exc, address)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [(TakesOne, ("exc",)), (TakesTwo, ("exc", "to")), (TakesAny, ("exc", "to")), (MayTakeTwo, ("exc", "to"))],
)
def test_error_received_gets_as_many_arguments_as_it_takes(kind, seen):
    protocol = kind()
    error_handler(protocol)("exc", "to")
    assert protocol.seen == seen


def test_protocol_without_error_received_is_accepted():
    protocol = make_protocol(Base)
    assert error_handler(protocol)("exc", "to") is None


def test_handler_written_in_c_gets_both():
    protocol = Base()
    seen = {}
    protocol.error_received = seen.__setitem__
    error_handler(protocol)("exc", "to")
    assert seen == {"exc": "to"}


def test_what_is_no_protocol_is_named():
    with pytest.raises(TypeError, match="the factory int returned 0, which is no datagram protocol"):
        make_protocol(int)
