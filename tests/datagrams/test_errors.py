"""The kernel's queue of errors, on sockets of its own."""

import errno
import select
import socket
import struct

import pytest

from reactor.datagrams.errors import count_drops, queue_errors, queued_errors


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
