"""Any chunks, partial sends and receives, and faults: the received bytes are the written ones."""

import errno
import random
import socket
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import BufferedProtocol, Limits, Reactor
from reactor.connection.channel import RECV_SIZE
from reactor.connection.send_queue import GATHER_LIMIT, GATHER_QUEUE
from reactor.reactor import loop_of
from reactor.testing import Errors, Recorder, ScriptedSocket
from tests.helpers import examples, spin

# The stream that is sent: no two parts are equal, so that lost, doubled or swapped bytes are noticed.
pytestmark = pytest.mark.slow

STREAM = random.Random(9092).randbytes(1 << 22)

HIGH, LOW = 40_000, 10_000  # water marks that differ from all other limits
BORDERS = [0, LOW, HIGH, GATHER_LIMIT, GATHER_QUEUE, RECV_SIZE, 200 * 1024]
AROUND = st.integers(-2, 2)
NEAR_BORDERS = st.builds(lambda at, by: max(0, at + by), st.sampled_from(BORDERS), AROUND)
SIZES = st.one_of(st.integers(0, 300), NEAR_BORDERS)
CUTS = st.lists(SIZES, max_size=12)

PARTIAL = st.lists(
    st.one_of(
        st.none(),
        st.integers(1, 5000),
        st.builds(BlockingIOError),
        st.builds(InterruptedError),
    ),
    max_size=15,
)
SENDING = st.fixed_dictionaries({"send": PARTIAL, "sendmsg": PARTIAL})
RECEIVING = st.fixed_dictionaries({"recv": PARTIAL, "recv_into": PARTIAL})
BOTH = st.builds(lambda sending, receiving: sending | receiving, SENDING, RECEIVING)
LIMITS = st.one_of(
    st.just(Limits(high_water=HIGH, low_water=LOW)),
    st.integers(0, 100_000).map(lambda high: Limits(high_water=high, low_water=high // 4)),
)


@attrs.frozen
class Write:
    """A call that writes: the sizes and the type of its pieces, and the method."""

    sizes: list[int]
    kind: type
    method: str

    def pieces(self, start):
        """Return the pieces, which join to the stream from `start` on."""
        ends = [start]
        for size in self.sizes:
            ends.append(ends[-1] + size)
        return [self.kind(STREAM[one:other]) for one, other in pairwise(ends)]


KINDS = st.sampled_from([bytes, bytearray, lambda data: memoryview(bytearray(data)), memoryview])
ONE_WRITE = st.one_of(
    st.builds(lambda size, kind: Write([size], kind, "write"), SIZES, KINDS),
    st.builds(Write, st.lists(SIZES, max_size=4), KINDS, st.just("writelines")),
)
WRITES = st.lists(ONE_WRITE, max_size=4)
# Where a list of writes is made: outside of ticks, or in a callback.
PLACES = st.sampled_from(["outside", "call_soon", "timer", "thread", "data_received"])
# Callbacks that are run by the same tick.
PLAN = st.lists(st.one_of(st.tuples(PLACES, WRITES), st.just(("tick", []))), min_size=1, max_size=8)


class Writer(Recorder):
    """A recorder that writes parts of the stream as planned, and checks its calls."""

    def __init__(self, at_start=()):
        super().__init__()
        self.keep_open = True
        self.at_start = at_start
        self.on_data = []
        self.written = 0
        self.done = 0

    def connection_made(self, connection):
        super().connection_made(connection)
        self.do(self.at_start)
        self.done = 0

    def data_received(self, data):
        super().data_received(data)
        todo, self.on_data = self.on_data, []
        for writes in todo:
            self.do(writes)

    def do(self, writes):
        self.done += 1
        for write in writes:
            self.write(write)

    def write(self, write):
        pieces = write.pieces(self.written)
        closing = self.connection.is_closing()
        if write.method == "write":
            taken = self.connection.write(pieces[0])
        else:
            taken = self.connection.writelines(iter(pieces))
        if not closing:
            self.written += sum(write.sizes)
        for piece in pieces:
            scribble(piece)
        queued, high = (
            self.connection.get_write_buffer_size(),
            self.connection.get_write_buffer_limits()[1],
        )
        if self.connection.is_closing():
            assert taken is False, f"{write.method} took bytes on a closing connection"
        elif queued > max(high, GATHER_LIMIT):
            assert taken is False, f"{write.method}: True with {queued} queued, {high} allowed"
        elif queued <= high:
            assert taken is True, f"{write.method}: False with {queued} queued, {high} allowed"

    def check_pauses(self):
        pauses = [name for name in self.names if name.endswith("_writing")]
        pairs = ["pause_writing", "resume_writing"] * len(pauses)
        assert pauses == pairs[: len(pauses)], "pause_writing and resume_writing do not take turns"


class Filler(BufferedProtocol):
    """Receives into buffers of the given sizes, one after the other, and keeps the bytes."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.calls_made = 0
        self.buffer = bytearray(1)
        self.received = bytearray()
        self.names = []

    def connection_made(self, connection):
        self.connection = connection

    def get_buffer(self, sizehint):
        self.calls_made += 1
        self.buffer = bytearray(self.sizes[self.calls_made % len(self.sizes)])
        return self.buffer

    def buffer_updated(self, nbytes):
        self.received += memoryview(self.buffer)[:nbytes]

    def eof_received(self):
        self.names.append("eof_received")
        return True


def scribble(piece):
    """Overwrite a written bytearray, as its owner may."""
    if not memoryview(piece).readonly:
        piece[:] = bytes(len(piece))


class FaultySocket(ScriptedSocket):
    """Raises `fault` at its call number `at`, whatever its script has for that; `calls` are those after it.

    last: the method after whose call it raises no more: what a lingering socket raises matters to nobody.
    """

    IO = frozenset({"send", "sendmsg", "recv", "recv_into", "shutdown"})

    def __init__(self, sock, at, fault, last, **script):
        super().__init__(sock, **script)
        self.at = at
        self.last = last
        self.fault = fault
        self.struck = False

    def next_result(self, name):
        if name in self.IO and not self.struck and self.at >= 0:
            if self.at == 0:
                self.struck = True
                self.calls.clear()
                raise self.fault
            self.at = -1 if name == self.last else self.at - 1
        return super().next_result(name)


class World:
    """A reactor with one connection of a scripted socket, and its peer."""

    def __init__(self, make_selector, protocol, *, limits=None, wrap=ScriptedSocket, **script):
        self.errors = Errors()
        self.reactor = Reactor(selector=make_selector(), on_error=self.errors)
        self.protocol = protocol
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.sock = wrap(ours, **script)
        self.connection = self.reactor.adopt(self.sock, lambda: protocol, limits=limits)
        self.got = bytearray()
        self.fed = 0
        self.planned = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, traceback):
        self.reactor.close()
        self.peer.close()
        if exc is None:
            assert self.errors.seen == [], "something was reported to on_error"

    def spin(self, until):
        spin(self.reactor, until, deadline=5)  # Hypothesis repeats a failing example many times

    def receive(self, limit=1 << 20):
        """Receive all that is available at the peer; return whether its stream has ended."""
        try:
            while more := self.peer.recv(limit):
                self.got += more
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        return True

    def feed(self, size):
        """Send `size` bytes of the stream from the peer."""
        end = self.fed + size
        while self.fed < end:
            try:
                self.fed += self.peer.send(STREAM[self.fed : end])
            except BlockingIOError:
                self.reactor.run_once(0)
            except (BrokenPipeError, ConnectionResetError):
                return  # a fault has ended it

    def follow(self, plan, limit=1 << 20):
        """Write as planned, with the peer receiving up to `limit` bytes after each tick."""
        for place, writes in plan:
            self.planned += place != "tick"
            if place == "outside":
                self.protocol.do(writes)
            elif place == "call_soon":
                self.reactor.call_soon(self.protocol.do, writes)
            elif place == "timer":
                self.reactor.call_later(0, self.protocol.do, writes)
            elif place == "thread":
                self.reactor.call_soon_threadsafe(self.protocol.do, writes)
            elif place == "data_received":
                self.protocol.on_data.append(writes)
                self.feed(1)
            else:
                self.reactor.run_once(0)
                self.receive_once(limit)

    def receive_once(self, limit):
        try:
            self.got += self.peer.recv(limit)
        except (BlockingIOError, ConnectionResetError):
            pass

    def settle(self):
        """Run the planned writes that have not been run."""
        self.spin(lambda: self.protocol.lost or self.protocol.done == self.planned)


def assert_stream(got, size, what):
    """Fail, naming the place, unless `got` is the stream's first `size` bytes."""
    if got != STREAM[:size]:
        pairs = enumerate(zip(got, STREAM, strict=False))
        wrong = next((at for at, (one, other) in pairs if one != other), "no place")
        raise AssertionError(f"{what}: {len(got)} bytes for {size}, the first wrong one at {wrong}")


@given(plan=PLAN, at_start=WRITES, script=SENDING, limits=LIMITS, limit=SIZES.filter(bool))
def test_written_bytes_arrive_unchanged(make_selector, plan, at_start, script, limits, limit):
    writer = Writer(at_start)
    with World(make_selector, writer, limits=limits, **script) as world:
        world.follow(plan, limit)
        world.settle()
        world.connection.close()
        world.spin(lambda: world.receive(max(limit, 4096)))
        assert_stream(world.got, writer.written, "received by the peer")
        world.spin(lambda: writer.lost)
        assert writer.reason is None
        writer.check_pauses()
        assert world.connection.get_write_buffer_size() == 0


@given(plan=PLAN, script=SENDING, limits=LIMITS)
def test_paused_writing_is_resumed_when_the_peer_has_received_the_queue(make_selector, plan, script, limits):
    writer = Writer()
    with World(make_selector, writer, limits=limits, **script) as world:
        world.follow(plan, 1)
        world.settle()
        world.spin(lambda: world.receive() or len(world.got) == writer.written)
        world.spin(lambda: world.connection.get_write_buffer_size() == 0)
        assert_stream(world.got, writer.written, "received by the peer")
        assert writer.names.count("pause_writing") == writer.names.count("resume_writing")
        writer.check_pauses()
        assert not writer.lost


@given(plan=PLAN, script=SENDING, limits=LIMITS)
def test_end_of_file_follows_all_written_bytes(make_selector, plan, script, limits):
    writer = Writer()
    with World(make_selector, writer, limits=limits, **script) as world:
        world.follow(plan)
        world.settle()
        world.connection.write_eof()
        world.spin(world.receive)
        assert_stream(world.got, writer.written, "received by the peer")
        assert not writer.lost
        before = world.fed
        world.feed(100)  # the other direction is not affected
        world.spin(lambda: len(writer.received) == before + 100)
        world.peer.shutdown(socket.SHUT_WR)
        world.spin(lambda: writer.lost)
        assert writer.reason is None


@given(
    cuts=CUTS,
    script=RECEIVING,
    buffers=st.lists(SIZES.filter(bool), max_size=3),
    pauses=st.integers(),
)
def test_received_bytes_arrive_unchanged(make_selector, cuts, script, buffers, pauses):
    """buffers: sizes of a `BufferedProtocol`'s buffers, if there are any. pauses: a bit for each chunk."""
    protocol = Filler([*buffers, RECV_SIZE]) if buffers else Recorder()
    protocol.keep_open = True
    with World(make_selector, protocol, **script) as world:
        for number, size in enumerate(cuts):
            if pauses >> number & 1:
                world.connection.pause_reading()
                before = len(protocol.received)
                world.reactor.run_once(0)
                assert len(protocol.received) == before, "received while reading was paused"
                world.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                world.connection.resume_reading()
            world.feed(size)
            world.reactor.run_once(0)
        world.peer.shutdown(socket.SHUT_WR)
        world.spin(lambda: "eof_received" in protocol.names)
        assert_stream(protocol.received, sum(cuts), "received by the protocol")
        assert ("data_received", b"") not in getattr(protocol, "calls", [])


class Echo(Writer):
    """Echoes, and pauses reading while writing is paused."""

    polite = True

    def data_received(self, data):
        self.calls.append(("data_received", data))
        self.connection.write(data)

    def pause_writing(self):
        super().pause_writing()
        if self.polite:
            self.connection.pause_reading()

    def resume_writing(self):
        super().resume_writing()
        if self.polite:
            self.connection.resume_reading()


@given(cuts=CUTS, script=BOTH, limits=LIMITS, polite=st.booleans(), limit=SIZES.filter(bool))
def test_echo_gives_back_every_byte(make_selector, cuts, script, limits, polite, limit):
    echo = Echo()
    echo.polite = polite
    size = sum(cuts)
    with World(make_selector, echo, limits=limits, **script) as world:
        for end in cuts:
            rest = world.fed + end
            while world.fed < rest:
                try:
                    world.fed += world.peer.send(STREAM[world.fed : rest])
                except BlockingIOError:
                    world.receive(max(limit, 4096))
                world.reactor.run_once(0)
            world.receive_once(limit)
        world.peer.shutdown(socket.SHUT_WR)
        world.spin(lambda: world.receive() or "eof_received" in echo.names)
        echo.connection.close()
        world.spin(world.receive)
        assert_stream(echo.received, size, "received by the echo")
        assert_stream(world.got, size, "received back by the peer")
        world.spin(lambda: echo.lost)
        assert echo.reason is None
        echo.check_pauses()


@given(plans=st.tuples(PLAN, PLAN), scripts=st.tuples(BOTH, BOTH), limits=LIMITS)
def test_two_connections_of_one_reactor_write_to_each_other(make_selector, plans, scripts, limits):
    """Both connections write their plans in the same ticks."""
    errors = Errors()
    pair = [Writer(), Writer()]
    with Reactor(selector=make_selector(), on_error=errors) as reactor:
        for writer, sock, script in zip(pair, socket.socketpair(), scripts, strict=True):
            reactor.adopt(ScriptedSocket(sock, **script), lambda made=writer: made, limits=limits)
        for step in range(max(map(len, plans))):
            for writer, plan in zip(pair, plans, strict=True):
                place, writes = plan[step] if step < len(plan) else ("tick", [])
                if place == "outside":
                    writer.do(writes)
                elif place == "tick":
                    reactor.run_once(0)
                elif place == "data_received":
                    writer.on_data.append(writes)
                else:
                    reactor.call_soon(writer.do, writes)
        spin(reactor, lambda: reactor.next_timeout() != 0, deadline=5)
        one, other = pair
        for writer in pair:
            writer.on_data.clear()  # for data that was never received
        both = lambda: len(one.received) == other.written and len(other.received) == one.written  # noqa: E731
        spin(reactor, both, deadline=5)
        assert_stream(one.received, other.written, "received by the first")
        assert_stream(other.received, one.written, "received by the second")
        one.connection.write_eof()
        spin(reactor, lambda: "eof_received" in other.names, deadline=5)
        other.connection.close()
        spin(reactor, lambda: one.lost and other.lost, deadline=5)
        assert (one.reason, other.reason) == (None, None)
        one.check_pauses()
        other.check_pauses()
    assert errors.seen == []


@st.composite
def cut_twice(draw):
    """A size, and two ways to cut that many bytes into writes."""
    size = draw(st.one_of(SIZES, st.integers(0, 300_000)))

    def cut():
        ends = sorted(draw(st.lists(st.integers(0, size), max_size=10)))
        return [other - one for one, other in pairwise([0, *ends, size])]

    return size, cut(), cut()


@given(
    cuts=cut_twice(),
    scripts=st.tuples(BOTH, BOTH),
    places=st.tuples(PLACES, PLACES),
    kind=KINDS,
)
def test_result_does_not_depend_on_how_the_bytes_are_cut(make_selector, cuts, scripts, places, kind):
    size, *ways = cuts
    came = []
    for way, script, place in zip(ways, scripts, places, strict=True):
        writer = Writer()
        with World(make_selector, writer, **script) as world:
            world.follow([(place, [Write([part], kind, "write")]) for part in way])
            world.reactor.run_once(0)
            world.settle()
            for part in way:
                world.feed(part)
            world.peer.shutdown(socket.SHUT_WR)
            world.spin(lambda made=writer: "eof_received" in made.names)
            world.connection.close()
            world.spin(world.receive)
            came.append((bytes(world.got), writer.received, world.fed))
    for got, received, fed in came:
        assert_stream(got, size, "received by the peer")
        assert_stream(received, fed, "received by the protocol")


FAULTS = st.sampled_from([ConnectionResetError, BrokenPipeError, TimeoutError, OSError]).flatmap(
    lambda kind: st.builds(kind, st.sampled_from(FAULT_NUMBERS[kind]), st.just("fault"))
)
FAULT_NUMBERS = {
    ConnectionResetError: [errno.ECONNRESET],
    BrokenPipeError: [errno.EPIPE],
    TimeoutError: [errno.ETIMEDOUT],
    OSError: [errno.EIO, errno.ENOBUFS, errno.ENOMEM, errno.EHOSTUNREACH],
}


@given(
    plan=PLAN,
    at_start=WRITES,
    script=BOTH,
    limits=LIMITS,
    fault=FAULTS,
    at=st.integers(0, 30),
    end=st.sampled_from(["close", "write_eof", "peer"]),
)
def test_after_a_fault_the_peer_has_a_prefix_and_connection_lost_is_called_once(
    make_selector, plan, at_start, script, limits, fault, at, end
):
    """The fault is raised at any call of the socket: send, sendmsg, recv or shutdown."""
    writer = Writer(at_start)

    def wrap(sock, **script):
        return FaultySocket(sock, at, fault, "shutdown" if end == "close" else None, **script)

    with World(make_selector, writer, limits=limits, wrap=wrap, **script) as world:
        world.follow(plan)
        world.settle()
        if end == "close":
            world.connection.close()
        else:
            world.connection.write_eof()
        world.spin(lambda: world.receive() or writer.lost)
        if end != "close" and not writer.lost:
            world.peer.shutdown(socket.SHUT_WR)
        world.spin(lambda: world.receive() and writer.lost)
        if world.sock.struck:
            assert writer.reason is fault, "connection_lost was called with another reason than the fault"
            assert world.sock.calls == ["close"], "the socket was used after its fault"
            assert_stream(world.got, len(world.got), "received by the peer")
            assert len(world.got) <= writer.written
        else:
            assert writer.reason is None
            assert_stream(world.got, writer.written, "received by the peer")
        assert_stream(writer.received, len(writer.received), "received by the protocol")
        calls = len(writer.calls)
        assert world.connection.write(b"more") is False
        assert world.connection.writelines([b"more"]) is False
        world.connection.write_eof()
        world.connection.close()
        world.connection.abort()
        world.connection.pause_reading()
        world.connection.resume_reading()
        assert not world.connection.is_reading()
        assert world.connection.get_write_buffer_size() == 0
        world.reactor.run_once(0)
        assert len(writer.calls) == calls, f"called after connection_lost: {writer.calls[calls:]}"


@given(plan=PLAN, script=SENDING, number=st.sampled_from([errno.EIO, errno.EINTR, errno.ENOSPC]))
def test_socket_close_that_fails_ends_the_connection(make_selector, plan, script, number):
    """The kernel frees the descriptor whatever close(2) returns."""
    writer = Writer()
    with World(make_selector, writer, close=[OSError(number, "fault")], **script) as world:
        world.follow(plan)
        world.settle()
        world.connection.close()
        world.spin(lambda: world.receive() or writer.lost)
        world.spin(lambda: writer.lost)
        assert writer.reason is None
        assert world.reactor.connections() == []
        world.sock.sock.close()


@attrs.frozen
class Buffers:
    """Sizes of the kernel's buffers at one end of a connection, in bytes; the kernel has minimums."""

    send: int
    receive: int

    def options(self):
        return [
            (socket.SOL_SOCKET, socket.SO_SNDBUF, self.send),
            (socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive),
        ]


# With a receive buffer below 4096, Linux sends 575 bytes each 200 ms: by its timer, not by ACKs.
BUFFERS = st.builds(
    Buffers,
    st.sampled_from([1, 4096, 65536]),
    st.sampled_from([4096, 16384, 65536]),
)
MEBIBYTE = 1 << 20
LONG_CUTS = st.lists(st.one_of(SIZES, st.integers(100_000, MEBIBYTE)), max_size=8).map(
    lambda cuts: [*cuts, MEBIBYTE + 1]
)


class TcpWorld:
    """A listener and one client, with kernel buffers of the given sizes."""

    def __init__(self, make_selector, factory, ours, theirs):
        self.errors = Errors()
        self.reactor = Reactor(selector=make_selector(), on_error=self.errors)
        listener = self.reactor.listen("127.0.0.1:0", factory, options=ours.options())
        self.client = socket.socket()
        for option in theirs.options():
            self.client.setsockopt(*option)  # before connect: the window must not shrink
        self.client.connect((listener.addresses[0].host, listener.addresses[0].port))
        self.client.setblocking(False)
        self.got = bytearray()
        self.sent = 0
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, traceback):
        self.client.close()
        self.reactor.close()
        if exc is None:
            assert self.errors.seen == []

    def exchange(self, size):
        """Send up to `size` bytes of the stream from the client, and receive what is available."""
        try:
            while self.sent < size:
                self.sent += self.client.send(STREAM[self.sent : min(size, self.sent + 100_000)])
        except BlockingIOError:
            pass
        try:
            while more := self.client.recv(100_000):
                self.got += more
            self.ended = True
        except BlockingIOError:
            pass

    def spin(self, until, size=0):
        def step():
            if not self.ended:
                self.exchange(size)
            return until()

        spin(self.reactor, step, deadline=10, wait=0.005)


@examples(10)
@given(size=st.integers(MEBIBYTE, 3 * MEBIBYTE), ours=BUFFERS, theirs=BUFFERS, polite=st.booleans())
def test_echo_over_tcp_with_small_buffers(make_selector, size, ours, theirs, polite):
    echo = Echo()
    echo.polite = polite
    with TcpWorld(make_selector, lambda: echo, ours, theirs) as world:
        world.spin(lambda: len(world.got) >= size, size)
        assert_stream(world.got, size, "received back by the client")
        assert_stream(echo.received, size, "received by the echo")
        echo.check_pauses()
        world.client.shutdown(socket.SHUT_WR)
        world.spin(lambda: "eof_received" in echo.names)
        echo.connection.close()
        world.spin(lambda: world.ended and echo.lost)
        assert echo.reason is None


@examples(10)
@given(
    cuts=LONG_CUTS,
    kind=KINDS,
    method=st.sampled_from(["write", "writelines"]),
    in_tick=st.booleans(),
    back=st.integers(0, MEBIBYTE),
    ours=BUFFERS,
    theirs=BUFFERS,
)
def test_both_directions_in_parallel_over_tcp_with_small_buffers(
    make_selector, cuts, kind, method, in_tick, back, ours, theirs
):
    writer = Writer()
    with TcpWorld(make_selector, lambda: writer, ours, theirs) as world:
        world.spin(lambda: writer.calls)
        room = len(STREAM)
        for size in cuts:
            write = Write([min(size, room)], kind, method)
            room -= write.sizes[0]
            if in_tick:
                world.reactor.call_soon(writer.write, write)
            else:
                writer.write(write)
        whole = len(STREAM) - room
        world.spin(lambda: len(world.got) == whole and len(writer.received) == back, back)
        assert_stream(world.got, writer.written, "received by the client")
        assert_stream(writer.received, back, "received by the protocol")
        writer.connection.close()
        world.spin(lambda: world.ended and writer.lost)
        assert writer.reason is None
        writer.check_pauses()


class Alarm(Recorder):
    """Writes to another connection in `pause_writing`."""

    def pause_writing(self):
        super().pause_writing()
        self.other.write(b"paused")


def test_bytes_written_during_the_flush_are_sent_before_the_next_wait(make_selector):
    """A proxy that writes to one side when the other is full; with high_water=0 one byte pauses."""
    alarm, quiet = Alarm(), Writer()
    full = Limits(high_water=0, low_water=0)
    with World(make_selector, quiet) as world:
        ours, theirs = socket.socketpair()
        with theirs:
            alarm.other = world.connection
            connection = world.reactor.adopt(ours, lambda: alarm, limits=full)
            with pytest.raises(BlockingIOError):
                while True:
                    ours.send(bytes(1 << 20))
            held = []
            poll = loop_of(world.reactor).registry.poll

            def watched_poll(timeout, limit):
                held.append((timeout, len(loop_of(world.reactor).outbox)))
                return poll(timeout, limit)

            loop_of(world.reactor).registry.poll = watched_poll
            world.reactor.call_soon(connection.write, b"one too many")
            world.reactor.call_later(0.001, world.reactor.stop)
            world.reactor.run()
            assert "pause_writing" in alarm.names
            assert all(timeout == 0 for timeout, left in held if left), "waited with bytes to send"
            world.receive()
            assert world.got == b"paused"
