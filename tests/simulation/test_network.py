"""The network in memory does what tests of a server take for granted."""

import errno
import socket
import struct
from random import Random
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from reactor.testing import ManualClock
from reactor.testing.endpoint import ListeningEndpoint
from reactor.testing.network import FIRST_DESCRIPTOR, Network
from reactor.testing.selector import MemorySelector
from reactor.testing.sockets import MemorySocket, listening_socket


def make_network(**options):
    return Network(ManualClock(), Random(1), **options)


def make_pair(network, **options):
    """Return a client's end and the accepted socket."""
    listening = ListeningEndpoint(network, **options)
    client = network.connect(listening)
    sock = MemorySocket(network, listening.accept())
    sock.setblocking(False)
    return client, sock


def test_bytes_arrive_in_order_and_the_end_of_file_after_them():
    client, sock = make_pair(make_network())
    client.send(b"one")
    client.send(b"two")
    client.close()
    assert sock.recv(100) == b"onetwo"
    assert sock.recv(100) == b""
    assert sock.getpeername() == client.sockname


def test_peeking_keeps_the_input():
    client, sock = make_pair(make_network())
    with pytest.raises(BlockingIOError):
        sock.recv(1, socket.MSG_PEEK)
    client.send(b"one")
    assert sock.recv(2, socket.MSG_PEEK) == b"on"
    assert sock.recv(100) == b"one"
    client.close()
    assert sock.recv(1, socket.MSG_PEEK) == b""


def test_send_accepts_what_both_buffers_hold_and_more_when_the_peer_reads():
    client, sock = make_pair(make_network(), buffers=(100, 50))
    assert sock.send(bytes(1000)) == 100
    assert sock.send(bytes(1000)) == 50, "the receive buffer of the peer had taken the first part"
    with pytest.raises(BlockingIOError):
        sock.send(b"x")
    assert sock.end.ready() == (False, False)
    assert client.recv(1000) == bytes(50)
    assert sock.send(bytes(1000)) == 50


def test_latency_keeps_the_order():
    network = make_network(latency=(0.01, 0.5), choppy=0.9)
    client, sock = make_pair(network)
    client.send(bytes(range(200)))
    client.close()
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    received = b""
    while (due := network.next_due()) is not None:
        network.clock.now = due
        network.run_due()
    while data := sock.recv(1000):
        received += data
    assert received == bytes(range(200))
    assert 0.01 <= network.clock.now - 1000.0 <= 0.5


def test_close_with_unread_input_resets_and_loses_what_was_not_delivered():
    client, sock = make_pair(make_network(), buffers=(100, 50))
    client.send(b"unread")
    assert sock.send(bytes(100)) == 100
    sock.close()
    assert client.recv(1000) == bytes(50), "what had arrived is there"
    with pytest.raises(ConnectionResetError):
        client.recv(1000)
    assert client.recv(1000) == b""


def test_close_sends_the_rest_unless_the_peer_goes_on_sending():
    client, sock = make_pair(make_network(), buffers=(100, 50))
    assert sock.send(bytes(100)) == 100
    assert sock.send(bytes(50)) == 50
    sock.close()
    assert client.recv(50) == bytes(50)
    client.send(b"too late")
    assert client.recv(100) == bytes(50), "one receive buffer full, and the third was dropped"
    with pytest.raises(ConnectionResetError):
        client.recv(50)


def test_linger_of_zero_seconds_resets():
    client, sock = make_pair(make_network())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(BrokenPipeError):
        client.send(b"x")


def test_reset_makes_the_peer_readable_writable_and_nameless():
    client, sock = make_pair(make_network())
    client.close(reset=True)
    assert sock.end.ready() == (True, True)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    with pytest.raises(OSError) as raised:
        sock.getpeername()
    assert raised.value.errno == errno.ENOTCONN


def test_half_close_keeps_the_other_direction_open():
    client, sock = make_pair(make_network())
    client.shutdown()
    assert sock.recv(1) == b""
    sock.send(b"still")
    assert client.recv(10) == b"still"
    sock.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b""


def test_lowest_free_descriptor_is_used():
    network = make_network()
    _, one = make_pair(network)
    _, two = make_pair(network)
    assert (one.fileno(), two.fileno()) == (FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + 1)
    one.close()
    assert one.fileno() == -1
    _, three = make_pair(network)
    assert three.fileno() == FIRST_DESCRIPTOR


def test_closed_listener_resets_its_backlog_and_refuses_others():
    network = make_network()
    sock = listening_socket(network, limit=1)
    client = network.connect(sock.end)
    with pytest.raises(BlockingIOError):
        network.connect(sock.end)
    sock.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        network.connect(sock.end)


def test_fault_is_raised_at_its_call():
    network = make_network(fault=lambda name, index: errno.ENOBUFS if index == 1 else None)
    _, sock = make_pair(network)
    sock.send(b"one")
    with pytest.raises(OSError, match=r"\[Errno 105\]"):
        sock.send(b"two")
    sock.close()
    assert network.calls == ["send", "send", "close"]


def test_failed_accept_removes_the_connection_or_keeps_it():
    answers = iter([errno.EMFILE, errno.ECONNABORTED])
    network = make_network(fault=lambda name, index: next(answers) if name == "accept" else None)
    sock = listening_socket(network)
    sock.setblocking(False)
    client = network.connect(sock.end)
    with pytest.raises(OSError, match="Too many open files"):
        sock.accept()
    assert len(sock.end.backlog) == 1
    with pytest.raises(ConnectionAbortedError):
        sock.accept()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_selector_reports_the_registered_events_and_hang_ups():
    network = make_network()
    client, sock = make_pair(network)
    with MemorySelector(network) as selector:
        key = selector.register(sock, EVENT_READ)
        assert selector.select() == []
        client.send(b"x")
        assert selector.select() == [(key, EVENT_READ)]
        sock.recv(1)
        key = selector.modify(sock, EVENT_WRITE)
        assert selector.select() == [(key, EVENT_WRITE)]
        client.close(reset=True)
        key = selector.modify(sock, EVENT_READ)
        assert selector.select() == [(key, EVENT_READ)]
        assert list(selector.get_map()) == [sock.fileno()]
        selector.unregister(sock)
        assert selector.select() == []
    assert selector.left == {}
    assert network.complaints == []


def test_selector_refuses_real_descriptors():
    network = make_network()
    ours, theirs = socket.socketpair()
    with ours, theirs, MemorySelector(network) as selector:
        with pytest.raises(OSError, match="Bad file descriptor"):
            selector.register(ours, EVENT_READ)
        assert selector.select() == []
    assert "is none of this network" in network.complaints[0]


def test_selector_that_may_wait_does_so_only_if_nothing_is_ready():
    network = make_network()
    client, sock = make_pair(network)
    waits = []

    def wait(selector, timeout):
        waits.append(timeout)
        client.send(b"x")

    with MemorySelector(network, wait) as selector:
        key = selector.register(sock, EVENT_READ)
        assert selector.select(0) == []
        assert selector.select(5.0) == [(key, EVENT_READ)]
        assert selector.select(5.0) == [(key, EVENT_READ)]
        sock.recv(1)
        assert selector.select(None) == [(key, EVENT_READ)]
    assert waits == [5.0, None]


def test_misuse_of_a_socket_is_recorded():
    network = make_network()
    client, sock = make_pair(network)
    sock.setblocking(True)
    client.send(b"x")
    sock.recv(1)
    with MemorySelector(network) as selector:
        selector.register(sock, EVENT_READ)
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.recv(1)
        selector.close()
    assert network.complaints == [
        "recv on a socket that would block",
        f"descriptor {FIRST_DESCRIPTOR} was closed while it was registered",
        "recv on a socket that would block",
        "recv on a closed socket",
    ]
