"""Blocking handlers over TLS: real clients, the handshake, and how deadlines free workers."""

import contextlib
import os
import select
import selectors
import shutil
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from reactor import (
    ConnectError,
    Limits,
    Reactor,
    Reconnect,
    Timeouts,
    UsageError,
    WriteTimeout,
)
from reactor.connection.connection import activity
from reactor.errors import TLSError, TLSHandshakeError, TLSHandshakeTimeout, TLSTruncated
from reactor.loop.selector import default_selector
from reactor.pool import BlockingSocket, BlockingTLSSocket, Pool
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import DEADLINE, Echo, connect, spin
from tests.pools import (
    BIG,
    BLOCKING_CALLS,
    assert_byte_is_activity,
    blocked_in,
    blocking_call,
    echo,
    hears,
    serve,
)
from tests.tls_peers import VERSIONS

__all__ = ["serve"]


@pytest.fixture
def reactor_selector():
    """One selector is enough: the differences between selectors are tested in clear."""
    return default_selector()


def run(reactor, use, *args):
    """Return `use(*args)`, called on another thread while the reactor is driven on this one."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(use, *args)
        spin(reactor, done.done, wait=0.005)
        return done.result(0)


def secured(address, context, **options):
    """Return a client that completed its handshake; a truncation raises in it."""
    options.setdefault("server_hostname", "localhost")
    sock = socket.create_connection((address.host, address.port), timeout=DEADLINE)
    return context.wrap_socket(sock, suppress_ragged_eofs=False, **options)


def read_all(client):
    return b"".join(iter(lambda: client.recv(65536), b""))


def exchange(address, context, data=b"Hello\n", **options):
    """Return the answer to `data` until close_notify."""
    with secured(address, context, **options) as client:
        client.sendall(data)
        got = client.recv(65536)
        while len(got) < len(data):
            got += client.recv(65536)
        client.unwrap()
        return got


@pytest.mark.parametrize("version", VERSIONS)
def test_handler_has_an_ssl_socket(descriptors, reactor, serve, certificates, version):
    seen = []

    def handler(connection):
        seen.append(connection)
        seen.append((connection.version(), connection.gettimeout(), connection.server_side))
        echo(connection)

    address = serve(handler, tls=certificates.server(min_version=ssl.TLSVersion.TLSv1_2))
    context = certificates.client()
    context.minimum_version = context.maximum_version = version
    assert run(reactor, exchange, address, context) == b"Hello\n"
    spin(reactor, lambda: not reactor.connections() and not reactor.stats().lingering)
    assert isinstance(seen[0], ssl.SSLSocket)
    assert isinstance(seen[0], BlockingTLSSocket)
    assert isinstance(seen[0], BlockingSocket)
    assert seen[1] == (version.name.replace("_", "."), None, True)
    assert reactor.stats().closed == {"clean": 1}
    seen.clear()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client_is_served(reactor, serve, certificates, version):
    assert shutil.which("openssl"), "openssl is missing: install the package openssl"

    def handler(connection):
        with connection, connection.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()
                if line == b"end\n":
                    return

    address = serve(handler, tls=certificates.server())
    words = ["openssl", "s_client", "-connect", str(address), "-servername", "localhost", "-quiet", version]
    words += ["-CAfile", certificates.file("ca.pem"), "-verify_return_error"]

    def talk():
        return subprocess.run(words, input=b"one\nend\n", capture_output=True, timeout=DEADLINE)

    done = run(reactor, talk)
    assert (done.returncode, done.stdout) == (0, b"ONE\nEND\n"), done.stderr
    assert b"unexpected eof" not in done.stderr  # there was a close_notify
    spin(reactor, lambda: not reactor.connections())
    assert reactor.stats().closed == {"clean": 1}


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: None,
        lambda connection: connection.close(),
        lambda connection: connection.makefile("rb").close(),
        lambda connection: connection.shutdown(socket.SHUT_WR),
    ],
    ids=["return", "close", "makefile", "shutdown"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_close_notify_follows_all_sent_bytes(reactor, serve, certificates, version, end):
    def handler(connection):
        connection.sendall(BIG)
        end(connection)

    address = serve(handler, tls=certificates.server())
    context = certificates.client()
    context.minimum_version = context.maximum_version = version

    def receive():
        with secured(address, context) as client:
            client.sendall(b"never read")
            return read_all(client)  # and no SSLEOFError

    assert run(reactor, receive) == BIG
    spin(reactor, lambda: reactor.stats().closed)
    assert reactor.stats().closed == {"clean": 1}


def test_handler_that_raises_sends_no_close_notify(reactor, serve, certificates, errors):
    def broken(connection):
        with connection:
            connection.sendall(b"a part")
            raise LookupError("mine")

    address = serve(broken, tls=certificates.server())

    def receive():
        with secured(address, certificates.client()) as client:
            assert client.recv(10) == b"a part"
            client.recv(1)

    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        run(reactor, receive)
    exc, name, _ = errors.take()
    assert str(exc) == "mine"
    assert name.endswith("broken")


def test_socket_closed_by_the_handler_raises(reactor, serve, certificates):
    raised = []

    def handler(connection):
        connection.close()
        for call in (lambda: connection.recv(1), lambda: connection.sendall(b"x"), connection.unwrap):
            with pytest.raises(OSError) as failure:
                call()
            raised.append(failure.value.strerror)

    address = serve(handler, tls=certificates.server())

    def receive():
        with secured(address, certificates.client()) as client:
            return read_all(client)

    assert run(reactor, receive) == b""
    assert raised == ["Bad file descriptor"] * 3


def test_calls_after_shutdown_raise(reactor, serve, certificates):
    raised = []

    def handler(connection):
        select.select([connection], [], [], DEADLINE)  # bytes received after SHUT_RDWR reset the connection
        connection.shutdown(socket.SHUT_RD)
        connection.sendall(b"answer")
        connection.shutdown(socket.SHUT_WR)
        for call in (lambda: connection.recv(1), lambda: connection.sendall(b"in clear?")):
            with pytest.raises(UsageError, match="shutdown has ended TLS") as failure:
                call()
            raised.append(failure.value)

    address = serve(handler, tls=certificates.server())

    def receive():
        with secured(address, certificates.client()) as client:
            client.sendall(b"never read")
            return read_all(client)

    assert run(reactor, receive) == b"answer"
    spin(reactor, lambda: reactor.stats().closed)
    assert len(raised) == 2
    assert reactor.stats().closed == {"clean": 1}


def test_unwrap_continues_in_clear(reactor, serve, certificates):
    def handler(connection):
        assert connection.recv(10) == b"secret"
        plain = connection.unwrap()
        assert plain.recv(10) == b"clear"
        plain.sendall(b"too")

    address = serve(handler, tls=certificates.server())

    def talk():
        with secured(address, certificates.client()) as client:
            client.sendall(b"secret")
            with client.unwrap() as plain:
                plain.sendall(b"clear")
                return read_all(plain)

    assert run(reactor, talk) == b"too"
    spin(reactor, lambda: reactor.stats().closed)
    assert reactor.stats().closed == {"clean": 1}


def test_every_method_receives_and_sends(reactor, serve, certificates):
    heard = []

    def handler(connection):
        heard.append(connection.recv(3))
        buffer = bytearray(5)
        heard.append(bytes(buffer[: connection.recv_into(buffer)]))
        heard.append(bytes(buffer[: connection.recv_into(memoryview(buffer), 2)]))
        heard.append(connection.read(4))
        heard.append(connection.pending())
        connection.send(b"send ")
        connection.write(b"write ")
        connection.sendall(bytearray(b"sendall "))
        with open(os.devnull, "rb") as file:
            connection.sendfile(file)
        with connection.makefile("w") as file:
            file.write("makefile")

    address = serve(handler, tls=certificates.server())

    def talk():
        with secured(address, certificates.client()) as client:
            client.sendall(b"onetwo..threefour.")
            return read_all(client)

    assert run(reactor, talk) == b"send write sendall makefile"
    assert heard == [b"one", b"two..", b"th", b"reef", 4]


def test_ssl_socket_methods_return_certificate_protocol_and_name(reactor, serve, certificates):
    seen = []
    other = certificates.server(client_ca=certificates.file("ca.pem"), alpn=["two", "one"])
    context = certificates.server(
        client_ca=certificates.file("ca.pem"), alpn=["two", "one"], names={"example.org": other}
    )

    def handler(connection):
        names = connection.getpeercert()["subjectAltName"]
        seen.append((names, connection.selected_alpn_protocol(), connection.context is other))
        seen.append(connection.cipher()[0] == connection.shared_ciphers()[0][0] or connection.cipher()[0])
        echo(connection)

    address = serve(handler, tls=context)
    own = certificates.client(
        cert=certificates.file("client.pem"), key=certificates.file("client.key"), alpn=["one"]
    )
    for name in ("localhost", "example.org"):
        assert run(reactor, lambda name=name: exchange(address, own, server_hostname=name)) == b"Hello\n"
    names = (("email", "client@example.org"),)
    assert seen[::2] == [(names, "one", False), (names, "one", True)]


def test_client_without_a_certificate_is_reported_and_not_served(reactor, serve, certificates, errors):
    failures, served = [], []
    context = certificates.server(client_ca=certificates.file("ca.pem"))
    address = serve(served.append, tls=context, on_tls_error=failures.append)

    def refused():
        with secured(address, certificates.client()) as client:
            client.recv(1)

    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        run(reactor, refused)
    spin(reactor, lambda: failures and not reactor.connections())
    assert type(failures[0]) is TLSHandshakeError
    assert "peer did not return a certificate" in str(failures[0])
    assert "no TLS with 127.0.0.1:" in str(failures[0])
    assert reactor.stats().closed == {"TLSHandshakeError": 1}
    assert (served, errors.seen) == ([], [])


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "the peer speaks HTTP without TLS"),
        (b"\0" * 100, "what the peer sends is not TLS"),
        (b"", "the peer ended the connection in the middle of it"),
        (b"\x16\x03\x01", "the peer ended the connection in the middle of it"),
    ],
    ids=["HTTP", "zeros", "nothing", "a beginning"],
)
def test_failed_handshake_is_reported_with_its_cause(descriptors, reactor, serve, certificates, words, cause):
    failures = []
    address = serve(echo, tls=certificates.server(), on_tls_error=failures.append)
    with connect(reactor, address) as client:
        client.sendall(words)
        client.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: failures and not reactor.connections() and not reactor.stats().lingering)
    assert cause in str(failures[0])


def test_reset_during_the_handshake_is_reported(descriptors, reactor, serve, certificates):
    failures = []
    address = serve(echo, tls=certificates.server(), on_tls_error=failures.append)
    with connect(reactor, address) as client:
        spin(reactor, reactor.connections)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    spin(reactor, lambda: failures)
    assert isinstance(failures[0].__cause__, ConnectionResetError)
    assert reactor.stats().closed == {"ECONNRESET": 1}


def test_silent_clients_occupy_no_worker_and_end_at_the_handshake_timeout(descriptors, certificates):
    failures, clock, errors = [], ManualClock(), Errors()
    timeouts = Timeouts(handshake=10, read=1, idle=1)  # which begin after the handshake
    with Reactor(clock=clock, on_error=errors) as reactor, Pool(echo, workers=1) as pool:
        listener = reactor.listen(
            "127.0.0.1:0", pool, tls=certificates.server(), timeouts=timeouts, on_tls_error=failures.append
        )
        address = listener.addresses[0]
        with connect(reactor, address), connect(reactor, address) as slow:
            spin(reactor, lambda: listener.connections == 2)
            assert run(reactor, exchange, address, certificates.client()) == b"Hello\n"
            spin(reactor, lambda: listener.connections == 2)
            slow.sendall(b"\x16\x03\x01")  # bytes don't extend it
            clock.advance(9)
            reactor.run_once(0)
            reactor.run_once(0)
            assert (len(reactor.connections()), failures) == (2, [])
            clock.advance(2)
            spin(reactor, lambda: len(failures) == 2 and not listener.connections)
        assert [type(exc) for exc in failures] == [TLSHandshakeTimeout] * 2
        assert "not done within 10 s" in str(failures[0])
        assert errors.seen == []


@pytest.mark.parametrize(
    ("timeouts", "blocks", "error"),
    [
        *BLOCKING_CALLS,
        blocking_call("SSLSocket.read", Timeouts(idle=0.05), lambda connection: connection.read()),
        blocking_call("unwrap", Timeouts(idle=0.05), lambda connection: connection.unwrap()),
        blocking_call(
            "idle in sendall",
            Timeouts(idle=0.05, write=None),
            lambda connection: connection.sendall(BIG * 4),
        ),
    ],
)
def test_deadline_frees_a_blocked_worker(reactor, serve, certificates, timeouts, blocks, error):
    raised = []
    handler = blocked_in(raised, blocks, blocks, lambda connection: connection.sendall(b"in clear?"))
    address = serve(handler, timeouts=timeouts, tls=certificates.server())
    gate = threading.Event()

    def stay():
        with secured(address, certificates.client()):
            assert gate.wait(DEADLINE)

    with ThreadPoolExecutor(1) as thread:
        staying = thread.submit(stay)
        spin(reactor, lambda: raised and not reactor.connections())
        gate.set()
        staying.result(DEADLINE)
    assert type(raised[0]) is error
    assert reactor.stats().closed == {error.__name__: 1}
    assert reactor.stats().handler_errors == 0


def test_send_after_a_write_timeout_is_refused(reactor, serve, certificates):
    """OpenSSL would send the rest of the pending record, and report it as the new one."""
    raised, late = [], threading.Event()

    def handler(connection):
        with pytest.raises(WriteTimeout):
            connection.sendall(BIG * 4)
        late.set()
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_WRITE)
            assert selector.select(DEADLINE)
        with pytest.raises(WriteTimeout) as failure:
            connection.send(bytes(16384))
        raised.append(failure.value)

    address = serve(handler, tls=certificates.server(), timeouts=Timeouts(write=0.05))

    def receive():
        with secured(address, certificates.client()) as client:
            assert late.wait(DEADLINE)
            with contextlib.suppress(ssl.SSLEOFError, ConnectionResetError):
                read_all(client)

    run(reactor, receive)
    spin(reactor, lambda: raised)


def test_idle_timeout_starts_after_the_handshake(certificates):
    clock, heard = ManualClock(), []
    with Reactor(clock=clock) as reactor, Pool(lambda connection: heard.append(connection.recv(1))) as pool:
        timeouts = Timeouts(idle=5, handshake=10)
        listener = reactor.listen("127.0.0.1:0", pool, tls=certificates.server(), timeouts=timeouts)
        with connect(reactor, listener.addresses[0]) as plain:
            spin(reactor, lambda: listener.connections)
            clock.advance(9)
            context = certificates.client()
            with run(reactor, lambda: context.wrap_socket(plain, server_hostname="localhost")) as client:
                (connection,) = reactor.connections()
                spin(reactor, lambda: activity(connection) == clock())
                clock.advance(4)
                reactor.run_once(0)
                reactor.run_once(0)
                assert listener.connections == 1
                client.sendall(b"x")
                spin(reactor, lambda: heard)
    assert heard == [b"x"]


def test_handshake_waits_until_the_socket_is_writable(descriptors, reactor, certificates):
    heard = []

    def handler(connection):
        connection.sendall(b"Hello")
        heard.append(connection.recv(100))

    def answer(theirs, filled):
        while filled:
            filled -= len(theirs.recv(filled))
        with certificates.server().wrap_socket(theirs, server_side=True) as peer:
            peer.sendall(peer.recv(100))

    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE)
    ours.setblocking(False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += ours.send(bytes(65536))
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += ours.send(bytes(1))
    with Pool(handler) as pool:
        reactor.adopt(ours, pool, tls=certificates.client(), server_hostname="localhost")
        reactor.run_once(0)
        run(reactor, answer, theirs, filled)
        spin(reactor, lambda: heard and not reactor.connections() and not reactor.stats().lingering)
        assert heard == [b"Hello"]
        assert pool.close(DEADLINE)


def test_bytes_restart_the_idle_timeout(reactor, serve, certificates):
    heard = []

    address = serve(hears(heard), timeouts=Timeouts(idle=10), tls=certificates.server())
    client = run(reactor, secured, address, certificates.client())
    with client:
        assert_byte_is_activity(reactor, client, heard)


@pytest.mark.parametrize("break_off", ["end", "garbage"])
def test_end_without_close_notify_is_a_truncation(reactor, serve, certificates, errors, break_off):
    raised = []

    def handler(connection):
        try:
            read_all(connection)
        except TLSError as exc:
            raised.append(exc)
            raise

    address = serve(handler, tls=certificates.server())

    def client():
        with secured(address, certificates.client()) as sock:
            sock.sendall(b"a part")
            with socket.socket(fileno=sock.detach()) as bare:
                if break_off == "garbage":
                    bare.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                bare.shutdown(socket.SHUT_WR)
                bare.settimeout(DEADLINE)
                with contextlib.suppress(
                    ConnectionResetError
                ):  # the handler's exception resets the connection
                    while bare.recv(65536):
                        pass  # unread input would make the close a reset

    run(reactor, client)
    spin(reactor, lambda: raised and reactor.stats().closed)
    kind = TLSTruncated if break_off == "end" else TLSError
    assert type(raised[0]) is kind
    assert reactor.stats().closed == {kind.__name__: 1}
    assert errors.seen == []


def test_settimeout_of_the_handler_applies(reactor, serve, certificates):
    seen = []

    def handler(connection):
        connection.settimeout(0.01)
        with pytest.raises(TimeoutError) as failure:
            connection.recv(1)
        seen.append(type(failure.value))
        connection.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            connection.recv(1)
        connection.settimeout(DEADLINE)
        connection.sendall(b"now")
        seen.append(connection.recv(10))

    address = serve(handler, tls=certificates.server())

    def talk():
        with secured(address, certificates.client()) as client:
            client.sendall(client.recv(10))
            return read_all(client)

    assert run(reactor, talk) == b""
    assert seen == [TimeoutError, b"now"]


def test_close_notify_waits_until_the_write_timeout(reactor, serve, certificates):
    full = threading.Event()

    def handler(connection):
        connection.setblocking(False)
        try:
            while True:
                connection.send(bytes(16384))
        except ssl.SSLWantWriteError:
            full.set()

    address = serve(handler, tls=certificates.server(), timeouts=Timeouts(write=0.05))
    client = run(reactor, secured, address, certificates.client())
    with client:
        spin(reactor, lambda: full.is_set() and reactor.stats().closed)
    assert reactor.stats().closed == {"WriteTimeout": 1}


def test_limits_count_from_the_first_byte(descriptors, reactor, serve, certificates):
    limits = Limits(max_connections=2, when_full="refuse")
    address = serve(echo, workers=1, limits=limits, tls=certificates.server())
    with connect(reactor, address), connect(reactor, address):
        spin(reactor, lambda: len(reactor.connections()) == 2)
        with connect(reactor, address):
            spin(reactor, lambda: reactor.stats().refused == {"max_connections": 1})
    spin(reactor, lambda: not reactor.connections() and not reactor.stats().lingering)
    assert run(reactor, exchange, address, certificates.client()) == b"Hello\n"
    per_ip = serve(echo, limits=Limits(max_per_ip=1), tls=certificates.server())
    with connect(reactor, per_ip):
        spin(reactor, reactor.connections)
        with connect(reactor, per_ip):
            spin(reactor, lambda: reactor.stats().refused.get("max_per_ip") == 1)


def test_client_that_disconnects_while_waiting_leaks_nothing(descriptors, reactor, serve, certificates):
    gate, served = threading.Event(), []

    def handler(connection):
        served.append(True)
        gate.wait(DEADLINE)

    address = serve(handler, workers=1, tls=certificates.server())
    first = run(reactor, secured, address, certificates.client())
    spin(reactor, lambda: served)
    with first, run(reactor, secured, address, certificates.client()) as second:
        waiting = next(
            connection
            for connection in reactor.connections()
            if connection.get_extra_info("peername") == second.getsockname()
        )
        waiting.abort()
        spin(reactor, lambda: len(reactor.connections()) == 1)
        gate.set()
        spin(reactor, lambda: not reactor.connections())
    spin(reactor, lambda: not reactor.stats().lingering)
    assert served == [True]


def test_drain_waits_for_handshakes_and_handlers(reactor, serve, certificates):
    reports = []
    address = serve(echo, tls=certificates.server(), timeouts=Timeouts(handshake=0.2))
    client = run(reactor, secured, address, certificates.client())
    with client, connect(reactor, address):
        spin(reactor, lambda: len(reactor.connections()) == 2)
        reactor.drain(DEADLINE, reports.append)

        def end():
            client.sendall(b"x")
            assert client.recv(10) == b"x"
            client.unwrap()

        run(reactor, end)
        spin(reactor, lambda: reports)
    assert (reports[0].finished, reports[0].failed, reports[0].aborted) == (1, 1, 0)


def test_drain_aborts_at_its_deadline(reactor, serve, certificates):
    reports, raised = [], []

    def handler(connection):
        try:
            connection.recv(10)
        except OSError as exc:
            raised.append(type(exc).__name__)
            raise

    address = serve(handler, tls=certificates.server())
    client = run(reactor, secured, address, certificates.client())
    with client, connect(reactor, address):
        spin(reactor, lambda: len(reactor.connections()) == 2)
        reactor.drain(0.1, reports.append)
        spin(reactor, lambda: reports and raised)
    assert (reports[0].aborted, raised) == (2, ["DrainTimeout"])


def test_closing_the_reactor_frees_workers_and_sockets(descriptors, certificates):
    raised = threading.Event()

    def handler(connection):
        try:
            connection.recv(1)
        except ConnectionAbortedError:
            raised.set()
            raise

    errors, failures = Errors(), []
    with Pool(handler, workers=1) as pool:
        with Reactor(on_error=errors) as reactor:
            listener = reactor.listen(
                "127.0.0.1:0", pool, tls=certificates.server(), on_tls_error=failures.append
            )
            address = listener.addresses[0]
            first = run(reactor, secured, address, certificates.client())
            second = run(reactor, secured, address, certificates.client())
            with first, second, connect(reactor, address):
                spin(reactor, lambda: len(reactor.connections()) == 3)
                reactor.close()
                assert raised.wait(DEADLINE)
        assert pool.close(DEADLINE)
    assert (errors.seen, failures) == ([], [])


def test_replaced_context_applies_to_new_connections(reactor, serve, certificates):
    seen = []

    def handler(connection):
        seen.append(connection.selected_alpn_protocol())
        echo(connection)

    address = serve(handler)  # in clear at first
    (listener,) = reactor.listeners()
    for protocol in ("one", "two"):
        listener.replace_tls(certificates.server(alpn=[protocol]))
        context = certificates.client(alpn=["one", "two"])
        assert run(reactor, exchange, address, context) == b"Hello\n"
    assert seen == ["one", "two"]


def test_pool_serves_client_connections(descriptors, reactor, certificates):
    heard = []

    def handler(connection):
        assert connection.server_hostname == "localhost"
        connection.sendall(b"Hello\n")
        heard.append(connection.recv(100))

    listener = reactor.listen("127.0.0.1:0", Echo, tls=certificates.server())
    with Pool(handler) as pool:
        reactor.connect(listener.addresses[0], pool, tls=certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: heard and not reactor.connections() and not reactor.stats().lingering)
        assert heard == [b"Hello\n"]
        assert reactor.stats().closed == {"clean": 2}
        assert pool.close(DEADLINE)


def test_pool_serves_client_connections_to_openssl(descriptors, reactor, certificates):
    failures = []
    listener = reactor.listen(
        "127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=lambda exc: None
    )
    with Pool(echo) as pool:
        connector = reactor.connect(
            listener.addresses[0],
            pool,
            tls=certificates.client(),
            server_hostname="somebody.else",
            on_failure=failures.append,
            reconnect=Reconnect(first=0.001, max_delay=0.002, attempts=2),
        )
        spin(reactor, lambda: connector.is_done() and not reactor.connections())
        spin(reactor, lambda: not reactor.stats().lingering)
    assert [type(exc) for exc in failures] == [ConnectError] * 2
    assert "the peer's certificate is not accepted: Hostname mismatch" in str(failures[0])


def test_client_of_a_silent_server_ends_at_the_connect_timeout(descriptors, reactor, certificates):
    failures = []
    with socket.create_server(("127.0.0.1", 0)) as server, Pool(echo) as pool:
        reactor.connect(
            server.getsockname(),
            pool,
            tls=certificates.client(),
            timeouts=Timeouts(connect=0.05),
            on_failure=failures.append,
        )
        spin(reactor, lambda: failures and not reactor.connections())
    assert isinstance(failures[0], TimeoutError)


def test_pool_serves_adopted_sockets(descriptors, reactor, certificates, errors):
    heard = []

    def client(connection):
        connection.sendall(b"Hello\n")
        heard.append(connection.recv(100))

    ours, theirs = socket.socketpair()
    with Pool(echo) as servers, Pool(client) as clients:
        reactor.adopt(ours, servers, tls=certificates.server(), server_side=True)
        reactor.adopt(theirs, clients, tls=certificates.client(), server_hostname="localhost")
        spin(reactor, lambda: heard and not reactor.connections() and not reactor.stats().lingering)
        assert heard == [b"Hello\n"]
        assert servers.close(DEADLINE)
        assert clients.close(DEADLINE)
    assert errors.seen == []


def test_adopted_socket_whose_handshake_fails_is_reported(descriptors, reactor, certificates, errors):
    ours, theirs = socket.socketpair()
    with theirs, Pool(echo) as servers:
        reactor.adopt(ours, servers, tls=certificates.server(), server_side=True)
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        spin(reactor, lambda: errors.seen)
        exc, name, _ = errors.take()
    assert (str(exc), name) == ("the peer speaks HTTP without TLS", "a TLS handshake")
    spin(reactor, lambda: not reactor.connections() and not reactor.stats().lingering)


def test_lack_of_descriptors_for_the_handshake_is_reported(
    descriptors, reactor, serve, certificates, monkeypatch
):
    failures = []
    address = serve(echo, tls=certificates.server(), on_tls_error=failures.append)
    with monkeypatch.context() as patched, connect(reactor, address):
        patched.setattr(os, "dup", lambda fd: os.open("/", os.O_WRONLY))  # EISDIR, as good as EMFILE
        spin(reactor, lambda: failures)
    assert isinstance(failures[0].__cause__, IsADirectoryError)
    spin(reactor, lambda: not reactor.connections())
    assert run(reactor, exchange, address, certificates.client()) == b"Hello\n"


def test_wrapped_pool_over_tls_is_refused(reactor, certificates, errors):
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
