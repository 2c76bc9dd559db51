"""Connections: reading, writing, flow control, and every way to end, on every selector."""

import errno
import gc
import socket
import weakref
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from reactor import (
    BufferedProtocol,
    CloseTimeout,
    ConnectionAborted,
    IdleTimeout,
    Limits,
    Timeouts,
    UsageError,
)
from reactor.reactor import loop_of
from reactor.testing import Recorder, ScriptedSocket
from tests.helpers import DEADLINE, Echo, connect, pair, pass_time, receive, refuse_changes, spin

BIG = 4 * 1024 * 1024  # more than the kernel accepts at once


def watched(reactor, connection):
    key = loop_of(reactor).registry.selector.get_map().get(connection.get_extra_info("socket").fileno())
    return key.events & (EVENT_READ | EVENT_WRITE) if key else 0


def drain(reactor, peer, size):
    """Read `size` bytes from the non-blocking `peer` while the reactor runs."""
    return receive(reactor, peer, lambda received: len(received) >= size)


def at_end(peer):
    """Return whether the peer sees the end of the stream; a reset raises."""
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


def in_tick(reactor, callback):
    """Run `callback` within a tick."""
    reactor.call_soon(callback)
    reactor.run_once(0)


def scripted(reactor, protocol, **script):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    sock = ScriptedSocket(ours, **script)
    connection = reactor.adopt(sock, lambda: protocol)
    sock.calls.clear()
    return connection, theirs, sock


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def connection_and_peer(reactor, recorder, descriptors):
    connection, peer = pair(reactor, recorder)
    yield connection, peer
    connection.abort()
    reactor.run_once(0)
    peer.close()


@pytest.fixture
def connection(connection_and_peer):
    return connection_and_peer[0]


@pytest.fixture
def peer(connection_and_peer):
    return connection_and_peer[1]


def test_connection_made_is_called_first(connection, recorder):
    assert recorder.calls == [("connection_made", connection)]


def test_data_received_gets_what_the_peer_sends(reactor, recorder, peer, connection):
    peer.send(b"hello")
    reactor.run_once(1)
    assert recorder.received == b"hello"


def test_one_event_makes_one_receive(reactor, recorder):
    _, peer, sock = scripted(reactor, recorder)
    peer.send(b"hello")
    reactor.run_once(1)
    assert sock.calls.count("recv") == 1
    peer.close()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [1, 4096, 4097, BIG])
def test_write_accepts_every_bytes_like_type(reactor, connection, peer, kind, size):
    assert connection.write(kind(b"x" * size)) is (size < BIG)
    assert drain(reactor, peer, size) == b"x" * size


@pytest.mark.parametrize("data", ["text", 1, None, ["a"]])
def test_write_refuses_what_is_not_bytes(connection, data):
    with pytest.raises(TypeError, match="write takes bytes, bytearray or memoryview, not"):
        connection.write(data)


def test_changing_a_written_bytearray_does_not_change_the_output(reactor, connection, peer):
    data = bytearray(b"x" * BIG)
    connection.write(data)
    data[:] = b"y" * BIG
    assert drain(reactor, peer, BIG) == b"x" * BIG


def test_write_outside_of_a_tick_is_sent_at_once(connection, peer):
    connection.write(b"now")
    assert peer.recv(10) == b"now"


def test_small_writes_of_a_tick_are_sent_in_one_system_call(reactor, recorder):
    connection, peer, sock = scripted(reactor, recorder)
    taken = []
    in_tick(reactor, lambda: taken.extend(connection.write(b"%d " % i) for i in range(16)))
    assert taken == [True] * 16
    assert sock.calls == ["send"]
    assert peer.recv(100) == b"".join(b"%d " % i for i in range(16))
    peer.close()


def test_larger_writes_of_a_tick_are_sent_in_one_system_call_without_a_copy(reactor, recorder):
    connection, peer, sock = scripted(reactor, recorder)
    in_tick(reactor, lambda: [connection.write(b"%d" % i * 1000) for i in range(16)])
    assert sock.calls == ["sendmsg"]
    assert peer.recv(50_000) == b"".join(b"%d" % i * 1000 for i in range(16))
    peer.close()


def test_writes_of_all_sizes_keep_their_order(reactor, connection, peer):
    def write():
        connection.write(b"1")
        connection.write(b"2" * 5000)
        connection.writelines([b"3", bytearray(b"4"), b"", memoryview(b"5" * 70000)])
        connection.write(b"6")

    in_tick(reactor, write)
    expected = b"1" + b"2" * 5000 + b"34" + b"5" * 70000 + b"6"
    assert drain(reactor, peer, len(expected)) == expected


def test_empty_writes_do_nothing(reactor, connection, peer):
    assert connection.write(b"")
    assert connection.writelines([])
    in_tick(reactor, lambda: [connection.write(b""), connection.write(b""), connection.writelines([b""])])
    assert connection.get_write_buffer_size() == 0
    connection.close()
    spin(reactor, lambda: at_end(peer))


def test_event_write_is_registered_only_while_bytes_are_queued(reactor, connection, peer):
    assert watched(reactor, connection) == EVENT_READ
    connection.write(b"x" * BIG)
    assert watched(reactor, connection) == EVENT_READ | EVENT_WRITE
    drain(reactor, peer, BIG)
    spin(reactor, lambda: connection.get_write_buffer_size() == 0)
    assert watched(reactor, connection) == EVENT_READ


def test_pause_writing_and_resume_writing_alternate(reactor, connection, peer, recorder):
    assert connection.write(b"x" * BIG) is False
    assert connection.write(b"y") is False
    assert recorder.names.count("pause_writing") == 1
    drain(reactor, peer, BIG + 1)
    spin(reactor, lambda: connection.get_write_buffer_size() == 0)
    assert recorder.names == ["connection_made", "pause_writing", "resume_writing"]


def test_small_pieces_are_gathered_up_to_the_high_water_mark(reactor, connection, peer, recorder):
    connection.set_write_buffer_limits(high=100)
    in_tick(reactor, lambda: [connection.write(b"x" * 60) for _ in range(4)])
    assert "pause_writing" not in recorder.names
    assert drain(reactor, peer, 240) == b"x" * 240


def test_water_marks_follow_asyncio(connection):
    for arguments, expected in [
        ({}, (16384, 65536)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 100}, (100, 400)),
        ({"high": 10, "low": 5}, (5, 10)),
        ({"high": 0}, (0, 0)),
    ]:
        connection.set_write_buffer_limits(high=65536)
        connection.set_write_buffer_limits(**arguments)
        assert connection.get_write_buffer_limits() == expected


@pytest.mark.parametrize("arguments", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}])
def test_invalid_water_marks_are_refused(connection, arguments):
    with pytest.raises(ValueError, match=r"low_water|high_water"):
        connection.set_write_buffer_limits(**arguments)


def test_paused_connection_receives_nothing_until_it_is_resumed(reactor, connection, peer, recorder):
    connection.pause_reading()
    connection.pause_reading()
    assert not connection.is_reading()
    assert watched(reactor, connection) == 0
    peer.send(b"later")
    reactor.run_once(0)
    assert recorder.received == b""
    connection.resume_reading()
    reactor.run_once(1)
    assert recorder.received == b"later"


def test_pause_reading_from_another_callback_of_the_batch_takes_effect(reactor):
    class Pauser(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.other.connection.pause_reading()

    first, second = Pauser(), Pauser()
    first.other, second.other = second, first
    peers = [pair(reactor, protocol)[1] for protocol in (first, second)]
    for peer in peers:
        peer.send(b"x")
    reactor.run_once(1)
    assert sorted([first.received, second.received]) == [b"", b"x"]
    for peer in peers:
        peer.close()


def test_end_of_file_from_the_peer_closes_by_default(reactor, connection, peer, recorder):
    peer.send(b"bye")
    peer.shutdown(socket.SHUT_WR)
    spin(reactor, lambda: recorder.lost)
    assert recorder.names == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert recorder.reason is None


def test_connection_half_closed_by_the_peer_still_writes(reactor, connection, peer, recorder):
    recorder.keep_open = True
    peer.shutdown(socket.SHUT_WR)
    spin(reactor, lambda: "eof_received" in recorder.names)
    assert watched(reactor, connection) == 0
    in_tick(reactor, lambda: connection.write(b"answer"))
    assert peer.recv(10) == b"answer"
    connection.write_eof()
    spin(reactor, lambda: recorder.lost)
    assert recorder.reason is None
    assert peer.recv(1) == b""


def test_connection_half_closed_by_write_eof_still_receives(reactor, connection, peer, recorder):
    in_tick(reactor, lambda: [connection.write(b"last"), connection.write_eof(), connection.write_eof()])
    assert peer.recv(10) == b"last"
    assert peer.recv(10) == b""
    peer.send(b"answer")
    reactor.run_once(1)
    assert recorder.received == b"answer"
    with pytest.raises(UsageError, match="write after write_eof"):
        connection.write(b"x")
    peer.close()
    spin(reactor, lambda: recorder.lost)
    assert recorder.reason is None


def test_write_eof_sends_what_is_queued_before_the_fin(reactor, connection, peer, recorder):
    connection.write(b"x" * BIG)
    connection.write_eof()
    assert connection.can_write_eof()
    assert drain(reactor, peer, BIG) == b"x" * BIG
    spin(reactor, lambda: at_end(peer))
    assert not recorder.lost


def test_end_of_file_in_both_directions_sends_what_is_queued_first(reactor, connection, peer, recorder):
    connection.write(b"x" * BIG)
    connection.write_eof()
    peer.shutdown(socket.SHUT_WR)
    spin(reactor, lambda: "eof_received" in recorder.names)
    assert connection.is_closing()
    assert drain(reactor, peer, BIG) == b"x" * BIG
    spin(reactor, lambda: recorder.lost)
    assert recorder.reason is None


def test_close_sends_what_is_queued_and_drops_later_writes(reactor, connection, peer, recorder):
    connection.write(b"x" * BIG)
    connection.close()
    connection.close()
    connection.write_eof()
    assert connection.write(b"too late") is False
    assert connection.writelines([b"too late"]) is False
    assert connection.is_closing()
    assert not connection.is_reading()
    assert watched(reactor, connection) == EVENT_WRITE
    assert drain(reactor, peer, BIG) == b"x" * BIG
    spin(reactor, lambda: recorder.lost)
    assert recorder.reason is None
    assert peer.recv(1) == b""
    assert "resume_writing" not in recorder.names


def test_write_before_close_in_one_callback_arrives(reactor, connection, peer, recorder):
    in_tick(reactor, lambda: [connection.write(b"bye"), connection.close()])
    spin(reactor, lambda: recorder.lost)
    assert peer.recv(10) == b"bye"
    assert recorder.reason is None


def test_connection_lost_is_never_called_from_within_a_call(connection, recorder):
    connection.close()
    assert not recorder.lost
    connection.abort()
    assert not recorder.lost


def test_abort_sends_a_reset(reactor, recorder):
    listening = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listening.getsockname())
    connection = reactor.adopt(listening.accept()[0], lambda: recorder)
    listening.close()
    connection.write(b"x")
    connection.abort()
    connection.abort()
    reactor.run_once(0)
    assert isinstance(recorder.reason, ConnectionAborted)
    with pytest.raises(ConnectionResetError):
        peer.recv(10)
        peer.recv(10)
    assert connection.get_extra_info("peername") == peer.getsockname()
    assert connection.get_extra_info("sockname", "gone") == "gone"
    peer.close()


def test_abort_drops_what_is_queued(reactor, connection, recorder):
    connection.write(b"x" * BIG)
    reason = OSError("mine")
    connection.abort(reason)
    reactor.run_once(0)
    assert recorder.reason is reason
    assert recorder.names == ["connection_made", "pause_writing", "connection_lost"]


def test_abort_without_a_reset_adds_a_note_to_the_reason(reactor, recorder):
    connection, peer, _ = scripted(reactor, recorder, setsockopt=[OSError(errno.EINVAL, "no")])
    connection.abort()
    reactor.run_once(0)
    assert recorder.reason.__notes__ == ["closed without a reset: [Errno 22] no"]
    peer.close()


CALLBACKS = ["connection_made", "data_received", "eof_received", "pause_writing", "resume_writing"]


def provoke(reactor, callback, protocol):
    """Bring a connection of `protocol` to the point where `callback` is called."""
    connection, peer = pair(reactor, protocol)
    if callback == "data_received":
        peer.send(b"x")
    elif callback == "eof_received":
        peer.shutdown(socket.SHUT_WR)
    elif callback in {"pause_writing", "resume_writing"}:
        connection.write(b"x" * BIG)
        if callback == "resume_writing":
            drain(reactor, peer, BIG)
    spin(reactor, lambda: protocol.lost)
    return connection, peer


@pytest.mark.parametrize("callback", CALLBACKS)
def test_exception_in_a_callback_ends_only_its_connection(reactor, errors, callback):
    problem = RuntimeError("mine")

    def raise_it(*args):
        raise problem

    other = Echo()
    _, other_peer = pair(reactor, other)
    broken = Recorder()
    setattr(broken, callback, raise_it)
    connection, peer = provoke(reactor, callback, broken)
    assert broken.reason is problem
    assert errors.take() == (problem, f"Recorder.{callback}", connection)
    other_peer.send(b"x")
    reactor.run_once(1)
    assert other_peer.recv(1) == b"x"
    peer.close()
    other_peer.close()


@pytest.mark.parametrize("callback", [*CALLBACKS, "get_buffer", "buffer_updated", "draining"])
def test_exception_in_a_callback_resets_the_connection(reactor, errors, callback):
    problem = RuntimeError("mine")

    class Half(Recorder):
        def connection_made(self, connection):
            Recorder.connection_made(self, connection)
            connection.write(b"half an answer")

    class Buffered(BufferedProtocol):
        connection_made = Half.connection_made
        connection_lost = Recorder.connection_lost

        def __init__(self):
            self.calls = []

        def get_buffer(self, sizehint):
            return bytearray(10)

    def raise_it(*args):
        raise problem

    half = Buffered() if "buffer" in callback else Half()
    setattr(half, callback, raise_it)
    listener = reactor.listen("127.0.0.1:0", lambda: half)
    with connect(reactor, listener.addresses[0]) as client:
        client.setblocking(False)
        spin(reactor, lambda: errors.seen or half.calls)
        if callback in {"data_received", "get_buffer", "buffer_updated"}:
            client.send(b"x")
        elif callback == "eof_received":
            client.shutdown(socket.SHUT_WR)
        elif callback == "draining":
            client.send(b"x")  # a drain waits for the first bytes
            spin(reactor, lambda: reactor.stats().bytes_received)
            reactor.drain(DEADLINE)
        elif "writing" in callback:
            half.connection.write(b"x" * BIG * 4)

        def is_reset():
            try:
                return client.recv(1 << 20) == b"" and pytest.fail("it saw a clean end")
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        spin(reactor, is_reset, wait=0.01)
    spin(reactor, lambda: half.calls[-1:] == [("connection_lost", problem)])
    assert errors.take()[0] is problem


def test_exception_in_connection_lost_is_reported(reactor, errors, recorder):
    problem = RuntimeError("mine")

    class Broken(Recorder):
        def connection_lost(self, exc):
            raise problem

    connection, peer = pair(reactor, Broken())
    peer.close()
    spin(reactor, lambda: errors.seen)
    assert errors.take() == (
        problem,
        "test_exception_in_connection_lost_is_reported.<locals>.Broken.connection_lost",
        connection,
    )
    assert connection.get_protocol() is None


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_connection_may_be_ended_in_any_callback(reactor, callback, ending):
    class Ender(Recorder):
        pass

    def end(self, *args):
        if args:
            self.connection = getattr(self, "connection", args[0])
        self.calls.append((callback,))
        getattr(self.connection, ending)()

    setattr(Ender, callback, end)
    ender = Ender()
    connection, peer = pair(reactor, ender)
    if callback == "data_received":
        peer.send(b"x")
    elif callback == "eof_received":
        peer.shutdown(socket.SHUT_WR)
    elif callback != "connection_made":
        connection.write(b"x" * BIG)
    if callback == "resume_writing" or (callback == "pause_writing" and ending == "close"):
        drain(reactor, peer, BIG)
    spin(reactor, lambda: ender.lost)
    assert ender.names[-2:] == [callback, "connection_lost"]
    assert (ender.reason is None) is (ending == "close")
    peer.close()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "pipe"),
        OSError(errno.EIO, "io"),
    ],
)
@pytest.mark.parametrize("call", ["recv", "send", "sendmsg", "flush", "shutdown", "recv_into"])
def test_kernel_error_is_passed_to_connection_lost_once(reactor, error, call):
    buffered = call == "recv_into"
    protocol = Buffered() if buffered else Recorder()
    name = "send" if call == "flush" else call
    connection, peer, _ = scripted(reactor, protocol, **{name: [error]})
    if call in {"recv", "recv_into"}:
        peer.send(b"x")
    elif call == "send":
        assert connection.write(b"x") is False
    elif call == "sendmsg":
        in_tick(reactor, lambda: [connection.write(bytes(4096)) for _ in range(3)])
    elif call == "flush":
        in_tick(reactor, lambda: connection.write(b"x"))
    else:
        connection.write_eof()
    spin(reactor, lambda: protocol.lost)
    assert protocol.reason is error
    assert connection.write(b"more") is False
    peer.close()


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_spurious_readiness_loses_nothing(reactor, error):
    echo = Echo()
    connection, peer, _ = scripted(reactor, echo, recv=[error], send=[error, error], sendmsg=[error])
    peer.send(b"x")
    assert drain(reactor, peer, 1) == b"x"
    in_tick(reactor, lambda: [connection.write(b"1"), connection.write(b"2")])
    connection.write(b"3")
    assert drain(reactor, peer, 3) == b"123"
    connection.write(b"4")
    assert drain(reactor, peer, 1) == b"4"
    peer.close()


@pytest.mark.parametrize("taken", [BlockingIOError(), InterruptedError(), 2])
@pytest.mark.parametrize("outside", [True, False])
def test_rest_of_a_partial_send_is_sent_later(reactor, recorder, taken, outside):
    connection, peer, _ = scripted(reactor, recorder, send=[taken])
    results = []
    if outside:
        results.append(connection.write(b"hello"))
    else:
        in_tick(reactor, lambda: results.append(connection.write(b"hello")))
    assert results == [True]
    assert connection.get_write_buffer_size() == (3 if taken == 2 else 5)
    assert drain(reactor, peer, 5) == b"hello"
    assert connection.get_write_buffer_size() == 0
    assert reactor.stats().bytes_sent == 5
    peer.close()


def test_reset_while_writing_is_the_reason_of_connection_lost(reactor, recorder):
    connection, peer = pair(reactor, recorder)
    connection.write(b"x" * BIG)
    peer.close()
    spin(reactor, lambda: recorder.lost)
    assert isinstance(recorder.reason, ConnectionError)


def test_selector_that_refuses_a_change_ends_the_connection(reactor, connection, peer, recorder, monkeypatch):
    problem = OSError(errno.ENOMEM, "no memory")

    def refuse(fileobj, events, data=None):
        raise problem

    refuse_changes(monkeypatch, loop_of(reactor).registry.selector, "modify", refuse)
    connection.write(b"x" * BIG)
    reactor.run_once(0)
    assert recorder.reason is problem
    peer.setblocking(True)
    while peer.recv(1 << 20):
        pass


def test_connection_is_freed_without_the_collector(reactor):
    endings = {
        "close": lambda connection, peer: connection.close(),
        "abort": lambda connection, peer: connection.abort(),
        "peer": lambda connection, peer: peer.close(),
        "queued": lambda connection, peer: [connection.write(b"x" * BIG), peer.close()],
    }
    gc.collect()
    gc.disable()
    try:
        for end in endings.values():
            protocol = Echo()
            connection, peer = pair(reactor, protocol, timeouts=Timeouts(idle=60))
            alive = weakref.WeakSet([protocol, connection])
            end(connection, peer)
            spin(reactor, lambda connection=connection: connection.get_protocol() is None)
            peer.close()
            del protocol.connection, protocol, connection
            assert len(alive) == 0
    finally:
        gc.enable()


def test_protocol_that_raised_is_freed_without_the_collector(reactor, errors):
    class Broken(Recorder):
        def data_received(self, data):
            raise RuntimeError

    gc.disable()
    try:
        broken = Broken()
        _, peer = pair(reactor, broken)
        alive = weakref.ref(broken)
        peer.send(b"x")
        spin(reactor, lambda broken=broken: broken.lost)
        errors.take()
        broken.calls.clear()
        del broken
        peer.close()
        assert alive() is None
    finally:
        gc.enable()


# Deadlines, on a manual clock


def test_close_ends_at_the_close_timeout(timed, clock, recorder):
    connection, peer = pair(timed, recorder)
    connection.write(b"x" * BIG)
    connection.close(timeout=5)
    clock.advance(4.9)
    timed.run_once(0)
    assert not recorder.lost
    pass_time(timed, clock, 0.2)
    assert isinstance(recorder.reason, CloseTimeout)
    assert "5 s" in str(recorder.reason)
    peer.close()


def test_close_uses_the_listener_s_close_timeout(timed, clock, recorder):
    connection, peer = pair(timed, recorder, timeouts=Timeouts(close=2))
    connection.write(b"x" * BIG)
    connection.close()
    pass_time(timed, clock, 2.1)
    assert isinstance(recorder.reason, CloseTimeout)
    peer.close()


def test_close_with_a_timeout_of_zero_ends_in_the_next_tick(timed, recorder):
    connection, peer = pair(timed, recorder)
    connection.write(b"x" * BIG)
    connection.close(timeout=0)
    timed.run_once(0)
    timed.run_once(0)
    assert isinstance(recorder.reason, CloseTimeout)
    peer.close()


@pytest.mark.parametrize("first", ["close", "write_eof"])
def test_close_timeout_in_eof_received_holds(timed, clock, first):
    class Ending(Recorder):
        def eof_received(self):
            super().eof_received()
            if first == "close":
                self.connection.close(timeout=2)
            else:
                self.connection.write_eof()

    ending = Ending()
    connection, peer = pair(timed, ending, timeouts=Timeouts(close=8))
    connection.write(b"x" * BIG)
    peer.shutdown(socket.SHUT_WR)
    timed.run_once(0)
    seconds = 2 if first == "close" else 8
    pass_time(timed, clock, seconds - 0.1)
    assert not ending.lost
    pass_time(timed, clock, 0.8)
    assert isinstance(ending.reason, CloseTimeout)
    assert f"{seconds} s" in str(ending.reason)
    peer.close()


def test_idle_connection_ends_neither_early_nor_late(timed, clock, recorder):
    _, peer = pair(timed, recorder, timeouts=Timeouts(idle=10))
    clock.advance(9.99)
    timed.run_once(0)
    assert not recorder.lost
    pass_time(timed, clock, 1.01)
    assert isinstance(recorder.reason, IdleTimeout)
    assert peer.recv(1) == b""
    peer.close()


@pytest.mark.parametrize("direction", ["in", "out", "out in a tick"])
def test_activity_in_either_direction_postpones_the_idle_timeout(timed, clock, recorder, direction):
    connection, peer = pair(timed, recorder, timeouts=Timeouts(idle=10))
    for _ in range(5):
        clock.advance(9)
        if direction == "in":
            peer.send(b"x")
        elif direction == "out":
            timed.run_once(0)
            connection.write(b"x")
        else:
            timed.call_soon(connection.write, b"x")
        timed.run_once(0)
        assert not recorder.lost
    pass_time(timed, clock, 11)
    assert isinstance(recorder.reason, IdleTimeout)
    peer.close()


def test_idle_connections_with_one_deadline_are_ended_over_several_ticks(timed, clock):
    protocols = [Recorder() for _ in range(300)]
    peers = [pair(timed, protocol, timeouts=Timeouts(idle=10))[1] for protocol in protocols]
    clock.advance(11)
    timed.run_once(0)
    first = 300 - len(timed.connections())
    assert 0 < first < 300
    for _ in range(4):
        timed.run_once(0)
    assert all(isinstance(protocol.reason, IdleTimeout) for protocol in protocols)
    assert timed.next_timeout() is None
    for peer in peers:
        peer.close()


def test_idle_timer_is_cancelled_with_the_last_connection(timed, recorder):
    connection, peer = pair(timed, recorder, timeouts=Timeouts(idle=10))
    assert timed.next_timeout() is not None
    connection.abort()
    timed.run_once(0)
    assert timed.next_timeout() is None
    peer.close()


# BufferedProtocol


class Buffered(BufferedProtocol):
    def __init__(self, size=10):
        self.buffer = bytearray(size)
        self.received = bytearray()
        self.reasons = []

    def connection_made(self, connection):
        self.connection = connection

    def get_buffer(self, sizehint):
        assert sizehint > 0
        return self.buffer

    def buffer_updated(self, nbytes):
        self.received += self.buffer[:nbytes]

    def connection_lost(self, exc):
        self.reasons.append(exc)

    @property
    def lost(self):
        return self.reasons

    @property
    def reason(self):
        (only,) = self.reasons
        return only


def test_buffered_protocol_receives_into_its_buffer(reactor):
    protocol = Buffered()
    connection, peer = pair(reactor, protocol)
    assert connection in reactor.connections()
    peer.send(b"more than ten bytes")
    spin(reactor, lambda: len(protocol.received) == 19)
    connection.write(b"x" * BIG)
    peer.send(b"!")
    assert drain(reactor, peer, BIG) == b"x" * BIG
    peer.shutdown(socket.SHUT_WR)
    spin(reactor, lambda: protocol.lost)
    assert protocol.received == b"more than ten bytes!"
    assert protocol.reason is None
    peer.close()


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_spurious_readiness_of_a_buffered_protocol_loses_nothing(reactor, error):
    protocol = Buffered()
    _, peer, _ = scripted(reactor, protocol, recv_into=[error])
    peer.send(b"x")
    spin(reactor, lambda: protocol.received == b"x")
    peer.close()


def test_empty_write_to_a_closed_peer_does_nothing(reactor):
    """A send of no bytes would fail with EPIPE on a Unix socket."""
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    connection.pause_reading()
    peer.close()
    connection.write(b"")
    in_tick(reactor, lambda: connection.write(b""))
    connection.resume_reading()
    spin(reactor, lambda: recorder.lost)
    assert recorder.reason is None


def test_interrupt_during_the_flush_loses_no_write(reactor):
    class Interrupted(Recorder):
        def pause_writing(self):
            raise KeyboardInterrupt

    ours, first = socket.socketpair()
    sock = ScriptedSocket(ours, send=[BlockingIOError()])
    limits = Limits(high_water=0, low_water=0)
    connection = reactor.adopt(sock, Interrupted, limits=limits)
    other, second = pair(reactor, Recorder())
    with first, second:
        with pytest.raises(KeyboardInterrupt):
            in_tick(reactor, lambda: [connection.write(b"one"), other.write(b"two")])
        reactor.run_once(0)
        assert (first.recv(10), second.recv(10)) == (b"one", b"two")
        connection.abort()


def test_write_after_a_tick_that_wrote_nothing_is_sent(reactor, connection, peer):
    in_tick(reactor, lambda: connection.write(b""))
    connection.write(b"sent")
    assert peer.recv(10) == b"sent"


def test_empty_buffer_from_get_buffer_is_reported(reactor, errors):
    protocol = Buffered(0)
    connection, peer = pair(reactor, protocol)
    peer.send(b"x")
    spin(reactor, lambda: protocol.lost)
    exc, callback, where = errors.take()
    assert "get_buffer returned an empty buffer" in str(exc)
    assert (callback, where) == ("Buffered.get_buffer", connection)
    peer.close()


def test_exception_in_buffer_updated_ends_the_connection(reactor, errors):
    protocol = Buffered()
    problem = RuntimeError()

    def raise_it(nbytes):
        raise problem

    protocol.buffer_updated = raise_it
    _, peer = pair(reactor, protocol)
    peer.send(b"x")
    spin(reactor, lambda: protocol.lost)
    assert errors.take()[0] is problem
    peer.close()


def test_set_protocol_takes_effect_in_mid_stream(reactor, connection, peer, recorder):
    buffered = Buffered()
    connection.set_protocol(buffered)
    assert connection.get_protocol() is buffered
    peer.send(b"a")
    reactor.run_once(1)
    connection.set_protocol(recorder)
    peer.send(b"b")
    reactor.run_once(1)
    assert (buffered.received, recorder.received) == (b"a", b"b")


def test_get_extra_info_returns_its_default_for_unknown_names(connection, reactor):
    assert connection.get_extra_info("peername") is None
    assert connection.get_extra_info("peername", "nobody") == "nobody"
    assert connection.get_extra_info("sockname") == ""
    assert connection.get_extra_info("socket").fileno() >= 0
    assert connection.get_extra_info("no such fact", 1) == 1
    for fact in ("ssl_object", "sslcontext", "cipher", "alpn_protocol", "peercert", "sni"):
        assert connection.get_extra_info(fact) is None
        assert connection.get_extra_info(fact, "in clear") == "in clear"
    assert repr(connection) == "<Connection open, Recorder>"


def test_repr_names_the_peer(reactor):
    listening = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listening.getsockname())
    connection = reactor.adopt(listening.accept()[0], Recorder)
    assert repr(connection) == f"<Connection 127.0.0.1:{peer.getsockname()[1]} open, Recorder>"
    peer.close()
    listening.close()


def test_without_sendmsg_pieces_are_joined_or_sent_one_by_one(reactor, monkeypatch):
    monkeypatch.setattr("reactor.connection.send_queue._HAS_SENDMSG", False)
    connection, peer, sock = scripted(reactor, Recorder())
    in_tick(reactor, lambda: [connection.write(b"ab"), connection.write(b"cd")])
    assert sock.calls == ["send"]
    in_tick(reactor, lambda: connection.writelines([b"x" * BIG, b"y" * BIG]))
    assert drain(reactor, peer, 4 + 2 * BIG) == b"abcd" + b"x" * BIG + b"y" * BIG
    assert "sendmsg" not in sock.calls
    peer.close()


def test_connections_have_the_limits_of_their_listener(reactor, recorder):
    connection, peer = pair(reactor, recorder, limits=Limits(high_water=10, low_water=5))
    assert connection.get_write_buffer_limits() == (5, 10)
    peer.close()
