"""An interrupt at any line of a user's call, of a handshake in mid-stream, and of a drain."""

import contextlib
import os
import socket
import ssl

import pytest

from reactor import ConnectionAborted, Limits, Protocol, Reactor
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.streams import handler
from reactor.testing import Errors, ManualClock
from tests.tracing import failures, without_collector

BULK = bytes(range(256)) * 8192
TICKS = 60  # after these something is stuck


class Served(Protocol):
    """Echoes, and checks the order of its calls."""

    def __init__(self, kept):
        self.calls, self.received, self.busy, self.answered = [], b"", False, True
        kept.append(self)

    def connection_made(self, connection):
        self.connection = connection
        self.note("made")

    def data_received(self, data):
        self.note("data")
        self.received += data
        if data.startswith(b"echo"):
            self.answered = False
            self.connection.write(data)
            self.answered = True

    def handshake_completed(self):
        self.note("handshake")

    def eof_received(self):
        self.note("eof")

    def draining(self):
        return self.busy

    def connection_lost(self, exc):
        self.note("lost")

    def note(self, name):
        self.calls.append(name)
        assert self.calls[0] == "made"
        assert "lost" not in self.calls[:-1]
        assert name == "data" or self.calls.count(name) == 1

    @property
    def lost(self):
        return self.calls[-1:] == ["lost"]


class World:
    """A reactor with a connection and its peer, and another connection that is not interrupted."""

    def __init__(self, **options):
        self.kept, self.errors, self.called = [], Errors(), []
        self.clock = ManualClock()
        self.reactor = Reactor(clock=self.clock, on_error=self.errors)
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.peers = []
        self.protocol, self.peer = self.connect(**options)
        self.other, self.its_peer = self.connect()
        self.connection = self.protocol.connection

    def connect(self, **options):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.peers.append(theirs)
        protocol = Served(self.kept)
        self.reactor.adopt(ours, lambda: protocol, **options)
        return protocol, theirs

    def step(self, until):
        """Run ticks until `until()`."""
        for _ in range(TICKS):
            self.reactor.run_once(0)
            if until():
                return
        raise AssertionError(f"stuck: {self.reactor.connections()}, {[each.calls for each in self.kept]}")

    def works(self):
        """Check that timers, other threads' callbacks and the other connection come through."""
        called = []
        self.reactor.call_later(0.5, called.append, "timer")
        self.reactor.call_soon_threadsafe(called.append, "thread")
        self.reactor.call_soon(called.append, "soon")
        self.clock.advance(0.5)
        self.step(lambda: len(called) == 3)
        self.its_peer.send(b"echo other")
        self.step(lambda: receive(self.its_peer) == b"echo other")

    def alive_or_lost(self):
        """Check that the connection either echoes, or ends at once with `connection_lost`."""
        if not self.connection.is_closing():
            self.connection.resume_reading()
            self.connection.get_protocol().received = b""
            if self.connection.can_write_eof() and "closed" not in repr(self.connection):
                self.peer.send(b"echo this")
                self.step(lambda: self.connection.is_closing() or receive(self.peer).endswith(b"echo this"))
            return
        receive(self.peer)
        self.peer.close()
        self.step(lambda: self.protocol.lost)

    def close(self):
        self.reactor.close()
        for protocol in self.kept:
            assert not protocol.calls or protocol.lost, protocol.calls
        for peer in self.peers:
            peer.close()
        assert self.errors.seen == []


def receive(peer):
    """Return the bytes that are available at `sock`."""
    got = b""
    with contextlib.suppress(OSError):
        while data := peer.recv(1 << 20):
            got += data
    return got


@pytest.fixture(autouse=True)
def _without_collector():
    with without_collector():
        yield


def queued(world):
    world.connection.write(BULK)


def listening(world):
    world.listener = world.reactor.listen("127.0.0.1:0", lambda: Served(world.kept))


def paused(world):
    world.connection.pause_reading()


def timing(world):
    world.handle = world.reactor.call_later(5, world.called.append, "cancelled")


# The interrupted calls, with what was done before each.
CALLS = {
    "write": (lambda world: world.connection.write(b"small"), None),
    "write much": (lambda world: world.connection.write(BULK), None),
    "write more": (lambda world: world.connection.write(b"more"), queued),
    "writelines": (lambda world: world.connection.writelines([b"one", b"two"]), None),
    "write_eof": (lambda world: world.connection.write_eof(), None),
    "write_eof behind much": (lambda world: world.connection.write_eof(), queued),
    "close": (lambda world: world.connection.close(), None),
    "close behind much": (lambda world: world.connection.close(5), queued),
    "abort": (lambda world: world.connection.abort(), None),
    "abort with much": (lambda world: world.connection.abort(), queued),
    "pause_reading": (lambda world: world.connection.pause_reading(), None),
    "resume_reading": (lambda world: world.connection.resume_reading(), paused),
    "set_timeouts": (lambda world: world.connection.set_timeouts(idle=50, read=50, write=50), None),
    "set_write_buffer_limits": (lambda world: world.connection.set_write_buffer_limits(10), queued),
    "listen": (listening, None),
    "close a listener": (lambda world: world.listener.close(), listening),
    "pause a listener": (lambda world: world.listener.pause(), listening),
    "call_later": (lambda world: world.reactor.call_later(0.1, world.called.append, "later"), None),
    "cancel": (lambda world: world.handle.cancel(), timing),
    "call_soon": (lambda world: world.reactor.call_soon(world.called.append, "soon"), None),
    "call_soon_threadsafe": (
        lambda world: world.reactor.call_soon_threadsafe(world.called.append, "thread"), None,
    ),
    "submit": (lambda world: world.reactor.submit(world.called.append, "submitted"), None),
    "adopt": (lambda world: world.connect(), None),
    "connect": (
        lambda world: world.reactor.connect(world.listener.addresses[0], lambda: Served(world.kept)),
        listening,
    ),
    "stop": (lambda world: world.reactor.stop(), None),
    "set_protocol": (lambda world: world.connection.set_protocol(Switched(world.protocol)), None),
}  # fmt: skip


class Switched(Served):
    """Replaces another protocol, whose list of calls it continues."""

    def __init__(self, before):
        super().__init__([])
        self.calls, self.connection = before.calls, before.connection


@pytest.mark.parametrize("name", CALLS)
def test_interrupt_in_a_call_outside_of_ticks(name):
    call, before = CALLS[name]

    def scenario(tracer):
        world = World()
        if before is not None:
            before(world)
        tracer.run(call, world)
        world.works()
        world.alive_or_lost()
        world.works()
        world.close()
        assert len(world.called) <= 1
        assert world.called != ["cancelled"]

    failed = failures(scenario)
    assert not failed, "\n".join(failed[:50])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("traced", ["server", "client"])
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.slow
def test_interrupt_in_a_handshake_in_mid_stream(certificates, traced, version, closes):
    """Both sides are of one reactor; the interrupt comes in a call of one of them, or in a tick."""
    server_context, client_context = certificates.server(), certificates.client()
    client_context.maximum_version = version

    def scenario(tracer):
        world = World()
        server, client = world.protocol, Served(world.kept)
        world.reactor.adopt(world.peer.dup(), lambda: client)
        sides = {
            "server": lambda: server.connection.start_tls(server_context, server_side=True),
            "client": lambda: client.connection.start_tls(client_context, server_hostname="localhost"),
        }
        world.peer.close()
        server.connection.write(b"in clear")
        world.step(lambda: client.received == b"in clear")
        tracer.run(sides.pop(traced))
        for begin in sides.values():
            begin()
        secured = [each.connection.get_extra_info("ssl_object") or each.lost for each in (server, client)]
        client.connection.write(b"echo in secret")
        if closes:
            tracer.run(server.connection.close)
            server.connection.close()  # the interrupt may have come before it did anything

        def over():
            tracer.run(world.reactor.run_once, 0)
            if not closes and client.received.endswith(b"in secret"):
                return True
            return (server.lost and client.lost) or not server.answered or not client.answered

        if all(secured):  # else one speaks TLS to one that has not begun
            world.step(over)
        world.works()
        world.close()

    failed = failures(scenario)
    assert not failed, "\n".join(failed[:50])


class Framed(FramedProtocol):
    """Keeps its frames, and answers each; changes its framer with each, where that is the question."""

    frames_per_tick = 3

    def __init__(self, changes):
        super().__init__(Lines())
        self.framer_changes = changes
        self.frames, self.lost = [], False

    def frame_received(self, frame):
        self.frames.append(bytes(frame))
        if self.framer_changes:
            self.set_framer(Lines(300 + len(self.frames)))
        self.send(frame * 3)

    def connection_lost(self, exc):
        self.lost, self.broken_off = True, isinstance(exc, ConnectionAborted)


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("ending", ["peer", "close"])
@pytest.mark.parametrize(
    "where",
    [
        "framed.py",
        "framing",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("connection", "loop")),
    ],
)
def test_interrupt_in_a_framed_protocol_loses_no_frame_in_silence(changes, ending, where):
    """They are delivered in order up to the last, or up to the end of the connection."""
    sent = [b"%03d" % number * 30 for number in range(40)]

    def scenario(tracer):
        clock, errors = ManualClock(), Errors()
        with Reactor(clock=clock, on_error=errors) as reactor:
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            theirs.setblocking(False)
            protocol = Framed(changes)
            limits = Limits(high_water=500, low_water=100)
            connection = reactor.adopt(ours, lambda: protocol, limits=limits)
            with theirs:
                data = b"".join(frame + b"\n" for frame in sent)
                for at in range(0, len(data), 700):
                    with contextlib.suppress(OSError):
                        theirs.send(data[at : at + 700])
                    for turn in range(3):
                        tracer.run(reactor.run_once, 0)
                        if turn == 1 and at % 1400 == 0 and not connection.is_closing():
                            tracer.run(connection.pause_reading)
                            tracer.run(connection.resume_reading)
                            connection.resume_reading()
                        if changes and at == 1400 and not connection.is_closing():
                            tracer.run(protocol.set_framer, Lines(299))
                    receive(theirs)
                if ending == "peer":
                    with contextlib.suppress(OSError):
                        theirs.shutdown(socket.SHUT_WR)
                for _ in range(TICKS):
                    receive(theirs)
                    tracer.run(reactor.run_once, 0)
                    if protocol.lost or (ending == "close" and len(protocol.frames) == len(sent)):
                        break
                assert protocol.lost or len(protocol.frames) == len(sent), "stuck"
                if not tracer.done:
                    assert len(protocol.frames) == len(sent)
                assert protocol.frames == sent[: len(protocol.frames)]
                if len(protocol.frames) < len(sent):
                    assert protocol.broken_off

    failed = failures(scenario, where, times=3)
    assert not failed, "\n".join(failed[:40])


@pytest.mark.parametrize("method", ["receive", "receive_until", "lines"])
def test_interrupt_in_a_stream_loses_nothing_in_silence(method):
    """The handler gets all in order, or up to the end of the connection; it never waits for ever."""
    sent = b"".join(b"%03d" % number * 30 + b"\n" for number in range(40))

    def scenario(tracer):
        got, errors = [], Errors()

        async def serve(stream):
            async for data in received(stream):
                got.append(data)
                await stream.send(data * 3)

        async def received(stream):
            if method == "lines":
                async for line in stream.lines():
                    yield line + b"\n"
            elif method == "receive":
                while data := await stream.receive():
                    yield data
            else:
                while len(b"".join(got)) < len(sent):
                    yield await stream.receive_until(b"\n", 200) + b"\n"

        with Reactor(clock=ManualClock(), on_error=errors) as reactor:
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            theirs.setblocking(False)
            with theirs:
                limits = Limits(high_water=500, low_water=100)
                reactor.adopt(ours, handler(serve, limit=200), limits=limits)
                for at in range(0, len(sent), 700):
                    with contextlib.suppress(OSError):
                        theirs.send(sent[at : at + 700])
                    for _ in range(3):
                        tracer.run(reactor.run_once, 0)
                    receive(theirs)
                with contextlib.suppress(OSError):
                    theirs.shutdown(socket.SHUT_WR)
                for _ in range(TICKS):
                    receive(theirs)
                    tracer.run(reactor.run_once, 0)
                    if not reactor.connections():
                        break
                assert reactor.connections() == [], "stuck"
                assert sent.startswith(b"".join(got))
                assert tracer.done or b"".join(got) == sent
                if b"".join(got) != sent:
                    assert set(reactor.stats().closed) <= {"ConnectionAborted", "Interrupt"}

    failed = failures(scenario, "streams/stream.py", times=4)
    assert not failed, "\n".join(failed[:40])


@pytest.mark.slow
def test_interrupt_in_a_drain():
    """A drain of connections that are idle, busy, with much queued, or lingering."""

    def scenario(tracer):
        world = World()
        listening(world)
        busy, _ = world.connect()
        busy.busy = True
        behind, its_peer = world.connect()
        behind.connection.write(BULK)
        lingering, _ = world.connect()
        lingering.connection.write(b"bye")
        lingering.connection.close()
        world.step(lambda: lingering.lost)
        reports = []
        tracer.run(world.reactor.drain, 30, reports.append)
        if tracer.done:  # the interrupt may have come before anything was done
            world.reactor.drain(30, reports.append)
        for number in range(TICKS):
            if number == 4:
                busy.busy = False
            receive(its_peer)
            world.clock.advance(0.1 if number < 10 else 1)
            tracer.run(world.reactor.run_once, 0)
            if reports:
                break
        assert len(reports) == 1, reports
        assert world.reactor.connections() == []
        assert all(protocol.lost for protocol in world.kept)
        world.close()

    failed = failures(scenario)
    assert not failed, "\n".join(failed[:50])


@pytest.mark.slow
def test_interrupt_in_a_drain_of_a_listener():
    def scenario(tracer):
        world = World()
        listening(world)
        client = socket.create_connection(
            (world.listener.addresses[0].host, world.listener.addresses[0].port)
        )
        with client:
            client.setblocking(False)
            world.step(lambda: world.listener.connections)
            reports = []
            tracer.run(world.listener.drain, 30, reports.append)
            if tracer.done:
                world.listener.drain(30, reports.append)
            for _ in range(TICKS):
                receive(client)
                world.clock.advance(1)
                tracer.run(world.reactor.run_once, 0)
            assert len(reports) == 1, reports
            assert world.listener.is_closed()
        world.close()

    failed = failures(scenario)
    assert not failed, "\n".join(failed[:50])
