"""Control messages: what comes with a datagram, and GSO and GRO where they are not supported."""

import errno
import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import AddressError, UsageError
from reactor.datagrams import DatagramInfo, DatagramProtocol
from reactor.datagrams.control import info_of, segment_size_of, segmented
from reactor.testing import DatagramRecorder, MemoryNetwork, MemoryReactor, ScriptedSocket

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
    assert server.calls[1][3] == DatagramInfo(destination, LOOPBACK, ecn=2, ttl=33, local=destination)


def test_ttl_is_that_of_what_is_sent(ends):
    server = ends.bind(":0", info=True)
    for host in ("127.0.0.1", "[::1]"):
        client = ends.connect(f"{host}:{server.endpoint.address.port}", ttl=7)
        client.endpoint.send(b"x")
    ends.until(lambda: len(server.received) == 2)
    assert [call[3].ttl for call in server.calls[1:]] == [7, 7]


class AnswersFromThere(DatagramProtocol):
    """Answers from the address that the question was sent to, as a DNS server has to."""

    def connection_made(self, endpoint):
        self.endpoint = endpoint

    def datagram_received(self, data, address, info=None):
        for number in range(3):
            self.endpoint.send(b"%s %d" % (data, number), address, info.local)


@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize(
    ("bound", "to"),
    [
        ("0.0.0.0:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.3.2.1"),
        (":0", "127.3.2.1"),
        (":0", "[::1]"),
        ("[::]:0", "[::1]"),
    ],
)
def test_answer_comes_from_the_address_that_was_asked(reactor, ends, bound, to, gso):
    server = reactor.bind_datagram(bound, AnswersFromThere, info=True, gso=gso)
    client = ends.connect(f"{to}:{server.address.port}")  # it hears that address alone
    client.endpoint.send(b"what")
    ends.until(lambda: len(client.received) == 3)
    assert client.received == [b"what 0", b"what 1", b"what 2"]


def test_answer_from_another_address_is_refused_by_the_client(reactor, ends):
    server = ends.bind("0.0.0.0:0")
    client = ends.connect(f"127.0.0.2:{server.endpoint.address.port}")
    where = client.endpoint.get_extra_info("sockname")
    server.endpoint.send(b"from 127.0.0.1", where)
    ends.until(lambda: server.errors)
    assert server.errors[0][0].errno == errno.ECONNREFUSED
    server.endpoint.send(b"from 127.0.0.2", where, source="127.0.0.2")
    ends.until(lambda: client.received)
    assert client.received == [b"from 127.0.0.2"]


@pytest.mark.parametrize(
    ("bound", "to"),
    [("0.0.0.0:53", "10.0.0.2"), (":53", "10.0.0.2"), (":53", "[fd00::2]"), (":53", "127.0.0.5")],
)
def test_source_and_info_are_the_same_in_memory(bound, to):
    with MemoryNetwork() as network:
        reactor = network.reactor("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")
        server = reactor.bind_datagram(bound, AnswersFromThere, info=True)
        asking = reactor if to.startswith("127") else network.reactor("10.0.0.9", "fd00::9")
        client = asking.connect_datagram(f"{to}:53", DatagramRecorder, ttl=7)
        client.send(b"what")
        network.run_out()
        assert client.get_protocol().received == [b"what 0", b"what 1", b"what 2"]
        assert not server.send(b"x", client.address, source="fd00::7" if "[" in to else "10.0.0.7")
        recorder = DatagramRecorder()
        server.set_protocol(recorder)
        client.send(b"more")
        network.run_out()
        interface = 1 if to.startswith("127") else 2
        where = to.strip("[]")
        assert recorder.calls[-1][3] == DatagramInfo(where, interface, ecn=0, ttl=7, local=where)


def test_queued_datagrams_keep_their_source(ends):
    sock = ScriptedSocket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), sendmsg=[BlockingIOError])
    sock.bind(("0.0.0.0", 0))
    server, client = ends.bind(sock), ends.bind()
    for source in ("127.0.0.2", "127.0.0.3", None):
        assert server.endpoint.send(b"x", client.endpoint.address, source)
    assert server.endpoint.stats().queued == 3
    ends.until(lambda: len(client.received) == 3)
    assert [call[2][0] for call in client.calls[1:]] == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]


@pytest.mark.parametrize("gso", [False, True])
def test_run_has_one_source(ends, gso):
    server, client = ends.bind("0.0.0.0:0", gso=gso), ends.bind()
    sources = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.2"]
    for number, source in enumerate(sources):
        server.endpoint.send(b"%d" % number, client.endpoint.address, source)
    ends.until(lambda: len(client.received) == 5)
    assert [call[2][0] for call in client.calls[1:]] == sources
    assert client.received == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("queued", [False, True])
def test_source_takes_every_form_of_an_address(ends, queued):
    sock = ScriptedSocket(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    server, client = ends.bind(sock), ends.bind()
    address = client.endpoint.address
    if queued:
        sock.add(sendmsg=[BlockingIOError])
    forms = [address, str(address), (address.host, address.port), ("::ffff:127.0.0.1", address.port, 0, 0)]
    for form in forms:
        assert server.endpoint.send(b"x", form, source="127.0.0.9")
    ends.until(lambda: len(client.received) == 4)
    assert {call[2][0] for call in client.calls[1:]} == {"127.0.0.9"}


@pytest.mark.parametrize(
    ("bound", "to", "source", "number"),
    [
        ("0.0.0.0:0", "127.0.0.1", "198.51.100.99", errno.ENETUNREACH),
        ("[::]:0", "::1", "2001:db8::1", errno.EINVAL),
    ],
)
def test_address_of_another_host_is_no_source(ends, bound, to, source, number):
    endpoint = ends.bind(bound).endpoint
    assert not endpoint.send(b"x", (to, 9), source)
    ends.until(lambda: endpoint.get_protocol().errors)
    ((exc, address),) = endpoint.get_protocol().errors
    assert (exc.errno, address) == (number, (to, 9))
    assert endpoint.stats().sent == 0


@pytest.mark.parametrize(
    ("bound", "address", "source", "message"),
    [
        ("0.0.0.0:0", ("127.0.0.1", 9), "localhost", "'localhost' is no IP address to send from"),
        ("0.0.0.0:0", ("127.0.0.1", 9), "", "'' is no IP address to send from"),
        ("0.0.0.0:0", ("127.0.0.1", 9), "::1", "::1 is of another family than 127.0.0.1"),
        (":0", ("::1", 9), "127.0.0.1", "127.0.0.1 is of another family than ::1"),
        (":0", ("::ffff:127.0.0.1", 9), "::1", "::1 is of another family"),
    ],
)
def test_invalid_source_is_named(ends, bound, address, source, message):
    endpoint = ends.bind(bound).endpoint
    with pytest.raises(AddressError, match=message):
        endpoint.send(b"x", address, source)


@pytest.mark.parametrize("source", [5, b"127.0.0.1", ip_address("127.0.0.1")])
def test_source_is_a_text(ends, source):
    with pytest.raises(TypeError, match="source must be the text of an IP address"):
        ends.bind("0.0.0.0:0").endpoint.send(b"x", ("127.0.0.1", 9), source)


def test_source_is_for_udp_that_is_not_connected(reactor, ends, tmp_path):
    peer = ends.bind()
    unix = ends.bind(f"unix:{tmp_path}/one")
    for endpoint, where in (
        (ends.connect(peer.endpoint.address).endpoint, None),
        (reactor.connect_datagram("localhost:9", DatagramRecorder), None),
        (unix.endpoint, f"{tmp_path}/one"),
    ):
        with pytest.raises(UsageError, match="sends from one address only"):
            endpoint.send(b"x", where, source="127.0.0.1")


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
