"""Connections that a handler makes: they end with the handler, and their failure resets its own."""

import contextlib
import errno
import socket

import pytest

from reactor import ConnectError, ConnectTimeout, Reactor, Timeouts
from reactor.errors import (
    AddressError,
    ConnectionAborted,
    EndOfStream,
    StreamClosed,
    StreamTimeout,
    UsageError,
)
from reactor.streams import connect, first, gather, handler
from tests.coroutines import client_of, reset
from tests.helpers import DEADLINE, silent_address, spin


@pytest.fixture
def upstream():
    """A listening socket for `accept`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address_of(listening):
    return f"127.0.0.1:{listening.getsockname()[1]}"


def accept(reactor, listening):
    """Drive the reactor until a connection is accepted from `upstream`; return it."""
    listening.setblocking(False)
    accepted = []

    def step():
        with contextlib.suppress(BlockingIOError):
            accepted.append(listening.accept()[0])
        return accepted

    spin(reactor, step, wait=0.01)
    return accepted[0]


def end_of(sock):
    """Return the received bytes, and the errno of the end; None for a clean one."""
    sock.settimeout(DEADLINE)
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError as exc:
        return data, exc.errno
    return data, None


async def upper(stream):
    async for line in stream.lines():
        await stream.send(line.upper() + b"\n")


@pytest.mark.parametrize("style", ["block", "await"])
def test_handler_connects_and_answers(reactor, style):
    elsewhere = reactor.listen("127.0.0.1:0", handler(upper)).addresses[0]

    async def ask(stream):
        line = await stream.receive_until(b"\n")
        if style == "block":
            async with connect(elsewhere) as peer:
                await peer.send(line + b"\n")
                answer = await peer.receive_until(b"\n")
        else:
            peer = await connect(elsewhere)
            await peer.send(line + b"\n")
            answer = await peer.receive_until(b"\n")
        await stream.send(answer)

    with client_of(reactor, ask) as (_, client):
        client.sendall(b"hello\n")
        spin(reactor, lambda: not reactor.connections())
        assert end_of(client) == (b"HELLO", None)
    assert reactor.stats().closed == {"clean": 3}


def test_end_of_the_block_closes_the_connection_and_the_handler_continues(reactor, upstream):
    async def ask(stream):
        async with connect(address_of(upstream)) as peer:
            await peer.send(b"bye")
        await stream.receive()

    with client_of(reactor, ask):
        with accept(reactor, upstream) as accepted:
            spin(reactor, lambda: reactor.stats().closed)
            assert end_of(accepted) == (b"bye", None)
            assert len(reactor.connections()) == 1


def test_failure_to_connect_is_raised_by_the_await(reactor):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = address_of(gone)

    async def ask(stream):
        with pytest.raises(ConnectError, match="cannot connect to") as caught:
            await connect(address)
        return caught.value.attempts[0][1].errno

    with client_of(reactor, ask) as (run, _):
        spin(reactor, lambda: run.seen)
        assert run.result == errno.ECONNREFUSED


@pytest.fixture
def made(reactor, monkeypatch):
    """The connectors of the reactor."""
    connectors = []

    def connect(*args, **options):
        connectors.append(Reactor.connect(reactor, *args, **options))
        return connectors[-1]

    monkeypatch.setattr(reactor, "connect", connect)
    return connectors


def test_connect_timeout_is_raised_by_the_await(reactor, made):
    with silent_address() as address:

        async def ask(stream):
            with pytest.raises(ConnectTimeout):
                await connect(address, timeouts=Timeouts(connect=0.01))
            with pytest.raises(StreamTimeout), stream.timeout(0.01):
                await connect(address)
            return [connector.is_done() for connector in made]

        with client_of(reactor, ask) as (run, _):
            spin(reactor, lambda: run.seen)
            assert all(run.result)


def test_attempt_is_cancelled_when_the_outer_connection_ends(reactor, made):
    with silent_address() as address:

        async def ask(stream):
            await connect(address)

        with client_of(reactor, ask) as (run, client):
            assert [connector.is_done() for connector in made] == [False]
            reset(client)
            spin(reactor, lambda: run.seen)
            assert isinstance(run.result, StreamClosed)
            assert [connector.is_done() for connector in made] == [True]


def test_misuse_raises_at_the_call(reactor):
    async def ask(stream):
        with pytest.raises(AddressError):
            await connect("no port")
        with pytest.raises(TypeError):
            connect("127.0.0.1:1", reconnect=True)
        with pytest.raises(ValueError, match="limit must be"):
            connect("127.0.0.1:1", limit=0)
        once = connect("127.0.0.1:1")
        with pytest.raises(ConnectError):
            await once
        with pytest.raises(UsageError, match="awaited before"):
            await once
        return True

    with client_of(reactor, ask) as (run, _):
        spin(reactor, lambda: run.seen)
        assert run.result is True


def test_connection_is_reset_when_the_outer_connection_ends(reactor, upstream):
    async def relay(stream):
        peer = await connect(address_of(upstream))
        await peer.send(b"half a request")
        await peer.receive()

    with client_of(reactor, relay) as (run, client):
        accepted = accept(reactor, upstream)
        with accepted:
            spin(reactor, lambda: len(reactor.connections()) == 2)
            reset(client)
            spin(reactor, lambda: not reactor.connections())
            assert end_of(accepted) == (b"half a request", errno.ECONNRESET)
        assert isinstance(run.result, StreamClosed)


def test_block_that_raises_resets_the_connection_and_the_handler_continues(reactor, upstream):
    async def ask(stream):
        with pytest.raises(LookupError):
            async with connect(address_of(upstream)) as peer:
                await peer.send(b"half")
                await stream.sleep(0)
                raise LookupError
        await stream.send(b"still here")

    with client_of(reactor, ask) as (_, client):
        accepted = accept(reactor, upstream)
        with accepted:
            spin(reactor, lambda: not reactor.connections())
            assert end_of(accepted) == (b"half", errno.ECONNRESET)
        assert end_of(client) == (b"still here", None)


def test_bytes_sent_before_the_handler_returned_arrive(reactor, upstream):
    size = 8 << 20

    async def leave(stream):
        peer = await connect(address_of(upstream))
        peer.connection.write(bytes(size))

    with client_of(reactor, leave) as (run, client):
        accepted = accept(reactor, upstream)
        with accepted:
            spin(reactor, lambda: run.seen)
            client.close()
            accepted.setblocking(False)
            got = []

            def drained():
                try:
                    got.append(accepted.recv(1 << 20))
                except BlockingIOError:
                    return False
                return not got[-1]

            spin(reactor, drained, wait=0.01)
            assert sum(map(len, got)) == size


@pytest.mark.parametrize("how", ["closed", "truncated", "unreachable"])
def test_failure_of_the_inner_connection_resets_the_outer_one(reactor, upstream, errors, how):
    """A partial answer that the handler has passed on must not look complete."""

    async def relay(stream):
        async with connect(address_of(upstream)) as peer:
            await stream.send(await peer.receive_exactly(4))
            if how == "unreachable":
                await connect("127.0.0.1:1")
            await peer.receive_exactly(4)

    with client_of(reactor, relay) as (run, client):
        accepted = accept(reactor, upstream)
        accepted.sendall(b"half")
        spin(reactor, lambda: reactor.stats().bytes_sent == 4)
        if how == "closed":
            reset(accepted)
        elif how == "truncated":
            accepted.sendall(b"an")
            accepted.shutdown(socket.SHUT_WR)
        spin(reactor, lambda: run.seen)
        expected = {"closed": StreamClosed, "truncated": EndOfStream, "unreachable": ConnectError}
        assert isinstance(run.result, expected[how])
        spin(reactor, lambda: not reactor.connections())
        assert end_of(client) == (b"half", errno.ECONNRESET)
        assert errors.seen == []
        accepted.close()


def test_handler_that_raises_resets_the_connection(reactor, errors):
    async def broken(stream):
        await stream.send(b"half an ans")
        await stream.receive()
        raise LookupError("not found")

    with client_of(reactor, broken) as (run, client):
        client.sendall(b"x")
        spin(reactor, lambda: run.seen)
        spin(reactor, lambda: not reactor.connections())
        assert end_of(client) == (b"half an ans", errno.ECONNRESET)
        assert errors.take()[0] is run.result


def test_child_that_raises_resets_the_connection(reactor, errors):
    async def parent(stream):
        await stream.send(b"half an ans")
        stream.start_soon(child, stream)
        await stream.sleep(3600)

    async def child(stream):
        await stream.receive()
        raise LookupError("not found")

    with client_of(reactor, parent) as (run, client):
        client.sendall(b"x")
        spin(reactor, lambda: run.seen)
        spin(reactor, lambda: not reactor.connections())
        assert end_of(client) == (b"half an ans", errno.ECONNRESET)
        assert isinstance(errors.take()[0], LookupError)


def test_handler_that_fails_after_its_own_close_causes_no_reset(reactor):
    async def leave(stream):
        await stream.send(b"whole")
        stream.connection.close()
        await stream.send(b"more")

    with client_of(reactor, leave) as (run, client):
        spin(reactor, lambda: run.seen)
        assert end_of(client) == (b"whole", None)
        spin(reactor, lambda: not reactor.connections())
        assert reactor.stats().closed == {"clean": 1}


def test_timeout_of_either_stream_bounds_the_task(reactor, upstream):
    async def ask(stream):
        async with connect(address_of(upstream)) as peer:
            for each in (stream, peer):
                with pytest.raises(StreamTimeout), each.timeout(0.01):
                    await peer.receive()
        return True

    with client_of(reactor, ask) as (run, _):
        spin(reactor, lambda: run.seen)
        assert run.result is True


def test_handler_makes_several_connections_in_parallel(reactor):
    elsewhere = reactor.listen("127.0.0.1:0", handler(upper)).addresses[0]

    async def ask(stream):
        one, two = await gather(connect(elsewhere), connect(elsewhere))
        await one.send(b"one\n")
        await two.send(b"two\n")
        answers = await gather(one.receive_until(b"\n"), two.receive_until(b"\n"))
        await one.send(b"three\n")
        return answers, await first(two.receive(), one.receive())

    with client_of(reactor, ask) as (run, _):
        spin(reactor, lambda: run.seen)
        assert run.result == ([b"ONE", b"TWO"], (1, b"THREE\n"))


def test_child_task_of_the_inner_stream_ends_with_its_block(reactor, upstream):
    ended = []

    async def beside(peer):
        try:
            with peer.timeout(3600):
                await peer.receive_exactly(10)
        finally:
            ended.append(True)

    async def ask(stream):
        async with connect(address_of(upstream)) as peer:
            peer.start_soon(beside, peer)
            await stream.receive()
        await stream.receive()

    with client_of(reactor, ask) as (_, client):
        accepted = accept(reactor, upstream)
        spin(reactor, lambda: len(reactor.connections()) == 2)
        client.sendall(b"x")
        spin(reactor, lambda: ended)
        assert len(reactor.connections()) == 1
        accepted.close()


def test_drain_waits_for_a_handler_with_an_inner_connection(reactor, upstream):
    reports = []

    async def ask(stream):
        while await stream.receive():
            async with connect(address_of(upstream)) as peer:
                await stream.send(await peer.receive())

    with client_of(reactor, ask) as (_, client):
        client.sendall(b"x")
        with accept(reactor, upstream) as accepted:
            spin(reactor, lambda: len(reactor.connections()) == 2)
            reactor.drain(DEADLINE, reports.append)
            for _ in range(3):
                reactor.run_once(0.02)
            assert len(reactor.connections()) == 2
            accepted.sendall(b"!")
            spin(reactor, lambda: not reactor.connections())
        assert end_of(client) == (b"!", None)
        spin(reactor, lambda: reports)
        assert reports[0].aborted == 0


def test_drain_waits_for_a_handler_that_connects(reactor, upstream):
    """If the attempt were cancelled silently, the handler would wait until the drain's deadline."""
    reports = []

    async def ask(stream):
        await stream.receive()
        reactor.drain(DEADLINE, reports.append)
        async with connect(address_of(upstream)) as peer:
            await stream.send(await peer.receive())

    with client_of(reactor, ask) as (_, client):
        client.sendall(b"x")
        with accept(reactor, upstream) as accepted:
            accepted.sendall(b"!")
            spin(reactor, lambda: reports)
        assert end_of(client) == (b"!", None)
        assert reports[0].aborted == 0


def test_handler_connects_over_tls_by_name(reactor, certificates):
    listener = reactor.listen("127.0.0.1:0", handler(upper), tls=certificates.server())

    async def ask(stream):
        address = ("localhost", listener.addresses[0].port)
        async with connect(address, tls=certificates.client()) as peer:
            await peer.send(b"secret\n")
            return await peer.receive_until(b"\n")

    with client_of(reactor, ask) as (run, _):
        spin(reactor, lambda: run.seen)
        assert run.result == b"SECRET"


def test_closing_the_reactor_ends_handlers_and_inner_connections(errors, upstream):
    async def ask(stream):
        async with connect(address_of(upstream)) as peer:
            await peer.receive()

    with Reactor(on_error=errors) as reactor, client_of(reactor, ask) as (run, _):
        spin(reactor, lambda: len(reactor.connections()) == 2)
        reactor.close()
        assert isinstance(run.result, StreamClosed)
        assert isinstance(run.result.__cause__, ConnectionAborted)
    assert errors.seen == []


def test_connect_awaited_by_another_loop_raises():
    waits = connect("127.0.0.1:1").__await__()
    waits.send(None)
    with pytest.raises(UsageError, match=r"in the tasks of reactor\.streams only"):
        waits.throw(RuntimeError("Task got bad yield"))
