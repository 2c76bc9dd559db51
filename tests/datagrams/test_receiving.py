"""Receiving: batches and budgets, joined datagrams, limits by client prefix."""

import errno
import socket

import pytest

from reactor import UsageError
from reactor.apps.echo import Echo
from reactor.datagrams import DatagramLimits
from reactor.testing import DatagramRecorder, Recorder


class Slow(DatagramRecorder):
    """A recorder whose callback takes `seconds` on the clock."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def datagram_received(self, data, address):
        super().datagram_received(data, address)
        self.clock.advance(self.seconds)


def test_batch_leaves_the_rest_to_the_next_tick(timed):
    receiver = DatagramRecorder()
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: receiver, limits=DatagramLimits(batch=10))
    for number in range(25):
        endpoint.send(b"%d" % number, endpoint.address)
    seen = []
    for _ in range(3):
        timed.run_once(0)
        seen.append(len(receiver.received))
    assert seen == [10, 20, 25]


def test_slow_callback_leaves_the_rest_of_the_batch(timed, clock):
    slow = Slow(clock, 0.003)
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: slow)
    for _ in range(3):
        endpoint.send(b"x", endpoint.address)
    timed.run_once(0)
    assert len(slow.received) == 1
    timed.call_soon(lambda: None)
    timed.run_once(0)
    assert len(slow.received) == 2


def test_budget_of_a_step_ends_a_batch(timed, clock):
    slow = Slow(clock, 0.0004)
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: slow)
    for _ in range(10):
        endpoint.send(b"x", endpoint.address)
    timed.run_once(0, budget=0.001)
    assert len(slow.received) == 3


def test_flood_does_not_keep_a_connection_waiting(reactor, ends):
    flooded = ends.bind()
    listener = reactor.listen("127.0.0.1:0", Echo)
    talk = Recorder()
    reactor.connect(listener.addresses[0], lambda: talk)
    ends.until(lambda: talk.calls)
    talk.connection.write(b"hello")

    def flood():
        for _ in range(100):
            flooded.endpoint.send(bytes(64), flooded.endpoint.address)
        reactor.call_soon(flood)

    flood()
    for _ in range(6):
        reactor.run_once(0)
    assert talk.received == b"hello"
    talk.connection.close()


def test_unix_sender_without_a_name_is_heard(ends, tmp_path):
    server = ends.bind(f"unix:{tmp_path}/server")
    client = ends.connect(f"unix:{tmp_path}/server")
    client.endpoint.send(b"no answer wanted")
    ends.until(lambda: server.received)
    assert server.calls[1] == ("datagram_received", b"no answer wanted", None)
    with pytest.raises(UsageError, match="has no address"):
        client.endpoint.address  # noqa: B018
    with pytest.raises(UsageError, match="connected to no address"):
        server.endpoint.send(b"answer", None)


def test_unix_datagram_larger_than_the_buffer_is_dropped_and_counted(ends, tmp_path):
    server = ends.bind(f"unix:{tmp_path}/server")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)  # SO_SNDBUFFORCE
        client.sendto(bytes(300_000), f"{tmp_path}/server")
        client.sendto(b"small", f"{tmp_path}/server")
    ends.until(lambda: server.received)
    assert server.received == [b"small"]
    assert server.endpoint.stats().dropped == {"truncated": 1}


def test_error_of_receiving_does_not_end_the_endpoint(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(recvfrom=[InterruptedError, OSError(errno.ENETDOWN, "down")])
    theirs.sendto(b"hello", sock.getsockname())
    ends.until(lambda: recorder.received and recorder.errors)
    assert recorder.errors[0][0].errno == errno.ENETDOWN


def test_joined_datagrams_after_a_close_are_counted(ends):
    class Once(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            self.endpoint.close()

    once = Once()
    server = ends.reactor.bind_datagram("127.0.0.1:0", lambda: once, gro=True)
    client = ends.bind(gso=True)
    for _ in range(7):
        client.endpoint.send(bytes(10), server.address)
    ends.until(lambda: once.lost)
    assert (server.stats().received, dict(server.stats().dropped)) == (1, {"closed": 6})


def test_joined_datagrams_after_a_change_of_the_protocol_are_the_new_one_s(ends):
    class Greeting(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            self.endpoint.set_protocol(other)

    first, other = Greeting(), DatagramRecorder()
    server = ends.reactor.bind_datagram("127.0.0.1:0", lambda: first, gro=True)
    client = ends.bind(gso=True)
    for _ in range(7):
        client.endpoint.send(bytes(10), server.address)
    ends.until(lambda: server.stats().received == 7)
    assert (len(first.received), len(other.received)) == (1, 6)


@pytest.mark.parametrize("options", [{}, {"gro": True}, {"info": True}])
def test_prefix_over_its_limit_is_dropped_before_the_protocol(timed, clock, options):
    recorder, limits = DatagramRecorder(), DatagramLimits(prefix_datagrams=3)
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: recorder, limits=limits, **options)
    for _ in range(5):
        endpoint.send(b"x", endpoint.address)
    timed.run_once(0)
    assert len(recorder.received) == endpoint.stats().received == 3
    assert endpoint.stats().refused == {"prefix": 2}
    clock.advance(1.0)
    endpoint.send(b"y", endpoint.address)
    timed.run_once(0)
    assert recorder.received[-1] == b"y"


@pytest.mark.parametrize("options", [{}, {"gro": True}])
def test_bytes_of_a_prefix_are_those_that_have_come(ends, options):
    server = ends.bind(limits=DatagramLimits(prefix_bytes=950), **options)
    client = ends.connect(server.endpoint.address, gso=True)
    for size in (300, 300, 300, 50):
        client.endpoint.send(bytes(size))
    client.endpoint.send(b"")
    client.endpoint.send(b"too much")
    ends.until(lambda: server.endpoint.stats().refused)
    assert list(map(len, server.received)) == [300, 300, 300, 50, 0]
    assert server.endpoint.stats().bytes_received == 950
