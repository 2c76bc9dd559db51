"""Debug mode: each misuse of an endpoint is logged as a warning with its cause."""

import pytest

from reactor import Reactor
from reactor.datagrams import DatagramProtocol
from tests.connection.test_debug import on_another_thread


@pytest.fixture
def reactor(make_selector):
    with Reactor(selector=make_selector(), debug=True) as made:
        yield made


@pytest.mark.parametrize("name", ["send", "sendto", "join", "close", "abort"])
def test_call_on_another_thread_is_logged(reactor, caplog, name):
    endpoint = reactor.bind_datagram("0.0.0.0:0", DatagramProtocol)
    args = {"join": ("239.1.2.3", "lo"), "close": (), "abort": ()}.get(name, (b"x", ("127.0.0.1", 9)))
    reactor.call_soon(on_another_thread, getattr(endpoint, name), *args)
    reactor.run_once(0)
    called = name.removesuffix("to")
    line = caplog.records[0].getMessage()
    assert line.startswith(f"Endpoint.{called} was called on thread stranger, and another drives the reactor")


def test_datagram_after_the_end_is_logged_with_its_line(reactor, caplog):
    endpoint = reactor.bind_datagram("127.0.0.1:0", DatagramProtocol)
    endpoint.close()
    assert endpoint.send(b"four", ("127.0.0.1", 9)) is False
    assert f"4 bytes sent by {endpoint} after its end, at {__file__}" in caplog.text


def test_endpoints_left_open_are_logged(make_selector, caplog):
    with Reactor(selector=make_selector(), debug=True) as reactor:
        endpoint = reactor.bind_datagram("127.0.0.1:0", DatagramProtocol)
        name = str(endpoint)
    assert f"still open at close: {name}\n" in caplog.text


def test_right_calls_are_not_logged(reactor, caplog):
    endpoint = reactor.bind_datagram("127.0.0.1:0", DatagramProtocol)
    endpoint.send(b"x", endpoint.address)
    reactor.run_once(1)
    endpoint.close()
    reactor.run_once(0)
    assert caplog.records == []
