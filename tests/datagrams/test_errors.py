"""The kernel's queue of errors, on sockets of its own, and what an endpoint makes of errors."""

import contextlib
import errno
import select
import socket
import struct

import pytest

from reactor.apps.echo import DatagramEcho
from reactor.datagrams.errors import count_drops, queue_errors, queued_errors
from reactor.testing import ScriptedSocket
from tests.helpers import settle


@pytest.fixture
def sock():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        yield made


def test_errors_are_queued_with_their_addresses(sock, closed_port):
    assert queue_errors(sock)
    sock.sendto(b"x", closed_port)
    assert select.select([sock], [], [], 10)[0]
    ((exc, address),) = queued_errors(sock, 10)
    assert (type(exc), exc.errno, address) == (ConnectionRefusedError, errno.ECONNREFUSED, closed_port)
    assert list(queued_errors(sock, 10)) == []


def test_no_more_than_the_limit_are_taken(sock, closed_port):
    queue_errors(sock)
    poller = select.poll()
    poller.register(sock, select.POLLERR)
    for _ in range(3):
        try:
            sock.sendto(b"x", closed_port)
        except ConnectionRefusedError:
            sock.sendto(b"x", closed_port)
        assert poller.poll(10_000)
    assert len(list(queued_errors(sock, 2))) == 2
    assert len(list(queued_errors(sock, 2))) == 1


def test_unix_sockets_have_no_queue():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        assert not queue_errors(made)


class Queue:
    """A socket whose queue of errors holds `entries`: pairs of struct sock_extended_err and an address."""

    def __init__(self, *entries):
        self.entries = list(entries)

    def recvmsg(self, size, ancillary, flags):
        assert flags == socket.MSG_ERRQUEUE
        if not self.entries:
            raise BlockingIOError
        data, address = self.entries.pop(0)
        return b"", [(socket.IPPROTO_IP, 11, data), (1, 1, b"")], 0, address


def entry(number, origin, info=0, offender=b""):
    return struct.pack("@IBBBxII", number, origin, 3, 4, info, 0) + offender


def test_too_large_a_datagram_is_told_the_path_s_limit():
    router = struct.pack("@H2x4s8x", socket.AF_INET, socket.inet_aton("192.0.2.1"))
    ((exc, _),) = queued_errors(Queue((entry(errno.EMSGSIZE, 2, 1400, router), ("192.0.2.9", 9))), 10)
    assert exc.strerror == (
        "Message too long (1400 bytes fit the path with their headers, ICMP from 192.0.2.1)"
    )


def test_offender_of_ipv6_is_named():
    router = struct.pack("@H6x16sI", socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "fd00::1"), 0)
    ((exc, _),) = queued_errors(Queue((entry(errno.EHOSTUNREACH, 3, 0, router), ("fd00::9", 9, 0, 0))), 10)
    assert exc.strerror == "No route to host (ICMP from fd00::1)"


@pytest.mark.parametrize("offender", [b"", struct.pack("@H14x", 0)])
def test_unknown_offender_is_left_out(offender):
    ((exc, _),) = queued_errors(Queue((entry(errno.EHOSTUNREACH, 2, 0, offender), ("192.0.2.9", 9))), 10)
    assert exc.strerror == "No route to host"


def test_error_of_this_host_is_left_to_the_call_that_failed():
    queue = Queue((entry(errno.EMSGSIZE, 1, 1400), ("192.0.2.9", 9)))
    assert list(queued_errors(queue, 10)) == []


def test_drops_are_counted(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.bind(("127.0.0.1", 0))
    assert count_drops(sock) == 0
    for _ in range(200):
        sock.sendto(bytes(100), sock.getsockname())
    kept = 0
    while select.select([sock], [], [], 0)[0]:
        sock.recv(100)
        kept += 1
    assert kept + count_drops(sock) == 200
    sock.close()
    assert count_drops(sock) == 0


# Errors of an endpoint


def test_closed_ports_are_named_and_others_are_served(reactor, ends, errors):
    echo = reactor.bind_datagram("127.0.0.1:0", DatagramEcho)
    client = ends.bind()
    refused = []
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            refused.append(sock.getsockname())
    for address in refused:
        assert client.endpoint.send(b"anybody?", address)
        assert client.endpoint.send(b"hello", echo.address)
    ends.until(lambda: len(client.errors) == len(client.received) == 3)
    assert [address for _, address in client.errors] == refused
    for exc, _ in client.errors:
        assert isinstance(exc, ConnectionRefusedError)
        assert exc.strerror == "Connection refused (ICMP from 127.0.0.1)"
    assert client.endpoint.stats().errors == 3
    assert client.endpoint.stats().sent == 6


def test_ipv6_errors_are_named(reactor, ends):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        address = sock.getsockname()
    for client in (ends.bind("[::1]:0"), ends.connect(address[:2])):
        client.endpoint.send(b"anybody?", address)
        ends.until(lambda client=client: client.errors)
        assert isinstance(client.errors[0][0], ConnectionRefusedError)
        assert client.errors[0][1] == address


def test_errors_come_while_nothing_is_received_or_sent(ends, closed_port):
    client = ends.connect(closed_port)
    client.endpoint.send(b"anybody?")
    ends.until(lambda: client.errors)
    assert client.errors[0][1] == closed_port
    assert not client.lost


def test_errors_of_many_others_do_not_cost_a_datagram(ends, closed_port):
    client, server = ends.bind(), ends.bind()
    sock = client.endpoint.get_extra_info("socket")
    for _ in range(
        401
    ):  # of which every second one fails with the error of the one before, and takes it away
        with contextlib.suppress(ConnectionRefusedError):
            sock.sendto(b"x", closed_port)
    assert client.endpoint.send(b"hello", server.endpoint.get_extra_info("sockname"))
    ends.until(lambda: server.received and client.errors)
    assert {address for _, address in client.errors} == {closed_port}
    assert client.endpoint.stats().dropped == {}


def test_datagram_that_can_t_be_sent_is_reported_once(ends):
    client = ends.bind()
    assert client.endpoint.send(bytes(70_000), ("127.0.0.1", 9)) is False
    ends.until(lambda: client.errors)
    ((exc, address),) = client.errors
    assert (exc.errno, address) == (errno.EMSGSIZE, ("127.0.0.1", 9))
    assert client.endpoint.stats().dropped == {"EMSGSIZE": 1}
    assert client.endpoint.stats().sent == 0


def test_without_an_error_queue_the_call_that_fails_is_made_again(ends):
    """As on platforms without one: the error of one datagram comes with the next."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock = ScriptedSocket(ours, send=[ConnectionRefusedError(errno.ECONNREFUSED, "refused")])
    recorder = ends.bind(sock)
    assert recorder.endpoint.send(b"second")
    assert theirs.recv(10) == b"second"
    ends.until(lambda: recorder.errors)
    assert recorder.errors[0][0].errno == errno.ECONNREFUSED
    theirs.close()


def test_errors_beyond_the_limit_are_counted(reactor, ends):
    client = ends.bind()
    for _ in range(300):
        client.endpoint.send(bytes(70_000), ("127.0.0.1", 9))
    settle(reactor)
    assert len(client.errors) == 256
    assert client.endpoint.stats().errors == 300


def test_repeated_errors_are_logged_once_a_second(reactor, ends, caplog):
    caplog.set_level("INFO", "reactor")
    handling, ignoring = ends.bind(), reactor.bind_datagram("127.0.0.1:0", DatagramEcho)
    for endpoint in (handling.endpoint, ignoring):
        for _ in range(50):
            endpoint.send(bytes(70_000), ("127.0.0.1", 9))
    ends.until(lambda: handling.errors)
    assert [record.message.partition(">: ")[2] for record in caplog.records] == [
        "a datagram to ('127.0.0.1', 9): [Errno 90] Message too long"
    ]
