"""Endpoints: sending, receiving, flow control, errors and the end."""

import contextlib
import errno
import os
import socket
import threading
from itertools import repeat

import pytest

from reactor import (
    AddressError,
    CloseTimeout,
    ConnectError,
    ConnectionAborted,
    DrainTimeout,
    Reactor,
    UsageError,
)
from reactor.apps.echo import DatagramEcho, Echo
from reactor.datagrams import DatagramLimits, DatagramProtocol
from reactor.datagrams.endpoint import EndpointState
from reactor.testing import DatagramRecorder, Errors, MemoryNetwork, Recorder, ScriptedSocket
from tests.helpers import pass_time, settle, spin
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


def flow(recorder):
    return [name for name in recorder.names if name.endswith("_writing")]


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


def test_every_form_of_an_address_is_accepted(reactor, ends):
    receiver = ends.bind()
    address = receiver.endpoint.address
    sender, both = ends.bind(), ends.bind(":0")
    for form in (address, str(address), (address.host, address.port)):
        assert sender.endpoint.send(b"x", form)
        assert both.endpoint.send(b"y", form)  # as an address mapped into IPv6
    ends.until(lambda: len(receiver.received) == 6)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (None, UsageError, "is connected to no address: give `send` one"),
        ("example.org:53", AddressError, "example.org:53 is not numeric, and a look-up would block"),
        ("nonsense", AddressError, "'nonsense' has no port"),
        (("127.0.0.1", 70_000), AddressError, "port 70000 .* is out of range"),
        ("[::1]:53", AddressError, "is an IPv6 address, and .* is bound to an IPv4 one"),
    ],
)
def test_address_that_can_t_be_sent_to_is_named(ends, address, error, message):
    endpoint = ends.bind().endpoint
    with pytest.raises(error, match=message):
        endpoint.send(b"x", address)
    assert endpoint.stats().sent == 0


@pytest.mark.parametrize("data", [None, "text", 5])
@pytest.mark.parametrize("options", [{}, {"gso": True}])
def test_what_is_no_bytes_is_a_type_error(ends, data, options):
    endpoint = ends.bind(**options).endpoint
    with pytest.raises(TypeError):
        endpoint.send(data, ("127.0.0.1", 9))


def test_address_may_be_of_any_form_while_others_are_queued(ends):
    receiver = ends.bind()
    sock = ScriptedSocket(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), sendto=[BlockingIOError])
    sender = ends.bind(sock)
    address = receiver.endpoint.address
    sender.endpoint.send(b"1", ("::1", 9, 0, 0))
    for form in (address, str(address), (address.host, address.port)):
        assert sender.endpoint.send(b"x", form)
    ends.until(lambda: receiver.received == [b"x"] * 3)


def test_connected_endpoint_has_one_address(ends):
    one, other = ends.bind(), ends.bind()
    client = ends.connect(one.endpoint.address)
    assert client.endpoint.send(b"1", one.endpoint.address)
    assert client.endpoint.send(b"2", one.endpoint.get_extra_info("sockname"))
    with pytest.raises(UsageError, match="is another address"):
        client.endpoint.send(b"3", other.endpoint.address)
    other.endpoint.send(b"from another", client.endpoint.address)
    one.endpoint.send(b"from the peer", client.endpoint.address)
    ends.until(lambda: client.received)
    assert client.received == [b"from the peer"]


def test_bytes_may_be_changed_after_the_call(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[BlockingIOError])
    data = bytearray(b"before")
    recorder.endpoint.send(data, theirs.getsockname())
    data[:] = b"after!"
    ends.until(lambda: not recorder.endpoint.get_write_buffer_size())
    assert theirs.recv(100) == b"before"


def test_batch_leaves_the_rest_to_the_next_tick(reactor, ends):
    receiver = ends.bind(limits=DatagramLimits(batch=10))
    for number in range(25):
        receiver.endpoint.send(b"%d" % number, receiver.endpoint.address)
    seen = []
    for _ in range(3):
        reactor.run_once(0)
        seen.append(len(receiver.received))
    assert seen == [10, 20, 25]


def test_slow_callback_leaves_the_rest_of_the_batch(timed, clock):
    class Slow(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            clock.advance(0.003)

    slow = Slow()
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: slow)
    for _ in range(3):
        endpoint.send(b"x", endpoint.address)
    timed.run_once(0)
    assert len(slow.received) == 1
    timed.call_soon(lambda: None)
    timed.run_once(0)
    assert len(slow.received) == 2


def test_budget_of_a_step_ends_a_batch(timed, clock):
    class Slow(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            clock.advance(0.0004)

    slow = Slow()
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: slow)
    for _ in range(10):
        endpoint.send(b"x", endpoint.address)
    timed.run_once(0, budget=0.001)
    assert len(slow.received) == 3


def test_flood_does_not_keep_a_connection_waiting(reactor, ends):
    flooded = ends.bind()
    listener = reactor.listen("127.0.0.1:0", Echo)
    talk = Recorder()
    reactor.connect(listener.addresses[0], lambda: talk)
    ends.until(lambda: talk.calls)
    talk.connection.write(b"hello")

    def flood():
        for _ in range(100):
            flooded.endpoint.send(bytes(64), flooded.endpoint.address)
        reactor.call_soon(flood)

    flood()
    for _ in range(6):
        reactor.run_once(0)
    assert talk.received == b"hello"
    talk.connection.close()


# Flow control


def test_what_the_kernel_does_not_take_is_sent_in_order(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[None, BlockingIOError, BlockingIOError])
    for number in range(5):
        assert recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    assert recorder.endpoint.stats().queued == 4
    ends.until(lambda: not recorder.endpoint.stats().queued)
    assert [theirs.recv(10) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert recorder.endpoint.stats().sent == 5


def test_pause_and_resume_follow_the_water_marks(ends):
    limits = DatagramLimits(high_water=100, low_water=20)
    recorder, sock, theirs = ends.scripted(limits=limits)
    sock.add(sendto=repeat(BlockingIOError, 3))
    for _ in range(12):
        recorder.endpoint.send(bytes(10), theirs.getsockname())
    assert flow(recorder) == ["pause_writing"]
    assert recorder.endpoint.get_write_buffer_size() == 120
    ends.until(lambda: not recorder.endpoint.get_write_buffer_size())
    assert flow(recorder) == ["pause_writing", "resume_writing"]


def test_many_small_datagrams_pause_writing_too(ends):
    recorder, sock, theirs = ends.scripted(limits=DatagramLimits(max_queued_datagrams=8))
    sock.add(sendto=[BlockingIOError])
    for _ in range(5):
        recorder.endpoint.send(b"", theirs.getsockname())
    assert flow(recorder) == ["pause_writing"]
    ends.until(lambda: flow(recorder) == ["pause_writing", "resume_writing"])


@pytest.mark.parametrize(
    ("limits", "size", "taken"),
    [
        (DatagramLimits(max_queued_datagrams=4), 1, 4),
        (DatagramLimits(high_water=100, low_water=10, max_queued_bytes=100), 30, 3),
    ],
)
def test_queue_is_bounded(ends, limits, size, taken):
    recorder, sock, theirs = ends.scripted(limits=limits)
    sock.add(sendto=repeat(BlockingIOError))
    results = [recorder.endpoint.send(bytes(size), theirs.getsockname()) for _ in range(10)]
    assert results == [True] * taken + [False] * (10 - taken)
    assert recorder.endpoint.stats().refused == {"queue_full": 10 - taken}


def test_late_datagrams_are_dropped_and_counted(timed, clock):
    recorder, ours = DatagramRecorder(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock = ScriptedSocket(ours, sendto=repeat(BlockingIOError))
    limits = DatagramLimits(queue_timeout=2.0, high_water=0, low_water=0)
    endpoint = timed.bind_datagram(sock, lambda: recorder, limits=limits)
    endpoint.send(b"early", ("127.0.0.1", 9))
    pass_time(timed, clock, 1.0)
    endpoint.send(b"later", ("127.0.0.1", 9))
    pass_time(timed, clock, 1.0)
    assert (endpoint.stats().queued, dict(endpoint.stats().dropped)) == (1, {"queue_timeout": 1})
    assert flow(recorder) == ["pause_writing"]
    pass_time(timed, clock, 1.0)
    assert (endpoint.stats().queued, dict(endpoint.stats().dropped)) == (0, {"queue_timeout": 2})
    assert flow(recorder) == ["pause_writing", "resume_writing"]


def test_water_marks_can_be_set(ends):
    recorder, sock, theirs = ends.scripted()
    endpoint = recorder.endpoint
    assert endpoint.get_write_buffer_limits() == (16384, 65536)
    sock.add(sendto=repeat(BlockingIOError))
    endpoint.send(bytes(50), theirs.getsockname())
    endpoint.set_write_buffer_limits(high=40)
    assert endpoint.get_write_buffer_limits() == (10, 40)
    assert flow(recorder) == ["pause_writing"]
    endpoint.set_write_buffer_limits()
    assert endpoint.get_write_buffer_limits() == (16384, 65536)
    assert flow(recorder) == ["pause_writing", "resume_writing"]
    with pytest.raises(ValueError, match=r"low \(5\) must be between 0 and high \(4\)"):
        endpoint.set_write_buffer_limits(high=4, low=5)


def test_unix_receiver_without_room_is_tried_again(reactor, ends, tmp_path):
    path = str(tmp_path / "slow")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as slow:
        slow.bind(path)
        sender = ends.bind(f"unix:{tmp_path}/sender")
        count = 0
        while not sender.endpoint.stats().queued:
            sender.endpoint.send(b"%d" % count, path)
            count += 1
        polls = reactor.stats().ticks
        for _ in range(3):
            reactor.run_once(0.02)
        assert reactor.stats().ticks - polls == 3  # it waits, although the socket is writable
        heard = [slow.recv(10) for _ in range(count - 1)]
        ends.until(lambda: not sender.endpoint.stats().queued)
        heard.append(slow.recv(10))
    assert heard == [b"%d" % number for number in range(count)]


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


@pytest.mark.parametrize("queued", [False, True])
def test_every_form_of_a_unix_address_is_accepted(ends, tmp_path, queued):
    receiver, sender = ends.bind(f"unix:{tmp_path}/receiver"), ends.bind(f"unix:{tmp_path}/sender")
    address, count = receiver.endpoint.address, 0
    if queued:
        while not sender.endpoint.get_write_buffer_size():
            assert sender.endpoint.send(b"x", address)
            count += 1
    for form in (address, str(address), address.path, os.fsencode(address.path)):
        assert sender.endpoint.send(b"x", form)
    ends.until(lambda: len(receiver.received) == count + 4)
    assert not sender.errors


def test_unix_sender_without_a_name_is_heard(ends, tmp_path):
    server = ends.bind(f"unix:{tmp_path}/server")
    client = ends.connect(f"unix:{tmp_path}/server")
    client.endpoint.send(b"no answer wanted")
    ends.until(lambda: server.received)
    assert server.calls[1] == ("datagram_received", b"no answer wanted", None)
    with pytest.raises(UsageError, match="has no address"):
        client.endpoint.address  # noqa: B018
    with pytest.raises(UsageError, match="connected to no address"):
        server.endpoint.send(b"answer", None)


def test_unix_pair_is_connected(ends):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    recorder = ends.bind(ours)
    recorder.endpoint.send(b"there")
    theirs.send(b"back")
    ends.until(lambda: recorder.received)
    assert (theirs.recv(10), recorder.received) == (b"there", [b"back"])
    theirs.close()


def test_unix_datagram_larger_than_the_buffer_is_dropped_and_counted(ends, tmp_path):
    server = ends.bind(f"unix:{tmp_path}/server")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)  # SO_SNDBUFFORCE
        client.sendto(bytes(300_000), f"{tmp_path}/server")
        client.sendto(b"small", f"{tmp_path}/server")
    ends.until(lambda: server.received)
    assert server.received == [b"small"]
    assert server.endpoint.stats().dropped == {"truncated": 1}


# Errors


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


def test_error_of_receiving_does_not_end_the_endpoint(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(recvfrom=[InterruptedError, OSError(errno.ENETDOWN, "down")])
    theirs.sendto(b"hello", sock.getsockname())
    ends.until(lambda: recorder.received and recorder.errors)
    assert recorder.errors[0][0].errno == errno.ENETDOWN


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


# Names


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


# GSO and GRO


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
@pytest.mark.parametrize("connected", [False, True])
def test_runs_arrive_whole_with_gso_and_gro(ends, address, connected):
    server = ends.bind(address, gro=True)
    client = ends.connect(server.endpoint.address, gso=True) if connected else ends.bind(address, gso=True)
    sent = [bytes([number]) * 1000 for number in range(100)] + [b"short", b"", b"x" * 40_000, b"end"]
    for data in sent:
        assert client.endpoint.send(data, server.endpoint.address)
    ends.until(lambda: len(server.received) == len(sent))
    assert server.received == sent
    assert client.endpoint.stats().sent == len(sent)
    assert server.endpoint.stats().bytes_received == sum(map(len, sent))


def test_gso_sends_many_by_one_call_and_in_order(ends):
    recorder, sock, theirs = ends.scripted(gso=True)
    address = theirs.getsockname()
    sock.calls.clear()
    for number in range(10):
        recorder.endpoint.send(b"%03d" % number, address)
    recorder.endpoint.send(bytearray(b"end"), address)
    ends.until(lambda: recorder.endpoint.stats().sent == 11)
    assert [name for name in sock.calls if name.startswith("send")] == ["sendmsg"]
    assert [theirs.recv(10) for _ in range(11)] == [b"%03d" % number for number in range(10)] + [b"end"]


def test_gso_sends_to_several_addresses_in_order(ends):
    receivers = [ends.bind() for _ in range(2)]
    sender = ends.bind(gso=True)
    for number in range(6):
        sender.endpoint.send(b"%d" % number, receivers[number // 2 % 2].endpoint.address)
    ends.until(lambda: sum(len(each.received) for each in receivers) == 6)
    assert [each.received for each in receivers] == [[b"0", b"1", b"4", b"5"], [b"2", b"3"]]


def test_run_that_the_kernel_does_not_take_is_queued(ends):
    recorder, sock, theirs = ends.scripted(gso=True)
    sock.add(sendmsg=[BlockingIOError, BlockingIOError])
    for number in range(5):
        recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    ends.until(lambda: recorder.endpoint.stats().queued == 5)
    recorder.endpoint.send(b"5", theirs.getsockname())
    ends.until(lambda: not recorder.endpoint.stats().queued)
    assert [theirs.recv(10) for _ in range(6)] == [b"%d" % number for number in range(6)]


def test_run_that_the_kernel_refuses_is_sent_one_by_one(ends, caplog):
    caplog.set_level("INFO", "reactor")
    recorder, sock, theirs = ends.scripted(gso=True)
    sock.add(sendmsg=[OSError(errno.EIO, "no checksums")])
    for number in range(5):
        recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    ends.until(lambda: recorder.endpoint.stats().sent == 5)
    assert [theirs.recv(10) for _ in range(5)] == [b"%d" % number for number in range(5)]
    assert "the kernel sends 5 datagrams of 1 B one by one" in caplog.text


def test_close_and_abort_leave_no_run_behind(ends):
    recorder, _, theirs = ends.scripted(gso=True)
    for number in range(3):
        recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    recorder.endpoint.close()
    ends.until(lambda: recorder.lost)
    assert [theirs.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
    other = ends.bind(gso=True)
    other.endpoint.send(b"x", theirs.getsockname())
    other.endpoint.abort()
    ends.until(lambda: other.lost)
    assert other.endpoint.stats().dropped == {"closed": 1}


def test_joined_datagrams_after_a_close_are_counted(ends):
    class Once(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            self.endpoint.close()

    once = Once()
    server = ends.reactor.bind_datagram("127.0.0.1:0", lambda: once, gro=True)
    client = ends.bind(gso=True)
    for _ in range(7):
        client.endpoint.send(bytes(10), server.address)
    ends.until(lambda: once.lost)
    assert (server.stats().received, dict(server.stats().dropped)) == (1, {"closed": 6})


def test_joined_datagrams_after_a_change_of_the_protocol_are_the_new_one_s(ends):
    class Greeting(DatagramRecorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            self.endpoint.set_protocol(other)

    first, other = Greeting(), DatagramRecorder()
    server = ends.reactor.bind_datagram("127.0.0.1:0", lambda: first, gro=True)
    client = ends.bind(gso=True)
    for _ in range(7):
        client.endpoint.send(bytes(10), server.address)
    ends.until(lambda: server.stats().received == 7)
    assert (len(first.received), len(other.received)) == (1, 6)


# Limits by client prefix


@pytest.mark.parametrize("options", [{}, {"gro": True}, {"info": True}])
def test_prefix_over_its_limit_is_dropped_before_the_protocol(timed, clock, options):
    recorder, limits = DatagramRecorder(), DatagramLimits(prefix_datagrams=3)
    endpoint = timed.bind_datagram("127.0.0.1:0", lambda: recorder, limits=limits, **options)
    for _ in range(5):
        endpoint.send(b"x", endpoint.address)
    timed.run_once(0)
    assert len(recorder.received) == endpoint.stats().received == 3
    assert endpoint.stats().refused == {"prefix": 2}
    clock.advance(1.0)
    endpoint.send(b"y", endpoint.address)
    timed.run_once(0)
    assert recorder.received[-1] == b"y"
