"""Names: looked up without blocking, while datagrams wait; those that fail."""

import socket
import threading

import pytest

from reactor import (
    ConnectError,
    UsageError,
)
from reactor.datagrams import EndpointState
from reactor.testing import DatagramRecorder, Errors, MemoryNetwork
from tests.helpers import settle, spin


def test_name_is_looked_up_and_what_is_sent_before_is_queued(reactor, ends):
    server = ends.bind()
    client = DatagramRecorder()
    endpoint = reactor.connect_datagram(
        ("localhost", server.endpoint.address.port), lambda: client, local_address="127.0.0.1:0"
    )
    assert (endpoint.state, endpoint.get_protocol()) == (EndpointState.OPENING, None)
    assert repr(endpoint).endswith("opening>")
    assert endpoint.send(b"early")
    with pytest.raises(UsageError, match="is another address"):
        endpoint.send(b"elsewhere", ("127.0.0.1", 9))
    with pytest.raises(UsageError, match="has no address yet"):
        endpoint.address  # noqa: B018
    ends.until(lambda: server.received or client.errors)
    assert client.names[0] == "connection_made"
    endpoint.abort()


def test_datagram_before_close_is_sent_when_the_name_is_known():
    with MemoryNetwork() as network:
        network.names["log.example"] = ["10.0.0.9"]
        log = DatagramRecorder()
        network.reactor("10.0.0.9").bind_datagram(":514", lambda: log)
        client = DatagramRecorder()
        endpoint = network.reactor("10.0.0.1").connect_datagram("log.example:514", lambda: client)
        endpoint.send(b"<14>hello")
        endpoint.close()
        assert endpoint.is_closing()
        network.run_out()
        assert log.received == [b"<14>hello"]
        assert (client.names, client.reason) == (["connection_made", "connection_lost"], None)


def test_late_datagrams_of_a_name_that_is_looked_up_leave_those_after_them(timed, clock, monkeypatch, errors):
    receiver, client, answered, real = (
        DatagramRecorder(),
        DatagramRecorder(),
        threading.Event(),
        socket.getaddrinfo,
    )
    server = timed.bind_datagram("127.0.0.1:0", lambda: receiver)

    def slow(host, *args, **options):
        answered.wait()
        return real("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    endpoint = timed.connect_datagram(("server.example", server.address.port), lambda: client)
    endpoint.send(b"early")
    clock.advance(3)
    endpoint.send(b"late")
    endpoint.close()
    clock.advance(3)
    settle(timed)
    assert endpoint.stats().dropped == {"queue_timeout": 1}
    answered.set()
    spin(timed, lambda: receiver.received)
    assert receiver.received == [b"late"]
    assert endpoint.stats().sent == 1


def test_unknown_name_is_a_connect_error():
    with MemoryNetwork() as network:
        errors, failures = Errors(), []
        reactor = network.reactor("10.0.0.1", on_error=errors)
        for on_failure in (failures.append, None):
            endpoint = reactor.connect_datagram("nowhere:53", DatagramRecorder, on_failure=on_failure)
            endpoint.send(b"x")
            network.settle()
            assert endpoint.state is EndpointState.LOST
            assert endpoint.stats().dropped == {"closed": 1}
        text = "cannot connect to nowhere:53: Name or service not known"
        assert str(failures[0]) == str(errors.take()[0]) == text
        assert reactor.endpoints() == []
        assert reactor.stats().datagrams.dropped == {"closed": 2}


def test_closing_before_the_name_is_known_calls_nothing():
    with MemoryNetwork() as network:
        network.names["server.example"] = ["10.0.0.9"]
        recorder = DatagramRecorder()
        for end in ("close", "abort"):
            endpoint = network.reactor("10.0.0.1").connect_datagram("server.example:53", lambda: recorder)
            getattr(endpoint, end)()
            network.run_out()
            assert (endpoint.state, recorder.calls) == (EndpointState.LOST, [])


@pytest.mark.parametrize("end", ["close", "abort"])
def test_factory_may_close_the_endpoint_of_a_name(end):
    with MemoryNetwork() as network:
        network.names["server.example"] = ["10.0.0.9"]
        errors, recorder = Errors(), DatagramRecorder()
        reactor = network.reactor("10.0.0.1", on_error=errors)

        def factory():
            getattr(endpoint, end)()
            return recorder

        endpoint = reactor.connect_datagram("server.example:53", factory)
        network.run_out()
        assert (endpoint.state, recorder.calls, errors.seen) == (EndpointState.LOST, [], [])
        assert reactor.endpoints() == []


def test_no_route_is_raised_for_a_numeric_address(tmp_path, reactor):
    with pytest.raises(ConnectError, match=r"cannot connect to unix:.*: No such file or directory"):
        reactor.connect_datagram(f"unix:{tmp_path}/nobody", DatagramRecorder)
    failures = []
    reactor.connect_datagram(f"unix:{tmp_path}/nobody", DatagramRecorder, on_failure=failures.append)
    settle(reactor)
    assert isinstance(failures[0], ConnectError)
