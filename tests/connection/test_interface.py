"""The check that an object has the methods of a protocol."""

import asyncio

import pytest

from reactor import BufferedProtocol, Protocol
from reactor.connection.interface import check_protocol, make_protocol, takes_buffers


@pytest.mark.parametrize("kind", [Protocol, BufferedProtocol, asyncio.Protocol, asyncio.BufferedProtocol])
def test_protocols_of_both_kinds_pass(kind):
    assert isinstance(make_protocol(kind), kind)
    assert takes_buffers(kind()) is (kind in (BufferedProtocol, asyncio.BufferedProtocol))


@pytest.mark.parametrize("other", [None, 5, object(), print])
def test_other_objects_are_refused_with_their_source(other):
    with pytest.raises(TypeError, match=r"^the file gave .*: it has neither data_received nor get_buffer$"):
        check_protocol(other, "the file gave")
    with pytest.raises(TypeError, match=r"^the factory .*<lambda> returned "):
        make_protocol(lambda: other)
