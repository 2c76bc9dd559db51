"""Coroutine handlers: what each await returns and raises, and that no task is left waiting."""

import asyncio
import contextlib
import errno
import gc
import socket
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Reactor, Timeouts
from reactor.errors import (
    EndOfStream,
    FrameTooLong,
    IdleTimeout,
    StreamClosed,
    StreamTimeout,
    TLSHandshakeError,
    UsageError,
)
from reactor.streams import Stream, handler
from tests.coroutines import BIG, HandlerRun, client_of, reset, timed
from tests.helpers import DEADLINE, connect, spin


def exchange(reactor, fn, sent, **options):
    """Return what `fn` returned after `sent` and the end of file, and what the client received."""
    with client_of(reactor, fn, **options) as (run, client):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: run.seen)
        reactor.run_once(0)
        answer = b""
        while more := client.recv(65536):
            answer += more
        return run.result, answer


# Receiving


def test_receive_returns_available_bytes_and_nothing_at_the_end(reactor):
    async def echo(stream):
        pieces = []
        while data := await stream.receive():
            pieces.append(data)
            await stream.send(data)
        return b"".join(pieces), await stream.receive()

    assert exchange(reactor, echo, b"hello") == ((b"hello", b""), b"hello")


def test_receive_returns_at_most_its_size(reactor):
    async def bite(stream):
        bites = []
        while data := await stream.receive(2):
            bites.append(data)
        return bites

    bites, _ = exchange(reactor, bite, b"abcde")
    assert b"".join(bites) == b"abcde"
    assert max(map(len, bites)) <= 2


def test_receive_exactly_returns_that_many_bytes(reactor):
    async def read(stream):
        return [await stream.receive_exactly(n) for n in (3, 0, 4)], await stream.receive()

    assert exchange(reactor, read, b"abcdefghi")[0] == ([b"abc", b"", b"defg"], b"hi")


def test_receive_exactly_at_the_end_raises_with_the_partial_bytes(reactor):
    async def read(stream):
        with pytest.raises(EndOfStream, match="ended after 2 bytes") as caught:
            await stream.receive_exactly(3)
        return caught.value.partial

    assert exchange(reactor, read, b"ab")[0] == b"ab"


def test_receive_until_returns_up_to_the_delimiter(reactor):
    async def read(stream):
        return await stream.receive_until(b"--"), await stream.receive_until(b"-"), await stream.receive()

    assert exchange(reactor, read, b"one--two-three")[0] == (b"one", b"two", b"three")


def test_receive_until_finds_a_delimiter_that_comes_in_pieces(reactor):
    async def read(stream):
        return await stream.receive_until(b"--END--", limit=3), await stream.receive(1)

    with client_of(reactor, read) as (run, client):
        for byte in b"abc--END--.":
            client.sendall(bytes([byte]))
            reactor.run_once(0.05)
        spin(reactor, lambda: run.seen)
        assert run.result == (b"abc", b".")


def test_receive_until_does_not_wait_beyond_its_limit(reactor, errors):
    async def read(stream):
        await stream.send(b"at most 4, please")
        await stream.receive_until(b"\n", limit=4)

    with client_of(reactor, read) as (run, client):
        client.sendall(b"abcde")
        spin(reactor, lambda: run.seen)
        assert client.recv(100) == b"at most 4, please"
        assert isinstance(run.result, FrameTooLong)
        assert "within 4 bytes" in str(run.result)
        reactor.run_once(0)
        assert reactor.stats().closed == {"FrameTooLong": 1}


def test_stream_is_iterated_by_lines(reactor):
    async def read(stream):
        return [line async for line in stream.lines()]

    assert exchange(reactor, read, b"one\r\ntwo\n\nthree")[0] == [b"one", b"two", b"", b"three"]
    assert exchange(reactor, read, b"one\n")[0] == [b"one"]


PARTS = st.lists(st.binary(max_size=40), max_size=8)


@given(
    chunks=PARTS,
    asks=st.lists(st.tuples(st.sampled_from(["receive", "exactly", "until"]), st.integers(1, 30))),
)
def test_all_ways_of_receiving_return_every_byte_once_in_order(chunks, asks):
    got = []

    async def ask(stream, how, n):
        if how == "receive":
            return await stream.receive(n)
        if how == "exactly":
            return await stream.receive_exactly(n)
        return await stream.receive_until(b"\0", n) + b"\0"

    async def read(stream):
        for how, n in asks:
            try:
                got.append(await ask(stream, how, n))
            except EndOfStream as end:
                got.append(end.partial)
            except FrameTooLong:
                pass  # and no byte of it is consumed
        while data := await stream.receive():
            got.append(data)

    ours, theirs = socket.socketpair()
    with Reactor() as reactor, theirs:
        reactor.adopt(ours, handler(read, limit=16))
        for chunk in chunks:
            theirs.sendall(chunk)
            reactor.run_once(0)
        theirs.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: not reactor.connections())
    assert b"".join(got) == b"".join(chunks)


def test_reading_is_paused_while_no_task_receives(reactor):
    async def sleepy(stream):
        await stream.sleep(3600)

    with client_of(reactor, sleepy, limit=1000, timeouts=Timeouts(write=None)) as (_, client):
        client.setblocking(False)
        sent = 0
        spins = 0
        while spins < 5:
            try:
                sent += client.send(BIG)
                spins = 0
            except BlockingIOError:
                spins += 1
            reactor.run_once(0)
        (connection,) = reactor.connections()
        assert not connection.is_reading()
        assert reactor.stats().bytes_received < 1 << 20


def test_held_input_is_returned_by_the_next_receive(reactor):
    async def late(stream):
        await stream.receive_exactly(1)
        await stream.sleep(0.01)
        return await stream.receive_exactly(len(BIG) - 1)

    with client_of(reactor, late) as (run, client):
        client.setblocking(False)
        rest = memoryview(BIG)
        while not run.seen:
            with contextlib.suppress(BlockingIOError):
                rest = rest[client.send(rest) :] if rest else rest
            reactor.run_once(0.01)
        assert run.result == BIG[1:]


def test_second_receive_at_the_same_time_is_refused(reactor, errors):
    async def both(stream):
        stream.start_soon(stream_reader, stream)
        return await stream.receive()

    async def stream_reader(stream):
        with pytest.raises(UsageError, match="another task waits"):
            await stream.receive()
        await stream.send(b"told")

    with client_of(reactor, both) as (run, client):
        reactor.run_once(0)
        assert client.recv(10) == b"told"
        client.sendall(b"x")
        spin(reactor, lambda: run.seen)
        assert run.result == b"x"


# Sending


def test_send_waits_for_the_low_water_mark(reactor):
    queued = []

    async def much(stream):
        await stream.send(BIG)
        queued.append(stream.connection.get_write_buffer_size())
        return len(BIG)

    limits = Limits(high_water=65536, low_water=1000)
    with client_of(reactor, much, limits=limits) as (run, client):
        reactor.run_once(0)
        assert not run.seen
        received = bytearray()
        client.settimeout(DEADLINE)
        while len(received) < len(BIG):
            received += client.recv(1 << 20)
            reactor.run_once(0)
        spin(reactor, lambda: run.seen)
        assert queued[0] <= 1000
        assert received == BIG


def test_send_eof_keeps_the_other_direction_open(reactor):
    async def half(stream):
        await stream.send(b"that was all")
        await stream.send_eof()
        with pytest.raises(UsageError):
            await stream.send(b"more")
        return await stream.receive_exactly(5)

    with client_of(reactor, half) as (run, client):
        reactor.run_once(0)
        assert client.recv(100) == b"that was all"
        assert client.recv(100) == b""
        client.sendall(b"fine.")
        spin(reactor, lambda: run.seen)
        assert run.result == b"fine."


def test_bytes_sent_before_the_handler_returned_arrive(reactor):
    async def much(stream):
        stream.connection.write(BIG)

    with client_of(reactor, much) as (run, client):
        received = bytearray()
        client.setblocking(False)
        while len(received) < len(BIG):
            with contextlib.suppress(BlockingIOError):
                received += client.recv(1 << 20)
            reactor.run_once(0.01)
        assert received == BIG
        assert run.seen == [None]


# The end of a connection


@pytest.mark.parametrize(
    "wait",
    [
        lambda stream: stream.receive(),
        lambda stream: stream.receive_exactly(10),
        lambda stream: stream.receive_until(b"."),
        lambda stream: stream.lines().__anext__(),
        lambda stream: stream.sleep(3600),
        lambda stream: stream.send(BIG * 4),
    ],
    ids=["receive", "receive_exactly", "receive_until", "lines", "sleep", "send"],
)
def test_end_of_the_connection_ends_every_wait(reactor, wait):
    cleaned = []

    async def waits(stream):
        try:
            await wait(stream)
        finally:
            with pytest.raises(StreamClosed):
                await stream.sleep(0)
            cleaned.append(True)

    with client_of(reactor, waits) as (run, client):
        reset(client)
        spin(reactor, lambda: run.seen)
        assert isinstance(run.result, StreamClosed)
        assert run.result.__cause__.errno == errno.ECONNRESET
        assert cleaned == [True]


def test_awaits_after_the_end_are_refused(reactor):
    async def stubborn(stream):
        refused = []
        for wait in (
            stream.receive,
            stream.receive,
            lambda: stream.send(b"x"),
            stream.send_eof,
            lambda: stream.receive_exactly(1),
            lambda: stream.start_soon(stream.sleep, 1),
        ):
            try:
                await wait()
            except StreamClosed as exc:
                refused.append(exc)
        return len(refused)

    with client_of(reactor, stubborn) as (run, client):
        reset(client)
        spin(reactor, lambda: run.seen)
        assert run.result == 6


def test_timeout_of_the_connection_is_the_cause_of_stream_closed(reactor):
    async def read(stream):
        await stream.receive()

    with client_of(reactor, read, timeouts=Timeouts(idle=0.01)) as (run, _):
        spin(reactor, lambda: run.seen)
        assert isinstance(run.result.__cause__, IdleTimeout)


def test_closing_the_reactor_ends_waiting_handlers(errors):
    async def read(stream):
        stream.start_soon(stream.sleep, 10)
        await stream.receive()

    with Reactor(on_error=errors) as reactor, client_of(reactor, read) as (run, _):
        reactor.close()
        assert isinstance(run.result, StreamClosed)
    assert errors.seen == []


def test_ended_stream_is_freed(reactor):
    async def read(stream):
        stream.start_soon(stream.sleep, 3600)
        await stream.receive()
        await stream.sleep(0)

    with client_of(reactor, read) as (run, client):
        client.sendall(b"x")
        spin(reactor, lambda: run.seen)
        reactor.run_once(0)
    run.stream, run.seen = None, []
    spin(reactor, lambda: not reactor.connections())
    gc.collect()
    assert [each for each in gc.get_objects() if isinstance(each, Stream)] == []


# What handlers raise


def test_exception_is_reported_once_and_ends_the_connection(reactor, errors):
    async def broken(stream):
        await stream.receive()
        raise LookupError("not found")

    with client_of(reactor, broken) as (run, client):
        client.sendall(b"x")
        spin(reactor, lambda: run.seen)
        reactor.run_once(0)
        exc, callback, connection = errors.take()
        assert exc is run.result
        assert callback == "HandlerRun.__call__"
        assert connection is run.stream.connection
        assert reactor.stats().closed == {"LookupError": 1}


def test_child_that_raises_ends_the_connection(reactor, errors):
    async def broken(stream):
        stream.start_soon(child, stream)
        await stream.receive()

    async def child(stream):
        await stream.sleep(0)
        raise LookupError("not found")

    with client_of(reactor, broken) as (run, _):
        spin(reactor, lambda: run.seen)
        assert isinstance(run.result.__cause__, LookupError)
        assert errors.take()[1].endswith("child")


def test_await_of_another_loop_s_object_is_refused(reactor, errors):
    async def mixed(stream):
        await asyncio.sleep(0)

    with client_of(reactor, mixed) as (run, _):
        assert isinstance(run.result, UsageError)
        assert "not asyncio" in str(run.result)
        errors.take()


def test_handler_that_is_no_coroutine_function_is_refused(reactor, errors):
    listener = reactor.listen("127.0.0.1:0", handler(lambda stream: None))
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: errors.seen)
        exc, _, _ = errors.take()
        assert "give an `async def` function" in str(exc)


def test_limit_must_be_positive():
    with pytest.raises(ValueError, match="limit must be at least 1 byte, not 0"):
        handler(lambda stream: None, limit=0)


@pytest.mark.parametrize("wait", [True, False])
def test_interrupt_in_a_handler_is_raised_by_run(reactor, wait):
    async def interrupted(stream):
        if wait:
            await stream.receive()
        raise KeyboardInterrupt

    async def serve():
        with client_of(reactor, interrupted) as (_, client):
            client.sendall(b"x")
            spin(reactor, lambda: False)

    with pytest.raises(KeyboardInterrupt):
        serve().send(None)
    reactor.run_once(0)
    assert reactor.connections() == []


# Time, and other tasks


def test_sleep_is_never_short():
    async def nap(stream):
        await stream.sleep(5)
        return "awake"

    reactor, peer, run, go = timed(nap)
    with reactor, peer:
        go(4.999)
        assert not run.seen
        go(0.001)
        assert run.result == "awake"


def test_timeout_ends_the_wait_of_its_body():
    async def patient(stream):
        try:
            with stream.timeout(5):
                await stream.receive()
        except StreamTimeout as exc:
            return str(exc), await stream.receive()

    reactor, peer, run, go = timed(patient)
    with reactor, peer:
        go(4.999)
        assert run.stream.draining() is False
        go(0.001)
        assert not run.seen
        peer.sendall(b"late")
        go(0)
        assert run.result == ("not done within 5 s", b"late")


def test_timeout_that_is_not_reached_does_nothing():
    async def quick(stream):
        with stream.timeout(5):
            first = await stream.receive()
        await stream.sleep(10)
        return first

    reactor, peer, run, go = timed(quick)
    with reactor, peer:
        peer.sendall(b"x")
        go(0)
        go(10)
        assert run.result == b"x"


@pytest.mark.parametrize(("outer", "inner", "ends"), [(1, 5, "outer"), (5, 1, "inner"), (1, 1, "outer")])
def test_timeouts_nest(outer, inner, ends):
    async def nested(stream):
        try:
            with stream.timeout(outer):
                try:
                    with stream.timeout(inner):
                        await stream.sleep(100)
                except StreamTimeout:
                    return "inner"
        except StreamTimeout:
            return "outer"

    reactor, peer, run, go = timed(nested)
    with reactor, peer:
        go(1)
        assert run.result == ends


def test_uncaught_timeout_is_the_reason_of_the_end():
    async def careless(stream):
        with stream.timeout(1):
            await stream.receive()

    reactor, peer, run, go = timed(careless)
    with reactor, peer:
        go(1)
        assert isinstance(run.result, StreamTimeout)
        assert reactor.stats().closed == {"StreamTimeout": 1}
        assert reactor.stats().handler_errors == 0


def test_timeout_outside_of_a_task_is_refused():
    stream = handler(lambda stream: None)()
    with pytest.raises(UsageError, match="call it within one"):
        stream.timeout(1)


def test_child_runs_with_the_handler_and_ends_with_it():
    ticks = []

    async def clock(stream):
        try:
            while True:
                await stream.sleep(1)
                ticks.append(True)
        finally:
            ticks.append("end")

    async def parent(stream):
        stream.start_soon(clock, stream)
        await stream.receive()

    reactor, peer, _told, go = timed(parent)
    with reactor, peer:
        go(0)
        for _ in range(3):
            go(1)
        peer.sendall(b"x")
        go(0)
        go(0)
        assert ticks == [True, True, True, "end"]


def test_child_of_a_connection_that_ended_first_never_runs():
    ran = []

    async def child():
        ran.append(True)

    async def parent(stream):
        stream.connection.abort()
        stream.start_soon(child)

    reactor, peer, run, go = timed(parent)
    with reactor, peer:
        go(0)
        assert run.result is None
        assert ran == []


def test_task_of_one_stream_may_use_another_stream(reactor):
    """A relay: the task of each stream receives from it and sends to the other."""
    waiting = []

    async def relay(stream):
        waiting.append(stream)
        if len(waiting) == 1:
            await stream.sleep(3600)
        other = waiting[0]
        while data := await stream.receive():
            await other.send(data)
        await other.send_eof()

    listener = reactor.listen("127.0.0.1:0", handler(relay))
    with connect(reactor, listener.addresses[0]) as one:
        spin(reactor, lambda: len(waiting) == 1)
        with connect(reactor, listener.addresses[0]) as two:
            two.sendall(b"across")
            two.shutdown(socket.SHUT_WR)
            spin(reactor, lambda: len(waiting) == 2)
            received = b""
            one.setblocking(False)
            while not received:
                reactor.run_once(0.01)
                with contextlib.suppress(BlockingIOError):
                    received = one.recv(100)
            assert received == b"across"


def test_task_waiting_for_another_stream_ends_with_that_stream(reactor):
    streams, errors = [], []

    async def watch(stream):
        streams.append(stream)
        if len(streams) == 2:
            try:
                await streams[0].receive()
            except StreamClosed as exc:
                errors.append(exc)
                await stream.send(b"gone")
        else:
            await stream.sleep(3600)

    listener = reactor.listen("127.0.0.1:0", handler(watch))
    with connect(reactor, listener.addresses[0]) as one:
        spin(reactor, lambda: len(streams) == 1)
        with connect(reactor, listener.addresses[0]) as two:
            spin(reactor, lambda: len(streams) == 2)
            reset(one)
            spin(reactor, lambda: errors)
            reactor.run_once(0)
            assert two.recv(10) == b"gone"


def test_client_connection_has_a_stream(reactor):
    async def serve(stream):
        async for line in stream.lines():
            await stream.send(line.upper() + b"\n")

    async def ask(stream):
        await stream.send(b"hello\n")
        return await stream.receive_until(b"\n")

    run = HandlerRun(ask)
    listener = reactor.listen("127.0.0.1:0", handler(serve))
    reactor.connect(listener.addresses[0], handler(run))
    spin(reactor, lambda: run.seen)
    assert run.result == b"HELLO"


def test_handler_that_has_begun_to_answer_is_busy(reactor):
    async def serve(stream):
        await stream.receive()
        at_work = stream.draining()
        await stream.receive()
        return at_work

    with client_of(reactor, serve) as (run, client):
        client.sendall(b"x")
        reactor.run_once()
        assert run.stream.draining() is False
        client.sendall(b"y")
        spin(reactor, lambda: run.seen)
        assert run.result is True


def test_drain_ends_idle_handlers_at_once_and_lets_busy_ones_finish():
    async def serve(stream):
        while await stream.receive_until(b"\n"):
            await stream.sleep(5)
            await stream.send(b"done\n")

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        peer.sendall(b"work\n")
        go(0)
        reports = []
        reactor.drain(60, reports.append)
        for _ in range(4):
            go(1)
        assert reports == []
        for _ in range(3):
            go(1)
        assert peer.recv(100) == b"done\n"
        peer.close()
        for _ in range(3):
            go(1)
        assert len(reports) == 1
        assert isinstance(run.result, StreamClosed)


def test_upgrade_to_tls_on_both_sides(reactor, certificates):
    lines = []

    async def server(stream):
        assert await stream.receive_until(b"\n") == b"STARTTLS"
        await stream.send(b"ready\n")
        await stream.start_tls(certificates.server())
        lines.append(await stream.receive_until(b"\n"))
        await stream.send(b"secret\n")

    async def client(stream):
        await stream.send(b"STARTTLS\n")
        assert await stream.receive_until(b"\n") == b"ready"
        await stream.start_tls(certificates.client(), server_hostname="localhost")
        await stream.send(b"hello\n")
        lines.append(await stream.receive_until(b"\n"))

    listener = reactor.listen("127.0.0.1:0", handler(server))
    reactor.connect(listener.addresses[0], handler(client))
    spin(reactor, lambda: len(lines) == 2)
    assert lines == [b"hello", b"secret"]


def test_start_tls_resumes_reading_that_the_limit_had_paused(reactor, certificates):
    """The ClientHello exceeds the limit; after the handshake a sleeping handler notices the peer's end."""
    upgraded = []

    async def serve(stream):
        while stream.connection.is_reading():
            await stream.sleep(0.001)
        await stream.start_tls(certificates.server())
        upgraded.append(stream)
        await stream.sleep(3600)

    with client_of(reactor, serve, limit=64) as (run, client):
        client.setblocking(False)
        secured = certificates.client().wrap_socket(
            client, server_hostname="localhost", do_handshake_on_connect=False
        )

        def handshake():
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return upgraded

        spin(reactor, handshake, wait=0)
        secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        secured.close()
        spin(reactor, lambda: run.seen)
    assert isinstance(run.result, StreamClosed)
    assert isinstance(run.result.__cause__, ConnectionResetError)


def test_upgrade_that_fails_ends_the_wait(reactor, certificates):
    errors = []

    async def serve(stream):
        await stream.receive_until(b"\n")
        try:
            await stream.start_tls(certificates.server())
        except StreamClosed as exc:
            errors.append(exc.__cause__)

    with client_of(reactor, serve) as (_, client):
        client.sendall(b"STARTTLS\nsmuggled\n")
        spin(reactor, lambda: errors)
    assert isinstance(errors[0], TLSHandshakeError)
