"""Control messages: what comes with a datagram, and GSO and GRO where they are not supported."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import UsageError
from reactor.datagrams import DatagramInfo
from reactor.datagrams.control import info_of, segment_size_of, segmented
from reactor.testing import DatagramRecorder, MemoryReactor

LOOPBACK = socket.if_nametoindex("lo")


@pytest.mark.parametrize(
    ("bound", "to", "destination"),
    [
        ("0.0.0.0:0", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0:0", "127.3.2.1", "127.3.2.1"),
        (":0", "127.0.0.1", "127.0.0.1"),
        (":0", "::1", "::1"),
        ("[::1]:0", "::1", "::1"),
    ],
)
@pytest.mark.parametrize("gro", [False, True])
def test_info_says_where_a_datagram_was_sent_to(ends, bound, to, destination, gro):
    server = ends.bind(bound, info=True, gro=gro)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        if family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8 | 2)
        else:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33)
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB8 | 2)
        client.sendto(b"x", (to, server.endpoint.address.port))
        ends.until(lambda: server.received)
    assert server.calls[1][3] == DatagramInfo(destination, LOOPBACK, ecn=2, ttl=33)


def test_ttl_is_that_of_what_is_sent(ends):
    server = ends.bind(":0", info=True)
    for host in ("127.0.0.1", "[::1]"):
        client = ends.connect(f"{host}:{server.endpoint.address.port}", ttl=7)
        client.endpoint.send(b"x")
    ends.until(lambda: len(server.received) == 2)
    assert [call[3].ttl for call in server.calls[1:]] == [7, 7]


@pytest.mark.parametrize("ttl", [0, 256, -1, "7", True])
def test_ttl_out_of_range_is_refused(reactor, ttl):
    with pytest.raises(ValueError, match="ttl must be a number of hops, 1 to 255"):
        reactor.bind_datagram("127.0.0.1:0", DatagramRecorder, ttl=ttl)


@pytest.mark.parametrize("option", ["gro", "gso"])
def test_segmentation_is_refused_where_it_is_not_supported(option):
    with MemoryReactor() as reactor:
        with pytest.raises(UsageError, match=f"{option} is not supported here: leave it out"):
            reactor.bind_datagram("10.0.0.1:53", DatagramRecorder, **{option: True})
        assert reactor.endpoints() == []


@pytest.mark.parametrize("option", ["gro", "gso", "info"])
def test_unix_sockets_have_none_of_it(reactor, tmp_path, descriptors, option):
    with pytest.raises(UsageError, match=f"{option}.* is "):
        reactor.bind_datagram(f"unix:{tmp_path}/one", DatagramRecorder, **{option: True})


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_segment_size_is_read_from_its_message(segment, size):
    level, kind, data = segmented(segment)[0]
    assert (level, kind, struct.unpack("@H", data)) == (17, 103, (segment,))
    assert segment_size_of([(17, 104, struct.pack("@i", segment))], size) == segment
    assert segment_size_of([(0, 104, b""), (17, 1, b"")], size) == size


@given(st.lists(st.tuples(st.sampled_from([0, 1, 41, 255]), st.integers(90, 255), st.binary(max_size=40))))
def test_other_messages_are_passed_over(messages):
    assert info_of(messages) == DatagramInfo()
