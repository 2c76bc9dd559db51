"""Forms of addresses: all that `send` takes, and what it refuses."""

import os
import socket

import pytest

from reactor import (
    AddressError,
    UsageError,
)
from reactor.testing import ScriptedSocket


def test_every_form_of_an_address_is_accepted(reactor, ends):
    receiver = ends.bind()
    address = receiver.endpoint.address
    sender, both = ends.bind(), ends.bind(":0")
    for form in (address, str(address), (address.host, address.port)):
        assert sender.endpoint.send(b"x", form)
        assert both.endpoint.send(b"y", form)  # as an address mapped into IPv6
    ends.until(lambda: len(receiver.received) == 6)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (None, UsageError, "is connected to no address: give `send` one"),
        ("example.org:53", AddressError, "example.org:53 is not numeric, and a look-up would block"),
        ("nonsense", AddressError, "'nonsense' has no port"),
        (("127.0.0.1", 70_000), AddressError, "port 70000 .* is out of range"),
        ("[::1]:53", AddressError, "is an IPv6 address, and .* is bound to an IPv4 one"),
    ],
)
def test_address_that_can_t_be_sent_to_is_named(ends, address, error, message):
    endpoint = ends.bind().endpoint
    with pytest.raises(error, match=message):
        endpoint.send(b"x", address)
    assert endpoint.stats().sent == 0


def test_address_may_be_of_any_form_while_others_are_queued(ends):
    receiver = ends.bind()
    sock = ScriptedSocket(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), sendto=[BlockingIOError])
    sender = ends.bind(sock)
    address = receiver.endpoint.address
    sender.endpoint.send(b"1", ("::1", 9, 0, 0))
    for form in (address, str(address), (address.host, address.port)):
        assert sender.endpoint.send(b"x", form)
    ends.until(lambda: receiver.received == [b"x"] * 3)


def test_connected_endpoint_has_one_address(ends):
    one, other = ends.bind(), ends.bind()
    client = ends.connect(one.endpoint.address)
    assert client.endpoint.send(b"1", one.endpoint.address)
    assert client.endpoint.send(b"2", one.endpoint.get_extra_info("sockname"))
    with pytest.raises(UsageError, match="is another address"):
        client.endpoint.send(b"3", other.endpoint.address)
    other.endpoint.send(b"from another", client.endpoint.address)
    one.endpoint.send(b"from the peer", client.endpoint.address)
    ends.until(lambda: client.received)
    assert client.received == [b"from the peer"]


@pytest.mark.parametrize("queued", [False, True])
def test_every_form_of_a_unix_address_is_accepted(ends, tmp_path, queued):
    receiver, sender = ends.bind(f"unix:{tmp_path}/receiver"), ends.bind(f"unix:{tmp_path}/sender")
    address, count = receiver.endpoint.address, 0
    if queued:
        while not sender.endpoint.get_write_buffer_size():
            assert sender.endpoint.send(b"x", address)
            count += 1
    for form in (address, str(address), address.path, os.fsencode(address.path)):
        assert sender.endpoint.send(b"x", form)
    ends.until(lambda: len(receiver.received) == count + 4)
    assert not sender.errors
