"""Multicast on the loopback interface."""

import errno
import socket

import pytest

from reactor import AddressError, UsageError
from reactor.datagrams.multicast import interface_index
from reactor.testing import DatagramRecorder, MemoryReactor


def bind(ends, host, port=0, **options):
    return ends.bind(f":{port}" if host == "dual" else f"{host}:{port}", **options)


@pytest.mark.parametrize("host", ["0.0.0.0", "dual"])
def test_members_on_an_interface_get_what_is_sent_to_the_group(ends, host):
    group = "239.1.2.3"
    first = bind(ends, host, reuse_port=True, info=True)
    port = first.endpoint.address.port
    second = bind(ends, host, port, reuse_port=True)
    sender = bind(ends, "0.0.0.0", ttl=1)
    sender.endpoint.set_multicast("lo", loopback=True)
    for member in (first, second):
        member.endpoint.join(group, "lo")
    assert sender.endpoint.send(b"hello", (group, port))
    ends.until(lambda: first.received and second.received)
    assert first.received == second.received == [b"hello"]
    assert first.calls[1][3].destination == group
    assert first.calls[1][3].interface == socket.if_nametoindex("lo")
    first.endpoint.leave(group, socket.if_nametoindex("lo"))
    sender.endpoint.send(b"again", (group, port))
    ends.until(lambda: len(second.received) == 2)
    with pytest.raises(OSError, match="Cannot assign requested address") as failed:
        first.endpoint.leave(group, "lo")
    assert failed.value.errno == errno.EADDRNOTAVAIL


def test_ipv6_groups_are_joined_and_left_by_interface(ends):
    """The loopback interface has no route for them, so that nothing can be sent."""
    endpoint = bind(ends, "[::]").endpoint
    endpoint.set_multicast("lo")
    index = socket.if_nametoindex("lo")
    sock = endpoint.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF) == index
    endpoint.join("ff02::1234", "lo")
    with pytest.raises(OSError, match="Address already in use"):
        endpoint.join("ff02::1234", index)
    endpoint.leave("ff02::1234", "lo")
    endpoint.join("ff02::1234", "lo")


@pytest.mark.parametrize(
    ("host", "option"),
    [
        ("0.0.0.0", (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP)),
        ("[::]", (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP)),
    ],
)
def test_members_of_this_host_can_be_left_out(ends, host, option):
    """On the loopback interface all is heard: it is its own other end."""
    endpoint = bind(ends, host).endpoint
    found = []
    for loopback in (None, False, True):
        endpoint.set_multicast(loopback=loopback)
        found.append(endpoint.get_extra_info("socket").getsockopt(*option))
    assert found == [1, 0, 1]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("localhost", "'localhost' is no IP address"),
        ("ff02::fb%lo", "'ff02::fb%lo' names an interface: give that as the second argument"),
        ("192.0.2.1", "192.0.2.1 is no multicast address: 224.0.0.0/4 and ff00::/8 are"),
        ("ff02::1", "ff02::1 is an IPv6 group, and the endpoint is bound to an IPv4 address"),
    ],
)
def test_what_is_no_group_is_named(ends, group, message):
    endpoint = bind(ends, "0.0.0.0").endpoint
    with pytest.raises(AddressError, match=message):
        endpoint.join(group, "lo")


def test_interface_by_name_or_index(ends):
    assert interface_index("lo") == interface_index(socket.if_nametoindex("lo"))
    assert interface_index(None) == 0
    with pytest.raises(OSError, match="no interface"):
        interface_index("nosuch0")
    for wrong in (True, 1.5):
        with pytest.raises(TypeError, match="interface must be a name, an index or None"):
            interface_index(wrong)


def test_closed_endpoint_joins_nothing(ends):
    endpoint = bind(ends, "0.0.0.0").endpoint
    endpoint.close()
    for use in (
        endpoint.set_multicast,
        lambda: endpoint.leave("239.1.2.3"),
        lambda: endpoint.join("239.1.2.3"),
    ):
        with pytest.raises(UsageError, match="is not open"):
            use()


def test_there_is_none_in_memory():
    with MemoryReactor() as reactor:
        endpoint = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
        with pytest.raises(UsageError, match="there is no multicast on a network in memory"):
            endpoint.join("239.1.2.3")
