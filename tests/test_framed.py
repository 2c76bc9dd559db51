"""Frames over real sockets: in order, answered in one piece, and ended with the reason."""

import contextlib
import inspect
import socket
import ssl
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Reactor
from reactor.errors import FrameTooLong, IncompleteFrame, MalformedFrame, TLSHandshakeError, UsageError
from reactor.framed import FramedProtocol
from reactor.framing import Block, LengthPrefixed, Lines, Netstrings
from tests.helpers import ScriptedSocket, pair, spin


class Upper(FramedProtocol):
    """Upper-cases each frame, closes at "quit", and keeps what it was told."""

    def __init__(self, framer):
        super().__init__(framer)
        self.frames = []
        self.sent = []
        self.reasons = []

    def frame_received(self, frame):
        self.frames.append(frame)
        if frame == b"quit":
            self.connection.close()
        elif frame == b"raise":
            raise LookupError("asked to")
        else:
            self.sent.append(self.send(frame.upper()))

    def connection_lost(self, exc):
        self.reasons.append(exc)


def receive(reactor, peer, enough):
    """Return what the peer received when `enough` of it is true; b"" ends it too."""
    got = bytearray()

    def turn():
        with contextlib.suppress(BlockingIOError):
            more = peer.recv(1 << 20)
            got.extend(more)
            return not more or enough(got)
        return enough(got)

    spin(reactor, turn, wait=0.01)
    return bytes(got)


def test_answers_of_a_batch_leave_in_one_piece(reactor):
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    sock = ScriptedSocket(ours)
    reactor.adopt(sock, lambda: Upper(Lines()))
    with peer:
        peer.sendall(b"".join(b"line %d\n" % number for number in range(20)))
        got = receive(reactor, peer, lambda got: got.count(b"\n") == 20)
        assert got == b"".join(b"LINE %d\n" % number for number in range(20))
        assert [call for call in sock.calls if call.startswith("send")] == ["send"]


def test_send_outside_of_a_batch_goes_at_once(reactor):
    protocol = Upper(Netstrings())
    _, peer = pair(reactor, protocol)
    with peer:
        assert protocol.send(b"hello") is True
        assert peer.recv(100) == b"5:hello,"


def test_nothing_is_handed_over_after_close(reactor):
    protocol = Upper(Lines())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"one\nquit\ntwo\n")
        assert receive(reactor, peer, lambda got: False) == b"ONE\n"
        spin(reactor, lambda: protocol.reasons)
        assert protocol.frames == [b"one", b"quit"]
        assert protocol.reasons == [None]


def test_exception_is_the_reactor_s_to_report(reactor, errors):
    protocol = Upper(Lines())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"raise\nnever\n")
        spin(reactor, lambda: protocol.reasons)
        assert isinstance(errors.take()[0], LookupError)
        assert protocol.frames == [b"raise"]


@pytest.mark.parametrize(
    ("make", "data", "answer", "error"),
    [
        (lambda: Lines(8), b"one\n" + b"x" * 9, b"ONE\n", FrameTooLong),
        (Netstrings, b"3:one,two", b"3:ONE,", MalformedFrame),
    ],
)
def test_bad_frame_ends_the_connection_after_the_answers_before_it(reactor, make, data, answer, error):
    protocol = Upper(make())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(data)
        assert receive(reactor, peer, lambda got: False) == answer
        spin(reactor, lambda: protocol.reasons)
        assert isinstance(protocol.reasons[0], error)
        assert reactor.stats().closed == {error.__name__: 1}
        assert reactor.stats().handler_errors == 0


def test_end_of_the_input_completes_the_last_line(reactor):
    protocol = Upper(Lines())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"one\ntwo")
        peer.shutdown(socket.SHUT_WR)
        assert receive(reactor, peer, lambda got: False) == b"ONE\nTWO\n"
        spin(reactor, lambda: protocol.reasons)
        assert protocol.reasons == [None]


def test_end_within_a_frame_is_the_reason(reactor):
    protocol = Upper(LengthPrefixed())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"\0\0\0\3one\0\0")
        peer.shutdown(socket.SHUT_WR)
        assert receive(reactor, peer, lambda got: False) == b"\0\0\0\3ONE"
        spin(reactor, lambda: protocol.reasons)
        assert isinstance(protocol.reasons[0], IncompleteFrame)


@pytest.mark.parametrize("bad", [b"", b"x" * 100_001])
def test_peer_that_takes_no_answers_is_not_answered_and_loses_none(reactor, bad):
    """Each short line has a long answer, more than the connection may hold."""

    class Long(Upper):
        def frame_received(self, frame):
            self.frames.append(frame)
            self.sent.append(self.send(frame * 5000))

    protocol = Long(Lines(100_000))
    limits = Limits(high_water=100_000, low_water=50_000, max_write_buffer=400_000)
    connection, peer = pair(reactor, protocol, limits=limits)
    with peer:
        lines = [b"%04d" % number for number in range(1000)]
        peer.sendall(b"\n".join(lines) + b"\n" + bad)
        spin(reactor, lambda: False in protocol.sent)
        assert not connection.is_reading()
        assert connection.get_write_buffer_size() < 200_000
        assert len(protocol.frames) < 100
        expected = b"".join(line * 5000 + b"\n" for line in lines)
        assert receive(reactor, peer, lambda got: len(got) == len(expected)) == expected
        assert protocol.frames == lines
        spin(reactor, lambda: protocol.reasons or not bad)
        assert [type(reason) for reason in protocol.reasons] == [FrameTooLong] * bool(bad)


class Upgrading(FramedProtocol):
    """Lines, the second half of them over TLS."""

    def __init__(self, context):
        super().__init__(Lines(ending=b"\r\n"))
        self.context = context
        self.frames = []
        self.reasons = []

    def frame_received(self, frame):
        self.frames.append(frame)
        if frame == b"STARTTLS":
            self.send(b"ready")
            self.start_tls(self.context, server_side=True)

    def connection_lost(self, exc):
        self.reasons.append(exc)


def hello_of(context):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing


def test_lines_before_and_after_an_upgrade(reactor, certificates):
    protocol = Upgrading(certificates.server())
    _, peer = pair(reactor, protocol)
    client, incoming, outgoing = hello_of(certificates.client())
    with peer:
        peer.sendall(b"EHLO\r\nSTARTTLS\r\n")
        assert receive(reactor, peer, lambda got: got.endswith(b"\n")) == b"ready\r\n"
        peer.sendall(outgoing.read())

        def established():
            with contextlib.suppress(BlockingIOError):
                incoming.write(peer.recv(1 << 16))
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                return True
            return False

        spin(reactor, established)
        client.write(b"EHLO again\r\n")
        peer.sendall(outgoing.read())
        spin(reactor, lambda: len(protocol.frames) == 3)
        assert protocol.frames == [b"EHLO", b"STARTTLS", b"EHLO again"]


@pytest.mark.parametrize("smuggled", [b"MAIL FROM:<eve@example.org>\r\n", b"MAIL FR", bytes(1 << 17)])
def test_what_comes_in_clear_behind_the_upgrade_is_never_handed_over(reactor, certificates, smuggled):
    protocol = Upgrading(certificates.server())
    _, peer = pair(reactor, protocol)
    _, _, outgoing = hello_of(certificates.client())
    with peer:
        with contextlib.suppress(BlockingIOError):
            peer.sendall(b"STARTTLS\r\n" + smuggled + outgoing.read())
        spin(reactor, lambda: protocol.reasons)
        assert protocol.frames == [b"STARTTLS"]
        assert isinstance(protocol.reasons[0], TLSHandshakeError)


# Framers that change


class Store(FramedProtocol):
    """Header lines and an empty one, then a body of as many bytes as the last header said, and again."""

    framer_changes = True

    def __init__(self, answer=b""):
        super().__init__(Lines(200))
        self.answer = answer
        self.frames = []
        self.reasons = []
        self.size = 0

    def frame_received(self, frame):
        self.frames.append((type(self.framer).__name__, frame))
        if isinstance(self.framer, Block):
            self.set_framer(Lines(200))
            if self.answer:
                self.send(self.answer)
        elif frame:
            self.size = int(frame.rpartition(b" ")[2])
        else:
            self.set_framer(Block(self.size))

    def connection_lost(self, exc):
        self.reasons.append(exc)


BODIES = st.binary(max_size=60).map(lambda data: data + b"\n5\n") | st.just(b"") | st.binary(max_size=300)
REQUESTS = st.lists(st.tuples(st.lists(st.integers(0, 99), max_size=2), BODIES), max_size=6)


def encoded(requests):
    """Return the bytes of requests, and the frames that they are."""
    sent, frames = bytearray(), []
    for headers, body in requests:
        for header in [*(b"x %d" % number for number in headers), b"size %d" % len(body), b""]:
            sent += header + b"\r\n"
            frames.append(("Lines", header))
        sent += body
        frames.append(("Block", body))
    return bytes(sent), frames


@given(requests=REQUESTS, places=st.lists(st.integers(0, 2000), max_size=40), left=st.integers(0, 50))
def test_framers_that_change_decode_the_same_however_it_is_cut(requests, places, left):
    sent, frames = encoded(requests)
    ends = sorted({min(place, len(sent)) for place in places} | {len(sent)})
    protocol = Store()
    with Reactor() as reactor:
        _, peer = pair(reactor, protocol)
        with peer:
            for start, end in zip([0, *ends], ends, strict=False):
                peer.sendall(sent[start:end])
                reactor.run_once(0)
            peer.sendall(b"y" * left)
            peer.shutdown(socket.SHUT_WR)
            spin(reactor, lambda: protocol.reasons)
    assert protocol.frames[: len(frames)] == frames


@given(requests=REQUESTS)
def test_framers_that_change_take_turns_in_one_piece(requests):
    sent, frames = encoded(requests)
    protocol = Store()
    protocol.connection_made(_Open())
    protocol.data_received(sent)
    assert protocol.frames == frames


class _Open:
    """As much of a connection as decoding asks for."""

    def is_closing(self):
        return False


@pytest.mark.parametrize(
    ("sent", "error", "count"),
    [
        (b"size 5\n\nabc", IncompleteFrame, 2),
        (b"size 5\n\nabcde" + b"x" * 201, FrameTooLong, 3),
        (b"size 5\n\n", IncompleteFrame, 2),
        (b"size 0\n\n", None, 3),
        (b"size 5\n\nabcdesize 7", None, 4),
    ],
)
def test_end_and_limits_are_those_of_the_framer_in_place(reactor, sent, error, count):
    protocol = Store()
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: protocol.reasons)
    assert [type(reason) for reason in protocol.reasons] == [type(None) if error is None else error]
    assert len(protocol.frames) == count


def test_framers_that_change_under_back_pressure(reactor):
    protocol = Store(answer=b"ok" * 50)
    limits = Limits(high_water=1000, low_water=100)
    connection, peer = pair(reactor, protocol, limits=limits)
    requests = [([number], b"%d\n" % number) for number in range(20_000)]
    sent, frames = encoded(requests)
    rest = memoryview(sent)
    got = bytearray()
    held = []

    def turn():
        nonlocal rest
        with contextlib.suppress(BlockingIOError):
            while rest:
                rest = rest[peer.send(rest) :]
        held.append(not connection.is_reading())
        if not rest or held[-1]:
            with contextlib.suppress(BlockingIOError):
                got.extend(peer.recv(65536))
        return len(got) == 101 * len(requests)

    with peer:
        spin(reactor, turn, wait=0.01)
    assert True in held
    assert protocol.frames == frames


def test_many_small_changes_in_one_piece_cost_linear_time():
    sent, frames = encoded([([], b"x")] * 100_000)
    protocol = Store()
    protocol.connection_made(_Open())
    protocol.data_received(sent)
    assert len(protocol.frames) == len(frames)


def test_framer_that_is_put_in_place_later_takes_what_has_come(reactor):
    protocol = Store()
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"abc")
        reactor.run_once()
        assert protocol.frames == []
        protocol.set_framer(Block(2))  # "c" is for the lines that follow
        assert protocol.frames == [("Block", b"ab")]
        peer.sendall(b" 7\n")
        spin(reactor, lambda: len(protocol.frames) == 2)
        assert protocol.frames[1] == ("Lines", b"c 7")


def test_framer_of_a_class_that_does_not_say_so_stays(reactor):
    protocol = Upper(Lines())
    _, peer = pair(reactor, protocol)
    framer = protocol.framer
    with peer, pytest.raises(UsageError, match="set framer_changes = True in Upper"):
        protocol.set_framer(Block(1))
    assert protocol.framer is framer


@pytest.mark.parametrize("smuggled", [b"MAIL FROM:<eve@example.org>\r\n", b"MAIL FR"])
def test_nothing_in_clear_is_decoded_behind_the_upgrade_one_at_a_time_either(reactor, certificates, smuggled):
    class Changing(Upgrading):
        framer_changes = True

    protocol = Changing(certificates.server())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"STARTTLS\r\n" + smuggled)
        spin(reactor, lambda: protocol.reasons)
        assert protocol.frames == [b"STARTTLS"]
        assert isinstance(protocol.reasons[0], TLSHandshakeError)


def test_example_of_the_docstring_runs(reactor):
    text = textwrap.dedent(inspect.getdoc(FramedProtocol).partition("`set_framer`:\n\n")[2])
    names = {"FramedProtocol": FramedProtocol, "Lines": Lines, "Block": Block}
    exec(text, names)
    _, peer = pair(reactor, names["Store"]())
    with peer:
        peer.sendall(b"5\n1\n2\n30\n3\nabc")
        expected = b"5 bytes stored\n0 bytes stored\n3 bytes stored\n"
        assert receive(reactor, peer, lambda got: len(got) >= len(expected)) == expected
