"""Certificates, server names, application protocols and sessions of connections over TLS."""

import contextlib
import socket
import sys

import pytest

from reactor import (
    ConnectError,
    UsageError,
)
from reactor.errors import TLSHandshakeError
from reactor.testing import Recorder
from tests.helpers import Echo, pair, spin
from tests.tls_peers import Greeter, established, secured


def test_peercert_is_the_client_s_certificate(reactor, certificates):
    server = certificates.server(client_ca=certificates.file("ca.pem"))
    client = certificates.client(cert=certificates.file("client.pem"), key=certificates.file("client.key"))
    with established(reactor, Recorder(), (server, client, True)) as (connection, _):
        assert ("email", "client@example.org") in connection.get_extra_info("peercert")["subjectAltName"]


def test_application_protocol_is_agreed_on(reactor, certificates):
    server, client = certificates.server(alpn=["two", "one"]), certificates.client(alpn=["one", "two"])
    with established(reactor, Recorder(), (server, client, True)) as (connection, peer):
        assert connection.get_extra_info("alpn_protocol") == "two"
        assert peer.ssl.selected_alpn_protocol() == "two"


def test_certificate_is_chosen_by_server_name(reactor, certificates):
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


def test_server_name_that_is_not_ascii_does_not_end_the_handshake(reactor, certificates, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    recorder = Recorder()
    with secured(reactor, recorder, certificates.client(), certificates.server()) as (_, peer):
        peer.process()
        peer.sock.send(peer.outgoing.read().replace(b"localhost", b"local\xe4ost"))
        reactor.run_once(1)
        assert peer.sock.recv(5)[0] == 22  # the server continues the handshake
        assert not printed


def test_replaced_certificate_applies_to_new_connections_only(reactor, certificates):
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


def test_certificate_of_another_host_is_a_failed_attempt(reactor, certificates):
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


def test_client_on_a_unix_socket_needs_server_hostname(reactor, certificates):
    with pytest.raises(UsageError, match="needs server_hostname"):
        reactor.connect("unix:/tmp/nowhere", Recorder, tls=certificates.client())


def test_invalid_server_hostname_is_refused_and_the_connection_goes_on(reactor, certificates):
    context = certificates.client()
    with pytest.raises(UsageError, match="server_hostname"):
        reactor.connect("127.0.0.1:1", Recorder, tls=context, server_hostname=".bad")
    recorder = Recorder()
    connection, theirs = pair(reactor, recorder)
    with theirs:
        data = bytes(1 << 22)
        connection.write(data)
        with pytest.raises(UsageError, match="server_hostname"):
            connection.start_tls(context, server_side=False, server_hostname=".bad")
        got = bytearray()

        def arrives():
            with contextlib.suppress(BlockingIOError):
                got.extend(theirs.recv(1 << 20))
            return len(got) == len(data)

        spin(reactor, arrives)
        assert not recorder.lost


def test_context_of_the_other_side_is_refused_at_once(reactor, certificates, descriptors):
    server, client = certificates.server(), certificates.client()
    with pytest.raises(UsageError, match="one for the client's side"):
        reactor.listen("127.0.0.1:0", Recorder, tls=client)
    with pytest.raises(UsageError, match="one for the server's side"):
        reactor.connect("127.0.0.1:1", Recorder, tls=server)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UsageError, match="give server_hostname"):
        reactor.adopt(ours, Recorder, tls=client)


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


def test_session_of_another_context_is_refused(reactor, certificates):
    listener = reactor.listen("127.0.0.1:0", Greeter, tls=certificates.server())
    recorder = Recorder()
    reactor.connect(listener.addresses[0], lambda: recorder, tls=certificates.client())
    spin(reactor, lambda: recorder.calls and recorder.received == b"hello")
    session = recorder.connection.get_extra_info("ssl_object").session
    with pytest.raises(UsageError, match="tls_session"):
        reactor.connect(listener.addresses[0], Recorder, tls=certificates.client(), tls_session=session)
