"""Listening sockets: one queue for each worker, kept, steered, and handed to another supervisor."""

import json
import os
import socket

import pytest

from reactor import ListenError
from reactor.deploy.sockets import ListeningSockets, Request
from tests.helpers import DEADLINE

KEY = ("127.0.0.1:0", 0)


def bind(sockets, key, index, options=(), *, datagrams=False, spread=True):
    text, occurrence = key
    return sockets.bind(Request(text, occurrence, datagrams, 100, spread, tuple(options)), index)


@pytest.fixture
def sockets(descriptors):
    made = ListeningSockets()
    yield made
    made.close(remove=True)


def accepted(sock):
    """Accept all that waits; return how many that were."""
    count = 0
    try:
        while True:
            sock.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


def connect(sock, count):
    return [socket.create_connection(sock.getsockname()[:2], timeout=DEADLINE) for _ in range(count)]


def close(clients):
    for client in clients:
        client.close()


def test_workers_have_queues_of_their_own_on_one_port(sockets):
    (first,) = bind(sockets, KEY, 0)
    (second,) = bind(sockets, KEY, 1)
    assert first.getsockname() == second.getsockname()
    assert bind(sockets, KEY, 0) == [first]
    clients = connect(first, 60)
    counts = [accepted(first), accepted(second)]
    assert sum(counts) == 60
    assert min(counts) > 5
    close(clients)
    assert sockets.names() == [f"127.0.0.1:{first.getsockname()[1]}"]


def test_second_call_with_the_same_address_is_another_one(sockets):
    (first,) = bind(sockets, KEY, 0)
    (other,) = bind(sockets, ("127.0.0.1:0", 1), 0)
    assert first.getsockname() != other.getsockname()


def test_steered_queues_get_nothing_until_they_are_wanted_again(sockets):
    first, second, third = (bind(sockets, KEY, index)[0] for index in range(3))
    sockets.steer(2)
    clients = connect(first, 60)
    counts = [accepted(sock) for sock in (first, second, third)]
    assert (sum(counts), counts[2]) == (60, 0)
    assert min(counts[:2]) > 5
    close(clients)
    sockets.close_from(2)
    sockets.steer(1)
    clients = connect(first, 30)
    assert [accepted(sock) for sock in (first, second)] == [30, 0]
    close(clients)
    (third,) = bind(sockets, KEY, 2)
    sockets.steer(3)
    clients = connect(first, 90)
    assert min(accepted(sock) for sock in (first, second, third)) > 5
    close(clients)


def test_port_of_another_program_is_an_error_whatever_it_allows(sockets):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ListenError, match="Address already in use"):
            bind(sockets, (address, 0), 0)
        assert sockets.groups == {}


def test_unix_socket_is_one_for_all_and_its_file_goes_with_it(sockets, tmp_path):
    key = (f"unix:{tmp_path}/socket", 0)
    assert bind(sockets, key, 0) == bind(sockets, key, 1)
    sockets.steer(1)
    sockets.close_from(1)
    assert os.path.exists(tmp_path / "socket")
    sockets.retain(set())
    assert not os.path.exists(tmp_path / "socket")


@pytest.mark.parametrize("text", ["127.0.0.1:0", "unix:{}/socket"])
def test_another_supervisor_goes_on_with_the_same_queues(sockets, tmp_path, text):
    key = (text.format(tmp_path), 0)
    for index in range(2):
        bind(sockets, key, index)
    other = ListeningSockets()
    for fields, fds in sockets.exported():
        taken, occurrence = fields["key"]
        other.take((taken, occurrence), fields["spread"], [os.dup(fd) for fd in fds])
    assert other.names() == sockets.names()
    before = [sock.getsockname() for index in range(2) for sock in bind(other, key, index)]
    sockets.close(remove=False)
    assert [sock.getsockname() for index in range(2) for sock in bind(other, key, index)] == before
    other.close(remove=True)
    assert not os.path.exists(tmp_path / "socket")


def test_queues_that_a_name_with_several_addresses_has(sockets):
    for index in range(2):
        bound = bind(sockets, ("localhost:0", 0), index)
        assert len({sock.getsockname()[1] for sock in bound}) == 1


# Datagrams


def received(sock):
    """Receive all that waits; return the ports of the senders."""
    ports = []
    try:
        while True:
            ports.append(sock.recvfrom(100)[1][1])
    except BlockingIOError:
        return ports


def send(sock, count):
    """Send from `count` ports, twice from each."""
    host, port = sock.getsockname()[:2]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    clients = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
    for client in clients * 2:
        client.sendto(b"x", (host, port))
    close(clients)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0"])
@pytest.mark.parametrize("steered", [False, True])
def test_datagrams_of_a_client_go_to_one_worker(sockets, text, steered):
    first, second, third = (bind(sockets, (text, 0), index, datagrams=True)[0] for index in range(3))
    if steered:
        sockets.steer(2)
    send(first, 60)
    ports = [received(sock) for sock in (first, second, third)]
    assert sum(map(len, ports)) == 120
    assert min(map(len, ports[: 2 if steered else 3])) > 10
    assert not steered or ports[2] == []
    assert sum(len(set(each)) for each in ports) == 60
    assert sockets.names() == [f"udp:{text.removesuffix('0')}{first.getsockname()[1]}"]


def test_datagrams_have_one_socket_for_all_workers_if_it_is_not_asked_for_more(sockets, tmp_path):
    for key in (KEY, (f"unix:{tmp_path}/socket", 0)):
        one, other = (
            bind(sockets, key, index, datagrams=True, spread=":0" not in key[0]) for index in range(2)
        )
        assert one == other
        assert one[0].type == socket.SOCK_DGRAM
    sockets.steer(1)
    sockets.close_from(1)
    assert os.path.exists(tmp_path / "socket")
    sockets.close(remove=True)
    assert not os.path.exists(tmp_path / "socket")


def test_datagrams_and_connections_may_have_one_address(sockets):
    (listening,) = bind(sockets, KEY, 0)
    key = (f"127.0.0.1:{listening.getsockname()[1]}", 0)
    (one,) = bind(sockets, key, 0, datagrams=True)
    (other,) = bind(sockets, key, 1, datagrams=True)
    assert one.getsockname() == other.getsockname() == listening.getsockname()


def test_port_of_another_program_s_datagrams_is_an_error(sockets):
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        with pytest.raises(ListenError, match="Address already in use"):
            bind(sockets, (f"127.0.0.1:{other.getsockname()[1]}", 0), 0, datagrams=True)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "unix:{}/socket"])
def test_another_supervisor_goes_on_with_the_queues_of_datagrams(sockets, tmp_path, text):
    key = (text.format(tmp_path), 0)
    (one,) = bind(sockets, key, 0, datagrams=True)
    with socket.socket(one.family, socket.SOCK_DGRAM) as client:
        client.sendto(b"waits", one.getsockname())
    other = ListeningSockets()
    for fields, fds in sockets.exported():
        taken, occurrence = fields["key"]
        other.take((taken, occurrence), fields["spread"], [os.dup(fd) for fd in fds])
    sockets.close(remove=False)
    (same,) = bind(other, key, 0, datagrams=True)
    assert same.recv(100) == b"waits"
    other.close(remove=True)
    assert not os.path.exists(tmp_path / "socket")


@pytest.mark.parametrize("options", [(), ((1, 8, 40000), (1, 25, b"lo\0"))])
def test_request_comes_whole_out_of_a_message(options):
    request = Request("127.0.0.1:53", 2, True, 0, False, options)
    assert Request.from_fields(json.loads(json.dumps(request.to_fields()))) == request
    assert request.key == ("udp:127.0.0.1:53", 2)
