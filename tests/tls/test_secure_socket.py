"""The secure socket: whatever the kernel accepts or delivers, no clear byte is lost or doubled."""

import contextlib
import select
import socket
import ssl
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.errors import TLSError
from reactor.testing import ScriptedSocket
from reactor.tls.secure_socket import Bios, Tls

PARTS = st.lists(st.integers(1, 30_000) | st.just(BlockingIOError()), max_size=40)


class Reader:
    """The peer: OpenSSL between two buffers."""

    def __init__(self, sock, context):
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.received = bytearray()

    def step(self):
        with contextlib.suppress(BlockingIOError):
            self.incoming.write(self.sock.recv(1 << 20))
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.do_handshake()
            while data := self.ssl.read(1 << 16):
                self.received += data
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())


def established(ours, theirs, certificates, bios):
    """Return a secure socket on `ours` that completed its handshake, and its reader on `theirs`."""
    sock = Tls(certificates.server(), bios, server_side=True).secure(ours, time.monotonic)
    reader = Reader(theirs, certificates.client())
    while not sock.established:
        reader.step()
        with contextlib.suppress(BlockingIOError):
            sock.handshake()
        assert_empty(bios)
    reader.step()
    return sock, reader


@contextlib.contextmanager
def secured(certificates, bios=None, **script):
    """Yield a secure socket that completed its handshake, and its reader."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    scripted = ScriptedSocket(ours)
    with ours, theirs:
        bios = bios or Bios()
        sock, reader = established(scripted, theirs, certificates, bios)
        scripted.add(**script)
        yield sock, reader, bios


def readable(sock):
    return bool(select.select([sock], [], [], 0)[0])


def assert_empty(bios):
    """Other connections use the same pair of buffers: bytes left there would be theirs."""
    assert bios.incoming.pending == bios.outgoing.pending == 0


@given(
    data=st.binary(min_size=1, max_size=300_000),
    parts=PARTS,
    limit=st.integers(1, 300_000),
    flushes=st.booleans(),
)
def test_sent_bytes_arrive_once_however_little_the_kernel_accepts(certificates, data, parts, limit, flushes):
    with secured(certificates, send=parts) as (sock, reader, bios):
        left = memoryview(data)
        while left:
            sent = sock.send(left[:limit])
            assert 0 <= sent <= len(left)
            assert_empty(bios)
            left = left[sent:]
            if flushes:
                sock.flush()
            sock.look_again()
            reader.step()
        assert not sock.has_output()
        assert reader.received == data


def test_rest_of_a_record_that_was_sent_meanwhile_is_not_sent_twice(certificates):
    data = bytes(range(250)) * 100
    with secured(certificates, send=[10]) as (sock, reader, _):
        sock.look_again()
        sent = sock.send(data)
        assert sent < len(data)
        sock.flush()
        sock.look_again()
        assert not sock.has_output()
        while sent < len(data):
            sent += sock.send(data[sent:])
        reader.step()
        assert reader.received == data


def test_rest_of_the_handshake_is_sent_first(certificates):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        scripted = ScriptedSocket(ours, send=[None, *[BlockingIOError()] * 2])
        sock = Tls(certificates.server(), Bios(), server_side=True).secure(scripted, time.monotonic)
        reader = Reader(theirs, certificates.client())
        while not sock.established:
            reader.step()
            with contextlib.suppress(BlockingIOError):
                sock.handshake()
        assert sock.has_output(), "the session's tickets"
        sock.look_again()
        while not sock.send(b"hello"):
            pass
        reader.step()
        assert reader.received == b"hello"


@pytest.mark.parametrize(
    "send", [lambda sock, data: sock.send(data), lambda sock, data: sock.sendmsg([data, b"x"])]
)
def test_one_send_encrypts_at_most_64_kib(certificates, send):
    with secured(certificates) as (sock, _, _):
        sock.look_again()
        assert 0 < send(sock, bytes(1 << 20)) <= 64 * 1024


@pytest.mark.parametrize("size", [1000, 1 << 16])
def test_partial_record_is_reported_until_it_is_complete(certificates, size):
    with secured(certificates) as (sock, reader, _):
        assert not sock.in_record
        sock.look_again()
        reader.ssl.write(b"hello")
        output = reader.outgoing.read()
        reader.sock.sendall(output[:10])
        with pytest.raises(BlockingIOError):
            sock.recv(size)
        assert sock.in_record
        reader.sock.sendall(output[10:])
        assert sock.recv(size) == b"hello"
        assert not sock.in_record


def test_decrypted_bytes_are_returned_before_the_kernel_is_asked(certificates):
    with secured(certificates) as (sock, reader, _):
        sock.look_again()
        reader.ssl.write(b"hello")
        reader.sock.sendall(reader.outgoing.read())
        sock.take_in()
        assert sock.recv(2) == b"he"
        assert sock.recv(1 << 16) == b"llo"
        assert not sock.has_more()


def test_recv_after_the_end_returns_the_end_again(certificates):
    with secured(certificates) as (sock, reader, _):
        sock.look_again()
        with contextlib.suppress(ssl.SSLError):
            reader.ssl.unwrap()
        reader.sock.sendall(reader.outgoing.read())
        assert sock.recv(1 << 16) == b""
        assert sock.recv(1 << 16) == b""


@given(pieces=st.lists(st.binary(min_size=1, max_size=50_000), min_size=1, max_size=8), parts=PARTS)
def test_pieces_are_sent_as_one(certificates, pieces, parts):
    with secured(certificates, send=parts) as (sock, reader, bios):
        sent = 0
        data = b"".join(pieces)
        while sent < len(data):
            rest = data[sent:]
            sent += sock.sendmsg([rest[at : at + 20_000] for at in range(0, len(rest), 20_000)])
            assert_empty(bios)
            reader.step()
        assert reader.received == data


@given(
    data=st.binary(min_size=1, max_size=100_000),
    sizes=st.lists(st.integers(1, 70_000), min_size=1),
    parts=PARTS,
)
def test_received_bytes_are_returned_once_in_pieces_of_any_size(certificates, data, sizes, parts):
    with secured(certificates, recv=[part for part in parts if isinstance(part, int)]) as (
        sock,
        reader,
        bios,
    ):
        left = memoryview(data)
        while left:
            left = left[reader.ssl.write(left) :]
        reader.sock.setblocking(True)
        output = reader.outgoing.read()
        got, count = bytearray(), 0
        while len(got) < len(data):
            output = output[reader.sock.send(output[:60_000]) :] if output else output
            size = sizes[count % len(sizes)]
            count += 1
            with contextlib.suppress(BlockingIOError):
                piece = sock.recv(size)
                assert piece
                assert len(piece) <= size or size >= 65536
                got += piece
            assert_empty(bios)
        assert got == data
        assert not sock.has_more()


def test_connections_that_talked_last_hold_the_buffers(certificates):
    """Only the 128 connections that talked last hold a buffer of OpenSSL's."""
    bios = Bios()
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(200):
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            ours.setblocking(False)
            sock, reader = established(ours, theirs, certificates, bios)
            reader.ssl.write(b"hello")
            reader.step()
            assert sock.recv(1 << 16) == b"hello"
            socks.append(sock)
        assert bios.warm() == 128
        for sock in socks:
            sock.close()
        assert bios.warm() == 0


@given(
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=8),
    size=st.sampled_from([1000, 1 << 16]),
    notify=st.booleans(),
)
def test_releasing_buffers_at_any_time_loses_nothing(certificates, sizes, cuts, size, notify):
    """Wherever records are cut, OpenSSL holds no clear byte and no output when its buffers are released."""
    with secured(certificates) as (sock, reader, bios):
        pieces = [bytes([number]) * length for number, length in enumerate(sizes)]
        for piece in pieces:
            reader.ssl.write(piece)
        if notify:
            with contextlib.suppress(ssl.SSLError):
                reader.ssl.unwrap()
        output = reader.outgoing.read()
        received, count = bytearray(), 0
        while output or sock.has_more() or readable(sock):
            cut = cuts[count % len(cuts)]
            count += 1
            if not (sock.has_more() or readable(sock)):
                reader.sock.sendall(output[:cut])
                output = output[cut:]
                sock.look_again()
            with contextlib.suppress(BlockingIOError):
                piece = sock.recv(size)
                received += piece
                if not piece:
                    break
            sock.cool_down()
            assert_empty(bios)
        assert received == b"".join(pieces)


@given(garbage=st.binary(min_size=1, max_size=2000), established=st.booleans())
def test_failed_connection_leaves_no_bytes_in_shared_buffers(certificates, garbage, established):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    bios = Bios()
    with ours, theirs:
        sock = Tls(certificates.server(), bios, server_side=True).secure(ours, time.monotonic)
        reader = Reader(theirs, certificates.client())
        while established and not sock.established:
            reader.step()
            with contextlib.suppress(BlockingIOError):
                sock.handshake()
        theirs.send(garbage)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises((TLSError, BlockingIOError)):
            while True:
                sock.recv(1 << 16) if established else sock.handshake()
        assert_empty(bios)
        with contextlib.suppress(TLSError):
            sock.send(b"more")
        sock.end()
        assert_empty(bios)


class Interrupted:
    """OpenSSL's side of a connection; one call is interrupted after its work is done."""

    def __init__(self, made, name):
        self._made = made
        self._name = name

    def __getattr__(self, name):
        found = getattr(self._made, name)
        if name != self._name:
            return found

        def interrupted(*args):
            with contextlib.suppress(ssl.SSLError):
                found(*args)
            raise KeyboardInterrupt

        return interrupted


CALLS = {
    "write": lambda sock: sock.send(b"x"),
    "read": lambda sock: sock.recv(1 << 16),
    "unwrap": lambda sock: sock.end(),
    "do_handshake": lambda sock: sock.go_on(b""),
}


@pytest.mark.parametrize("name", CALLS)
def test_interrupt_leaves_no_bytes_in_shared_buffers(certificates, name):
    with secured(certificates) as (sock, reader, bios):
        reader.ssl.write(b"from the peer")
        reader.sock.sendall(reader.outgoing.read())
        made, sock.ssl = sock.ssl, Interrupted(sock.ssl, name)
        with pytest.raises(KeyboardInterrupt):
            CALLS[name](sock)
        assert_empty(bios)
        sock.ssl = made
        with pytest.raises(TLSError, match="interrupt"):
            sock.send(b"more")
        with pytest.raises(TLSError, match="interrupt"):
            sock.recv(1 << 16)


def test_interrupt_while_another_releases_its_buffer_ends_the_one_being_read(certificates, monkeypatch):
    """Its record would be lost silently. The other loses nothing, and continues."""
    monkeypatch.setattr("reactor.tls.secure_socket._WARM_LIMIT", 1)
    bios = Bios()
    with secured(certificates, bios) as (read, writer, _), secured(certificates, bios) as (warm, other, _):
        writer.ssl.write(b"lost")
        writer.sock.sendall(writer.outgoing.read())
        read.look_again()
        made, warm.ssl = warm.ssl, Interrupted(warm.ssl, "read")
        with pytest.raises(KeyboardInterrupt):
            read.recv(1 << 16)
        assert_empty(bios)
        with pytest.raises(TLSError, match="interrupt"):
            read.recv(1 << 16)
        warm.ssl = made
        other.ssl.write(b"hello")
        other.sock.sendall(other.outgoing.read())
        assert warm.recv(1 << 16) == b"hello"


@pytest.mark.parametrize("call", ["send", "recv", "recv_into"])
def test_interrupt_in_the_kernel_s_call_ends_the_connection(certificates, call):
    with secured(certificates, **{call: [KeyboardInterrupt()]}) as (sock, reader, bios):
        reader.ssl.write(b"from the peer")
        reader.sock.sendall(reader.outgoing.read())
        if call == "recv_into":
            sock.look_again()  # from here on it uses the fast path
        with pytest.raises(KeyboardInterrupt):
            sock.send(b"x") if call == "send" else sock.recv(1 << 16)
        assert_empty(bios)
        with pytest.raises(TLSError, match="interrupt"):
            sock.recv(1 << 16)


class Asking:
    """OpenSSL's side of a connection whose peer asks for key updates: each read produces an answer."""

    def __init__(self, made, outgoing):
        self._made = made
        self._outgoing = outgoing

    def __getattr__(self, name):
        return getattr(self._made, name)

    def read(self, size):
        self._outgoing.write(bytes(10_000))
        raise ssl.SSLWantReadError


def test_answers_to_key_updates_are_bounded(certificates):
    with secured(certificates, send=[BlockingIOError()] * 100) as (sock, reader, bios):
        sock.ssl = Asking(sock.ssl, bios.outgoing)
        times = 0
        with pytest.raises(TLSError, match="takes none of the answers"):
            while True:
                reader.sock.sendall(b"asks")
                with contextlib.suppress(BlockingIOError):
                    sock.recv(1 << 16)
                times += 1
        assert 10 < times < 20


class Answering(Asking):
    """As `Asking`, where what asks comes in one piece with data."""

    def read(self, size):
        self._outgoing.write(b"answer")
        return self._made.read(size)


def test_answer_to_what_comes_with_data_is_sent_at_once_and_to_this_peer(certificates):
    with secured(certificates) as (sock, reader, bios):
        sock.look_again()
        sock.ssl = Answering(sock.ssl, bios.outgoing)
        reader.ssl.write(b"data")
        reader.sock.sendall(reader.outgoing.read())
        assert sock.recv(1 << 16) == b"data"
        assert_empty(bios)
        assert reader.sock.recv(100) == b"answer"


def test_send_after_our_end_is_an_error(certificates):
    with secured(certificates) as (sock, _, bios):
        assert sock.end()
        sock.look_again()
        with pytest.raises(TLSError, match="shutdown"):
            sock.send(b"too late")
        assert_empty(bios)


def test_bytes_before_a_bad_record_are_returned(certificates):
    with secured(certificates) as (sock, reader, bios):
        data = bytes(range(250)) * 400
        reader.ssl.write(data)
        reader.sock.sendall(reader.outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
        sock.look_again()
        received = bytearray()
        with pytest.raises(TLSError):
            while True:
                received += sock.recv(1 << 16)
        assert received == data
        assert_empty(bios)
