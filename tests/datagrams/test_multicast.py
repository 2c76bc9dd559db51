"""Multicast on the loopback interface."""

import errno
import socket

import pytest

from reactor import AddressError, UsageError
from reactor.datagrams.multicast import interface_index
from reactor.loop.system import KERNEL


def bind(ends, host, port=0, **options):
    return ends.bind(f":{port}" if host == "dual" else f"{host}:{port}", **options)


@pytest.mark.parametrize("host", ["0.0.0.0", "dual"])
def test_members_on_an_interface_get_what_is_sent_to_the_group(ends_anywhere, host):
    ends = ends_anywhere
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
    assert first.calls[1][3].ttl == 1
    first.endpoint.leave(group, socket.if_nametoindex("lo"))
    sender.endpoint.send(b"again", (group, port))
    ends.until(lambda: len(second.received) == 2)
    assert len(first.received) == 1
    with pytest.raises(OSError, match="Cannot assign requested address") as failed:
        first.endpoint.leave(group, "lo")
    assert failed.value.errno == errno.EADDRNOTAVAIL


def test_member_hears_its_own_groups_alone(ends_anywhere):
    """Linux gives each socket what any other one of the host has joined, unless told otherwise."""
    ends = ends_anywhere
    one = ends.bind("0.0.0.0:0", reuse_port=True)
    port = one.endpoint.address.port
    other = ends.bind(f"0.0.0.0:{port}", reuse_port=True)
    one.endpoint.join("239.1.2.3", "lo")
    other.endpoint.join("239.1.2.4", "lo")
    sender = ends.bind("0.0.0.0:0")
    sender.endpoint.set_multicast("lo")
    sender.endpoint.send(b"3", ("239.1.2.3", port))
    sender.endpoint.send(b"4", ("239.1.2.4", port))
    ends.until(lambda: one.received and other.received)
    assert (one.received, other.received) == ([b"3"], [b"4"])


def test_answer_to_a_group_comes_from_the_interface(ends_anywhere):
    """Of an IPv4 group: the kernel says which address of this host is next to it."""
    ends = ends_anywhere
    member = ends.bind("0.0.0.0:0", info=True)
    member.endpoint.join("239.1.2.3", "lo")
    asking = ends.bind("127.0.0.1:0")
    asking.endpoint.set_multicast("lo")
    asking.endpoint.send(b"who", ("239.1.2.3", member.endpoint.address.port))
    ends.until(lambda: member.received)
    _, _, address, info = member.calls[1]
    assert member.endpoint.send(b"I", address, source=info.local)
    ends.until(lambda: asking.received)
    assert asking.calls[1][2] == ("127.0.0.1", member.endpoint.address.port)


def test_broadcast_is_for_all_who_are_bound_to_the_port(ends_anywhere):
    ends = ends_anywhere
    first = ends.bind("0.0.0.0:0", reuse_port=True, info=True)
    port = first.endpoint.address.port
    second = ends.bind(f"0.0.0.0:{port}", reuse_port=True)
    sender = ends.bind("127.0.0.1:0", broadcast=True)
    assert sender.endpoint.send(b"all", ("127.255.255.255", port))
    ends.until(lambda: first.received and second.received)
    info = first.calls[1][3]
    assert (info.destination, info.local) == ("127.255.255.255", "127.0.0.1")


def test_broadcast_is_asked_for(ends_anywhere):
    sender = ends_anywhere.bind("127.0.0.1:0")
    assert not sender.endpoint.send(b"all", ("127.255.255.255", 9))
    ends_anywhere.until(lambda: sender.errors)
    assert sender.errors[0][0].errno == errno.EACCES
    assert sender.errors[0][1] == ("127.255.255.255", 9)


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
    """That they are is tested in memory. On the loopback interface all is heard: it is its own other end."""
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
def test_what_is_no_group_is_named(ends_anywhere, group, message):
    endpoint = bind(ends_anywhere, "0.0.0.0").endpoint
    with pytest.raises(AddressError, match=message):
        endpoint.join(group, "lo")


def test_interface_by_name_or_index(ends):
    assert interface_index("lo", KERNEL) == interface_index(socket.if_nametoindex("lo"), KERNEL)
    assert interface_index(None, KERNEL) == 0
    with pytest.raises(OSError, match="no interface"):
        interface_index("nosuch0", KERNEL)
    for wrong in (True, 1.5):
        with pytest.raises(TypeError, match="interface must be a name, an index or None"):
            interface_index(wrong, KERNEL)


def test_closed_endpoint_joins_nothing(ends_anywhere):
    endpoint = bind(ends_anywhere, "0.0.0.0").endpoint
    endpoint.close()
    for use in (
        endpoint.set_multicast,
        lambda: endpoint.leave("239.1.2.3"),
        lambda: endpoint.join("239.1.2.3"),
    ):
        with pytest.raises(UsageError, match="is not open"):
            use()
