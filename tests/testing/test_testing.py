"""The kit for users' tests: connections in memory, a manual clock, faulty peers, fixtures."""

import contextlib
import gc
import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import IdleTimeout, Limits, Protocol, SlowConsumer, Timeouts, UsageError, WriteTimeout
from reactor.streams import handler
from reactor.testing import Errors, FaultyPeer, MemoryConnection, MemoryReactor, Recorder, ScriptedSocket
from tests.helpers import Echo, connect, pair, spin

pytest_plugins = ["pytester"]


@pytest.fixture
def memory(errors):
    with MemoryReactor(on_error=errors) as made:
        yield made
        assert made.network.complaints == []
    assert errors.seen == []
    assert made.network.descriptors == {}


# In memory


def test_pair_exchanges_bytes(memory):
    server, client = memory.pair(Echo, Recorder)
    assert (server.peer, client.peer) == (client, server)
    assert isinstance(server, MemoryConnection)
    protocol = client.get_protocol()
    client.write(b"hello")
    memory.settle()
    assert protocol.received == b"hello"
    client.close()
    memory.settle()
    assert protocol.reason is None


def test_time_passes_only_by_advance(memory):
    ran = []
    for delay in (5.0, 1.0, 3.0):
        memory.call_later(delay, lambda: ran.append(memory.time()))
    began = memory.time()
    memory.advance(2.9)
    assert ran == [began + 1]
    assert memory.time() == began + 2.9
    memory.advance(2.1)
    assert ran == [began + 1, began + 3, began + 5]


def test_deadlines_fire_at_their_time(memory):
    recorder = Recorder()
    memory.pair(lambda: recorder, Recorder, timeouts=Timeouts(idle=60.0))
    memory.advance(59.9)
    assert not recorder.lost
    memory.advance(60 / 16 + 0.2)
    assert isinstance(recorder.reason, IdleTimeout)


def test_run_out_runs_until_nothing_is_due(memory):
    recorder = Recorder()
    memory.pair(lambda: recorder, Recorder, timeouts=Timeouts(idle=86400.0))
    memory.run_out()
    assert isinstance(recorder.reason, IdleTimeout)


@given(data=st.binary(max_size=5000), seed=st.integers(0, 1 << 32), chunk=st.integers(1, 700))
def test_whatever_the_network_does_bytes_arrive_in_order(data, seed, chunk):
    with MemoryReactor(seed=seed, latency=(0.001, 0.5), choppy=0.5, buffers=(300, 200)) as reactor:
        peer = FaultyPeer(data, chunk=chunk, delay=0.01, ending="half-close")
        reactor.pair(Echo, lambda: peer)
        reactor.run_out()
        assert peer.received == data
        assert peer.reason is None
        assert reactor.network.complaints == []


def test_seed_replays_exactly():
    def run():
        with MemoryReactor(seed=7, latency=(0.001, 0.5), choppy=0.7) as reactor:
            for _ in range(5):
                peer = FaultyPeer(bytes(3000), chunk=999, ending="half-close")
                reactor.pair(Echo, lambda peer=peer: peer)
            reactor.run_out()
            return reactor.network.calls

    assert run() == run()


def test_debug_mode_logs_misuse(caplog):
    with MemoryReactor(debug=True) as reactor:
        server, client = reactor.pair(Recorder, Recorder)
        assert server.peer is client
        server.abort()
        server.write(b"lost")
    assert "4 bytes written to" in caplog.text


@pytest.mark.slow
def test_advance_accepts_large_steps(memory):
    beats = []

    def beat():
        beats.append(True)
        memory.call_later(0.5, beat)

    beat()
    memory.advance(10_000)
    assert len(beats) in (20_000, 20_001)


@pytest.mark.parametrize("how", ["advance", "settle", "run_out"])
def test_callback_may_close_the_reactor_during_advance(how):
    reactor = MemoryReactor()
    reactor.call_soon(reactor.close)
    getattr(reactor, how)(*([5.0] if how == "advance" else []))
    assert reactor.is_closed()


def test_reset_arrives_after_the_peer_s_end_of_file(memory):
    peer = FaultyPeer(b"x", delay=1.0, ending="reset")
    recorder = Recorder()
    recorder.keep_open = True
    server, _ = memory.pair(lambda: recorder, lambda: peer)
    memory.advance(1.5)
    server.write_eof()
    memory.run_out()
    assert isinstance(recorder.reason, ConnectionResetError)


def test_real_descriptors_may_be_many(memory, descriptors):
    recorder = Recorder()
    with contextlib.ExitStack() as many:
        for _ in range(520):
            many.enter_context(socket.socket())
        _, client = memory.pair(lambda: recorder, Recorder)
        client.write(b"hello")
        memory.settle()
        client.close()
        memory.settle()
    assert recorder.received == b"hello"


def test_coroutine_handlers_run_in_memory(memory):
    async def upper(stream):
        async for line in stream.lines():
            await stream.send(line.upper() + b"\n")

    peer = FaultyPeer(b"one\ntwo\n", chunk=3, delay=1.0, ending="half-close")
    memory.pair(handler(upper), lambda: peer)
    memory.run_out()
    assert peer.received == b"ONE\nTWO\n"


# Peers that misbehave, in memory and over sockets


class Talk(Recorder):
    """Sends more than any buffer holds."""

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(bytes(1_000_000))


def test_peer_that_never_reads(memory):
    talk = Talk()
    memory.pair(lambda: talk, lambda: FaultyPeer(reads=False), timeouts=Timeouts(write=10.0))
    memory.advance(9)
    assert talk.names == ["connection_made", "pause_writing"]
    memory.advance(3)
    assert isinstance(talk.reason, WriteTimeout)
    greedy = Talk()
    memory.pair(lambda: greedy, lambda: FaultyPeer(reads=False), limits=Limits(max_write_buffer=100_000))
    memory.settle()
    greedy.connection.write(b"x")
    memory.settle()
    assert isinstance(greedy.reason, SlowConsumer)


@pytest.mark.parametrize("over", ["memory", "sockets"])
@pytest.mark.parametrize(
    ("ending", "calls", "reason"),
    [
        ("half-close", ["eof_received", "connection_lost"], type(None)),
        ("close", ["eof_received", "connection_lost"], type(None)),
        ("reset", ["connection_lost"], ConnectionResetError),
        ("stay", [], None),
    ],
)
def test_endings(reactor, over, ending, calls, reason):
    recorder = Recorder()
    peer = FaultyPeer(b"abc", ending=ending)
    if over == "memory":
        reactor = MemoryReactor()
        reactor.pair(lambda: recorder, lambda: peer)
    else:
        listener = reactor.listen("127.0.0.1:0", lambda: recorder)
        reactor.connect(listener.addresses[0], lambda: peer)
    spin(reactor, lambda: recorder.received == b"abc" and (recorder.lost or not calls))
    ended = [name for name in recorder.names if name not in ("connection_made", "data_received")]
    assert ended == calls
    if calls:
        assert isinstance(recorder.reason, reason)
    if over == "memory":
        reactor.close()


def test_pieces_and_delays(memory):
    recorder = Recorder()
    memory.pair(lambda: recorder, lambda: FaultyPeer(b"abcde", chunk=2, delay=1.0))
    received = []
    for _ in range(4):
        memory.advance(1.0)
        received.append(recorder.received)
    assert received == [b"ab", b"abcd", b"abcde", b"abcde"]


def test_peer_stops_sending_when_the_connection_ends(memory):
    peer = FaultyPeer(b"abcde", chunk=1, delay=1.0)
    server, _ = memory.pair(Recorder, lambda: peer)
    memory.advance(2.5)
    server.abort()
    memory.run_out()
    assert isinstance(peer.reason, ConnectionResetError)


def test_invalid_parameters_of_a_peer_are_refused():
    with pytest.raises(UsageError, match="chunk must be 1 byte or more, not 0"):
        FaultyPeer(b"x", chunk=0)
    with pytest.raises(UsageError, match="one of stay, half-close, close, reset, not explode"):
        FaultyPeer(ending="explode")


def test_errors_are_taken_one_by_one(reactor, errors):
    class Broken(Protocol):
        def data_received(self, data):
            raise LookupError("mine")

    connection, peer = pair(reactor, Broken())
    peer.send(b"x")
    spin(reactor, lambda: errors.seen)
    exc, callback, where = errors.take()
    assert isinstance(exc, LookupError)
    assert callback.endswith("Broken.data_received")
    assert where is connection
    with pytest.raises(ValueError):
        Errors().take()
    peer.close()


# The fixtures, as a user's tests have them


def run_tests(pytester, text):
    pytester.makepyfile(text)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    gc.collect()
    return result


@pytest.mark.slow
def test_fixtures_work(pytester):
    result = run_tests(
        pytester,
        """
        import socket
        from reactor.apps.echo import Echo
        from reactor.testing import Recorder

        def test_blocking_client(reactor_server, tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)  # its own path may be too long for a socket
            for address in ("127.0.0.1:0", "unix:socket"):
                server = reactor_server(Echo, address)
                with server.connect() as client:
                    client.sendall(b"hello")
                    assert client.recv(100) == b"hello"
                assert server.reactor.submit(int).result(5) == 0

        def test_driven(reactor):
            recorder = Recorder()
            listener = reactor.listen("127.0.0.1:0", lambda: recorder)
            reactor.connect(listener.addresses[0], Recorder)
            while not recorder.calls:
                reactor.run_once(1)

        def test_error_that_is_expected(reactor, reactor_errors):
            reactor.call_soon(exec, "raise LookupError")
            reactor.run_once()
            exc, callback, connection = reactor_errors.take()
            assert isinstance(exc, LookupError)
        """,
    )
    result.assert_outcomes(passed=3)


@pytest.mark.slow
def test_errors_and_leaks_fail_the_test(pytester):
    result = run_tests(
        pytester,
        """
        import pytest

        from reactor import Protocol

        class Broken(Protocol):
            def data_received(self, data):
                raise LookupError("mine")

        class Stuck(Protocol):
            def connection_made(self, connection):
                connection.write(bytes(30_000_000))

        def test_error(reactor):
            reactor.call_soon(exec, "raise LookupError('yours')")
            reactor.run_once()

        def test_error_in_a_server(reactor_server):
            with reactor_server(Broken).connect() as client:
                client.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)

        clients = []

        def test_leak(reactor_server):
            clients.append(reactor_server(Stuck, drain_timeout=0.01).connect())
            assert clients[0].recv(1)
        """,
    )
    result.assert_outcomes(passed=3, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*ExceptionGroup: callbacks of the reactor raised, in exec (1 sub-exception)*",
            "*LookupError: yours*",
            "*ExceptionGroup: callbacks of the reactor raised, in Broken.data_received (1 sub-exception)*",
            "*LookupError: mine*",
            "*connections that were still busy when the server was drained: 1*",
        ]
    )


def test_networks_in_memory_come_by_themselves(pytester):
    result = run_tests(
        pytester,
        """
        import pytest
        from reactor.apps.echo import Echo
        from reactor.testing import FaultyPeer, Recorder

        def test_alone(memory_reactor):
            memory_reactor.listen("unix:/run/echo", Echo)
            peer = FaultyPeer(b"hello", ending="half-close")
            memory_reactor.connect("unix:/run/echo", lambda: peer)
            memory_reactor.run_out()
            assert peer.received == b"hello"

        def test_several(memory_network):
            server, client = memory_network.reactor("10.0.0.1"), memory_network.reactor("10.0.0.2")
            server.listen(":80", Echo)
            peer = FaultyPeer(b"hello", delay=3600.0, ending="half-close")
            client.connect("10.0.0.1:80", lambda: peer)
            memory_network.run_out()
            assert peer.received == b"hello"

        def test_both_are_one(memory_reactor, memory_network):
            assert memory_reactor.network is memory_network

        def test_error_that_is_expected(memory_reactor):
            memory_reactor.call_soon(exec, "raise LookupError")
            with pytest.raises(LookupError):
                memory_reactor.settle()
        """,
    )
    result.assert_outcomes(passed=4)


def test_what_is_left_in_memory_fails_the_test(pytester):
    result = run_tests(
        pytester,
        """
        from reactor import Protocol
        from reactor.testing import Recorder

        class Broken(Protocol):
            def connection_lost(self, exc):
                raise LookupError("at the end")

        def test_error(memory_reactor):
            memory_reactor.call_soon(exec, "raise LookupError('yours')")

        def test_error_at_the_end(memory_reactor):
            memory_reactor.pair(Broken, Recorder)[1].close()

        def test_connection(memory_network):
            memory_network.reactor("10.0.0.1").pair(Recorder, Recorder)

        def test_complaint(memory_reactor):
            server, client = memory_reactor.pair(Recorder, Recorder)
            server.get_extra_info("socket").setblocking(True)
            client.write(b"x")
            memory_reactor.settle()
            client.abort()
        """,
    )
    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(
        [
            "*LookupError: yours*",
            "*LookupError: at the end*",
            "*AssertionError: connections are open: <Connection * open, Recorder>*",
            "*AssertionError: the kernel complains: recv on a socket that would block*",
        ]
    )


def test_pair_is_returned_though_the_server_aborts_at_once():
    class Aborts(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.abort()

    client = Recorder()
    with MemoryReactor() as reactor:
        near, far = reactor.pair(Aborts, lambda: client)
        assert near.is_closing()
        assert far.peer is near
        reactor.settle()
        assert client.names == ["connection_made", "connection_lost"]
        assert isinstance(client.reason, ConnectionResetError)


# Scripted sockets


@pytest.fixture
def two_sockets():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_scripted_socket_passes_on_as_many_bytes_as_scripted(two_sockets):
    ours, theirs = two_sockets
    sock = ScriptedSocket(ours, send=[3, None], sendmsg=[2], recv=[1], recv_into=[2])
    assert [sock.send(b"abcdef"), sock.send(b"def"), sock.send(b"gh")] == [3, 3, 2]
    assert [sock.sendmsg([b"i", b"jk"]), sock.sendmsg([b"k", b"l"])] == [2, 2]
    assert theirs.recv(100) == b"abcdefghijkl"
    theirs.send(b"abcdefgh")
    buffer = bytearray(3)
    assert [sock.recv(10), sock.recv(2)] == [b"a", b"bc"]
    assert [sock.recv_into(buffer), sock.recv_into(buffer)] == [2, 3]
    assert buffer == b"fgh"
    assert sock.calls == ["send"] * 3 + ["sendmsg"] * 2 + ["recv"] * 2 + ["recv_into"] * 2


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), BlockingIOError, KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("accept", ()),
        ("close", ()),
        ("getpeername", ()),
        ("getsockopt", (socket.SOL_SOCKET, socket.SO_ERROR)),
        ("recv", (1,)),
        ("recv_into", (bytearray(1),)),
        ("send", (b"x",)),
        ("sendmsg", ([b"x"],)),
        ("setsockopt", (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)),
        ("shutdown", (socket.SHUT_WR,)),
    ],
)
def test_scripted_socket_raises_instead_of_the_call(two_sockets, name, args, error):
    ours, theirs = two_sockets
    theirs.send(b"x")
    sock = ScriptedSocket(ours, **{name: [error]})
    with pytest.raises(error if isinstance(error, type) else type(error)):
        getattr(sock, name)(*args)
    assert sock.calls == [name]
    assert ours.recv(1) == b"x"  # it is open, and nothing was received


def test_scripted_socket_calls_the_real_one_after_its_script(reactor):
    listening = ScriptedSocket(socket.create_server(("127.0.0.1", 0)), accept=[BlockingIOError])
    made = []
    listener = reactor.listen(listening, lambda: made.append(Echo()) or made[-1])
    with connect(reactor, listener.addresses[0]) as client:
        client.sendall(b"hello")
        spin(reactor, lambda: made and made[0].received)
        assert client.recv(10) == b"hello"
    assert listening.calls.count("accept") >= 2


def test_scripted_socket_may_be_full_for_ever(reactor):
    recorder = Recorder()
    ours, theirs = socket.socketpair()
    full = itertools.repeat(BlockingIOError())
    sock = ScriptedSocket(ours, send=full, sendmsg=full)
    limits = Limits(high_water=10, low_water=0, max_write_buffer=100)
    connection = reactor.adopt(sock, lambda: recorder, limits=limits)
    with theirs:
        for _ in range(5):
            connection.write(bytes(50))
            reactor.run_once(0)
        assert isinstance(recorder.reason, SlowConsumer)
        assert sock.calls.count("send") + sock.calls.count("sendmsg") >= 2


def test_results_are_added_to_the_script_of_a_socket(two_sockets):
    sock = ScriptedSocket(two_sockets[0], send=[1])
    sock.add(send=[2], recv=[ConnectionResetError])
    assert [sock.send(b"abcd") for _ in range(3)] == [1, 2, 4]
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_scripted_socket_delegates_everything_else(two_sockets):
    ours, _ = two_sockets
    with ScriptedSocket(ours) as sock:
        assert sock.sock is ours
        assert sock.fileno() == ours.fileno()
        sock.setblocking(True)
        assert ours.getblocking()
    assert ours.fileno() == -1


def test_invalid_scripts_are_refused(two_sockets):
    with pytest.raises(UsageError, match=r"fileno can't be scripted; accept, close, .* shutdown can"):
        ScriptedSocket(two_sockets[0], send=[1], fileno=[3])
    sock = ScriptedSocket(two_sockets[0], shutdown=[5])
    with pytest.raises(
        UsageError, match="shutdown passes no bytes on: its script has exceptions and None, not 5"
    ):
        sock.shutdown(socket.SHUT_WR)


def test_error_raised_repeatedly_keeps_no_frames(two_sockets):
    error = BlockingIOError()
    sock = ScriptedSocket(two_sockets[0], send=itertools.repeat(error))
    for _ in range(5):
        with pytest.raises(BlockingIOError):
            sock.send(b"x")
    depth, frames = 0, error.__traceback__
    while frames is not None:
        depth, frames = depth + 1, frames.tb_next
    assert depth <= 3
