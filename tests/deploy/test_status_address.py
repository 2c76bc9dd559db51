"""The status page's sockets: bound, served, given to the next supervisor, and closed."""

import os
import socket

import pytest

from reactor import AddressError, ListenError, UsageError
from reactor.address import Address
from reactor.deploy import Supervisor
from reactor.deploy.status_address import StatusAddress
from reactor.status.overview import overview_of
from reactor.status.snapshot import take_snapshot
from tests.helpers import connect, receive


def serve(status, reactor):
    status.bind()
    status.serve(lambda done: done(overview_of(take_snapshot(reactor))), "name")


def ready(reactor, address):
    """Return the answer to a request for /ready."""
    with connect(reactor, address) as client:
        client.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return receive(reactor, client)


def test_no_address_is_no_page(reactor, descriptors):
    status = StatusAddress(reactor, None, False)
    serve(status, reactor)
    status.refresh()
    status.leave()
    assert status.exported() == ({"address": "None"}, [])
    status.close(remove=True)


def test_file_of_a_unix_socket_is_removed_with_it(reactor, descriptors, tmp_path):
    path = tmp_path / "status"
    status = StatusAddress(reactor, Address(path=str(path)), False)
    serve(status, reactor)
    assert ready(reactor, Address(path=str(path))).startswith(b"HTTP/1.1 200 OK")
    status.close(remove=True)
    assert not path.exists()


def test_next_supervisor_goes_on_with_the_same_sockets(reactor, descriptors):
    first = StatusAddress(reactor, Address.parse("127.0.0.1:0"), False)
    serve(first, reactor)
    fields, sockets = first.exported()
    second = StatusAddress(reactor, Address.parse("127.0.0.1:0"), False)
    second.take(fields["address"], [os.dup(fd) for fd in sockets])
    first.leave()
    serve(second, reactor)
    bound = Address.from_sockaddr(second._sockets[0].getsockname())
    assert ready(reactor, bound).endswith(b"ready\n")
    second.close(remove=True)
    first.close(remove=False)


def test_inherited_descriptor_is_given_on_though_its_number_is_another(reactor, descriptors):
    inherited = socket.create_server(("127.0.0.1", 0)).detach()
    first = StatusAddress(reactor, Address.parse(f"fd:{inherited}"), False)
    first.bind()
    fields, sockets = first.exported()
    kept = [os.dup(fd) for fd in sockets]
    first.close(remove=True)
    second = StatusAddress(reactor, Address.parse(fields["address"]), False)
    second.take(fields["address"], kept)
    serve(second, reactor)
    second.close(remove=True)


def test_sockets_of_another_address_are_not_taken(reactor, descriptors):
    first = StatusAddress(reactor, Address.parse("127.0.0.1:0"), False)
    first.bind()
    fields, sockets = first.exported()
    second = StatusAddress(reactor, Address.parse("localhost:0"), False)
    second.take(fields["address"], [os.dup(fd) for fd in sockets])
    assert second.exported()[1] == []
    first.close(remove=True)


def test_address_in_use_is_one_error(reactor, descriptors):
    first = StatusAddress(reactor, Address.parse("127.0.0.1:0"), False)
    first.bind()
    taken = Address.from_sockaddr(first._sockets[0].getsockname())
    with pytest.raises(ListenError, match="in use"):
        StatusAddress(reactor, taken, False).bind()
    first.close(remove=True)


def test_address_that_others_reach_needs_to_be_meant(reactor, descriptors, caplog):
    with pytest.raises(UsageError, match="--status-open"):
        StatusAddress(reactor, Address.parse(":0"), False).bind()
    status = StatusAddress(reactor, Address.parse("0.0.0.0:0"), True)
    serve(status, reactor)
    assert "is open to all who reach it" in caplog.text
    status.close(remove=True)


def test_invalid_address_is_refused_when_the_supervisor_is_made():
    with pytest.raises(AddressError, match="has no port"):
        Supervisor(print, status="localhost")
