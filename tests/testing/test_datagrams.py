"""Datagrams in memory: loss, duplication, reordering, errors; the faulty peer and the fixture."""

import errno
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import ListenError, UsageError
from reactor.apps.echo import DatagramEcho
from reactor.datagrams import DatagramLimits
from reactor.testing import DatagramRecorder, FaultyDatagramPeer, MemoryNetwork, MemoryReactor

NUMBERS = [b"%d" % number for number in range(60)]


def exchanged(seed, **options):
    """Return the numbers that arrive over such a network, one sent each millisecond."""
    with MemoryReactor(seed=seed, latency=(0.01, 0.02), **options) as reactor:
        server = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
        reactor.connect_datagram("10.0.0.1:53", lambda: FaultyDatagramPeer(NUMBERS, delay=0.001))
        reactor.run_out()
        return server.get_protocol().received


def test_reliable_network_delivers_everything_in_order():
    assert exchanged(1) == NUMBERS


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_loss_duplication_and_reordering_come_from_the_seed(seed):
    lost, twice, mixed = (exchanged(seed, **{name: 0.3}) for name in ("loss", "duplication", "reordering"))
    assert set(lost) < set(NUMBERS)
    assert lost == sorted(lost, key=int)
    assert len(twice) > len(NUMBERS)
    assert list(dict.fromkeys(twice)) == NUMBERS
    assert mixed != NUMBERS
    assert sorted(mixed, key=int) == NUMBERS
    assert exchanged(seed, loss=0.3) == lost


def test_extremes_of_the_probabilities():
    assert exchanged(1, loss=1.0) == []
    assert exchanged(1, duplication=1.0) == [number for number in NUMBERS for _ in range(2)]


def test_partition_drops_datagrams_without_an_error():
    with MemoryNetwork() as network:
        server = network.reactor("10.0.0.1").bind_datagram("10.0.0.1:7", DatagramEcho)
        client = network.reactor("10.0.0.2").connect_datagram("10.0.0.1:7", DatagramRecorder)
        network.partition("10.0.0.1", "10.0.0.2")
        client.send(b"lost")
        network.run_out()
        network.heal()
        client.send(b"heard")
        network.run_out()
        assert client.get_protocol().received == [b"heard"]
        assert client.get_protocol().errors == []
        assert server.stats().received == 1


@pytest.mark.parametrize(
    ("address", "number"),
    [
        (("10.0.0.1", 9), errno.ECONNREFUSED),
        (("10.0.0.7", 9), errno.EHOSTUNREACH),
        (("10.0.0.8", 9), errno.ENETUNREACH),
        (("10.0.0.9", 9), None),
    ],
)
@pytest.mark.parametrize("how", ["bind", "connect"])
def test_errors_are_those_of_icmp(address, number, how):
    with MemoryNetwork() as network:
        network.unreachable.update({"10.0.0.8": errno.ENETUNREACH, "10.0.0.9": None})
        network.reactor("10.0.0.1")
        reactor = network.reactor("10.0.0.2")
        recorder = DatagramRecorder()
        if how == "bind":
            reactor.bind_datagram("10.0.0.2:0", lambda: recorder)
        else:
            reactor.connect_datagram(address, lambda: recorder)
        assert recorder.endpoint.send(b"x", address)
        network.run_out()
        assert [(exc.errno, where) for exc, where in recorder.errors] == (
            [] if number is None else [(number, address)]
        )


GROUP = "239.1.2.3"


def members(network, *hosts, group=GROUP, address="0.0.0.0:53"):
    """Return the recorders of a member on each host."""
    endpoints = [network.reactor(host).bind_datagram(address, DatagramRecorder) for host in hosts]
    for endpoint in endpoints:
        endpoint.join(group, "eth0")
    return [endpoint.get_protocol() for endpoint in endpoints]


@pytest.mark.parametrize(
    ("group", "address", "hosts"),
    [
        (GROUP, "0.0.0.0:53", ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        (GROUP, ":53", ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        (GROUP, f"{GROUP}:53", ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("ff02::fb", "[::]:53", ["fd00::1", "fd00::2", "fd00::3"]),
    ],
)
def test_group_is_heard_by_its_members_on_all_hosts(group, address, hosts):
    with MemoryNetwork() as network:
        one, two = members(network, *hosts[:2], group=group, address=address)
        (out,) = members(network, hosts[2], group=group, address=address)
        out.endpoint.leave(group)
        network.partition(hosts[0], hosts[1])
        one.endpoint.send(b"cut", (group, 53))
        network.run_out()
        network.heal()
        one.endpoint.send(b"hello", (group, 53))
        network.run_out()
        assert (one.received, two.received, out.received) == ([b"cut", b"hello"], [b"hello"], [])
        sender = one.endpoint.get_extra_info("socket")._host.addresses[0]
        assert two.calls[1][2][0].removeprefix("::ffff:") == sender
        one.endpoint.set_multicast("eth0", loopback=False)
        one.endpoint.send(b"others", (group, 53))
        two.endpoint.set_multicast("lo")
        two.endpoint.send(b"stays on this host", (group, 53))
        network.run_out()
        assert (len(one.received), two.received[1:], one.errors) == (2, [b"others"], [])


def test_broadcast_reaches_all_hosts():
    with MemoryNetwork() as network:
        everywhere = [
            network.reactor(f"10.0.0.{number}").bind_datagram("0.0.0.0:67", DatagramRecorder, broadcast=True)
            for number in range(1, 4)
        ]
        network.reactor("10.0.0.4").bind_datagram("10.0.0.4:67", DatagramRecorder)
        client = network.reactor("10.0.0.5").bind_datagram(":68", DatagramRecorder, broadcast=True)
        assert client.send(b"discover", ("255.255.255.255", 67))
        assert everywhere[0].send(b"offer", ("255.255.255.255", 68))
        network.run_out()
        assert [each.get_protocol().received for each in everywhere] == [[b"discover"]] * 3
        assert client.get_protocol().calls[1:] == [
            ("datagram_received", b"offer", ("::ffff:10.0.0.1", 67, 0, 0))
        ]


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_each_member_has_losses_of_its_own(seed):
    heard = {}
    for name in ("loss", "duplication", "reordering"):
        with MemoryNetwork(seed=seed, latency=(0.01, 0.02), **{name: 0.3}) as network:
            one, two = members(network, "10.0.0.1", "10.0.0.2")
            sender = FaultyDatagramPeer(NUMBERS, address=(GROUP, 53), delay=0.001)
            network.reactor("10.0.0.9").bind_datagram("10.0.0.9:0", lambda sender=sender: sender)
            network.run_out()
            heard[name] = one.received, two.received
    for one, two in heard.values():
        assert one != two
    for lost, twice, mixed in zip(*heard.values(), strict=True):
        assert set(lost) < set(NUMBERS)
        assert list(dict.fromkeys(twice)) == NUMBERS != twice
        assert sorted(mixed, key=int) == NUMBERS != mixed


def test_interfaces_of_a_host_are_two():
    with MemoryReactor() as reactor:
        endpoint = reactor.bind_datagram("0.0.0.0:53", DatagramRecorder)
        endpoint.join(GROUP, "wlan0")
        with pytest.raises(OSError, match="already in use"):
            endpoint.join(GROUP)
        endpoint.join(GROUP, 1)
        with pytest.raises(OSError, match="No such device"):
            endpoint.join(GROUP, 3)


def test_receive_buffer_is_bounded_and_drops_are_counted():
    with MemoryReactor(buffers=(65536, 4096)) as reactor:
        server = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder, limits=DatagramLimits(batch=1))
        client = reactor.connect_datagram("10.0.0.1:53", DatagramRecorder)
        for _ in range(100):
            client.send(bytes(100))
        reactor.run_out()
        stats = server.stats()
        assert stats.dropped["kernel"] > 50
        assert stats.received + stats.dropped["kernel"] == 100


def test_port_in_use_is_in_use_for_datagrams_alone():
    with MemoryReactor() as reactor:
        reactor.listen("10.0.0.1:53", DatagramEcho)
        reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
        with pytest.raises(ListenError, match="Address already in use"):
            reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
        for _ in range(2):
            reactor.bind_datagram("10.0.0.1:54", DatagramRecorder, reuse_port=True)


def test_connected_endpoint_hears_its_peer_alone():
    with MemoryReactor() as reactor:
        server = reactor.bind_datagram("10.0.0.1:7", DatagramEcho)
        client = reactor.connect_datagram("10.0.0.1:7", DatagramRecorder)
        other = reactor.bind_datagram("10.0.0.1:8", DatagramRecorder)
        other.send(b"not heard", client.address)
        server.send(b"heard", client.address)
        reactor.run_out()
        assert client.get_protocol().received == [b"heard"]
        assert other.get_protocol().errors[0][0].errno == errno.ECONNREFUSED


def test_dual_stack_endpoint_hears_both_families():
    with MemoryReactor() as reactor:
        server = reactor.bind_datagram(":53", DatagramEcho)
        clients = [
            reactor.connect_datagram(f"{host}:53", DatagramRecorder) for host in ("10.0.0.1", "[fd00::1]")
        ]
        for client in clients:
            client.send(b"x")
        reactor.run_out()
        assert [client.get_protocol().received for client in clients] == [[b"x"], [b"x"]]
        assert server.stats().received == 2


def test_unix_sockets_with_and_without_names():
    with MemoryReactor() as reactor:
        server = reactor.bind_datagram("unix:/server", DatagramRecorder)
        named = reactor.connect_datagram("unix:/server", DatagramRecorder, local_address="unix:/client")
        unnamed = reactor.connect_datagram("unix:/server", DatagramRecorder)
        for client in (named, unnamed):
            client.send(b"x")
        reactor.run_out()
        assert [call[2] for call in server.get_protocol().calls[1:]] == ["/client", None]
        server.send(b"answer", "/client")
        assert server.send(b"x", "/nobody") is False
        reactor.run_out()
        assert named.get_protocol().received == [b"answer"]


def test_full_unix_socket_makes_the_sender_wait():
    with MemoryReactor() as reactor:
        server = reactor.bind_datagram("unix:/server", DatagramRecorder)
        client = reactor.bind_datagram("unix:/client", DatagramRecorder)
        for number in NUMBERS:
            assert client.send(number, "/server")
        assert client.stats().queued
        reactor.run_out()
        assert server.get_protocol().received == NUMBERS


def test_failing_calls_are_the_network_s():
    calls = []

    def fault(name, index):
        calls.append(name)
        return errno.EAGAIN if name == "sendto" and calls.count("sendto") < 3 else None

    with MemoryNetwork(fault=fault) as network:
        reactor = network.reactor("10.0.0.1")
        server = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
        client = reactor.bind_datagram("10.0.0.1:54", DatagramRecorder)
        client.send(b"x", server.address)
        network.run_out()
        assert server.get_protocol().received == [b"x"]
        client.send(bytes(70_000), server.address)
        network.run_out()
        assert client.get_protocol().errors[0][0].errno == errno.EMSGSIZE
        assert network.complaints == []


def test_options_of_the_network_are_given_to_it():
    with MemoryNetwork() as network:
        with pytest.raises(UsageError, match="are the network's: give them to it"):
            MemoryReactor(network=network, loss=0.5)


def test_real_sockets_are_refused():
    with MemoryReactor() as reactor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(UsageError, match="is real"):
            reactor.bind_datagram(sock, DatagramRecorder)


def test_faulty_peer_cuts_repeats_shuffles_and_closes():
    with MemoryReactor() as reactor:
        server = reactor.bind_datagram("10.0.0.1:7", DatagramEcho)
        recorder = DatagramRecorder()
        server.set_protocol(recorder)
        peer = FaultyDatagramPeer(
            [b"one!", b"two!", b"six!"], address=("10.0.0.1", 7), copies=2, cut=3, seed=5, closes=True
        )
        reactor.bind_datagram("10.0.0.1:8", lambda: peer)
        reactor.run_out()
        assert sorted(recorder.received) == [b"one"] * 2 + [b"six"] * 2 + [b"two"] * 2
        assert recorder.received != [b"one", b"one", b"two", b"two", b"six", b"six"]
        assert peer.reason is None


@pytest.mark.parametrize("options", [{"copies": 0}, {"cut": -1}])
def test_faulty_peer_s_arguments_are_checked(options):
    with pytest.raises(UsageError):
        FaultyDatagramPeer([b"x"], **options)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_fixture_runs_an_endpoint_on_a_thread(datagram_server, address):
    server = datagram_server(DatagramEcho, address)
    with server.connect() as client:
        client.send(b"hello")
        assert client.recv(100) == b"hello"
    stats = server.reactor.submit(server.endpoint.stats).result()
    assert (stats.received, stats.sent) == (1, 1)
