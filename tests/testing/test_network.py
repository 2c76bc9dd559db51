"""A network in memory: addresses, names, partitions, several reactors, and no real descriptor."""

import errno
import os
import socket
import ssl
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    AddressError,
    ConnectTimeout,
    IdleTimeout,
    Limits,
    ListenError,
    Protocol,
    Reactor,
    Reconnect,
    Timeouts,
    UsageError,
)
from reactor.connecting.happy_eyeballs import ATTEMPT_DELAY
from reactor.pool import Pool
from reactor.streams import handler
from reactor.testing import Errors, FaultyPeer, MemoryNetwork, MemoryReactor, Recorder
from reactor.testing.sockets import listening_socket
from tests.helpers import Echo, examples

NAME = "server.example"


@pytest.fixture
def network():
    with MemoryNetwork(seed=3) as made:
        yield made
        assert made.complaints == []
    assert made.descriptors == {}


@pytest.fixture
def server(network):
    return network.reactor("10.0.0.1", "fd00::1")


@pytest.fixture
def client(network):
    return network.reactor("10.0.0.2", "fd00::2")


@pytest.fixture
def lone():
    with MemoryReactor() as reactor:
        yield reactor
        assert reactor.network.complaints == []
    assert reactor.network.descriptors == {}


def reach(reactor, address, **options):
    """Connect, settle, and return the protocol."""
    recorder = Recorder()
    reactor.connect(address, lambda: recorder, **options)
    reactor.settle()
    return recorder


def refusal(reactor, address, **options):
    """Return the errno of the one attempt of a failure to connect."""
    failures = []
    reactor.connect(address, Recorder, on_failure=failures.append, **options)
    reactor.run_out()
    ((_, exc),) = failures[0].attempts
    return exc.errno


# Addresses


@pytest.mark.parametrize(
    "address", ["10.0.0.1:80", "[fd00::1]:80", "unix:/run/server", "localhost:80", ":80"]
)
def test_single_reactor_connects_to_its_own_listener(lone, address):
    listener = lone.listen(address, Echo)
    recorder = reach(lone, address)
    recorder.connection.write(b"hello")
    lone.settle()
    assert recorder.received == b"hello"
    assert recorder.connection.peer.get_extra_info("listener") is listener
    recorder.connection.close()
    lone.settle()
    assert recorder.reason is None


def test_hosts_reach_each_other_and_see_the_others_address(server, client):
    served = Recorder()
    listener = server.listen("10.0.0.1:80", lambda: served)
    recorder = reach(client, "10.0.0.1:80")
    assert str(listener.addresses[0]) == "10.0.0.1:80"
    assert recorder.connection.get_extra_info("peername") == ("10.0.0.1", 80)
    assert served.connection.get_extra_info("sockname") == ("10.0.0.1", 80)
    peername = served.connection.get_extra_info("peername")
    assert peername == recorder.connection.get_extra_info("sockname")
    assert peername[0] == "10.0.0.2"


def test_peers_of_two_reactors_know_each_other(server, client):
    served = Recorder()
    listener = server.listen(":80", lambda: served)
    listener.pause()
    recorder = reach(client, "10.0.0.1:80")
    with pytest.raises(UsageError, match="no reactor's connection, or not yet"):
        recorder.connection.peer  # noqa: B018
    listener.resume()
    client.settle()
    assert recorder.connection.peer is served.connection
    assert served.connection.peer is recorder.connection
    assert served.connection.get_extra_info("reactor") is server
    served.connection.abort()
    client.settle()
    assert recorder.connection.peer is served.connection, "known after the end"


def test_empty_host_listens_on_both_families(server, client):
    served = []

    def factory():
        served.append(Recorder())
        return served[-1]

    server.listen(":80", factory)
    reach(client, "10.0.0.1:80")
    reach(client, "[fd00::1]:80")
    assert [each.connection.get_extra_info("peername")[0] for each in served] == [
        "::ffff:10.0.0.2",
        "fd00::2",
    ]
    assert refusal(server, "127.0.0.1:81") == errno.ECONNREFUSED
    assert reach(server, "127.0.0.1:80").names == ["connection_made"]


def test_port_0_picks_one_for_all_addresses_of_a_name(network, server, client):
    network.names[NAME] = ["fd00::1", "10.0.0.1"]
    listener = server.listen(f"{NAME}:0", Echo)
    ports = {address.port for address in listener.addresses}
    assert len(listener.addresses) == 2
    assert len(ports) == 1
    assert ports != {0}
    for address in listener.addresses:
        assert reach(client, address).names == ["connection_made"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10.0.0.1:80", "10.0.0.1:80"),
        (":80", "10.0.0.1:80"),
        ("10.0.0.1:80", ":80"),
        ("0.0.0.0:80", "10.0.0.1:80"),
        ("[fd00::1]:80", "[::]:80"),
        ("unix:/run/server", "unix:/run/server"),
    ],
)
def test_address_in_use_is_free_again_when_its_listener_is_closed(server, first, second):
    listener = server.listen(first, Echo)
    with pytest.raises(ListenError, match="Address already in use"):
        server.listen(second, Echo)
    listener.close()
    server.listen(second, Echo)


@pytest.mark.parametrize(
    ("first", "second"),
    [("10.0.0.1:80", "[fd00::1]:80"), ("10.0.0.1:80", "127.0.0.1:80"), ("[::]:80", "0.0.0.0:80")],
)
def test_same_port_of_another_address_is_free(server, first, second):
    server.listen(first, Echo)
    server.listen(second, Echo)


def test_reuse_port_distributes_connections(network, client):
    counts = []
    for number in range(2):
        counts.append([])
        process = network.reactor("10.0.0.1")
        process.listen("10.0.0.1:80", lambda n=number: counts[n].append(1) or Echo(), reuse_port=True)
    with pytest.raises(ListenError, match="in use"):
        process.listen("10.0.0.1:80", Echo)
    for _ in range(20):
        reach(client, "10.0.0.1:80")
    assert sum(map(len, counts)) == 20
    assert all(counts)


def test_address_of_another_host_can_not_be_listened_on(server, client):
    with pytest.raises(
        ListenError, match="Cannot assign requested address: choose an address of this machine"
    ):
        server.listen("10.0.0.2:80", Echo)


def test_two_processes_are_on_one_host(network, server, client):
    other = network.reactor("10.0.0.1")
    other.listen("unix:/run/other", Echo)
    other.listen("127.0.0.1:80", Echo)
    assert reach(server, "unix:/run/other").names == ["connection_made"]
    assert reach(server, "127.0.0.1:80").names == ["connection_made"]
    assert refusal(client, "unix:/run/other") == errno.ENOENT
    assert refusal(client, "127.0.0.1:80") == errno.ECONNREFUSED


def test_server_is_restarted(network, server, client):
    server.listen("10.0.0.1:80", Echo)
    before = reach(client, "10.0.0.1:80")
    server.close()
    client.settle()
    assert isinstance(before.reason, ConnectionResetError)
    assert refusal(client, "10.0.0.1:80") == errno.ECONNREFUSED
    network.reactor("10.0.0.1").listen("10.0.0.1:80", Echo)
    assert reach(client, "10.0.0.1:80").names == ["connection_made"]


def test_local_address_is_where_a_client_comes_from(network, server):
    client = network.reactor("10.0.0.2", "10.0.0.3")
    served = Recorder()
    server.listen(":80", lambda: served)
    reach(client, "10.0.0.1:80", local_address="10.0.0.3:7")
    assert served.connection.get_extra_info("peername")[:2] == ("::ffff:10.0.0.3", 7)
    recorder = reach(client, "10.0.0.1:80", local_address="0.0.0.0:8")
    assert recorder.connection.get_extra_info("sockname") == ("10.0.0.2", 8)
    assert refusal(client, "10.0.0.1:80", local_address="10.0.0.9:0") == errno.EADDRNOTAVAIL
    assert refusal(client, "10.0.0.1:80", local_address="[fd00::2]:0") == errno.EAFNOSUPPORT


def test_host_without_ipv6_cannot_reach_it(network, server):
    assert refusal(network.reactor("10.0.0.2"), "[fd00::1]:80") == errno.ENETUNREACH


def test_syn_to_a_full_backlog_is_sent_again(server, client):
    listener = server.listen("10.0.0.1:80", Echo, backlog=1)
    listener.pause()
    waiting = [reach(client, "10.0.0.1:80") for _ in range(2)]  # one more than its argument, as on Linux
    third = reach(client, "10.0.0.1:80")
    assert [each.names for each in (*waiting, third)] == [["connection_made"], ["connection_made"], []]
    listener.resume()
    client.advance(1.0)
    assert third.names == ["connection_made"]


def test_repeated_syn_is_dropped_by_a_partition(network, server, client):
    listener = server.listen("10.0.0.1:80", Echo, backlog=0)
    listener.pause()
    reach(client, "10.0.0.1:80")
    second = reach(client, "10.0.0.1:80")
    network.partition(server, client)
    listener.resume()
    network.advance(5)
    assert second.names == []
    network.heal()
    network.settle()
    assert second.names == ["connection_made"]


def test_full_backlog_of_a_unix_socket_is_eagain(lone):
    lone.listen("unix:/run/server", Echo, backlog=0).pause()
    reach(lone, "unix:/run/server")
    assert refusal(lone, "unix:/run/server") == errno.EAGAIN


def test_closing_a_listener_resets_pending_connections():
    with MemoryReactor(latency=(1.0, 1.0)) as lone:
        listener = lone.listen("10.0.0.1:80", Echo)
        recorder = reach(lone, "10.0.0.1:80")
        lone.advance(2.5)
        listener.close()
        lone.run_out()
        assert isinstance(recorder.reason, ConnectionResetError)


def test_cancelled_attempt_leaks_nothing():
    with MemoryReactor(latency=(1.0, 1.0)) as lone:
        served = []
        lone.listen("10.0.0.1:80", lambda: served.append(True) or Echo())
        for moment in (0.5, 1.5):
            connector = lone.connect("10.0.0.1:80", Recorder)
            lone.advance(moment)
            connector.cancel()
        lone.run_out()
        assert served == []
        assert lone.connections() == []


def test_connecting_takes_a_round_trip():
    with MemoryReactor(latency=(0.5, 0.5)) as lone:
        lone.listen("10.0.0.1:80", Echo)
        recorder = reach(lone, "10.0.0.1:80")
        lone.advance(0.99)
        assert recorder.names == []
        lone.advance(0.01)
        assert recorder.names == ["connection_made"]


# Names


def test_unknown_name_fails_as_a_look_up_does(client):
    assert refusal(client, f"{NAME}:80") == socket.EAI_NONAME
    with pytest.raises(ListenError, match="Name or service not known"):
        client.listen(f"{NAME}:80", Echo)


def test_addresses_of_a_name_are_tried_in_parallel(network, server, client):
    """Happy eyeballs: the first address does not answer."""
    network.names[NAME] = ["fd00::1", "10.0.0.1"]
    server.listen(f"{NAME}:80", Echo)
    network.partition("fd00::1", "fd00::2")
    recorder = reach(client, f"{NAME}:80")
    network.advance(ATTEMPT_DELAY - 0.01)
    assert recorder.names == []
    network.advance(0.01)
    assert recorder.connection.get_extra_info("peername") == ("10.0.0.1", 80)
    network.heal()
    network.settle()
    assert len(server.connections()) == 1, "the attempt that has lost was given up"


def test_next_address_is_tried_at_once_after_a_refusal(network, server, client):
    network.names[NAME] = ["fd00::1", "10.0.0.9", "10.0.0.1"]
    network.unreachable["10.0.0.9"] = errno.ENETUNREACH
    server.listen("10.0.0.1:80", Echo)
    recorder = reach(client, f"{NAME}:80")
    assert recorder.connection.get_extra_info("peername") == ("10.0.0.1", 80)


def test_name_with_an_invalid_address_is_refused(network, client):
    network.names[NAME] = ["ten"]
    client.connect(f"{NAME}:80", Echo)
    with pytest.raises(ConnectionError, match="'ten' in `names` is no IP address"):
        client.settle()
    with pytest.raises(ListenError, match="'ten' in `names` is no IP address"):
        client.listen(f"{NAME}:80", Echo)
    assert client.next_timeout() is None


def test_localhost_is_known_and_may_be_redefined(network, server):
    server.listen("127.0.0.1:80", Echo)
    assert reach(server, "localhost:80").names == ["connection_made"]
    network.names["localhost"] = "10.0.0.1"
    assert refusal(server, "localhost:80") == errno.ECONNREFUSED


def test_invalid_address_raises_at_the_call(network, client):
    with pytest.raises(UsageError, match=r"is no IP address: names are for `network\.names`"):
        network.reactor(NAME)
    with pytest.raises(UsageError, match="is no IP address"):
        network.partition(client, "elsewhere")
    with pytest.raises(AddressError):
        client.connect("fd:3", Echo)


def test_host_with_addresses_of_two_hosts_is_refused(network, server, client):
    with pytest.raises(UsageError, match="not of one host"):
        network.reactor("10.0.0.1", "10.0.0.2")
    with pytest.raises(UsageError, match="not of one host"):
        network.reactor("10.0.0.1", "10.0.0.3")


# Unreachable addresses


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES])
def test_unreachable_address_fails_with_the_given_error(network, client, number):
    network.unreachable["10.0.0.9"] = number
    assert refusal(client, "10.0.0.9:80") == number


def test_missing_host_is_unreachable_and_missing_listener_refuses(server, client):
    assert refusal(client, "10.0.0.9:80") == errno.EHOSTUNREACH
    assert refusal(client, "10.0.0.1:80") == errno.ECONNREFUSED


def test_silence_lasts_until_the_timeout_of_the_reactor_or_the_kernel(network, client):
    network.unreachable["fd00:0::9"] = None
    failures = []
    timeouts = Timeouts(connect=3.0)
    client.connect("[fd00::9]:80", Recorder, timeouts=timeouts, on_failure=failures.append)
    client.advance(2.9)
    assert failures == []
    client.advance(0.2)
    assert isinstance(failures[0], ConnectTimeout)
    began = client.time()
    assert refusal(client, "[fd00::9]:80", timeouts=Timeouts(connect=1000.0)) == errno.ETIMEDOUT
    assert client.time() - began == pytest.approx(127)


# Partitions


def talk(server, client, **options):
    """Return both protocols of a new connection."""
    served = Echo()
    listener = server.listen("10.0.0.1:0", lambda: served, **options)
    return served, reach(client, listener.addresses[0])


def test_partition_holds_sent_bytes_until_it_is_healed(network, server, client):
    served, recorder = talk(server, client)
    network.partition(server, client)
    recorder.connection.write(b"one")
    network.advance(60)
    recorder.connection.write(b"two")
    recorder.connection.write_eof()
    network.advance(800)
    assert served.received == b""
    network.heal()
    network.run_out()
    assert recorder.received == b"onetwo"
    assert (served.reason, recorder.reason) == (None, None)


def test_partition_holds_bytes_in_transit_in_order():
    with MemoryNetwork(latency=(1.0, 1.0)) as network:
        server, client = network.reactor("10.0.0.1"), network.reactor("10.0.0.2")
        served, recorder = talk(server, client)
        network.advance(5)
        recorder.connection.write(b"one")
        network.advance(0.5)
        network.partition(server, client)
        recorder.connection.write(b"two")
        network.advance(0.7)
        recorder.connection.write(b"three")
        network.heal()
        network.settle()
        assert served.received == b"one"
        network.advance(0.3)
        assert served.received == b"onetwo"
        network.run_out()
        assert served.received == b"onetwothree"


def test_deadlines_end_a_connection_that_a_partition_stalls(network, server, client):
    served, recorder = talk(server, client, timeouts=Timeouts(idle=10.0))
    network.partition("10.0.0.1", "10.0.0.2")
    network.advance(11)
    assert isinstance(served.reason, IdleTimeout)
    assert not recorder.lost, "the word of it is held back"
    network.heal("10.0.0.1", "10.0.0.2")
    network.settle()
    assert recorder.reason is None


def test_partition_separates_two_hosts_by_address(network, server, client):
    third = network.reactor("10.0.0.3")
    server.listen(":80", Echo)
    network.partition("10.0.0.1", "10.0.0.2")
    assert reach(client, "10.0.0.1:80").names == []
    assert reach(client, "[fd00::1]:80").names == ["connection_made"]
    assert reach(third, "10.0.0.1:80").names == ["connection_made"]
    network.heal("10.0.0.3", "10.0.0.1")
    assert reach(client, "10.0.0.1:80").names == []


def test_partition_by_name_covers_its_addresses(network, server, client):
    network.names[NAME] = ["10.0.0.1"]
    served, recorder = talk(server, client)
    network.partition(NAME, client)
    recorder.connection.write(b"x")
    network.settle()
    assert served.received == b""


def test_connection_attempt_through_a_partition_succeeds_after_healing(network, server, client):
    server.listen("10.0.0.1:80", Echo)
    network.partition(server, client)
    recorder = reach(client, "10.0.0.1:80")
    network.advance(10)
    assert recorder.names == []
    network.heal()
    network.settle()
    assert recorder.names == ["connection_made"]


def test_connection_attempt_through_a_partition_times_out(network, server, client):
    server.listen("10.0.0.1:80", Echo)
    network.partition(server, client)
    assert refusal(client, "10.0.0.1:80", timeouts=Timeouts(connect=1000.0)) == errno.ETIMEDOUT
    network.heal()
    network.run_out()
    assert server.connections() == []


def test_connection_without_acknowledgements_times_out(network, server, client):
    served, recorder = talk(server, client)
    network.partition(server, client)
    network.advance(2000)
    recorder.connection.write(b"x")
    network.advance(924)
    assert not recorder.lost
    network.advance(1)
    assert recorder.reason.errno == errno.ETIMEDOUT
    assert not served.lost, "it has sent nothing, and knows of nothing"
    network.heal()
    served.connection.write(b"x")
    network.settle()
    assert isinstance(served.reason, ConnectionResetError)


@pytest.mark.parametrize("parted", [False, True])
def test_reset_ends_connections_at_both_ends_and_through_a_partition(network, server, client, parted):
    served, recorder = talk(server, client)
    bystander = reach(server, server.listeners()[0].addresses[0])
    if parted:
        network.partition(server, client)
    network.reset(server, client)
    network.settle()
    assert isinstance(served.reason, ConnectionResetError)
    assert isinstance(recorder.reason, ConnectionResetError)
    assert not bystander.lost


def test_partition_needs_two_sides(network, server, lone):
    with pytest.raises(UsageError, match="give both, or none to heal all"):
        network.heal(server)
    with pytest.raises(UsageError, match="no addresses of its own"):
        lone.network.partition(lone, "10.0.0.1")


def test_pair_can_be_partitioned(lone):
    recorder = Recorder()
    _, client = lone.pair(lambda: recorder, Recorder)
    lone.network.partition("10.0.0.1", "10.0.0.254")
    client.write(b"x")
    lone.settle()
    assert recorder.received == b""
    lone.network.heal()
    lone.settle()
    assert recorder.received == b"x"


# Reconnecting


def test_client_connects_again_after_a_partition_has_ended_its_connection(network, server, client):
    made, failures = [], []

    def factory():
        made.append(Recorder())
        return made[-1]

    server.listen("10.0.0.1:80", Echo)
    once_a_second = Reconnect(first=1.0, max_delay=1.0)
    timeouts = Timeouts(idle=5.0, connect=2.0)
    connector = client.connect(
        "10.0.0.1:80", factory, reconnect=once_a_second, timeouts=timeouts, on_failure=failures.append
    )
    network.settle()
    network.partition(server, client)
    network.advance(20)
    assert isinstance(made[0].reason, IdleTimeout)
    assert len(made) == 1
    assert failures
    assert all(isinstance(failure, ConnectTimeout) for failure in failures)
    network.heal()
    network.advance(3)
    assert made[1].names == ["connection_made"]
    connector.cancel()


def test_reconnect_delays_are_drawn_from_the_seed():
    def run(seed):
        times = []
        with MemoryReactor(seed=seed) as lone:
            again = Reconnect(attempts=6)
            lone.connect(
                "10.0.0.1:80", Recorder, reconnect=again, on_failure=lambda exc: times.append(lone.time())
            )
            lone.run_out()
        return times

    assert len(run(1)) == 6
    assert run(1) == run(1)
    assert run(1) != run(2)


def test_reconnect_with_its_own_random_keeps_it(lone):
    times = []
    exact = Reconnect(first=1.0, attempts=2, random=lambda: 1.0)
    lone.connect("10.0.0.1:80", Recorder, reconnect=exact, on_failure=lambda exc: times.append(lone.time()))
    lone.run_out()
    assert times[1] - times[0] == 1.0


# One clock, several reactors


def test_reactors_of_a_network_share_one_clock(network, server, client):
    calls = []
    client.call_later(2.0, lambda: calls.append(("client", network.clock.now)))
    server.call_later(1.0, lambda: calls.append(("server", network.clock.now)))
    server.call_later(2.0, lambda: calls.append(("server", network.clock.now)))
    began = network.clock.now
    server.advance(2.5)
    assert calls == [("server", began + 1), ("server", began + 2), ("client", began + 2)]
    assert (server.time(), client.time()) == (began + 2.5, began + 2.5)


class Timed(Recorder):
    """Records its calls in a common list, with its name and the time."""

    def __init__(self, network, who, log):
        super().__init__()
        self._note = lambda *facts: log.append((network.clock.now, who, *facts))

    def connection_made(self, connection):
        super().connection_made(connection)
        self._note("connection_made", connection.get_extra_info("peername"))

    def data_received(self, data):
        super().data_received(data)
        self._note("data_received", data)

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._note("connection_lost", repr(exc))


class Chatty(Timed):
    """Writes periodically while it is connected."""

    def connection_made(self, connection):
        super().connection_made(connection)
        self._say(0)

    def _say(self, number):
        if not self.connection.is_closing():
            self.connection.write(b"%d " % number * 50)
            self.connection.get_extra_info("reactor").call_later(0.7, self._say, number + 1)


def play(seed):
    """Let three clients talk to a server through partitions, resets and reconnects; return all calls."""
    log = []
    with MemoryNetwork(seed=seed, latency=(0.01, 0.4), choppy=0.4, buffers=(500, 300)) as network:
        network.names[NAME] = ["fd00::1", "10.0.0.1"]
        server = network.reactor("10.0.0.1", "fd00::1")
        server.listen(f"{NAME}:80", lambda: Timed(network, "server", log), timeouts=Timeouts(idle=8.0))
        clients = [network.reactor(f"10.0.0.{n}", f"fd00::{n}") for n in (2, 3, 4)]
        for number, client in enumerate(clients):
            client.connect(
                f"{NAME}:80",
                lambda number=number: Chatty(network, number, log),
                reconnect=Reconnect(),
                timeouts=Timeouts(connect=5.0, idle=6.0),
                on_failure=lambda exc: log.append((network.clock.now, str(exc))),
            )
        network.advance(5)
        for client in clients[:2]:
            network.partition(server, client)
        network.advance(15)
        network.heal(server, clients[0])
        network.reset(server, clients[2])
        network.partition("fd00::1", "fd00::4")
        network.advance(15)
        network.heal()
        network.advance(15)
        return log, network.calls


def test_seed_replays_exactly_and_another_differs():
    log, calls = play(1)
    assert (log, calls) == play(1)
    assert log != play(2)[0]
    names = {entry[2] for entry in log if len(entry) > 2}
    assert names == {"connection_made", "data_received", "connection_lost"}
    assert any("no answer within 5 s" in entry[1] for entry in log if len(entry) == 2)


def test_callback_may_close_another_reactor(network, server, client):
    server.call_soon(client.close)
    network.settle()
    assert client.is_closed()
    network.advance(1)
    assert network.reactors == [server]


def test_parameters_belong_to_the_network_only(network):
    with pytest.raises(UsageError, match="the network's: give them to it"):
        MemoryReactor(network=network, seed=1)


# Waiting, in the network's time


def test_run_advances_time_for_all_reactors(network, server, client):
    server.listen("10.0.0.1:80", handler(shout))
    peer = FaultyPeer(b"one\n", delay=5.0, ending="half-close")
    client.connect("10.0.0.1:80", lambda: peer)
    began = server.time()
    server.call_later(60, server.stop)
    server.run()
    assert server.time() == began + 60
    assert peer.received == b"ONE\n"


async def shout(stream):
    async for line in stream.lines():
        await stream.send(line.upper() + b"\n")


def test_run_ends_with_a_drain(network, server, client):
    served, recorder = talk(server, client)
    client.call_later(3, server.drain)
    server.run()
    client.settle()
    assert recorder.reason is None
    assert served.lost


def test_endless_wait_raises(server):
    with pytest.raises(UsageError, match="waits for ever: nothing is due"):
        server.run()
    server.call_later(1, server.stop)
    server.run()


def test_run_once_waits_in_the_networks_time(server, client):
    began = server.time()
    assert server.run_once(2.5) == 0
    assert server.time() == began + 2.5
    client.call_later(1, server.call_soon_threadsafe, list)
    server.run_once(10)
    assert server.time() == began + 3.5


# Errors


class Broken(Protocol):
    def data_received(self, data):
        raise LookupError("mine")


class BrokenAtTheEnd(Protocol):
    def connection_lost(self, exc):
        raise LookupError("at the end")


@pytest.mark.parametrize("drive", ["settle", "run_out", "advance", "run_once", "run"])
def test_driving_raises_what_a_callback_raised(lone, drive):
    lone.call_later(0, exec, "raise LookupError('mine')")
    lone.call_later(1, lone.stop)
    with pytest.raises(LookupError, match="mine") as raised:
        getattr(lone, drive)(*([5.0] if drive == "advance" else []))
    assert raised.value.__notes__ == ["in exec"]
    lone.settle()


def test_error_is_raised_at_its_time_with_the_connection(network, server, client):
    server.listen("10.0.0.1:80", Broken)
    client.connect("10.0.0.1:80", lambda: FaultyPeer(b"x", delay=3.0))
    began = network.clock.now
    with pytest.raises(LookupError) as raised:
        network.advance(60)
    assert network.clock.now == began + 3
    assert raised.value.__notes__[0].startswith("in Broken.data_received of <Connection 10.0.0.2:")
    network.run_out()
    assert server.connections() == []


def test_errors_of_one_tick_are_raised_as_a_group(lone):
    for text in ("one", "two"):
        lone.call_soon(exec, f"raise LookupError({text!r})")
    with pytest.raises(BaseExceptionGroup, match="several callbacks raised") as raised:
        lone.settle()
    assert [str(exc) for exc in raised.value.exceptions] == ["one", "two"]


def test_failure_to_connect_raises_without_on_failure(lone):
    lone.connect("10.0.0.1:80", Recorder)
    with pytest.raises(ConnectionError, match=r"cannot connect to 10\.0\.0\.1:80: Connection refused"):
        lone.settle()


def test_close_raises_errors_not_raised_before():
    reactor = MemoryReactor()
    reactor.pair(BrokenAtTheEnd, Recorder)
    with pytest.raises(LookupError, match="at the end"):
        reactor.close()
    assert reactor.is_closed()
    with pytest.raises(LookupError, match="at the end"), MemoryReactor() as reactor:
        reactor.pair(BrokenAtTheEnd, Recorder)


def test_exception_of_the_block_precedes_errors_of_close():
    with pytest.raises(ZeroDivisionError) as raised, MemoryReactor() as reactor:
        reactor.pair(BrokenAtTheEnd, Recorder)
        1 / 0  # noqa: B018
    assert raised.value.__notes__ == ["And closing: LookupError('at the end')"]


def test_network_close_closes_all_reactors_and_raises_their_errors():
    with pytest.raises(LookupError), MemoryNetwork() as network:
        one, other = network.reactor(), network.reactor()
        one.pair(BrokenAtTheEnd, Recorder)
    assert one.is_closed()
    assert other.is_closed()


def test_errors_are_passed_to_on_error_if_given():
    errors = Errors()
    with MemoryNetwork() as network:
        network.reactor(on_error=errors).call_soon(exec, "raise LookupError")
        network.settle()
    assert isinstance(errors.take()[0], LookupError)


def test_check_reports_open_connections_and_misuse(network, server, client):
    network.check()
    _, recorder = talk(server, client)
    with pytest.raises(AssertionError, match=r"connections are open: <Connection 10\.0\.0\.2:"):
        network.check()
    recorder.connection.abort()
    network.settle()
    network.check()
    network.complaints.append("something")
    with pytest.raises(AssertionError, match="the kernel complains: something"):
        network.check()
    network.complaints.clear()


# No real descriptor


def test_nothing_real_is_opened(monkeypatch):
    before = os.listdir("/proc/self/fd")

    def real(*args, **options):
        raise AssertionError("this is real")

    for name in ("socket", "socketpair", "has_dualstack_ipv6", "getaddrinfo"):
        monkeypatch.setattr(socket, name, real)
    monkeypatch.setattr(os, "open", real)
    monkeypatch.setattr(threading.Thread, "start", real)
    with MemoryNetwork() as network:
        network.names[NAME] = ["10.0.0.1"]
        server, client = network.reactor("10.0.0.1"), network.reactor("10.0.0.2", debug=True)
        server.listen(":80", Echo, limits=Limits(when_full="refuse", max_connections=1))
        server.listen("unix:/run/server", Echo)
        recorder = reach(client, f"{NAME}:80")
        assert os.listdir("/proc/self/fd") == before
        client.run_in_executor(None, int)
        recorder.connection.close()
        network.settle()
    assert not os.path.exists("/run/server")


@pytest.mark.parametrize(
    "ask",
    [
        lambda reactor, real: reactor.listen("fd:3", Echo),
        lambda reactor, real: reactor.listen("fd:512", Echo),
        lambda reactor, real: reactor.listen(real, Echo),
        lambda reactor, real: reactor.adopt(real, Echo),
        lambda reactor, real: reactor.add_reader(real, print),
        lambda reactor, real: reactor.add_reader(real.fileno(), print),
        lambda reactor, real: reactor.add_writer(real, print),
    ],
)
def test_real_descriptors_are_refused(lone, ask):
    lone.pair(Recorder, Recorder)
    with (
        socket.socket() as real,
        pytest.raises(UsageError, match="is real, and a MemoryReactor has nothing but"),
    ):
        ask(lone, real)


def test_threads_and_signals_are_refused(lone):
    with pytest.raises(UsageError, match="no signals come in memory"):
        lone.run(signals={2})
    with pytest.raises(UsageError, match="a thread has no place in memory"):
        lone.background()
    with ThreadPoolExecutor(1) as executor, pytest.raises(UsageError, match="give None, and it runs at once"):
        lone.run_in_executor(executor, int)
    with pytest.raises(UsageError, match="has no descriptor"):
        lone.fileno()
    lone.listen("10.0.0.1:80", Pool(print))
    lone.connect("10.0.0.1:80", Recorder, on_failure=lambda exc: None)
    with pytest.raises(UsageError, match="need a socket of the kernel"):
        lone.settle()


def test_socket_of_another_network_is_refused(lone, network):
    with listening_socket(network) as sock, pytest.raises(UsageError, match="is of another network"):
        lone.listen(sock, Echo)


def test_sockets_in_memory_may_be_watched_and_listened_on(lone):
    sock = listening_socket(lone.network)
    seen = []
    lone.add_reader(sock, lambda: seen.append(True) or lone.remove_reader(sock))
    far = lone.network.connect(sock.end)
    lone.settle()
    assert seen == [True]
    lone.listen(sock, Echo)
    far.send(b"hello")
    lone.settle()
    assert far.recv(10) == b"hello"


def test_executor_call_runs_at_once_and_completes_on_the_loop(lone):
    ran, done = [], []
    future = lone.run_in_executor(None, lambda: ran.append(threading.current_thread()) or 7)
    future.add_done_callback(done.append)
    assert ran == [threading.current_thread()]
    assert done == []
    lone.settle()
    assert future.result() == 7
    assert done == [future]


def test_file_is_sent_without_the_kernel(lone, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    recorder = Recorder()
    _, client = lone.pair(lambda: recorder, Recorder)
    with path.open("rb") as file:
        client.sendfile(file)
        client.close()
        lone.settle()
    assert recorder.received == path.read_bytes()


def test_reserve_descriptor_is_closed_and_opened_again(network, server, client):
    server.listen("10.0.0.1:80", Echo, limits=Limits(when_full="refuse"))
    failing = iter([errno.EMFILE])
    network.fault = lambda name, index: next(failing, None) if name == "accept" else None
    recorder = reach(client, "10.0.0.1:80")
    network.advance(2.0)
    assert server.stats().refused == {"descriptors": 1}
    assert recorder.reason is None
    assert reach(client, "10.0.0.1:80").names == ["connection_made"]


# TLS


def test_tls_works_over_the_network_and_clear_text_is_reported(network, server, client, certificates):
    network.names["localhost"] = ["10.0.0.1"]
    failed = []
    server.listen("10.0.0.1:443", Echo, tls=certificates.server(), on_tls_error=failed.append)
    secure = reach(client, "localhost:443", tls=certificates.client())
    network.partition(server, client)
    secure.connection.write(b"hello" * 10_000)
    network.advance(5)
    network.heal()
    network.settle()
    assert secure.received == b"hello" * 10_000
    assert isinstance(secure.connection.get_extra_info("ssl_object"), ssl.SSLObject)
    reach(client, "localhost:443").connection.write(b"GET / HTTP/1.1\r\n\r\n")
    network.settle()
    assert "without TLS" in str(failed[0])


# Whatever the network does to the bytes

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.floats(0.0, 1.0)),
        st.tuples(st.just("partition"), st.booleans()),
        st.tuples(st.just("outage"), st.floats(0.0, 1.0)),
        st.tuples(st.just("latency"), st.floats(0.0, 0.5)),
        st.tuples(st.just("write"), st.integers(1, 700)),
        st.tuples(st.just("connect"), st.integers(0, 9000)),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=30,
)

CONTENT = bytes(i * 7 % 251 for i in range(40_000))


@examples(150)
@given(seed=st.integers(0, 1 << 32), steps=STEPS)
def test_partitions_neither_lose_nor_reorder_and_connection_lost_is_called_once(seed, steps):
    links = []
    with MemoryNetwork(seed=seed, latency=(0.0, 0.2), choppy=0.3, buffers=(5000, 3000)) as network:
        server, client = network.reactor("10.0.0.1"), network.reactor("10.0.0.2")
        sinks = []

        def sink():
            sinks.append(Recorder())
            return sinks[-1]

        server.listen("10.0.0.1:80", sink)

        def connect(size):
            peer = FaultyPeer(CONTENT[:size], chunk=300, delay=0.1, ending="half-close")
            links.append((peer, size))
            client.connect("10.0.0.1:80", lambda: peer, on_failure=lambda exc: None)

        def write(size):
            for each in sinks:
                if not each.lost:
                    each.connection.write(CONTENT[:size])

        connect(9000)
        was_reset = False
        for step, value in steps:
            if step == "advance":
                network.advance(value)
            elif step == "partition":
                network.partition(server, client) if value else network.heal()
            elif step == "outage":
                network.advance(value)
                network.partition(server, client)
                network.advance(value)
                network.heal()
            elif step == "latency":
                network.latency = (value / 2, value)
            elif step == "write":
                write(value)
            elif step == "connect":
                connect(value)
            else:
                was_reset = True
                network.reset(server, client)
        network.heal()
        network.run_out()
        network.check()
        peers = [peer for peer, _ in links if peer.calls]
        for recorder in (*sinks, *peers):
            recorder.reason  # noqa: B018 - it came exactly once, and last
        for each in sinks:
            sent = {size for peer, size in links if peer.calls and peer.connection.peer is each.connection}
            size = (
                sent.pop() if sent else 0
            )  # the client may have cancelled before it saw that it was accepted
            assert CONTENT[:size].startswith(each.received)
            if each.reason is None:
                assert each.received == CONTENT[:size]
        if not was_reset:
            assert [peer.reason for peer in peers] == [None] * len(peers)


# The docstrings' programs


@pytest.mark.parametrize("documented", [MemoryNetwork, MemoryReactor])
def test_example_runs_as_it_is_printed(documented):
    text = textwrap.dedent(documented.__doc__.partition("\n")[2])
    example = "\n\n".join(part for part in text.split("\n\n") if part.startswith("    "))
    assert "run_out()" in example
    exec(textwrap.dedent(example), {})


def test_reactor_outside_of_the_network_uses_the_kernel(descriptors):
    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Echo)
        assert isinstance(listener._sockets[0], socket.socket)
