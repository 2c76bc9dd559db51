"""Endpoints: both ways, names, callbacks that raise, the end, interrupts, forks, facts."""

import errno
import os
import socket
import threading
from itertools import repeat

import pytest

from reactor import (
    CloseTimeout,
    ConnectionAborted,
    DrainTimeout,
    Reactor,
    UsageError,
)
from reactor.apps.echo import DatagramEcho
from reactor.datagrams import DatagramLimits, DatagramProtocol, EndpointState
from reactor.testing import DatagramRecorder, ScriptedSocket
from tests.helpers import pass_time, settle
from tests.loop.test_fork import in_child


class Raises(DatagramRecorder):
    """Raises in the callback that it is made for."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def __getattribute__(self, name):
        if name != "where" and name == super().__getattribute__("__dict__").get("where"):
            return self.fail
        return super().__getattribute__(name)

    def fail(self, *args):
        self.calls.append(("failed",))
        raise LookupError("asked to")


# Sending and receiving


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_datagrams_go_both_ways(reactor, ends, address):
    server = reactor.bind_datagram(address, DatagramEcho)
    client = ends.connect(server.address)
    sent = [b"", b"x", bytes(1200), bytes(60_000)]
    assert [client.endpoint.send(data) for data in sent] == [True] * 4
    ends.until(lambda: len(client.received) == 4)
    assert client.received == sent
    assert server.stats().received == server.stats().sent == 4
    assert server.stats().bytes_sent == sum(map(len, sent))


def test_dual_stack_endpoint_hears_and_answers_both_families(reactor, ends):
    server = reactor.bind_datagram(":0", DatagramEcho)
    port = server.address.port
    for address in (f"127.0.0.1:{port}", f"[::1]:{port}"):
        client = ends.connect(address)
        client.endpoint.send(b"hello")
        ends.until(lambda client=client: client.received == [b"hello"])


# Unix sockets


def test_unix_sockets_with_names_talk(reactor, ends, tmp_path):
    server = reactor.bind_datagram(f"unix:{tmp_path}/server", DatagramEcho)
    client = ends.connect(server.address, local_address=f"unix:{tmp_path}/client")
    big = bytes(150_000)
    assert client.endpoint.send(big)
    ends.until(lambda: client.received == [big])
    server.close()
    client.endpoint.close()
    assert os.listdir(tmp_path) == []


def test_unix_pair_is_connected(ends):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    recorder = ends.bind(ours)
    recorder.endpoint.send(b"there")
    theirs.send(b"back")
    ends.until(lambda: recorder.received)
    assert (theirs.recv(10), recorder.received) == (b"there", [b"back"])
    theirs.close()


# Errors


@pytest.mark.parametrize("call", ["recvfrom", "sendto"])
def test_closed_descriptor_ends_the_endpoint(ends, call):
    recorder, sock, theirs = ends.scripted()
    sock.add(**{call: [OSError(errno.EBADF, "closed")]})
    theirs.sendto(b"hello", sock.getsockname())
    if call == "sendto":
        assert recorder.endpoint.send(b"x", theirs.getsockname()) is False
        assert recorder.endpoint.stats().dropped == {"EBADF": 1}
    ends.until(lambda: recorder.lost)
    assert recorder.reason.errno == errno.EBADF


@pytest.mark.parametrize("where", ["datagram_received", "error_received", "pause_writing", "resume_writing"])
def test_exception_of_a_callback_is_reported_and_the_endpoint_goes_on(reactor, errors, where):
    raising = Raises(where)
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    sock = ScriptedSocket(ours)
    limits = DatagramLimits(high_water=0, low_water=0)
    endpoint = reactor.bind_datagram(sock, lambda: raising, limits=limits)
    sock.add(sendto=[None, OSError(errno.EPERM, "no"), BlockingIOError])
    for data in (b"1", b"2", b"3"):
        endpoint.send(data, ours.getsockname())
    for _ in range(5):
        reactor.run_once(0.01)
    exc, callback, subject = errors.seen[0]
    assert (str(exc), callback, subject) == ("asked to", f"Raises.{where}", endpoint)
    errors.seen.clear()
    assert not endpoint.is_closing()
    assert endpoint.stats().received == 2


def test_exception_of_connection_made_ends_the_endpoint(reactor, errors):
    raising = Raises("connection_made")
    endpoint = reactor.bind_datagram("127.0.0.1:0", lambda: raising)
    settle(reactor)
    assert str(errors.take()[0]) == "asked to"
    assert str(raising.reason) == "asked to"
    assert endpoint.state is EndpointState.LOST


def test_factory_that_raises_leaves_no_socket(reactor, descriptors):
    def fail():
        raise LookupError("asked to")

    for use in (reactor.bind_datagram, reactor.connect_datagram):
        with pytest.raises(LookupError, match="asked to"):
            use("127.0.0.1:9999", fail)
        with pytest.raises(TypeError, match="is no datagram protocol"):
            use("127.0.0.1:9999", object)
    assert reactor.endpoints() == []


def test_socket_that_was_given_stays_the_caller_s_if_the_factory_raises(reactor):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(TypeError, match="is no datagram protocol"):
            reactor.bind_datagram(sock, object)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"still works", sock.getsockname())
        assert sock.recv(100) == b"still works"


# The end


def test_close_sends_what_is_queued(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[BlockingIOError, BlockingIOError])
    recorder.endpoint.send(b"last", theirs.getsockname())
    recorder.endpoint.close()
    recorder.endpoint.close()
    assert recorder.endpoint.send(b"too late", theirs.getsockname()) is False
    theirs.sendto(b"not heard", recorder.endpoint.get_extra_info("sockname"))
    ends.until(lambda: recorder.lost)
    assert (recorder.reason, theirs.recv(10)) == (None, b"last")
    assert recorder.received == []
    assert recorder.endpoint.stats().refused == {"closing": 1}


def test_close_has_a_deadline(timed, clock):
    recorder, ours = DatagramRecorder(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock = ScriptedSocket(ours, sendto=repeat(BlockingIOError))
    endpoint = timed.bind_datagram(sock, lambda: recorder, limits=DatagramLimits(queue_timeout=60))
    endpoint.send(b"x", ("127.0.0.1", 9))
    endpoint.close(timeout=3.0)
    pass_time(timed, clock, 3.0)
    assert isinstance(recorder.reason, CloseTimeout)
    assert endpoint.stats().dropped == {"closed": 1}


def test_queue_timeout_ends_a_close_without_an_error(timed, clock):
    recorder, ours = DatagramRecorder(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock = ScriptedSocket(ours, sendto=repeat(BlockingIOError))
    endpoint = timed.bind_datagram(sock, lambda: recorder, limits=DatagramLimits(queue_timeout=1))
    endpoint.send(b"x", ("127.0.0.1", 9))
    endpoint.close()
    pass_time(timed, clock, 1.0)
    assert recorder.reason is None
    assert endpoint.stats().dropped == {"queue_timeout": 1}


def test_abort_drops_what_is_queued(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[BlockingIOError])
    recorder.endpoint.send(b"x", theirs.getsockname())
    recorder.endpoint.abort()
    assert not recorder.lost  # not from within a call
    ends.until(lambda: recorder.lost)
    assert isinstance(recorder.reason, ConnectionAborted)
    assert recorder.endpoint.stats().dropped == {"closed": 1}
    recorder.endpoint.abort()
    recorder.endpoint.close()


def test_reactor_s_close_ends_endpoints(descriptors):
    recorder, sender = DatagramRecorder(), DatagramRecorder()
    with Reactor() as reactor:
        reactor.bind_datagram("127.0.0.1:0", lambda: recorder)
        reactor.connect_datagram(recorder.endpoint.address, lambda: sender)
    for each in (recorder, sender):
        assert str(each.reason) == "the reactor was closed"
    with pytest.raises(UsageError, match="the reactor is closed"):
        reactor.bind_datagram("127.0.0.1:0", DatagramRecorder)


class Busy(DatagramEcho):
    busy = True

    def draining(self):
        return self.busy

    def connection_lost(self, exc):
        self.reason = exc


def test_drain_serves_what_has_arrived(reactor, ends):
    server = reactor.bind_datagram("127.0.0.1:0", DatagramEcho)
    client = ends.connect(server.address)
    for number in range(200):
        client.endpoint.send(b"%d" % number)
    reports = []
    reactor.drain(10, reports.append)
    reactor.run()
    assert server.stats().received == 200
    assert (reactor.endpoints(), len(reports)) == ([], 1)


def test_drain_waits_for_a_protocol_that_is_busy(reactor):
    busy = Busy()
    endpoint = reactor.bind_datagram("127.0.0.1:0", lambda: busy)
    reactor.call_later(0.02, setattr, busy, "busy", False)
    reactor.drain(10)
    reactor.run()
    assert (endpoint.state, busy.reason) == (EndpointState.LOST, None)


def test_drain_has_a_deadline(timed, clock):
    busy = Busy()
    timed.bind_datagram("127.0.0.1:0", lambda: busy)
    reports = []
    timed.drain(3.0, reports.append)
    timed.run_once(0)
    pass_time(timed, clock, 3.0)
    timed.run_once(0)
    assert isinstance(busy.reason, DrainTimeout)
    assert len(reports) == 1


def test_drain_ends_although_more_and_more_arrives(reactor, ends):
    flooded = ends.bind()
    address = flooded.endpoint.address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                sock.sendto(b"x", (address.host, address.port))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            reactor.drain(30)
            reactor.run()
        finally:
            stop.set()
            thread.join()
    assert flooded.reason is None


def test_interrupt_in_a_callback_loses_nothing_else(reactor):
    class Interrupted(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            if data == b"interrupt":
                raise KeyboardInterrupt

    recorder = Interrupted()
    endpoint = reactor.bind_datagram("127.0.0.1:0", lambda: recorder)
    for data in (b"interrupt", b"after"):
        endpoint.send(data, endpoint.address)
    with pytest.raises(KeyboardInterrupt):
        reactor.run_once(1)
    reactor.run_once(1)
    assert recorder.received == [b"interrupt", b"after"]
    assert endpoint.stats().received == 2


def test_interrupt_in_connection_lost_does_not_repeat_it(reactor):
    class Interrupted(DatagramRecorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise KeyboardInterrupt

    recorder = Interrupted()
    reactor.bind_datagram("127.0.0.1:0", lambda: recorder).close()
    with pytest.raises(KeyboardInterrupt):
        reactor.run_once(1)
    settle(reactor)
    assert recorder.reason is None
    assert reactor.endpoints() == []


def test_interrupted_reactor_sends_its_queue(ends, reactor):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[BlockingIOError])
    recorder.endpoint.send(b"queued", theirs.getsockname())

    def interrupt():
        raise KeyboardInterrupt

    reactor.call_soon(interrupt)
    sock.add(sendto=[BlockingIOError])
    with pytest.raises(KeyboardInterrupt):
        reactor.run_once(0)
    ends.until(lambda: not recorder.endpoint.stats().queued)
    assert theirs.recv(10) == b"queued"


def test_forked_child_leaves_the_parent_s_endpoint_alone(reactor, ends, tmp_path):
    recorder = ends.bind(f"unix:{tmp_path}/ours")

    def uses():
        for use in (
            lambda: recorder.endpoint.send(b"x", f"{tmp_path}/ours"),
            recorder.endpoint.close,
            lambda: recorder.endpoint.join("224.0.0.1"),
            lambda: reactor.bind_datagram("127.0.0.1:0", DatagramRecorder),
        ):
            with pytest.raises(UsageError, match="and this is a child of it"):
                use()
        reactor.close()

    in_child(uses)
    recorder.endpoint.send(b"still here", f"{tmp_path}/ours")
    ends.until(lambda: recorder.received == [b"still here"])
    assert not recorder.lost


# Facts


def test_extra_info_and_repr(reactor, ends):
    server = ends.bind()
    client = ends.connect(server.endpoint.address)
    endpoint = client.endpoint
    assert endpoint.get_extra_info("peername") == server.endpoint.get_extra_info("sockname")
    assert endpoint.get_extra_info("socket").getsockname() == endpoint.get_extra_info("sockname")
    assert endpoint.get_extra_info("cipher", "none") == "none"
    assert endpoint.reactor is reactor
    assert (
        repr(endpoint) == f"<Endpoint {endpoint.address} to {server.endpoint.address} open, DatagramRecorder>"
    )
    assert reactor.endpoints() == [server.endpoint, endpoint]


def test_protocol_can_be_replaced(reactor, ends):
    server = ends.bind()
    other = DatagramRecorder()
    server.endpoint.set_protocol(other)
    server.endpoint.send(b"x", server.endpoint.address)
    ends.until(lambda: other.received)
    with pytest.raises(TypeError, match="is no datagram protocol"):
        server.endpoint.set_protocol(object())
    assert server.names == ["connection_made"]


def test_stats_of_the_reactor_are_those_of_all_endpoints(reactor, ends):
    server = reactor.bind_datagram("127.0.0.1:0", DatagramEcho)
    for _ in range(2):
        client = ends.connect(server.address)
        client.endpoint.send(b"hello")
        ends.until(lambda client=client: client.received)
        client.endpoint.close()
        settle(reactor)
    stats = reactor.stats().datagrams
    assert (stats.received, stats.sent, stats.bytes_received, stats.open) == (4, 4, 20, 1)


def test_kernel_s_drops_are_counted_to_the_last_one(reactor, ends):
    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    recorder = ends.bind(options=options)
    for _ in range(500):
        recorder.endpoint.send(bytes(100), recorder.endpoint.address)
    settle(reactor)
    stats = recorder.endpoint.stats()
    assert stats.dropped["kernel"] > 400
    assert stats.received + stats.dropped["kernel"] == stats.sent == 500
    recorder.endpoint.close()
    settle(reactor)
    assert reactor.stats().datagrams.dropped == stats.dropped


def test_asyncio_s_base_methods_exist_on_the_base_class():
    for name in ("connection_made", "datagram_received", "error_received", "connection_lost"):
        assert callable(getattr(DatagramProtocol, name))
