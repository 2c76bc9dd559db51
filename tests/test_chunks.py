"""Any chunks, any partial sends and receives, any faults: what comes out is what went in."""

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Reactor
from tests.helpers import Echo, Errors, Recorder, ScriptedSocket, connect, spin

EDGES = [0, 1, 4095, 4096, 4097, 16384, 65535, 65536, 65537, 200_000]
SIZES = st.one_of(st.integers(0, 300), st.sampled_from(EDGES))
KINDS = st.sampled_from([bytes, bytearray, memoryview])
# How a chunk is written: in a tick or outside, alone or with others.
WRITES = st.lists(
    st.tuples(SIZES, KINDS, st.sampled_from(["write", "writelines"]), st.booleans()), min_size=1, max_size=12
)
PARTIAL = st.lists(
    st.one_of(
        st.none(),
        st.integers(1, 5000),
        st.builds(BlockingIOError),
        st.builds(InterruptedError),
    ),
    max_size=15,
)
FAULTS = st.sampled_from(
    [(errno.ECONNRESET, ConnectionResetError), (errno.EPIPE, BrokenPipeError), (errno.EIO, OSError)]
)
LIMITS = st.integers(0, 100_000).map(lambda high: Limits(high_water=high, low_water=high // 4))


class World:
    """A reactor with one connection of a scripted socket, and its peer."""

    def __init__(self, make_selector, protocol, *, limits=None, **script):
        self.errors = Errors()
        self.reactor = Reactor(selector=make_selector(), on_error=self.errors)
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.sock = ScriptedSocket(ours, **script)
        self.connection = self.reactor.adopt(self.sock, lambda: protocol, limits=limits)
        self.got = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.reactor.close()
        self.peer.close()
        assert self.errors.seen == []

    def spin(self, until):
        spin(self.reactor, until, deadline=5)  # a failing example is tried many times

    def receive(self):
        """Take what has come to the peer; return whether its stream has ended."""
        try:
            while True:
                more = self.peer.recv(1 << 20)
                if not more:
                    return True
                self.got += more
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def chunk(number, size):
    return bytes([number % 251 + 1]) * size


def do_writes(world, writes):
    """Write as told, and return all the bytes that were accepted."""
    expected = bytearray()
    together = []

    def write(how, data):
        if how == "write":
            world.connection.write(data)
        else:
            world.connection.writelines([data[: len(data) // 2], data[len(data) // 2 :]])

    def flush():
        batch, together[:] = list(together), []
        if batch:
            world.reactor.call_soon(lambda: [write(how, data) for how, data in batch])
            world.reactor.run_once(0)

    for number, (size, kind, how, in_tick) in enumerate(writes):
        data = chunk(number, size)
        expected += data
        if in_tick:
            together.append((how, kind(data)))
        else:
            flush()
            write(how, kind(data))
        world.receive()
    flush()
    return bytes(expected)


@given(writes=WRITES, send=PARTIAL, sendmsg=PARTIAL, limits=LIMITS)
def test_what_is_written_arrives_byte_for_byte(make_selector, writes, send, sendmsg, limits):
    recorder = Recorder()
    with World(make_selector, recorder, limits=limits, send=send, sendmsg=sendmsg) as world:
        expected = do_writes(world, writes)
        world.connection.close()
        world.spin(world.receive)
        assert world.got == expected
        world.spin(lambda: recorder.lost)
        assert recorder.reason is None
        pauses = [name for name in recorder.names if name.endswith("_writing")]
        assert pauses == ["pause_writing", "resume_writing"] * (len(pauses) // 2) + (
            ["pause_writing"] * (len(pauses) % 2)
        )


@given(writes=WRITES, recv=PARTIAL, send=PARTIAL, sendmsg=PARTIAL)
def test_echo_gives_back_every_byte(make_selector, writes, recv, send, sendmsg):
    echo = Echo()
    echo.keep_open = True
    with World(make_selector, echo, recv=recv, send=send, sendmsg=sendmsg) as world:
        expected = b"".join(chunk(number, size) for number, (size, *_) in enumerate(writes))
        rest = memoryview(expected)
        while rest:
            try:
                rest = rest[world.peer.send(rest) :]
            except BlockingIOError:
                pass
            world.reactor.run_once(0)
            world.receive()
        world.peer.shutdown(socket.SHUT_WR)
        world.spin(lambda: "eof_received" in echo.names)
        echo.connection.close()
        world.spin(world.receive)
        assert echo.received == expected
        assert world.got == expected


@given(
    writes=WRITES,
    send=PARTIAL,
    sendmsg=PARTIAL,
    fault=FAULTS,
    where=st.sampled_from(["send", "sendmsg", "recv"]),
)
def test_after_a_fault_the_peer_has_a_prefix_and_the_loss_is_told_once(
    make_selector, writes, send, sendmsg, fault, where
):
    number, kind = fault
    script = {"send": send, "sendmsg": sendmsg, "recv": []}
    script[where] = [*script[where], OSError(number, "fault")]
    recorder = Recorder()
    with World(make_selector, recorder, **script) as world:
        expected = do_writes(world, writes)
        try:
            world.peer.send(b"x")
        except BrokenPipeError:
            pass  # the fault has ended it already
        world.connection.close()
        world.spin(lambda: world.receive() and recorder.lost)
        assert expected.startswith(world.got)
        if recorder.reason is None:
            assert world.got == expected
        else:
            assert type(recorder.reason) is kind
        assert world.connection.write(b"more") is False
        world.reactor.run_once(0)
        assert recorder.names.count("connection_lost") == 1


@pytest.mark.parametrize("buffers", [4096, 65536])
def test_real_connection_with_small_buffers(reactor, buffers, descriptors):
    size = 3 * 1024 * 1024
    data = bytes(range(256)) * (size // 256)
    options = [
        (socket.SOL_SOCKET, socket.SO_SNDBUF, buffers),
        (socket.SOL_SOCKET, socket.SO_RCVBUF, buffers),
    ]
    listener = reactor.listen("127.0.0.1:0", Echo, options=options)
    with connect(reactor, listener.addresses[0]) as client:
        client.setblocking(False)
        rest, got = memoryview(data), bytearray()

        def exchange():
            nonlocal rest
            try:
                rest = rest[client.send(rest[:100_000]) :]
            except BlockingIOError:
                pass
            try:
                got.extend(client.recv(100_000))
            except BlockingIOError:
                pass
            return len(got) == size

        spin(reactor, exchange)
        assert got == data
    spin(reactor, lambda: not reactor.connections())
    listener.close()
