"""TLS on connections: the handshake, bytes, ends, and what somebody else may do to them."""

import contextlib
import gc
import itertools
import os
import random
import re
import socket
import ssl
import subprocess
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    BufferedProtocol,
    ConnectError,
    ConnectTimeout,
    IdleTimeout,
    Limits,
    Reactor,
    Reconnect,
    Timeouts,
    UsageError,
)
from reactor.errors import CloseTimeout, TLSError, TLSHandshakeError, TLSHandshakeTimeout, TLSTruncated
from reactor.loop.selector import default_selector
from reactor.pool import Pool
from reactor.streams import handler
from reactor.testing import Errors, ManualClock, Recorder, ScriptedSocket
from tests.helpers import DEADLINE, Echo, accepting, spin

BIG = bytes(range(256)) * 4096 * 4
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Filler(BufferedProtocol):
    """Receives into buffers of these sizes, in turn."""

    def __init__(self, sizes):
        self.sizes = itertools.cycle(sizes)
        self.buffer = bytearray(1)
        self.received = bytearray()
        self.calls = []
        self.lost = False

    def connection_made(self, connection):
        self.calls.append("connection_made")

    def get_buffer(self, sizehint):
        self.buffer = bytearray(next(self.sizes))
        return self.buffer

    def buffer_updated(self, nbytes):
        self.received += memoryview(self.buffer)[:nbytes]

    def connection_lost(self, exc):
        assert not self.lost
        self.lost = True
        self.reason = exc


class Peer:
    """The other end of a connection: OpenSSL between two buffers, and what goes to and from the socket."""

    def __init__(self, sock, context, **options):
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.established = False
        self.received = bytearray()
        self.ended = None  # how the other side has: "close_notify", "eof", "reset" or what went wrong
        self.unsent = bytearray()
        self.in_clear = b""  # what came before TLS
        self.clear_left = 0  # bytes of it that are still to come

    def take(self, most=1 << 16):
        """Take what has come, up to `most` bytes, and go on with it."""
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            data = None
        except ConnectionResetError:
            self.ended = self.ended or "reset"
            return
        if data == b"":
            self.ended = self.ended or "eof"
        elif data:
            self.in_clear += data[: self.clear_left]
            self.incoming.write(data[self.clear_left :])
            self.clear_left -= min(len(data), self.clear_left)
        self.go_on()

    def go_on(self):
        try:
            if not self.established:
                self.ssl.do_handshake()
                self.established = True
            while data := self.ssl.read(1 << 16):
                self.received += data
            self.ended = self.ended or "close_notify"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = self.ended or "close_notify"
        except ssl.SSLError as exc:
            self.ended = exc.reason

    def put(self, most=1 << 30):
        """Send up to `most` bytes of what is to go out."""
        self.unsent += self.outgoing.read()
        with contextlib.suppress(BlockingIOError, ConnectionError):
            del self.unsent[: self.sock.send(self.unsent[:most])]

    def turn(self):
        self.take()
        self.put()
        return True


@contextlib.contextmanager
def secured(reactor, protocol, peer_context, context, *, server_side=True, wrap=lambda sock: sock, **options):
    """Give a connection with `protocol` over TLS, and its peer; their handshake is not done."""
    ours, theirs = socket.socketpair()
    hostname = {"server_hostname": "localhost"}
    connection = reactor.adopt(
        wrap(ours),
        lambda: protocol,
        tls=context,
        server_side=server_side,
        **({} if server_side else hostname),
        **options,
    )
    with theirs:
        yield (
            connection,
            Peer(theirs, peer_context, server_side=not server_side, **(hostname if server_side else {})),
        )


@pytest.fixture(params=["server", "client"])
def side(request, certificates):
    """The contexts of our side and of the peer's, and whether ours is the server's."""
    server, client = certificates.server(), certificates.client()
    return (server, client, True) if request.param == "server" else (client, server, False)


@contextlib.contextmanager
def established(reactor, protocol, side, **options):
    ours, theirs, server_side = side
    with secured(reactor, protocol, theirs, ours, server_side=server_side, **options) as (connection, peer):
        spin(reactor, lambda: peer.turn() and peer.established and protocol.calls)
        yield connection, peer


# The handshake


def test_protocol_is_told_when_the_handshake_is_done(reactor, side):
    recorder = Recorder()
    ours, theirs, server_side = side
    with secured(reactor, recorder, theirs, ours, server_side=server_side) as (connection, peer):
        for _ in range(3):
            reactor.run_once(0)
        assert recorder.calls == []
        spin(reactor, lambda: peer.turn() and recorder.calls)
        assert recorder.names == ["connection_made"]
        assert connection.get_extra_info("cipher")[1] == "TLSv1.3"
        assert connection.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert connection.get_extra_info("sslcontext") is ours
        assert connection.get_extra_info("sni") == "localhost"
        assert isinstance(connection.get_extra_info("socket"), socket.socket)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("server_side", [True, False])
def test_bytes_go_both_ways(reactor, certificates, version, server_side):
    server, client = certificates.server(), certificates.client()
    client.maximum_version = version
    side = (server, client, True) if server_side else (client, server, False)
    protocol = Echo()
    with established(reactor, protocol, side) as (connection, peer):
        peer.ssl.write(b"hello")
        spin(reactor, lambda: peer.turn() and peer.received == b"hello")
        connection.write(BIG)
        spin(reactor, lambda: peer.turn() and len(peer.received) == len(BIG) + 5)
        assert peer.received[5:] == BIG
        assert connection.get_write_buffer_size() == 0
        left = memoryview(BIG)
        while left:
            left = left[peer.ssl.write(left) :]
        spin(reactor, lambda: peer.turn() and len(peer.received) == 2 * len(BIG) + 5)
        assert protocol.received[5:] == BIG
        assert connection.get_extra_info("cipher")[1] == version.name.replace("_", ".").replace(
            "TLSv1.2", "TLSv1.2"
        )


def test_what_comes_with_the_end_of_the_handshake_is_not_lost(reactor, certificates):
    recorder = Recorder()
    with secured(reactor, recorder, certificates.client(), certificates.server()) as (_, peer):
        peer.go_on()
        spin(reactor, lambda: peer.put() or peer.take() or peer.established)
        peer.ssl.write(b"at once")
        peer.put()
        spin(reactor, lambda: recorder.received == b"at once")


@pytest.mark.parametrize(
    "clear", [b"hello\r\n", b"GET / HTTP/1.0\r\n\r\n", b"EHLO me\r\n", b"\x16\x03\x01\x00\x05hello"]
)
def test_peer_that_does_not_speak_tls_gets_an_alert_and_one_line_is_told(
    reactor, certificates, clear, descriptors
):
    told = []
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=told.append)
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
        client.sendall(clear)
        spin(reactor, lambda: told)
        answer = client.recv(100)
        assert answer[0] == 21, "no alert"
        assert client.recv(100) == b""
        (problem,) = told
        assert isinstance(problem, TLSHandshakeError)
        assert str(problem).startswith(f"no TLS with 127.0.0.1:{client.getsockname()[1]}: ")
        assert "\n" not in str(problem)
    spin(reactor, lambda: listener.connections == 0)


def test_failed_handshake_is_logged_in_one_short_line(reactor, certificates, caplog):
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
    address = listener.addresses[0]
    with caplog.at_level("INFO"), contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(
                socket.create_connection((address.host, address.port), timeout=DEADLINE)
            )
            client.sendall(b"hello\r\n")
        spin(reactor, lambda: reactor.stats().closed.get("TLSHandshakeError") == 50)
    (record,) = caplog.records
    assert record.getMessage().startswith("no TLS with 127.0.0.1:")
    assert record.getMessage().endswith(": what the peer sends is not TLS")
    assert record.exc_info is None


def test_alert_of_openssl_reaches_the_peer(reactor, certificates):
    """The peer's certificate is not accepted: it hears why, although it was sending."""
    server = certificates.server(client_ca=certificates.file("ca.pem"))
    told = []
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=server, on_tls_error=told.append)
    address = listener.addresses[0]
    with socket.create_connection((address.host, address.port), timeout=DEADLINE) as sock:
        peer = Peer(sock, certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: peer.turn() and peer.established)
        peer.ssl.write(bytes(16384))
        spin(reactor, lambda: peer.turn() and peer.ended)
        assert "CERTIFICATE_REQUIRED" in peer.ended
    assert "did not return a certificate" in str(told[0])


def test_client_certificate(reactor, certificates):
    server = certificates.server(client_ca=certificates.file("ca.pem"))
    client = certificates.client(cert=certificates.file("client.pem"), key=certificates.file("client.key"))
    with established(reactor, Recorder(), (server, client, True)) as (connection, _):
        assert ("email", "client@example.org") in connection.get_extra_info("peercert")["subjectAltName"]


def test_application_protocol_is_agreed_on(reactor, certificates):
    server, client = certificates.server(alpn=["two", "one"]), certificates.client(alpn=["one", "two"])
    with established(reactor, Recorder(), (server, client, True)) as (connection, peer):
        assert connection.get_extra_info("alpn_protocol") == "two"
        assert peer.ssl.selected_alpn_protocol() == "two"


def test_other_names_have_other_certificates(reactor, certificates):
    other = certificates.server()
    other.load_cert_chain(certificates.file("other.pem"), certificates.file("other.key"))
    server = certificates.server(names={"Other.Example": other})
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=server)
    for name, expected in (("localhost", "localhost"), ("other.example", "other.example")):
        recorder = Recorder()
        reactor.connect(
            listener.addresses[0], lambda r=recorder: r, tls=certificates.client(), server_hostname=name
        )
        spin(reactor, lambda r=recorder: r.calls)
        names = recorder.connection.get_extra_info("peercert")["subjectAltName"]
        assert ("DNS", expected) in names


def test_handshake_has_a_deadline_that_bytes_do_not_put_off(certificates, errors):
    clock = ManualClock()
    told = []
    with Reactor(clock=clock, on_error=errors) as reactor:
        timeouts = Timeouts(handshake=8, idle=2)
        listener = reactor.listen(
            "127.0.0.1:0", Recorder, tls=certificates.server(), timeouts=timeouts, on_tls_error=told.append
        )
        address = listener.addresses[0]
        with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
            hello = Peer(client, certificates.client(), server_hostname="localhost")
            hello.go_on()
            data = hello.outgoing.read()
            for at in range(15):
                client.setblocking(True)
                client.send(data[at : at + 1])
                clock.advance(0.5)
                reactor.run_once(0.01)
                assert told == []
            clock.advance(1.1)
            spin(reactor, lambda: told)
        assert isinstance(told[0], TLSHandshakeTimeout)
        assert "not done within 8 s" in str(told[0])


def test_newcomers_in_their_handshake_count_under_the_limits(reactor, certificates):
    listener = reactor.listen(
        "127.0.0.1:0",
        Recorder,
        tls=certificates.server(),
        limits=Limits(max_connections=2, when_full="refuse"),
    )
    address = listener.addresses[0]
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection((address.host, address.port)))
        spin(reactor, lambda: reactor.stats().refused)
        assert listener.connections == 2
        assert reactor.stats().refused == {"max_connections": 1}


def test_factory_that_raises_is_reported_and_ends_the_connection(reactor, certificates, errors):
    def factory():
        raise LookupError("no protocol")

    listener = reactor.listen("127.0.0.1:0", factory, tls=certificates.server())
    recorder = Recorder()
    reactor.connect(listener.addresses[0], lambda: recorder, tls=certificates.client())
    spin(reactor, lambda: recorder.lost)
    exc, callback, _ = errors.take()
    assert isinstance(exc, LookupError)
    assert callback == f"the protocol factory of {listener}"
    assert isinstance(recorder.reason, ConnectionResetError)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("callback", ["connection_made", "data_received", "eof_received"])
def test_exception_in_a_callback_resets_the_connection(reactor, certificates, errors, callback, version):
    problem = RuntimeError("mine")

    def raise_it(*args):
        raise problem

    half, client = Recorder(), Recorder()
    setattr(half, callback, raise_it)
    context = certificates.client()
    context.maximum_version = version
    listener = reactor.listen("127.0.0.1:0", lambda: half, tls=certificates.server())
    reactor.connect(listener.addresses[0], lambda: client, tls=context)
    spin(reactor, lambda: client.calls)
    if callback == "data_received":
        client.connection.write(b"x")
    elif callback == "eof_received":
        client.connection.close()
    spin(reactor, lambda: client.lost and half.lost)
    assert half.reason is problem
    assert errors.take()[0] is problem
    if callback != "eof_received":
        assert isinstance(client.reason, ConnectionResetError)


def test_close_and_drain_end_handshakes(certificates, descriptors):
    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
        address = listener.addresses[0]
        with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
            spin(reactor, reactor.connections)
            reports = []
            reactor.drain(0.05, reports.append)
            spin(reactor, lambda: reports)
            assert reports[0].aborted == 1
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


# Connecting


def test_certificate_of_another_is_refused(reactor, certificates):
    listener = reactor.listen(
        "127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=lambda exc: None
    )
    failures = []
    reactor.connect(
        listener.addresses[0],
        Recorder,
        tls=certificates.client(),
        server_hostname="somebody.else",
        on_failure=failures.append,
    )
    spin(reactor, lambda: failures)
    assert isinstance(failures[0], ConnectError)
    assert "the peer's certificate is not accepted: Hostname mismatch" in str(failures[0])
    ((_, problem),) = failures[0].attempts
    assert isinstance(problem, TLSHandshakeError)


def test_timeout_of_connecting_covers_the_handshake(certificates, errors):
    clock = ManualClock()
    failures = []
    with Reactor(clock=clock, on_error=errors) as reactor, socket.create_server(("127.0.0.1", 0)) as silent:
        connector = reactor.connect(
            silent.getsockname(),
            Recorder,
            tls=certificates.client(),
            timeouts=Timeouts(connect=3, handshake=60),
            on_failure=failures.append,
        )
        spin(reactor, reactor.connections)
        clock.advance(3.1)
        spin(reactor, lambda: failures)
        assert isinstance(failures[0], ConnectTimeout)
        assert connector.is_done()


def test_cancelled_in_the_handshake(reactor, certificates, descriptors):
    failures = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connector = reactor.connect(
            silent.getsockname(), Recorder, tls=certificates.client(), on_failure=failures.append
        )
        spin(reactor, reactor.connections)
        connector.cancel()
        spin(reactor, lambda: not reactor.connections())
        reactor.run_once(0)
    assert connector.is_done()
    assert failures == []


def test_host_name_to_expect_must_be_known(reactor, certificates):
    with pytest.raises(UsageError, match="needs server_hostname"):
        reactor.connect("unix:/tmp/nowhere", Recorder, tls=certificates.client())


def test_context_that_does_not_fit_is_refused_at_once(reactor, certificates, descriptors):
    server, client = certificates.server(), certificates.client()
    with pytest.raises(UsageError, match="one for the client's side"):
        reactor.listen("127.0.0.1:0", Recorder, tls=client)
    with pytest.raises(UsageError, match="one for the server's side"):
        reactor.connect("127.0.0.1:1", Recorder, tls=server)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UsageError, match="give server_hostname"):
        reactor.adopt(ours, Recorder, tls=client)


def test_adopted_socket_whose_handshake_fails_is_reported(reactor, certificates, errors):
    ours, theirs = socket.socketpair()
    recorder = Recorder()
    reactor.adopt(ours, lambda: recorder, tls=certificates.server(), server_side=True)
    with theirs:
        theirs.sendall(b"hello\r\n")
        spin(reactor, lambda: errors.seen)
        exc, callback, _ = errors.take()
        assert isinstance(exc, TLSHandshakeError)
        assert callback == "a TLS handshake"
        assert recorder.calls == []


def test_given_up_handshake_is_nobody_s_error(certificates, errors):
    ours, theirs = socket.socketpair()
    with theirs, Reactor(on_error=errors) as reactor:
        reactor.adopt(ours, Recorder, tls=certificates.server(), server_side=True)
    assert errors.seen == []


def test_idle_time_begins_after_the_handshake(certificates, errors):
    clock = ManualClock()
    protocol = Recorder()
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        secured(
            reactor, protocol, certificates.client(), certificates.server(), timeouts=Timeouts(idle=5)
        ) as (_, peer),
    ):
        clock.advance(9)
        spin(reactor, lambda: peer.turn() and peer.established and protocol.calls)
        clock.advance(4.9)
        reactor.run_once(0)
        assert not protocol.lost
        clock.advance(1)
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, IdleTimeout)


class Greeter(Recorder):
    """Says hello, so that the peer has a session when it has heard that."""

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(b"hello")


def test_session_is_resumed(reactor, certificates):
    listener = reactor.listen("127.0.0.1:0", Greeter, tls=certificates.server())
    context = certificates.client()
    session = None
    for resumed in (False, True, True):
        recorder = Recorder()
        reactor.connect(listener.addresses[0], lambda r=recorder: r, tls=context, tls_session=session)
        spin(reactor, lambda r=recorder: r.calls and r.received == b"hello")
        made = recorder.connection.get_extra_info("ssl_object")
        assert made.session_reused is resumed
        session = made.session
        recorder.connection.close()
        spin(reactor, lambda r=recorder: r.lost)


def test_peer_that_negotiates_anew(reactor, certificates):
    """TLS 1.2 and openssl's server, which is told to by a line with an r: what is sent meanwhile waits."""
    own = ["-cert", certificates.file("server.pem"), "-key", certificates.file("server.key")]
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-tls1_2", "-state", *own]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes, stderr=subprocess.STDOUT) as served:
        told = bytearray()

        def has_told(what, times=1):
            told.extend(served.stdout.read() or b"")
            return told.count(what) >= times

        def types(line):
            served.stdin.write(line)
            served.stdin.flush()

        port = accepting(served).rpartition(":")[2]
        os.set_blocking(served.stdout.fileno(), False)
        context = certificates.client()
        context.options &= ~ssl.OP_NO_RENEGOTIATION
        recorder = Recorder()
        reactor.connect(f"localhost:{port}", lambda: recorder, tls=context)
        spin(reactor, lambda: recorder.calls)
        types(b"r\n")
        for number in range(5):
            recorder.connection.write(b"line %d\n" % number)
        spin(reactor, lambda: has_told(b"line 4") and has_told(b"write server hello", 2))
        assert [line for line in bytes(told).splitlines() if line.startswith(b"line")] == [
            b"line %d" % number for number in range(5)
        ]
        types(b"and back\n")
        spin(reactor, lambda: recorder.received == b"and back\n")
        served.kill()
        spin(reactor, lambda: recorder.lost)


def test_coroutine_is_served_over_tls(reactor, certificates):
    async def upper(stream):
        async for line in stream.lines():
            await stream.send(line.upper() + b"\n")

    listener = reactor.listen("127.0.0.1:0", handler(upper), tls=certificates.server())
    recorder = Recorder()
    reactor.connect(listener.addresses[0], lambda: recorder, tls=certificates.client())
    spin(reactor, lambda: recorder.calls)
    recorder.connection.write(b"one\ntwo\n")
    spin(reactor, lambda: recorder.received == b"ONE\nTWO\n")
    recorder.connection.close()
    spin(reactor, lambda: recorder.lost and listener.connections == 0)


def test_pool_never_writes_around_tls(reactor, certificates, errors):
    def blocking(connection):
        connection.sendall(b"in clear")

    with Pool(blocking, workers=1) as pool:
        listener = reactor.listen("127.0.0.1:0", partial(pool), tls=certificates.server())
        recorder = Recorder()
        reactor.connect(listener.addresses[0], lambda: recorder, tls=certificates.client())
        spin(reactor, lambda: recorder.lost)
        assert recorder.received == b""
        exc, _, _ = errors.take()
        assert isinstance(exc, UsageError)
        assert "over TLS the Pool itself must be the factory" in str(exc)


def test_reconnect_after_a_handshake_that_failed(reactor, certificates):
    told = []
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=told.append)
    failures = []
    connector = reactor.connect(
        listener.addresses[0],
        Recorder,
        tls=certificates.client(),
        server_hostname="somebody.else",
        on_failure=failures.append,
        reconnect=Reconnect(first=0.001, most=0.002, attempts=3),
    )
    spin(reactor, connector.is_done)
    spin(reactor, lambda: len(told) == 3)
    assert len(failures) == 3


def anonymous_memory():
    gc.collect()
    told = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +(\d+)", told, re.MULTILINE)[1]) * 1024


@pytest.mark.slow
def test_thousands_of_bad_handshakes_leave_nothing_behind(certificates, descriptors, caplog):
    hello = Peer(socket.socket(), certificates.client(), server_hostname="localhost")
    hello.go_on()
    hello.sock.close()
    good = hello.outgoing.read()
    numbers = random.Random(5)

    def bad():
        kind = numbers.randrange(4)
        if kind == 0:
            return numbers.randbytes(numbers.randrange(1, 2000))
        if kind == 1:
            return good[: numbers.randrange(1, len(good))]
        at = numbers.randrange(len(good))
        return good[:at] + numbers.randbytes(20) + good[at + 20 :]

    with caplog.at_level("INFO"), Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
        address = listener.addresses[0]

        def visit(times):
            for first in range(0, times, 50):
                with contextlib.ExitStack() as stack:
                    for _ in range(first, first + 50):
                        client = socket.create_connection((address.host, address.port), timeout=DEADLINE)
                        stack.enter_context(client).sendall(bad())
                    reactor.run_once(0)
                spin(reactor, lambda: listener.connections == 0)

        visit(1000)
        before, lines = anonymous_memory(), len(caplog.records)
        visit(3000)
        assert anonymous_memory() - before < 3_000_000, "a thousand bytes for each"
        assert len(caplog.records) - lines < 300, "a line for each"
        assert reactor.stats().closed == {"TLSHandshakeError": 4000}


# Upgrades in mid-stream


class Upgrading(Recorder):
    """Upgrades when it is told to; what comes after the word in the same piece is the handshake's."""

    def __init__(self, context, **options):
        super().__init__()
        self.context = context
        self.options = options

    def data_received(self, data):
        super().data_received(data)
        if data.startswith(b"STARTTLS\r\n"):
            self.connection.write(b"ready\r\n")
            self.connection.start_tls(self.context, early=data[10:], **self.options)
            self.connection.write(b"first over TLS")

    def handshake_completed(self):
        self.calls.append(("handshake_completed", ()))


@contextlib.contextmanager
def upgrading(reactor, protocol, peer_context):
    ours, theirs = socket.socketpair()
    reactor.adopt(ours, lambda: protocol)
    with theirs:
        yield Peer(theirs, peer_context, server_hostname="localhost")


def read_clear(reactor, peer, size):
    got = b""
    while len(got) < size:
        reactor.run_once(0.01)
        with contextlib.suppress(BlockingIOError):
            got += peer.sock.recv(size - len(got))
    return got


@pytest.mark.parametrize("early", [0, 1, 100, 10_000])
def test_upgrade_of_a_server(reactor, certificates, early):
    """What was written in clear leaves in clear; the ClientHello may come with the word that asks for it."""
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.go_on()
        hello = peer.outgoing.read()
        peer.sock.sendall(b"STARTTLS\r\n" + hello[:early])
        assert read_clear(reactor, peer, 7) == b"ready\r\n"
        peer.unsent += hello[early:]
        spin(reactor, lambda: peer.turn() and peer.received == b"first over TLS")
        assert "handshake_completed" in protocol.names
        assert protocol.names.count("connection_made") == 1
        peer.ssl.write(b"secret")
        spin(reactor, lambda: peer.turn() and protocol.received.endswith(b"secret"))


def test_upgrade_of_a_client(reactor, certificates):
    protocol = Upgrading(certificates.client(), server_hostname="localhost")
    ours, theirs = socket.socketpair()
    connection = reactor.adopt(ours, lambda: protocol)
    with theirs:
        peer = Peer(theirs, certificates.server(), server_side=True)
        connection.write(BIG)  # leaves before the ClientHello
        peer.sock.sendall(b"STARTTLS\r\n")
        assert read_clear(reactor, peer, len(BIG)) == BIG
        assert read_clear(reactor, peer, 7) == b"ready\r\n"
        spin(reactor, lambda: peer.turn() and peer.received == b"first over TLS")


def test_clear_text_after_the_upgrade_is_no_handshake(reactor, certificates):
    """The class of CVE-2011-0411: a command that somebody put behind the one that asks for TLS."""
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.sock.sendall(b"STARTTLS\r\nMAIL FROM:<eve@example.org>\r\n")
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, TLSHandshakeError)
        assert protocol.names.count("data_received") == 1


def test_upgrade_has_the_deadline_of_handshakes(certificates, errors):
    clock = ManualClock()
    protocol = Upgrading(certificates.server(), server_side=True)
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        upgrading(reactor, protocol, certificates.client()) as peer,
    ):
        peer.sock.sendall(b"STARTTLS\r\n")
        read_clear(reactor, peer, 7)
        clock.advance(9.9)
        reactor.run_once(0)
        assert not protocol.lost
        clock.advance(1)
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, TLSHandshakeTimeout)


def test_upgrade_where_it_cannot_be(reactor, side, tmp_path):
    ours, _, server_side = side
    hostname = None if server_side else "localhost"
    with (
        established(reactor, Recorder(), side) as (connection, _),
        pytest.raises(UsageError, match="in clear"),
    ):
        connection.start_tls(ours, server_side=server_side, server_hostname=hostname)
    path = tmp_path / "file"
    path.write_bytes(BIG)
    one, other = socket.socketpair()
    connection = reactor.adopt(one, Recorder)
    with other:
        connection.sendfile(path.open("rb"))
        with pytest.raises(UsageError, match="until the file is sent"):
            connection.start_tls(ours, server_side=server_side, server_hostname=hostname)
        connection.abort()
        reactor.run_once(0)


def test_closed_in_the_middle_of_an_upgrade(reactor, certificates):
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.sock.sendall(b"STARTTLS\r\n")
        read_clear(reactor, peer, 7)
        protocol.connection.abort()
        spin(reactor, lambda: protocol.lost)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("upgrade", [False, True])
@pytest.mark.parametrize("steps", range(8))
def test_close_in_a_handshake_is_no_truncation_for_a_peer_that_is_done(
    certificates, errors, side, version, upgrade, steps
):
    """Whoever is done with its side gets a close_notify; who is not, sees the handshake fail."""
    ours, theirs, server_side = side
    for context in (ours, theirs):
        context.maximum_version = version
    protocol = Recorder()
    begin = partial(upgraded, b"ready") if upgrade else secured
    with (
        Reactor(on_error=errors) as reactor,
        begin(reactor, protocol, theirs, ours, server_side=server_side, wrap=lambda sock: sock) as made,
    ):
        connection, peer = made
        turns = itertools.cycle([peer.put, partial(reactor.run_once, 0), peer.take])
        for turn in itertools.islice(turns, 2 + steps):  # the peer's first bytes are there
            turn()
        for turn in itertools.islice(turns, 9):
            if not connection.is_closing():
                connection.close()
            turn()
        spin(reactor, lambda: peer.turn() and peer.ended and connection.get_protocol() is None)
        if peer.established:
            assert peer.ended == "close_notify"
        if upgrade:
            assert protocol.reason is None
            assert peer.in_clear == b"ready"
    assert errors.seen == []


def test_half_done_handshake_is_waited_for_as_long_as_close_says(certificates, errors):
    clock = ManualClock()
    protocol = Recorder()
    ours, theirs = certificates.server(), certificates.client()
    with (
        Reactor(clock=clock, on_error=errors) as reactor,
        upgraded(b"", reactor, protocol, theirs, ours, server_side=True, wrap=lambda sock: sock) as made,
    ):
        connection, peer = made
        spin(reactor, lambda: peer.take() or peer.established or peer.put())  # and does not say so
        connection.close(timeout=3)
        clock.advance(2.9)
        reactor.run_once(0)
        assert not protocol.lost
        clock.advance(1)
        spin(reactor, lambda: protocol.lost)
        assert isinstance(protocol.reason, CloseTimeout)
        assert str(protocol.reason) == "the TLS handshake was not done in the 3 s that close gave it"


def test_nothing_is_called_but_connection_lost_after_close_in_a_handshake(reactor, certificates):
    protocol = Upgrading(certificates.server(), server_side=True)
    with upgrading(reactor, protocol, certificates.client()) as peer:
        peer.sock.sendall(b"STARTTLS\r\n")
        read_clear(reactor, peer, 7)
        protocol.connection.close()
        spin(reactor, lambda: peer.turn() and protocol.lost)
        assert protocol.names == ["connection_made", "data_received", "connection_lost"]
        assert peer.received == b"first over TLS"
        assert peer.ended == "close_notify"


def test_close_waits_for_what_is_in_clear_and_not_for_a_handshake_that_never_begins(reactor, certificates):
    protocol = Recorder()
    ours, theirs = certificates.server(), certificates.client()
    with upgraded(BIG, reactor, protocol, theirs, ours, server_side=True, wrap=lambda sock: sock) as made:
        connection, peer = made
        connection.close()
        spin(reactor, lambda: peer.take() or peer.ended)
        assert peer.in_clear == BIG
        spin(reactor, lambda: protocol.lost)
        assert protocol.reason is None


# Any cut of the bytes

CUTS = st.lists(st.integers(1, 5000), max_size=60)


@pytest.mark.slow
@given(
    server_side=st.booleans(),
    version=st.sampled_from(VERSIONS),
    to_us=CUTS,
    from_us=CUTS,
    sends=st.lists(st.one_of(st.none(), st.integers(1, 3000), st.just(BlockingIOError())), max_size=20),
    ours=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4),
    theirs=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4),
    buffered=st.booleans(),
    upgrade=st.none() | st.binary(max_size=20_000),
    who_closes=st.sampled_from(["we", "they", "reset"]),
)
def test_bytes_arrive_however_the_records_are_cut(
    certificates, server_side, version, to_us, from_us, sends, ours, theirs, buffered, upgrade, who_closes
):
    """upgrade: what is written in clear before TLS; None begins with TLS."""
    server, client = certificates.server(), certificates.client()
    client.maximum_version = version
    contexts = (server, client, True) if server_side else (client, server, False)
    protocol = Filler([7, 4000, 100]) if buffered else Recorder()

    def wrap(sock):
        return ScriptedSocket(sock, send=list(sends))

    errors = Errors()
    begin = secured if upgrade is None else partial(upgraded, upgrade)
    with (
        Reactor(selector=default_selector(), on_error=errors) as reactor,
        begin(reactor, protocol, contexts[1], contexts[0], server_side=server_side, wrap=wrap) as made,
    ):
        connection, peer = made
        cuts_in, cuts_out = iter(to_us), iter(from_us)

        def turn():
            peer.put(next(cuts_in, 1 << 20))
            reactor.run_once(0)
            peer.take(next(cuts_out, 1 << 20))
            return True

        spin(reactor, lambda: turn() and peer.established and protocol.calls, deadline=5)
        for data in theirs:
            left = memoryview(data)
            while left:
                left = left[peer.ssl.write(left) :]
        for data in ours:
            connection.write(data)
        if who_closes == "we":
            spin(reactor, lambda: turn() and len(protocol.received) == sum(map(len, theirs)), deadline=5)
            connection.close()
        elif who_closes == "they":
            spin(reactor, lambda: turn() and len(peer.received) == sum(map(len, ours)), deadline=5)
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.ssl.unwrap()
        else:
            turn()
            peer.sock.close()
            spin(reactor, lambda: protocol.lost, deadline=5)
        assert peer.in_clear == (upgrade or b"")
        if who_closes == "reset":
            assert b"".join(theirs).startswith(protocol.received)
            assert isinstance(protocol.reason, OSError)
        else:
            spin(reactor, lambda: turn() and protocol.lost and peer.ended, deadline=5)
            assert peer.received == b"".join(ours)
            assert protocol.received == b"".join(theirs)
            assert protocol.reason is None
            assert peer.ended == "close_notify"
    assert errors.seen == []


@contextlib.contextmanager
def upgraded(clear, reactor, protocol, peer_context, context, *, server_side, wrap):
    """As `secured`, of a connection that has written `clear` before."""
    ours, theirs = socket.socketpair()
    hostname = {"server_hostname": "localhost"}
    connection = reactor.adopt(wrap(ours), lambda: protocol)
    connection.write(clear)
    connection.start_tls(context, server_side=server_side, **({} if server_side else hostname))
    with theirs:
        peer = Peer(theirs, peer_context, server_side=not server_side, **(hostname if server_side else {}))
        peer.clear_left = len(clear)
        yield connection, peer


@given(
    at=st.integers(0, 5000),
    instead=st.binary(max_size=300),
    server_side=st.booleans(),
)
def test_any_garbage_in_any_place_ends_the_connection_and_nothing_else(
    certificates, at, instead, server_side
):
    """The peer's bytes are cut at one place, others put there, and the connection closed."""
    contexts = (certificates.server(), certificates.client(), True)
    contexts = contexts if server_side else (contexts[1], contexts[0], False)
    protocol = Recorder()
    errors = Errors()
    with (
        Reactor(selector=default_selector(), on_error=errors) as reactor,
        secured(reactor, protocol, contexts[1], contexts[0], server_side=server_side) as (_, peer),
    ):
        sent = 0
        for _ in range(60):
            peer.take()
            if peer.established and not peer.unsent and sent < at:
                peer.ssl.write(bytes(100))
            peer.unsent += peer.outgoing.read()
            sent += len(peer.unsent)
            if sent >= at:
                peer.unsent = peer.unsent[: max(0, len(peer.unsent) - sent + at)] + instead
                break
            peer.put()
            reactor.run_once(0)
        peer.put()
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: peer.take() or not reactor.connections(), deadline=5)
        reactor.run_once(0)
        assert not protocol.received.strip(b"\0")
        if protocol.calls:
            assert isinstance(protocol.reason, TLSError)
        for exc, _, _ in errors.seen:
            assert isinstance(exc, TLSError)


# Ends


def test_close_sends_close_notify_after_all_that_was_written(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (connection, peer):
        connection.write(BIG)
        connection.close()
        spin(reactor, lambda: peer.turn() and peer.ended)
        assert peer.ended == "close_notify"
        assert peer.received == BIG
        spin(reactor, lambda: protocol.lost)
        assert protocol.reason is None


def test_close_notify_of_the_peer_is_the_end_of_file(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (_connection, peer):
        peer.ssl.write(b"the last")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        peer.put()
        spin(reactor, lambda: peer.turn() and protocol.lost)
        assert protocol.received == b"the last"
        assert protocol.names == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.reason is None
        spin(reactor, lambda: peer.turn() and peer.ended)


def test_end_without_close_notify_is_told_apart(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (_connection, peer):
        peer.ssl.write(b"maybe not the last")
        peer.put()
        peer.sock.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: protocol.lost)
        assert protocol.received == b"maybe not the last"
        assert isinstance(protocol.reason, TLSTruncated)
        assert "eof_received" not in protocol.names


def test_direction_ends_alone_in_tls_1_3(reactor, side):
    protocol = Recorder()
    protocol.keep_open = True
    with established(reactor, protocol, side) as (connection, peer):
        assert connection.can_write_eof()
        connection.write(b"all of it")
        connection.write_eof()
        spin(reactor, lambda: peer.turn() and peer.ended == "close_notify")
        assert peer.received == b"all of it"
        peer.ssl.write(b"and more from here")
        peer.put()
        spin(reactor, lambda: protocol.received == b"and more from here")
        assert not protocol.lost
        with contextlib.suppress(ssl.SSLError):
            peer.ssl.unwrap()
        peer.put()
        spin(reactor, lambda: protocol.lost)
        assert protocol.reason is None


def test_no_direction_ends_alone_before(reactor, certificates):
    client = certificates.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with established(reactor, Recorder(), (certificates.server(), client, True)) as (connection, _):
        assert not connection.can_write_eof()
        with pytest.raises(UsageError, match="can't end one direction alone"):
            connection.write_eof()


def test_forged_record_ends_the_connection_with_an_alert(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (_, peer):
        peer.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        spin(reactor, lambda: peer.turn() and protocol.lost)
        assert isinstance(protocol.reason, TLSError)
        assert "bad" in str(protocol.reason) or "decryption" in str(protocol.reason)
        spin(reactor, lambda: peer.turn() and peer.ended)
        assert "ALERT" in peer.ended


def test_abort_says_nothing(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (connection, peer):
        connection.abort()
        spin(reactor, lambda: peer.turn() and peer.ended)
        assert peer.ended in {"eof", "reset"}  # a pair of Unix sockets knows no reset


def test_new_certificate_for_new_connections(reactor, certificates):
    listener = reactor.listen("127.0.0.1:0", Echo, tls=certificates.server())
    old, new = Recorder(), Recorder()
    reactor.connect(listener.addresses[0], lambda: old, tls=certificates.client())
    spin(reactor, lambda: old.calls)
    other = certificates.server()
    other.load_cert_chain(certificates.file("other.pem"), certificates.file("other.key"))
    listener.replace_tls(other)
    reactor.connect(
        listener.addresses[0], lambda: new, tls=certificates.client(), server_hostname="other.example"
    )
    spin(reactor, lambda: new.calls)
    old.connection.write(b"still here")
    spin(reactor, lambda: old.received == b"still here")


def test_file_over_tls(reactor, side, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)
    with established(reactor, Recorder(), side) as (connection, peer):
        connection.write(b"before")
        connection.sendfile(path.open("rb"))
        connection.write(b"after")
        spin(reactor, lambda: peer.turn() and len(peer.received) == len(BIG) + 11)
        assert peer.received == b"before" + BIG + b"after"


def test_reading_that_was_paused_goes_on_with_what_is_decrypted_already(reactor, side):
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.connection.pause_reading()

    protocol = Pausing()
    with established(reactor, protocol, side) as (connection, peer):
        peer.ssl.write(b"one")
        peer.put()
        spin(reactor, lambda: protocol.received)
        peer.ssl.write(b"two")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        peer.put()
        for _ in range(3):
            reactor.run_once(0)
        assert protocol.received == b"one"
        connection.resume_reading()
        spin(reactor, lambda: protocol.received == b"onetwo")
        connection.resume_reading()
        spin(reactor, lambda: protocol.lost)
