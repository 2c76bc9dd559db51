"""`FramedProtocol` over real sockets: frames in order, answers in one piece, and the reason of the end."""

import contextlib
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Protocol, Reactor
from reactor.errors import FrameTooLong, IncompleteFrame, MalformedFrame, TLSHandshakeError, UsageError
from reactor.framed import FramedProtocol
from reactor.framing import Block, LengthPrefixed, Lines, Netstrings
from reactor.testing import Errors, MemoryReactor, Recorder, ScriptedSocket
from tests.helpers import pair, receive, spin


class Upper(FramedProtocol):
    """Answers each frame in capitals, closes at "quit", and keeps the reason of the end."""

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


def test_answers_of_a_batch_are_sent_in_one_piece(reactor):
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    sock = ScriptedSocket(ours)
    reactor.adopt(sock, lambda: Upper(Lines()))
    with peer:
        peer.sendall(b"".join(b"line %d\n" % number for number in range(20)))
        got = receive(reactor, peer, lambda got: got.count(b"\n") == 20)
        assert got == b"".join(b"LINE %d\n" % number for number in range(20))
        assert [call for call in sock.calls if call.startswith("send")] == ["send"]


def test_send_outside_of_a_batch_is_sent_at_once(reactor):
    protocol = Upper(Netstrings())
    _, peer = pair(reactor, protocol)
    with peer:
        assert protocol.send(b"hello") is True
        assert peer.recv(100) == b"5:hello,"


def test_no_frame_is_handled_after_close(reactor):
    protocol = Upper(Lines())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"one\nquit\ntwo\n")
        assert receive(reactor, peer) == b"ONE\n"
        spin(reactor, lambda: protocol.reasons)
        assert protocol.frames == [b"one", b"quit"]
        assert protocol.reasons == [None]


def test_exception_in_frame_received_is_reported(reactor, errors):
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
def test_malformed_frame_ends_the_connection_after_the_answers_before_it(reactor, make, data, answer, error):
    protocol = Upper(make())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(data)
        assert receive(reactor, peer) == answer
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
        assert receive(reactor, peer) == b"ONE\nTWO\n"
        spin(reactor, lambda: protocol.reasons)
        assert protocol.reasons == [None]


def test_end_of_file_within_a_frame_is_the_reason_of_the_end(reactor):
    protocol = Upper(LengthPrefixed())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"\0\0\0\3one\0\0")
        peer.shutdown(socket.SHUT_WR)
        assert receive(reactor, peer) == b"\0\0\0\3ONE"
        spin(reactor, lambda: protocol.reasons)
        assert isinstance(protocol.reasons[0], IncompleteFrame)


@pytest.mark.parametrize("bad", [b"", b"x" * 100_001])
def test_frames_are_held_while_the_peer_reads_no_answers(reactor, bad):
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


def test_lines_are_decoded_before_and_after_start_tls(reactor, certificates):
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
def test_frames_in_clear_behind_start_tls_are_dropped(reactor, certificates, smuggled):
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
    """Header lines, an empty line, and a body of as many bytes as the last header names; repeated."""

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
    """Return the bytes of requests, and their frames."""
    sent, frames = bytearray(), []
    for headers, body in requests:
        for header in [*(b"x %d" % number for number in headers), b"size %d" % len(body), b""]:
            sent += header + b"\r\n"
            frames.append(("Lines", header))
        sent += body
        frames.append(("Block", body))
    return bytes(sent), frames


@given(requests=REQUESTS, places=st.lists(st.integers(0, 2000), max_size=40), left=st.integers(0, 50))
def test_changing_framers_decode_the_same_however_the_bytes_are_cut(requests, places, left):
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
def test_framers_may_change_within_one_piece(requests):
    sent, frames = encoded(requests)
    protocol = Store()
    protocol.connection_made(_Open())
    protocol.data_received(sent)
    protocol.connection.run()
    assert protocol.frames == frames


class _Open:
    """The part of a connection and its reactor that decoding uses."""

    def __init__(self):
        self.next = []

    @property
    def reactor(self):
        return self

    def wants_input(self):
        return True

    def hold_reading(self, held):
        pass

    def is_closing(self):
        return False

    def call_soon(self, callback):
        self.next.append(callback)

    def run(self):
        while self.next:
            self.next.pop()()


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
def test_limits_and_end_of_file_are_those_of_the_current_framer(reactor, sent, error, count):
    protocol = Store()
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: protocol.reasons)
    assert [type(reason) for reason in protocol.reasons] == [type(None) if error is None else error]
    assert len(protocol.frames) == count


def test_framers_may_change_under_back_pressure(reactor):
    protocol = Store(answer=b"ok" * 50)
    limits = Limits(high_water=1000, low_water=100)
    connection, peer = pair(reactor, protocol, limits=limits)
    requests = [([number], b"%d\n" % number) for number in range(20_000)]
    sent, frames = encoded(requests)
    rest = memoryview(sent)
    got = bytearray()
    held = []

    def step():
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
        spin(reactor, step, wait=0.01)
    assert True in held
    assert protocol.frames == frames


def test_many_changes_of_framer_in_one_piece_take_linear_time():
    sent, frames = encoded([([], b"x")] * 100_000)
    protocol = Store()
    protocol.connection_made(_Open())
    protocol.data_received(sent)
    protocol.connection.run()
    assert len(protocol.frames) == len(frames)


def test_framer_set_later_decodes_the_bytes_received_before(reactor):
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


class Careless(FramedProtocol):
    """Has no `frame_received`."""

    def __init__(self):
        super().__init__(Lines())


def test_missing_frame_received_is_reported(reactor, errors):
    _, peer = pair(reactor, Careless())
    peer.send(b"line\n")
    spin(reactor, lambda: errors.seen)
    assert str(errors.take()[0]) == "Careless must define frame_received"
    peer.close()


@pytest.mark.parametrize("framer", [Lines(), LengthPrefixed(2), Netstrings()])
def test_text_in_place_of_bytes_is_refused(reactor, framer):
    protocol = Upper(framer)
    _, peer = pair(reactor, protocol)
    with peer, pytest.raises(TypeError, match="a frame must be bytes, not str: encode it first"):
        protocol.send("text")


def test_class_in_place_of_a_framer_is_refused():
    with pytest.raises(TypeError, match=r"framer must be a Framer, not the class: write Lines\(\)"):
        Upper(Lines)


def test_set_framer_is_refused_without_framer_changes(reactor):
    protocol = Upper(Lines())
    _, peer = pair(reactor, protocol)
    framer = protocol.framer
    with peer, pytest.raises(UsageError, match="set framer_changes = True in Upper"):
        protocol.set_framer(Block(1))
    assert protocol.framer is framer


@pytest.mark.parametrize("smuggled", [b"MAIL FROM:<eve@example.org>\r\n", b"MAIL FR"])
def test_next_frame_decodes_nothing_in_clear_behind_start_tls(reactor, certificates, smuggled):
    class Changing(Upgrading):
        framer_changes = True

    protocol = Changing(certificates.server())
    _, peer = pair(reactor, protocol)
    with peer:
        peer.sendall(b"STARTTLS\r\n" + smuggled)
        spin(reactor, lambda: protocol.reasons)
        assert protocol.frames == [b"STARTTLS"]
        assert isinstance(protocol.reasons[0], TLSHandshakeError)


# A few frames at once


class Paced(FramedProtocol):
    """Keeps its frames, and answers them."""

    frames_per_tick = 3

    def __init__(self):
        super().__init__(Lines())
        self.frames = []
        self.reasons = []

    def frame_received(self, frame):
        self.frames.append(frame)
        if frame == b"broken":
            raise ValueError("broken")
        self.send(frame)

    def connection_lost(self, exc):
        self.reasons.append(exc)


class Changing(Paced):
    """The same, with one frame per tick."""

    framer_changes = True


def lines(count):
    return b"".join(b"%d\n" % number for number in range(count))


@pytest.mark.parametrize("kind", [Paced, Changing])
def test_frames_per_tick_limits_the_frames_of_a_tick(reactor, kind):
    paced = kind()
    connection, peer = pair(reactor, paced)
    with peer:
        peer.send(lines(20))
        reactor.run_once(1)
        while len(paced.frames) < 20:
            before = len(paced.frames)
            reactor.run_once(1)
            assert len(paced.frames) - before <= 3
            assert connection.is_reading() is not paced.draining()
        spin(reactor, connection.is_reading)
        assert b"".join(frame + b"\n" for frame in paced.frames) == lines(20)
        assert not paced.draining()
        assert reactor.next_timeout() != 0


def test_other_connections_are_served_between_the_frames_of_one(reactor):
    busy, other = Paced(), Paced()
    _, peer = pair(reactor, busy)
    _, its_peer = pair(reactor, other)
    with peer, its_peer:
        peer.send(lines(10_000))
        reactor.run_once(1)
        its_peer.send(b"x\n")
        for _ in range(3):
            reactor.run_once(1)
        assert other.frames == [b"x"]
        assert len(busy.frames) < 20


@pytest.mark.parametrize("kind", [Paced, Changing])
@pytest.mark.parametrize("ending", [b"", b"the last, without its end"])
def test_pause_reading_holds_received_frames_until_resume_reading(reactor, kind, ending):
    class Pausing(kind):
        def frame_received(self, frame):
            super().frame_received(frame)
            if frame == b"1":
                self.connection.pause_reading()

    paced = Pausing()
    connection, peer = pair(reactor, paced)
    with peer:
        peer.send(lines(20) + ending)
        peer.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: len(paced.frames) == 2)
        for _ in range(5):
            reactor.run_once(0)
        assert paced.frames == [b"0", b"1"]
        assert reactor.next_timeout() != 0  # it waits for nothing
        assert paced.draining()
        connection.resume_reading()
        assert paced.frames == [b"0", b"1"]
        spin(reactor, lambda: paced.reasons)
        assert b"".join(frame + b"\n" for frame in paced.frames) == lines(20) + (ending and ending + b"\n")
        assert paced.reasons == [None]


def test_pause_reading_and_back_pressure_are_independent():
    class Big(Paced):
        def frame_received(self, frame):
            self.frames.append(frame)
            self.connection.write(bytes(1_000_000))

    with MemoryReactor() as memory:
        big = Big()
        server, client = memory.pair(lambda: big, Recorder)
        client.pause_reading()
        client.write(lines(5))
        memory.settle()
        assert len(big.frames) == 1
        server.resume_reading()
        server.pause_reading()
        server.resume_reading()
        memory.settle()
        assert (len(big.frames), server.is_reading()) == (1, False)
        server.pause_reading()
        client.resume_reading()
        memory.settle()
        assert (len(big.frames), server.is_reading()) == (1, False)
        server.resume_reading()
        memory.settle()
        assert (len(big.frames), server.is_reading()) == (5, True)


@pytest.mark.parametrize("paused", [False, True])
def test_held_frames_are_handled_before_a_drain_ends_the_connection(paused):
    with MemoryReactor() as memory:
        paced = Paced()
        server, client = memory.pair(lambda: paced, Recorder)
        client.write(lines(20))
        while not paced.frames:
            memory.run_once(0)
        assert 0 < len(paced.frames) < 20
        if paused:
            server.pause_reading()
            memory.call_later(3, server.resume_reading)
        reports = []
        memory.drain(5, reports.append)
        memory.advance(4.9)
        assert client.get_protocol() is None
        assert len(paced.frames) == 20
        assert [report.aborted for report in reports] == [0]


@pytest.mark.parametrize("position", [0, 10])
def test_exception_in_a_later_tick_closes_the_connection_and_is_reported(position):
    errors = Errors()
    with MemoryReactor(on_error=errors) as memory:
        paced = Paced()
        _, client = memory.pair(lambda: paced, Protocol)
        client.write(lines(position) + b"broken\n" + lines(10))
        memory.settle()
        assert str(errors.take()[0]) == "broken"
        assert len(paced.frames) == position + 1
        assert memory.connections() == []


def test_held_frames_are_dropped_when_the_connection_ends():
    errors = Errors()
    with MemoryReactor(on_error=errors) as memory:
        paced = Paced()
        server, client = memory.pair(lambda: paced, Protocol)
        client.write(lines(10))
        memory.run_once(0)
        server.abort()
        memory.settle()
        assert errors.seen == []
        assert len(paced.frames) < 10
        assert memory.connections() == []


@pytest.mark.parametrize("position", [0, 2, 3, 7])
def test_interrupt_in_frame_received_keeps_the_frames_behind_it(reactor, position):
    class Interrupted(Paced):
        def frame_received(self, frame):
            super().frame_received(frame)
            if frame == b"%d" % position:
                raise KeyboardInterrupt

    paced = Interrupted()
    _, peer = pair(reactor, paced)
    with peer:
        peer.send(lines(10))
        with pytest.raises(KeyboardInterrupt):
            spin(reactor, lambda: False)
        assert paced.frames[-1] == b"%d" % position
        spin(reactor, lambda: len(paced.frames) == 10)
        assert receive(reactor, peer, lambda got: len(got) == 20) == lines(10)


def test_new_protocol_receives_while_frames_of_the_old_one_are_held(reactor):
    paced, recorder = Paced(), Recorder()
    connection, peer = pair(reactor, paced)
    with peer:
        peer.send(lines(3) + b"3\n")
        spin(reactor, lambda: paced.frames)
        connection.set_protocol(recorder)
        peer.send(b"for the other")
        spin(reactor, lambda: recorder.received == b"for the other")


LINES = st.binary(max_size=4).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))


@given(
    frames=st.lists(LINES),
    kind=st.sampled_from([Paced, Changing]),
    pauses=st.sets(st.integers(0, 30)),
    drains=st.booleans(),
)
def test_every_frame_is_handled_once_in_order_whatever_is_paused(frames, kind, pauses, drains):
    """However the bytes are cut, whenever reading is paused, and also during a drain."""
    data = b"".join(frame + b"\n" for frame in frames)

    class Pausing(kind):
        def frame_received(self, frame):
            if len(self.frames) in pauses:
                self.connection.pause_reading()
                memory.call_later(1, self.connection.resume_reading)
            super().frame_received(frame)

    with MemoryReactor(seed=len(data), choppy=0.5) as memory:
        paced, recorder = Pausing(), Recorder()
        _, client = memory.pair(lambda: paced, lambda: recorder)
        client.write(data)
        client.write_eof()
        if drains:
            memory.run_once(0)
            memory.drain(1000, lambda report: None)
        memory.run_out()
        assert paced.frames == frames
        if not drains:  # which closes the client's end too
            assert recorder.received == data
            assert paced.reasons == [None]
