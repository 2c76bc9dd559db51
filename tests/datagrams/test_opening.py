"""Opening sockets: addresses, options, and what is left when it fails."""

import errno
import os
import socket

import pytest

from reactor import AddressError, ConnectError, ListenError
from reactor.testing import DatagramRecorder, MemoryNetwork


def test_address_in_use_is_named(reactor, ends, descriptors):
    taken = ends.bind().endpoint
    with pytest.raises(ListenError, match=f"cannot bind {taken.address}: Address already in use: stop what"):
        reactor.bind_datagram(taken.address, DatagramRecorder)
    taken.abort()
    reactor.run_once(0)


def test_port_can_be_shared(ends):
    one = ends.bind(reuse_port=True)
    other = ends.bind(one.endpoint.address, reuse_port=True)
    assert other.endpoint.address == one.endpoint.address


def test_broadcast_must_be_asked_for(ends):
    plain, allowed = ends.bind("0.0.0.0:0"), ends.bind("0.0.0.0:0", broadcast=True)
    address = ("127.255.255.255", allowed.endpoint.address.port)
    assert plain.endpoint.send(b"x", address) is False
    assert allowed.endpoint.send(b"hello", address) is True
    ends.until(lambda: allowed.received and plain.errors)
    assert plain.errors[0][0].errno == errno.EACCES
    assert plain.endpoint.stats().dropped == {"EACCES": 1}


def test_options_are_set(ends):
    endpoint = ends.bind(options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 30_000)]).endpoint
    sock = endpoint.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 60_000


def test_descriptor_of_a_datagram_socket_is_taken(reactor, ends):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    recorder = ends.bind(f"fd:{sock.detach()}")
    recorder.endpoint.send(b"x", recorder.endpoint.address)
    ends.until(lambda: recorder.received)


def test_other_sockets_are_refused_and_stay_open(reactor):
    with socket.socket() as stream:
        for given in (stream, f"fd:{stream.fileno()}"):
            with pytest.raises(ListenError, match=r"cannot use .*: it is no datagram socket"):
                reactor.bind_datagram(given, DatagramRecorder)
        assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    with pytest.raises(ListenError, match="cannot bind fd:987: Bad file descriptor"):
        reactor.bind_datagram("fd:987", DatagramRecorder)


def test_descriptor_can_t_be_connected(reactor):
    with pytest.raises(AddressError, match="fd:3 can't be connected"):
        reactor.connect_datagram("fd:3", DatagramRecorder)
    with pytest.raises(AddressError, match="fd:3 can't be connected"):
        reactor.connect_datagram("127.0.0.1:9", DatagramRecorder, local_address="fd:3")


def test_port_0_can_t_be_connected(reactor):
    with pytest.raises(AddressError, match="0 can't be connected: give a port above 0"):
        reactor.connect_datagram("127.0.0.1:0", DatagramRecorder)
    assert reactor.endpoints() == []


def test_local_address_of_another_family_is_named(reactor, descriptors):
    with pytest.raises(AddressError, match="is of another family than the peer's"):
        reactor.connect_datagram("127.0.0.1:9", DatagramRecorder, local_address="[::1]:0")


def test_stale_unix_socket_is_replaced_and_a_live_one_is_not(reactor, ends, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(path)
    first = ends.bind(f"unix:{path}")
    with pytest.raises(ListenError, match="Address already in use"):
        reactor.bind_datagram(f"unix:{path}", DatagramRecorder)
    first.endpoint.close()
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(path)
        stream.listen()
        with pytest.raises(ListenError, match="Address already in use"):
            reactor.bind_datagram(f"unix:{path}", DatagramRecorder)


def test_unix_socket_that_is_connected_to_another_is_live(reactor, tmp_path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two,
    ):
        one.bind(f"{tmp_path}/one")
        two.bind(f"{tmp_path}/two")
        one.connect(f"{tmp_path}/two")
        with pytest.raises(ListenError, match="Address already in use"):
            reactor.bind_datagram(f"unix:{tmp_path}/one", DatagramRecorder)


def test_failed_connect_leaves_no_file(reactor, tmp_path, descriptors):
    with pytest.raises(ConnectError):
        reactor.connect_datagram(
            f"unix:{tmp_path}/nobody", DatagramRecorder, local_address=f"unix:{tmp_path}/own"
        )
    assert os.listdir(tmp_path) == []


def test_first_address_of_a_name_that_works_is_taken():
    with MemoryNetwork() as network:
        network.names["both.example"] = ["fd00::1", "10.0.0.1"]
        reactor = network.reactor("10.0.0.1")
        server = reactor.bind_datagram("both.example:53", DatagramRecorder)
        assert str(server.address) == "10.0.0.1:53"
        client = reactor.connect_datagram("both.example:53", DatagramRecorder)
        network.settle()
        client.send(b"x")
        network.run_out()
        assert server.get_protocol().received == [b"x"]
        network.names["none.example"] = []
        with pytest.raises(ListenError, match=r"cannot bind none.example:53: Name or service not known"):
            reactor.bind_datagram("none.example:53", DatagramRecorder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("factory", 5, "factory must be callable, not 5"),
        ("limits", 5, "limits must be of type DatagramLimits or None, not 5"),
        ("on_failure", 5, "on_failure must be callable or None, not 5"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(reactor, name, value, message):
    options = {"factory": DatagramRecorder, name: value}
    with pytest.raises(TypeError, match=message):
        reactor.connect_datagram("127.0.0.1:9", **options)
    if name != "on_failure":
        with pytest.raises(TypeError, match=message):
            reactor.bind_datagram("127.0.0.1:0", **options)
