"""The check that an object has the methods of a protocol."""

import asyncio
from functools import partial

import pytest

from reactor import BufferedProtocol, Protocol
from reactor.connection.interface import check_protocol, make_protocol, takes_buffers


@pytest.mark.parametrize("kind", [Protocol, BufferedProtocol, asyncio.Protocol, asyncio.BufferedProtocol])
def test_protocols_of_both_kinds_are_accepted(kind):
    assert isinstance(make_protocol(kind), kind)
    assert takes_buffers(kind()) is (kind in (BufferedProtocol, asyncio.BufferedProtocol))


@pytest.mark.parametrize("other", [None, 5, object(), print])
def test_other_objects_are_refused_with_the_name_of_their_factory(other):
    with pytest.raises(TypeError, match=r"^the file gave .*: it has neither data_received nor get_buffer$"):
        check_protocol(other, "the file gave")
    with pytest.raises(TypeError, match=r"^the factory .*<lambda> returned "):
        make_protocol(lambda: other)


def test_object_with_both_kinds_of_methods_gets_data_received():
    class Both(BufferedProtocol):
        def data_received(self, data):
            """Both kinds of methods."""

    assert takes_buffers(Both()) is False
    assert isinstance(make_protocol(Both), Both)


def test_class_with_the_methods_needs_no_base_class():
    class Plain:
        def data_received(self, data):
            """The method that the check looks for."""

    assert isinstance(make_protocol(Plain), Plain)
    check_protocol(Plain(), "the test gave")


def test_exception_of_a_factory_is_raised_unchanged():
    problem = LookupError("no protocol today")

    def factory():
        raise problem

    with pytest.raises(LookupError) as caught:
        make_protocol(factory)
    assert caught.value is problem


def test_factory_without_a_name_is_shown_by_its_repr():
    with pytest.raises(TypeError, match=r"^the factory functools\.partial\(.*\) returned 0, which"):
        make_protocol(partial(int))
