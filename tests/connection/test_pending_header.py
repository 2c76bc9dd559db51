"""The PROXY header of a connection: who the client is, and what becomes of connections without one."""

import logging
import os
import socket
from contextlib import ExitStack
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    BufferedProtocol,
    ConnectError,
    Drained,
    Limits,
    ProxyHeaderError,
    ProxyHeaderTimeout,
    ProxyProtocol,
    Reactor,
    Reconnect,
    Timeouts,
)
from reactor.apps.echo import Echo
from reactor.connection.pending_header import LOCAL_SILENCE
from reactor.deploy import hand_over, take_over
from reactor.framing.proxy_header import ProxyHeader, TLVType
from reactor.pool import Pool
from reactor.testing import (
    Errors,
    FaultyPeer,
    MemoryNetwork,
    MemoryReactor,
    Recorder,
    ScriptedSocket,
)
from tests.helpers import DEADLINE, Factory, connect, settle, spin
from tests.tls_peers import TlsPeer

HERE = "10.0.0.1:80"
PROXIES = ProxyProtocol(trusted=["10.0.0.0/8", "fd00::/8"])
LOCALHOST = ProxyProtocol(trusted=["127.0.0.0/8", "unix:"])
CLIENT, SERVER = ("192.0.2.7", 40000), ("192.0.2.1", 443)
HEADER = ProxyHeader(
    source=CLIENT, destination=SERVER, tlvs=((TLVType.AUTHORITY, b"example.org"),), checksum=True
)
LINE = ProxyHeader(version=1, source=CLIENT, destination=SERVER)
LOCAL = ProxyHeader(local=True)


@pytest.fixture
def served():
    return Factory()


@pytest.fixture
def memory():
    """The server; its clients are on another reactor of the network."""
    with MemoryNetwork() as network:
        server = network.reactor("10.0.0.1")
        network.reactor("10.0.0.2")
        yield server


def sending(reactor, data, at=HERE, **options):
    """Connect a peer that sends `data`, from the last reactor of the network."""
    peer = FaultyPeer(data, **options)
    reactor.network.reactors[-1].connect(at, lambda: peer)
    while not peer.calls:
        reactor.network.reactors[-1].run_once(0)
    return peer


def ended(peer):
    """Return whether the server has ended the connection of `peer`."""
    return not {"eof_received", "connection_lost"}.isdisjoint(peer.names)


def client_of(protocol):
    return protocol.connection.get_extra_info("peername")


# A header, and bytes after it


@pytest.mark.parametrize("header", [HEADER, LINE])
def test_connection_is_the_client_s(memory, served, header):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    peer = sending(memory, header.encode() + b"hello")
    memory.settle()
    connection = served.only.connection
    assert client_of(served.only) == CLIENT
    assert connection.get_extra_info("proxy") == header
    assert connection.get_extra_info("sockname") == ("10.0.0.1", 80)
    assert repr(connection).endswith("Connection 192.0.2.7:40000 open, Recorder>")
    assert served.only.received == b"hello"
    peer.connection.abort()
    memory.run_out()
    assert client_of(served.only) == CLIENT
    assert served.only.names == ["connection_made", "data_received", "connection_lost"]


def test_connection_without_a_proxy_has_no_header(memory, served):
    memory.listen(HERE, served)
    sending(memory, b"")
    memory.settle()
    assert served.only.connection.get_extra_info("proxy") is None


@given(
    st.sampled_from([HEADER, LINE, ProxyHeader(version=1), ProxyHeader(), LOCAL]),
    st.binary(min_size=1, max_size=200),
    st.integers(1, 60),
    st.integers(0, 1000),
    st.floats(0, 1),
)
def test_no_byte_is_lost_however_header_and_bytes_arrive(header, data, chunk, seed, choppy):
    served = Factory()
    with MemoryReactor(seed=seed, choppy=choppy) as reactor:
        reactor.listen(HERE, served, proxy_protocol=PROXIES)
        sending(reactor, header.encode() + data, chunk=chunk, delay=0.001, ending="half-close")
        reactor.run_out()
    assert served.only.received == data
    assert served.only.reason is None
    assert served.only.names[0] == "connection_made"


def test_buffered_protocol_and_read_rate_get_what_follows(memory):
    class Into(BufferedProtocol):
        def __init__(self):
            self.room, self.received = bytearray(4), b""

        def get_buffer(self, sizehint):
            return self.room

        def buffer_updated(self, nbytes):
            self.received += self.room[:nbytes]

    for number, kind in enumerate((Into, Recorder)):
        served = Factory(kind)
        at = f"10.0.0.1:{81 + number}"
        memory.listen(at, served, proxy_protocol=PROXIES, limits=Limits(read_rate=8))
        sending(memory, HEADER.encode() + b"hello, world", at)
        memory.settle()
        assert served.only.received == b"hello, w"
        memory.run_out()
        assert served.only.received == b"hello, world"


def test_connection_with_a_header_of_unknown_source_is_the_proxy_s(memory, served):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    for header in (ProxyHeader(version=1), ProxyHeader()):
        peer = sending(memory, header.encode())
        memory.settle()
        assert client_of(served.made[-1]) == peer.connection.get_extra_info("sockname")
        assert served.made[-1].connection.get_extra_info("proxy") == header


def test_client_at_a_unix_socket_is_named_by_its_path(memory, served):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    sending(memory, ProxyHeader(source="/run/client", destination="/run/server").encode())
    sending(memory, ProxyHeader(source="", destination="/run/server").encode())
    memory.settle()
    assert [client_of(one) for one in served.made] == ["/run/client", None]


# No header


def refusals(reactor):
    return dict(reactor.stats().refused)


def test_header_that_is_late_ends_the_connection_at_the_deadline(memory, served, caplog):
    memory.listen(HERE, served, proxy_protocol=ProxyProtocol(trusted=["10.0.0.2"], timeout=3.0))
    silent = sending(memory, b"")
    slow = sending(memory, LINE.encode(), chunk=1, delay=0.5)
    memory.advance(2.9)
    assert [ended(silent), ended(slow)] == [False, False]
    memory.advance(0.3)
    assert ended(silent)
    assert ended(slow)
    assert served.made == []
    assert refusals(memory) == {"proxy_header": 2}
    assert memory.stats().closed["ProxyHeaderTimeout"] == 2
    (line,) = [
        record.getMessage() for record in caplog.records
    ]  # of the other a second later, with its number
    assert line.startswith("<Listener 10.0.0.1:80>: no PROXY header from 10.0.0.2:")
    assert line.endswith(": it was not complete within 3 s")


def test_deadlines_of_a_connection_begin_after_its_header(memory, served):
    memory.listen(HERE, served, proxy_protocol=PROXIES, timeouts=Timeouts(idle=2.0, read=3.0))
    peer = sending(memory, LINE.encode()[:5])
    memory.advance(4.5)
    peer.connection.write(LINE.encode()[5:])
    memory.advance(1.9)
    assert served.only.names == ["connection_made"]
    memory.advance(0.5)
    assert served.only.lost


@pytest.mark.parametrize(
    ("data", "ending", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "stay", "the first bytes are no PROXY header"),
        (b"\x16\x03\x01", "stay", "the first byte is that of a TLS handshake"),
        (b"PROXY TCP9\r\n", "stay", "b'PROXY TCP9' is no PROXY line"),
        (HEADER.encode().replace(b"example", b"elpmaxe"), "stay", "the CRC32c does not match"),
        (b"PROXY TCP4 1.2", "half-close", "the connection ended within it"),
        (b"PROXY TCP4 1.2", "reset", "Connection reset by peer within it"),
    ],
)
def test_input_without_a_header_ends_the_connection_and_logs_the_cause(
    memory, served, caplog, data, ending, message
):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    peer = sending(memory, data, ending=ending)
    memory.settle()
    assert ended(peer)
    assert served.made == []
    assert refusals(memory) == {"proxy_header": 1}
    assert memory.stats().closed["ProxyHeaderError"] == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("<Listener 10.0.0.1:80>: no PROXY header from 10.0.0.2:")
    assert message in line


def test_connections_from_untrusted_addresses_are_refused(memory, served, caplog):
    memory.listen(HERE, served, proxy_protocol=ProxyProtocol(trusted=["10.9.0.0/16"]))
    peer = sending(memory, HEADER.encode())
    memory.settle()
    assert ended(peer)
    assert served.made == []
    assert refusals(memory) == {"proxy_untrusted": 1}
    assert memory.stats().accepted == 0
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.endswith("is refused: it is none of the trusted proxies")


def test_flood_of_refusals_is_logged_once_a_second(memory, caplog):
    memory.listen(HERE, Recorder, proxy_protocol=ProxyProtocol(trusted=["10.9.0.0/16"]))
    memory.listen("10.0.0.1:81", Recorder, proxy_protocol=PROXIES)
    for _ in range(50):
        sending(memory, b"")
        sending(memory, b"x", "10.0.0.1:81")
    memory.settle()
    assert len(caplog.records) == 2
    memory.advance(1.1)
    assert [record.args[-2] for record in caplog.records[2:]] == [49, 49]


def test_check_that_connects_and_leaves_is_quiet(memory, served, caplog):
    caplog.set_level(logging.INFO)
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    for ending in ("half-close", "reset"):
        sending(memory, b"", ending=ending)
        memory.settle()
    assert memory.stats().closed == {"clean": 2}
    assert refusals(memory) == {}
    assert (served.made, caplog.records) == ([], [])


# LOCAL: the proxy speaks for itself


@pytest.mark.parametrize("ending", ["half-close", "close", "reset"])
def test_health_check_that_leaves_is_not_seen_by_the_factory(memory, served, caplog, ending):
    caplog.set_level(logging.INFO)
    listener = memory.listen(HERE, served, proxy_protocol=PROXIES)
    sending(memory, LOCAL.encode(), ending=ending, delay=LOCAL_SILENCE / 4)
    memory.run_out()
    assert (served.made, caplog.records) == ([], [])
    assert refusals(memory) == {}
    assert memory.stats().closed == {"clean": 1}
    assert listener.connections == 0


def test_health_check_that_speaks_is_served_at_once_as_the_proxy(memory, served):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    peer = sending(memory, LOCAL.encode() + b"PING")
    memory.settle()
    assert served.only.received == b"PING"
    assert client_of(served.only) == peer.connection.get_extra_info("sockname")
    assert served.only.connection.get_extra_info("proxy").local


def test_health_check_that_waits_for_the_server_s_first_bytes_gets_them(memory):
    class Greeting(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.write(b"220 ready\r\n")

    memory.listen(
        HERE, Greeting, proxy_protocol=ProxyProtocol(trusted=["10.0.0.2"], timeout=LOCAL_SILENCE / 2)
    )
    peer = sending(memory, LOCAL.encode())
    memory.advance(LOCAL_SILENCE * 0.9)
    assert peer.received == b""
    memory.advance(LOCAL_SILENCE * 0.2)
    assert peer.received == b"220 ready\r\n"


# Limits, drains, the end


def test_max_per_ip_counts_the_clients(memory, served):
    listener = memory.listen(HERE, served, proxy_protocol=PROXIES, limits=Limits(max_per_ip=2))
    headers = [ProxyHeader(source=(f"192.0.2.{last}", 5), destination=SERVER) for last in (1, 1, 1, 2)]
    peers = [sending(memory, header.encode()) for header in headers]
    waiting = [sending(memory, b"") for _ in range(3)]
    memory.settle()
    assert [client_of(one)[0] for one in served.made] == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]
    assert [ended(peer) for peer in peers] == [False, False, True, False]
    assert not any(ended(peer) for peer in waiting)
    assert refusals(memory) == {"max_per_ip": 1}
    assert listener.connections == 6
    peers[0].connection.abort()
    sending(memory, headers[0].encode())
    memory.settle()
    assert len(served.made) == 4
    for peer in (*peers, *waiting):
        peer.connection.abort()
    memory.run_out()
    served.made[-1].connection.abort()
    memory.run_out()
    assert listener.connections == 0


def test_max_connections_counts_those_without_a_header(memory, served):
    limits = Limits(max_connections=2, when_full="refuse")
    memory.listen(HERE, served, proxy_protocol=PROXIES, limits=limits)
    first, _, third = (sending(memory, b"") for _ in range(3))
    memory.settle()
    assert ended(third)
    assert refusals(memory) == {"max_connections": 1}
    first.connection.abort()
    memory.settle()
    sending(memory, LINE.encode())
    memory.settle()
    assert client_of(served.only) == CLIENT


def test_factory_that_raises_costs_its_connection_alone(caplog):
    errors = Errors()
    with MemoryReactor(on_error=errors) as reactor:
        listener = reactor.listen(HERE, partial(int, "x"), proxy_protocol=PROXIES)
        peer = sending(reactor, HEADER.encode())
        reactor.run_out()
        assert isinstance(peer.reason, ConnectionResetError)
        assert isinstance(errors.take()[0], ValueError)
        assert (listener.connections, refusals(reactor)) == (0, {})


def test_drain_waits_for_the_header_and_for_the_first_bytes_after_it(memory):
    memory.listen(HERE, Echo, proxy_protocol=PROXIES)
    reports = []
    early = sending(memory, HEADER.encode())
    late = sending(memory, b"")
    memory.settle()
    queued = sending(memory, HEADER.encode())
    memory.drain(20, reports.append)
    memory.advance(1)
    late.connection.write(LINE.encode())
    memory.advance(1)
    for peer in (early, late, queued):
        peer.connection.write(b"hello")
    memory.advance(1)
    assert [peer.received for peer in (early, late, queued)] == [b"hello"] * 3
    for peer in (early, late, queued):
        peer.connection.close()
    memory.advance(1)
    assert [report.idle + report.finished for report in reports] == [3]


def test_drain_that_is_over_aborts_what_has_no_header(memory, caplog):
    listener = memory.listen(HERE, Recorder, proxy_protocol=PROXIES)
    sending(memory, b"")
    memory.settle()
    reports = []
    listener.drain(1, reports.append)
    memory.advance(2)
    assert reports == [Drained(idle=0, finished=0, failed=0, aborted=1)]
    assert refusals(memory) == {}


def test_pending_connections_end_quietly_by_close_and_with_the_reactor(memory, served, caplog):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    first, second = sending(memory, b"PROXY"), sending(memory, b"PROXY")
    memory.settle()
    memory.connections()[0].close()
    memory.settle()
    assert [ended(first), ended(second)] == [True, False]
    memory.close()
    memory.network.settle()
    assert [ended(first), ended(second)] == [True, True]
    assert (served.made, caplog.records) == ([], [])


# TLS, pools, real sockets


def test_client_hello_may_come_with_the_header(reactor, served, certificates):
    tls = certificates.server()
    listener = reactor.listen("127.0.0.1:0", served, tls=tls, proxy_protocol=LOCALHOST)
    for number, header in enumerate((HEADER, LOCAL), 1):
        with connect(reactor, listener.addresses[0]) as sock:
            peer = TlsPeer(sock, certificates.client(), server_hostname="localhost")
            peer.process()
            sock.setblocking(True)
            sock.sendall(header.encode() + peer.outgoing.read())
            sock.setblocking(False)
            spin(reactor, lambda peer=peer: peer.step() and peer.established, wait=0.01)
            peer.write(b"hello")
            spin(
                reactor,
                lambda peer=peer, number=number: peer.step() and len(served.made) == number,
                wait=0.01,
            )
            spin(reactor, lambda peer=peer: peer.step() and served.made[-1].received == b"hello", wait=0.01)
            connection = served.made[-1].connection
            assert (client_of(served.made[-1]) == CLIENT) is not header.local
            assert connection.get_extra_info("proxy") == header
            assert connection.get_extra_info("cipher") is not None
            assert connection.get_extra_info("sni") == "localhost"


def test_failed_handshake_is_logged_as_the_client_s(reactor, certificates):
    failed = []
    listener = reactor.listen(
        "127.0.0.1:0",
        Recorder,
        tls=certificates.server(),
        proxy_protocol=LOCALHOST,
        on_tls_error=failed.append,
    )
    with connect(reactor, listener.addresses[0]) as client:
        client.sendall(HEADER.encode() + b"no handshake")
        spin(reactor, lambda: failed)
    assert str(failed[0]).startswith("no TLS with 192.0.2.7:40000: ")


def test_certificate_of_the_listener_is_that_of_the_header_s_time(reactor, served, certificates):
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=LOCALHOST)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: listener.connections)
        listener.replace_tls(certificates.server())
        client.sendall(HEADER.encode())
        spin(reactor, lambda: reactor.connections()[0].get_extra_info("peername") == CLIENT)
        assert served.made == []


@pytest.mark.parametrize("secured", [False, True])
def test_worker_of_a_pool_gets_every_byte_after_the_header(certificates, secured):
    seen = []

    def answer(sock):
        data = b""
        while not data.endswith(b"\n"):
            data += sock.recv(100)
        seen.append(sock.getpeername())
        sock.sendall(data.upper())

    tls = certificates.server() if secured else None
    with Reactor() as reactor, Pool(answer, workers=1) as pool, reactor.background():
        listen = partial(reactor.listen, "127.0.0.1:0", pool, tls=tls, proxy_protocol=LOCALHOST)
        listener = reactor.submit(listen).result(DEADLINE)
        with socket.create_connection(("127.0.0.1", listener.addresses[0].port), DEADLINE) as sock:
            if secured:
                sock.sendall(HEADER.encode())
                sock = certificates.client().wrap_socket(sock, server_hostname="localhost")  # noqa: PLW2901
                sock.sendall(b"hello\n")
            else:
                sock.sendall(HEADER.encode() + b"hello\n")
            with sock:
                assert sock.recv(100) == b"HELLO\n"
    assert seen == [CLIENT]


def test_unix_socket_s_peers_are_trusted_by_their_word(reactor, served, tmp_path):
    at = f"unix:{tmp_path}/s"
    listener = reactor.listen(at, served, proxy_protocol=LOCALHOST, limits=Limits(max_per_ip=1))
    refusing = reactor.listen(f"{at}2", served, proxy_protocol=PROXIES)
    with connect(reactor, listener.addresses[0]) as client, connect(reactor, refusing.addresses[0]) as other:
        client.sendall(HEADER.encode() + b"hello")
        spin(reactor, lambda: served.made and served.only.received)
        assert client_of(served.only) == CLIENT
        assert other.recv(1) == b""
    spin(reactor, lambda: served.only.lost)
    assert listener.connections == 0


def test_client_of_a_socket_for_both_families_is_trusted_by_its_ipv4_address(reactor, served):
    listener = reactor.listen(":0", served, proxy_protocol=LOCALHOST)
    with socket.create_connection(("127.0.0.1", listener.addresses[0].port)) as client:
        client.sendall(HEADER.encode())
        spin(reactor, lambda: served.made)


class Accepting(ScriptedSocket):
    """A listening socket whose connections have a script for `recv`."""

    def __init__(self, sock, script=()):
        super().__init__(sock)
        self.script_of_each = script
        self.accepted = []

    def accept(self):
        sock, sockaddr = super().accept()
        self.accepted.append(ScriptedSocket(sock, recv=self.script_of_each))
        return self.accepted[-1], sockaddr


def test_partial_receives_and_errors_of_the_kernel(reactor, served):
    encoded = HEADER.encode()
    for script, made in (
        ([BlockingIOError, None, 3, InterruptedError], True),  # looked at, received in two steps
        ([None, BlockingIOError], True),
        ([OSError(5, "Input/output error")], False),
    ):
        with socket.create_server(("127.0.0.1", 0)) as bound, ExitStack() as stack:
            listener = reactor.listen(Accepting(bound, script), served, proxy_protocol=LOCALHOST)
            client = stack.enter_context(connect(reactor, listener.addresses[0]))
            client.sendall(encoded + b"hello")
            before = len(served.made)
            if made:
                spin(
                    reactor,
                    lambda before=before: served.made[before:] and served.made[-1].received == b"hello",
                )
            else:
                spin(reactor, lambda listener=listener: reactor.stats().closed.get("clean"))
                assert len(served.made) == before
            listener.close()


LONG = ProxyHeader(tlvs=((0xE0, bytes(4000)),))


@pytest.mark.parametrize(("encoded", "looks"), [(LONG.encode(), 3), (LINE.encode(), 16)])
def test_header_that_comes_byte_by_byte_is_looked_at_a_few_times(reactor, served, encoded, looks):
    with socket.create_server(("127.0.0.1", 0)) as bound, ExitStack() as stack:
        listening = Accepting(bound)
        listener = reactor.listen(listening, served, proxy_protocol=LOCALHOST)
        client = stack.enter_context(connect(reactor, listener.addresses[0]))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(encoded)):
            client.sendall(encoded[at : at + 1])
            reactor.run_once(0)
        spin(reactor, lambda: served.made)
        (accepted,) = listening.accepted
        assert accepted.calls.count("recv") <= 2 * looks  # to see what there is, and to take it
        client.sendall(b"x")
        spin(reactor, lambda: served.only.received == b"x")
        listener.close()


def test_end_within_a_header_is_seen_at_once(reactor, served):
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=LOCALHOST)
    with connect(reactor, listener.addresses[0]) as client:
        client.sendall(LONG.encode()[:1000])
        spin(reactor, lambda: reactor.stats().bytes_received == 1000)
    reactor.run_once(0)
    assert refusals(reactor) == {"proxy_header": 1}


def test_connection_whose_child_process_inherits_it_before_the_header_goes_on(reactor, served):
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=LOCALHOST)
    with connect(reactor, listener.addresses[0]) as client:
        client.sendall(b"PROXY TCP4 ")
        spin(reactor, lambda: reactor.stats().bytes_received)
        pid = os.fork()
        if pid == 0:
            try:
                reactor.close()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        client.sendall(LINE.encode()[11:] + b"hello")
        spin(reactor, lambda: served.made and served.only.received == b"hello")


def test_client_survives_a_handover():
    class Movable(Recorder):
        def hand_over(self):
            return b""

        @classmethod
        def take_over(cls, connection, state):
            protocol = cls()
            protocol.connection_made(connection)
            return protocol

    with Reactor() as old, Reactor() as new, ExitStack() as stack:
        first = old.listen("127.0.0.1:0", Movable, proxy_protocol=LOCALHOST, limits=Limits(max_per_ip=5))
        shared = socket.socket(fileno=os.dup(first._sockets[0].fileno()))
        second = new.listen(shared, Movable, proxy_protocol=LOCALHOST, limits=Limits(max_per_ip=1))
        second.pause()
        client, pending = (stack.enter_context(connect(old, first.addresses[0])) for _ in range(2))
        client.sendall(HEADER.encode())
        pending.sendall(b"PROXY ")
        spin(old, lambda: [each for each in old.connections() if each.get_extra_info("proxy")])
        settle(old)
        ours, theirs = socket.socketpair()
        done = []
        hand_over(old, ours, on_done=done.append)
        take_over(new, theirs, on_done=done.append)
        spin(old, lambda: new.run_once(0) is None or len(done) == 2, wait=0.005)
        assert sorted(map(str, done)) == ["1 handed over, 0 kept", "1 handed over, 1 kept"]
        (moved,) = new.connections()
        assert moved.get_extra_info("peername") == CLIENT
        assert moved.get_extra_info("proxy") == HEADER
        client.sendall(b"hello")
        spin(new, lambda: moved.get_protocol().received == b"hello")
        second.resume()
        with connect(new, second.addresses[0]) as again:  # counted as the client's there, too
            again.sendall(HEADER.encode())
            spin(new, lambda: new.run_once(0) is None or new.stats().refused.get("max_per_ip"))


def test_memory_of_a_pending_header_is_bounded_and_gone_afterwards(memory, served):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    sending(memory, ProxyHeader(tlvs=((0xE0, bytes(4000)),)).encode()[:-1])
    memory.settle()
    (pending,) = memory.connections()
    assert pending.get_extra_info("peername") is None
    assert len(pending.get_protocol().encoded) == 4018


# Connecting with a header


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2", HEADER])
def test_connector_sends_the_header_first(reactor, served, certificates, version, secured):
    tls = {"tls": certificates.server()} if secured else {}
    listener = reactor.listen("127.0.0.1:0", served, proxy_protocol=LOCALHOST, **tls)
    recorder = Recorder()
    port = listener.addresses[0].port
    tls = {"tls": certificates.client()} if secured else {}
    reactor.connect(("localhost", port), lambda: recorder, proxy_protocol=version, **tls)
    spin(reactor, lambda: served.made and recorder.names)
    recorder.connection.write(b"hello")
    spin(reactor, lambda: served.only.received == b"hello")
    header = served.only.connection.get_extra_info("proxy")
    if version is HEADER:
        assert header == HEADER
    else:
        ours = recorder.connection.get_extra_info("sockname")
        assert (header.version, header.source) == (int(version[1:]), ours)
        assert header.destination == recorder.connection.get_extra_info("peername")


def test_header_is_sent_again_when_the_connector_reconnects(memory, served):
    memory.listen(HERE, served, proxy_protocol=PROXIES)
    memory.connect(HERE, Recorder, proxy_protocol=HEADER, reconnect=Reconnect(first=0.1))
    memory.settle()
    served.made[0].connection.abort()
    memory.advance(1)
    assert [client_of(one) for one in served.made] == [CLIENT, CLIENT]


def test_header_that_can_t_be_sent_is_a_failed_attempt():
    errors = []
    faults = {"send": 104}
    with MemoryNetwork(fault=lambda name, index: faults.get(name)) as network:
        reactor = network.reactor("10.0.0.1")
        reactor.listen(HERE, Recorder, proxy_protocol=PROXIES)
        connector = reactor.connect(HERE, Recorder, proxy_protocol="v2", on_failure=errors.append)
        network.settle()
        assert isinstance(errors[0], ConnectError)
        assert "Connection reset by peer" in str(errors[0])
        assert connector.is_done()
        assert [each for each in reactor.connections() if each.listener is None] == []
        network.run_out()
        network.check()


@given(st.integers(0, 1000), st.floats(0, 1))
def test_header_is_sent_whole_before_the_first_bytes(seed, choppy):
    served = Factory()
    with MemoryReactor(seed=seed, choppy=choppy) as reactor:
        reactor.listen(HERE, served, proxy_protocol=PROXIES)
        peer = FaultyPeer(b"hello, world", chunk=5, ending="half-close")
        reactor.connect(HERE, lambda: peer, proxy_protocol=HEADER)
        reactor.run_out()
    assert served.only.received == b"hello, world"
    assert client_of(served.only) == CLIENT


@pytest.mark.parametrize("wrong", ["v3", "", 1, True])
def test_invalid_proxy_protocol_is_refused_by_its_name(reactor, wrong):
    kind = ValueError if isinstance(wrong, str) else TypeError
    with pytest.raises(kind, match=r"^proxy_protocol must be a ProxyHeader"):
        reactor.connect("127.0.0.1:1", Recorder, proxy_protocol=wrong)
    with pytest.raises(TypeError, match=r"^proxy_protocol must be of type ProxyProtocol"):
        reactor.listen("127.0.0.1:0", Recorder, proxy_protocol=wrong)


def test_errors_of_headers_are_connection_errors():
    assert issubclass(ProxyHeaderError, ConnectionError)
    assert issubclass(ProxyHeaderTimeout, (ProxyHeaderError, TimeoutError))
