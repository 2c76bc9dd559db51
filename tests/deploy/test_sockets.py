"""Listening sockets: one queue for each worker, kept, steered, and handed to another supervisor."""

import os
import socket

import pytest

from reactor import ListenError
from reactor.deploy.sockets import ListeningSockets
from tests.helpers import DEADLINE

KEY = ("127.0.0.1:0", 0)


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
    (first,) = sockets.bind(KEY, 0, 100)
    (second,) = sockets.bind(KEY, 1, 100)
    assert first.getsockname() == second.getsockname()
    assert sockets.bind(KEY, 0, 100) == [first]
    clients = connect(first, 60)
    counts = [accepted(first), accepted(second)]
    assert sum(counts) == 60
    assert min(counts) > 5
    close(clients)
    assert [address.port for address in sockets.addresses()] == [first.getsockname()[1]]


def test_second_call_with_the_same_address_is_another_one(sockets):
    (first,) = sockets.bind(KEY, 0, 100)
    (other,) = sockets.bind(("127.0.0.1:0", 1), 0, 100)
    assert first.getsockname() != other.getsockname()


def test_steered_queues_get_nothing_until_they_are_wanted_again(sockets):
    first, second, third = (sockets.bind(KEY, index, 100)[0] for index in range(3))
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
    (third,) = sockets.bind(KEY, 2, 100)
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
            sockets.bind((address, 0), 0, 100)
        assert sockets.groups == {}


def test_unix_socket_is_one_for_all_and_its_file_goes_with_it(sockets, tmp_path):
    key = (f"unix:{tmp_path}/socket", 0)
    assert sockets.bind(key, 0, 10) == sockets.bind(key, 1, 10)
    sockets.steer(1)
    sockets.close_from(1)
    assert os.path.exists(tmp_path / "socket")
    sockets.retain(set())
    assert not os.path.exists(tmp_path / "socket")


@pytest.mark.parametrize("text", ["127.0.0.1:0", "unix:{}/socket"])
def test_another_supervisor_goes_on_with_the_same_queues(sockets, tmp_path, text):
    key = (text.format(tmp_path), 0)
    for index in range(2):
        sockets.bind(key, index, 100)
    other = ListeningSockets()
    for fields, fds in sockets.exported():
        taken, occurrence = fields["key"]
        other.take((taken, occurrence), fields["spread"], [os.dup(fd) for fd in fds])
    assert other.addresses() == sockets.addresses()
    before = [sock.getsockname() for index in range(2) for sock in other.bind(key, index, 100)]
    sockets.close(remove=False)
    assert [sock.getsockname() for index in range(2) for sock in other.bind(key, index, 100)] == before
    other.close(remove=True)
    assert not os.path.exists(tmp_path / "socket")


def test_queues_that_a_name_with_several_addresses_has(sockets):
    for index in range(2):
        bound = sockets.bind(("localhost:0", 0), index, 100)
        assert len({sock.getsockname()[1] for sock in bound}) == 1
