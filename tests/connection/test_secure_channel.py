"""Bytes over TLS: both directions, however records are cut, and malformed records."""

import array
import contextlib
import ctypes
import itertools
import os
import socket
import ssl
import subprocess
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    BufferedProtocol,
    Reactor,
)
from reactor.errors import TLSError
from reactor.loop.selector import default_selector
from reactor.streams import handler
from reactor.testing import Errors, Recorder, ScriptedSocket
from tests.helpers import Echo, accepting, pair, spin
from tests.tls_peers import BIG, VERSIONS, established, secured, upgraded


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("server_side", [True, False])
def test_bytes_go_both_ways(reactor, certificates, version, server_side):
    server, client = certificates.server(), certificates.client()
    client.maximum_version = version
    side = (server, client, True) if server_side else (client, server, False)
    protocol = Echo()
    with established(reactor, protocol, side) as (connection, peer):
        peer.write(b"hello")
        spin(reactor, lambda: peer.step() and peer.received == b"hello")
        connection.write(BIG)
        spin(reactor, lambda: peer.step() and len(peer.received) == len(BIG) + 5)
        assert peer.received[5:] == BIG
        assert connection.get_write_buffer_size() == 0
        peer.write(BIG)
        spin(reactor, lambda: peer.step() and len(peer.received) == 2 * len(BIG) + 5)
        assert protocol.received[5:] == BIG
        assert connection.get_extra_info("cipher")[1] == version.name.replace("_", ".").replace(
            "TLSv1.2", "TLSv1.2"
        )


def test_file_over_tls(reactor, side, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)
    with established(reactor, Recorder(), side) as (connection, peer):
        connection.write(b"before")
        connection.sendfile(path.open("rb"))
        connection.write(b"after")
        spin(reactor, lambda: peer.step() and len(peer.received) == len(BIG) + 11)
        assert peer.received == b"before" + BIG + b"after"


def test_resume_reading_delivers_what_is_already_decrypted(reactor, side):
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.connection.pause_reading()

    protocol = Pausing()
    with established(reactor, protocol, side) as (connection, peer):
        peer.write(b"one")
        peer.flush()
        spin(reactor, lambda: protocol.received)
        peer.write(b"two")
        peer.close()
        peer.flush()
        for _ in range(3):
            reactor.run_once(0)
        assert protocol.received == b"one"
        connection.resume_reading()
        spin(reactor, lambda: protocol.received == b"onetwo")
        connection.resume_reading()
        spin(reactor, lambda: protocol.lost)


def test_coroutine_handler_is_served_over_tls(reactor, certificates):
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


def test_renegotiation_by_the_peer_loses_no_output(reactor, certificates):
    """By `openssl s_server` in TLS 1.2, when it reads a line with an r."""
    own = ["-cert", certificates.file("server.pem"), "-key", certificates.file("server.key")]
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-tls1_2", "-state", *own]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes, stderr=subprocess.STDOUT) as served:
        printed = bytearray()

        def has_printed(what, times=1):
            printed.extend(served.stdout.read() or b"")
            return printed.count(what) >= times

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
        spin(reactor, lambda: has_printed(b"line 4") and has_printed(b"write server hello", 2))
        assert [line for line in bytes(printed).splitlines() if line.startswith(b"line")] == [
            b"line %d" % number for number in range(5)
        ]
        types(b"and back\n")
        spin(reactor, lambda: recorder.received == b"and back\n")
        served.kill()
        spin(reactor, lambda: recorder.lost)


def test_forged_record_ends_the_connection_with_an_alert(reactor, side):
    protocol = Recorder()
    with established(reactor, protocol, side) as (_, peer):
        peer.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        spin(reactor, lambda: peer.step() and protocol.lost)
        assert isinstance(protocol.reason, TLSError)
        assert "bad" in str(protocol.reason) or "decryption" in str(protocol.reason)
        spin(reactor, lambda: peer.step() and peer.ended)
        assert "ALERT" in peer.ended


class Into(BufferedProtocol):
    """Receives into the given buffer."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.calls = []
        self.nbytes = 0
        self.lost = False

    def connection_made(self, connection):
        self.calls.append("connection_made")

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.nbytes += nbytes

    def connection_lost(self, exc):
        self.lost = True
        self.reason = exc


@pytest.mark.parametrize(
    "buffer", [array.array("b", bytes(64)), array.array("I", bytes(64)), (ctypes.c_char * 64)()]
)
def test_any_writable_buffer_is_received_into(reactor, server, buffer):
    protocol = Into(buffer)
    with established(reactor, protocol, server) as (_, peer):
        peer.write(b"hello")
        spin(reactor, lambda: peer.step() and protocol.nbytes == 5)
        assert memoryview(buffer).cast("B")[:5] == b"hello"


@pytest.mark.parametrize("buffer", [bytes(64), memoryview(bytes(64))])
@pytest.mark.parametrize("tls", [False, True])
def test_read_only_buffer_from_get_buffer_is_reported(reactor, errors, server, buffer, tls):
    protocol = Into(buffer)
    with contextlib.ExitStack() as stack:
        if tls:
            _, peer = stack.enter_context(established(reactor, protocol, server))
            peer.write(b"hello")
            peer.flush()
        else:
            _, theirs = pair(reactor, protocol)
            stack.enter_context(theirs).send(b"hello")
        spin(reactor, lambda: protocol.lost)
        exc, callback, _ = errors.take()
        assert isinstance(exc, TypeError)
        assert callback == "Into.get_buffer"


class Filler(BufferedProtocol):
    """Receives into buffers of these sizes, one after the other."""

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
def test_bytes_arrive_unchanged_however_the_records_are_cut(
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

        def step():
            peer.flush(next(cuts_in, 1 << 20))
            reactor.run_once(0)
            peer.receive(next(cuts_out, 1 << 20))
            return True

        spin(reactor, lambda: step() and peer.established and protocol.calls, wait=0)
        for data in theirs:
            peer.write(data)
        for data in ours:
            connection.write(data)
        if who_closes == "we":
            spin(reactor, lambda: step() and len(protocol.received) == sum(map(len, theirs)), wait=0)
            connection.close()
        elif who_closes == "they":
            spin(reactor, lambda: step() and len(peer.received) == sum(map(len, ours)), wait=0)
            peer.close()
        else:
            step()
            peer.sock.close()
            spin(reactor, lambda: protocol.lost, wait=0)
        assert peer.in_clear == (upgrade or b"")
        if who_closes == "reset":
            assert b"".join(theirs).startswith(protocol.received)
            assert isinstance(protocol.reason, OSError)
        else:
            spin(reactor, lambda: step() and protocol.lost and peer.ended, wait=0)
            assert peer.received == b"".join(ours)
            assert protocol.received == b"".join(theirs)
            assert protocol.reason is None
            assert peer.ended == "close_notify"
    assert errors.seen == []


@given(
    at=st.integers(0, 5000),
    instead=st.binary(max_size=300),
    server_side=st.booleans(),
)
def test_garbage_in_a_record_ends_only_its_connection(certificates, at, instead, server_side):
    """The peer's bytes are cut at one place and followed by garbage, and the connection is closed."""
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
            peer.receive()
            if peer.established and not peer.unsent and sent < at:
                peer.write(bytes(100))
            peer.unsent += peer.outgoing.read()
            sent += len(peer.unsent)
            if sent >= at:
                peer.unsent = peer.unsent[: max(0, len(peer.unsent) - sent + at)] + instead
                break
            peer.flush()
            reactor.run_once(0)
        peer.flush()
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: peer.receive() or not reactor.connections(), deadline=5)
        reactor.run_once(0)
        assert not protocol.received.strip(b"\0")
        if protocol.calls:
            assert isinstance(protocol.reason, TLSError)
        for exc, _, _ in errors.seen:
            assert isinstance(exc, TLSError)
