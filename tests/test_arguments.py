"""Arguments: invalid ones are refused at the call by the parameter's name; any duration works."""

import asyncio
import contextlib
import math
import re
import signal
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import CloseTimeout, DrainTimeout, IdleTimeout, Reactor, ReadTimeout, Reconnect, Timeouts
from reactor.embed.guest import attach
from reactor.options import number, seconds
from reactor.pool import Pool
from reactor.streams import handler
from reactor.testing import Errors, ManualClock, Recorder
from tests.helpers import DEADLINE, connect, pair, spin

BIG = 4 * 1024 * 1024
TINY = 5e-324
HUGE = [1e300, 1.7e308, 10**308, 10**400, math.inf]
HUGE_IDS = ["1e300", "1.7e308", "10**308", "10**400", "inf"]
NO_NUMBER = ["1", True, None, [], 1j]
NO_DURATION = [-1, -TINY, -math.inf, math.nan, -(10**400)]

DURATIONS = st.floats(min_value=0, exclude_min=True) | st.integers(1, 10**400)


def calls(reactor, connection, listener):
    """Return the calls that take a duration, each as a function of it."""
    return {
        "close": lambda value: connection.close(timeout=value),
        "listener.drain": listener.drain,
        "drain": reactor.drain,
        "run": lambda value: reactor.run(drain_timeout=value),
        "background": lambda value: reactor.background(drain_timeout=value),
        "budget": lambda value: reactor.run_once(0, budget=value),
        "pool": Pool(print).close,
        "slow_callback": lambda value: Reactor(slow_callback=value),
    }


def typed_calls(reactor, connection, listener):
    """Return calls with an argument of the wrong type, each with the beginning of its message."""
    listen, connect, adopt = reactor.listen, reactor.connect, reactor.adopt
    here, there = "127.0.0.1:0", "127.0.0.1:1"
    ours = connection.get_extra_info("socket")
    with_context = [
        call
        for make in (
            lambda **wrong: listen(here, **{"factory": Recorder, **wrong}),
            lambda **wrong: connect(there, **{"factory": Recorder, **wrong}),
            lambda **wrong: adopt(ours, **{"factory": Recorder, **wrong}),
        )
        for call in (
            (lambda make=make: make(factory=Recorder()), "factory must be callable, not <"),
            (lambda make=make: make(factory=None), "factory must be callable, not None"),
            (
                lambda make=make: make(factory=asyncio.sleep),
                "factory is a coroutine function: give reactor.streams.handler(sleep)",
            ),
            (lambda make=make: make(timeouts=60), "timeouts must be of type Timeouts or None, not 60"),
            (lambda make=make: make(timeouts=0), "timeouts must be of type Timeouts or None, not 0"),
            (lambda make=make: make(limits=5), "limits must be of type Limits or None, not 5"),
            (
                lambda make=make: make(tls="cert.pem"),
                "tls must be of type SSLContext or None, not 'cert.pem'",
            ),
        )
    ]
    return [
        *with_context,
        (lambda: listen(here, Recorder, backlog="x"), "backlog must be of type int, not 'x'"),
        (
            lambda: listen(here, Recorder, on_accept_error=5),
            "on_accept_error must be callable or None, not 5",
        ),
        (lambda: listen(here, Recorder, on_tls_error=5), "on_tls_error must be callable or None, not 5"),
        (lambda: connect(there, Recorder, reconnect=True), "reconnect must be of type Reconnect or None"),
        (lambda: connect(there, Recorder, on_failure=5), "on_failure must be callable or None, not 5"),
        (lambda: connect(there, Recorder, server_hostname=5), "server_hostname must be of type str or None"),
        (lambda: connect(there, Recorder, tls_session=5), "tls_session must be of type SSLSession or None"),
        (lambda: adopt(ours, Recorder, server_hostname=5), "server_hostname must be of type str or None"),
        (lambda: adopt(None, Recorder), "sock must be a connected stream socket, not None"),
        (lambda: adopt(ours, object), "the factory object returned <object"),
        (lambda: connection.set_protocol(None), "set_protocol was given None, which is no protocol"),
        (lambda: connection.start_tls("cert.pem"), "context must be of type SSLContext, not 'cert.pem'"),
        (lambda: listener.replace_tls(None), "context must be of type SSLContext, not None"),
        (lambda: listener.drain(1, 5), "on_done must be callable or None, not 5"),
        (lambda: reactor.drain(on_done=5), "on_done must be callable or None, not 5"),
        (lambda: reactor.call_soon(None), "callback must be callable, not None"),
        (lambda: reactor.call_later(1, None), "callback must be callable, not None"),
        (lambda: reactor.call_at(1, None), "callback must be callable, not None"),
        (lambda: reactor.call_soon_threadsafe(None), "callback must be callable, not None"),
        (lambda: reactor.call_at_close(None), "callback must be callable, not None"),
        (lambda: reactor.call_each_tick(None), "callback must be callable, not None"),
        (lambda: reactor.submit(None), "fn must be callable, not None"),
        (lambda: reactor.run_in_executor(None, None), "fn must be callable, not None"),
        (lambda: reactor.add_reader("x", print), "fd must be a descriptor or have fileno(), not 'x'"),
        (lambda: reactor.add_reader(ours, None), "callback must be callable, not None"),
        (lambda: reactor.add_writer(ours, None), "callback must be callable, not None"),
        (lambda: reactor.add_signal_handler(signal.SIGUSR1, None), "callback must be callable, not None"),
        (lambda: Reactor(on_error=5), "on_error must be callable or None, not 5"),
        (lambda: Reactor(clock=5), "clock must be callable, not 5"),
        (lambda: Reconnect(random=0.5), "random must be callable, not 0.5"),
        (lambda: Pool(None), "handler must be callable, not None"),
        (lambda: handler(None), "fn must be callable, not None"),
        (lambda: attach(reactor, None), "run_sync_soon_threadsafe must be callable, not None"),
    ]


def test_argument_of_another_type_is_refused_and_changes_nothing(descriptors, reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    listener = reactor.listen("127.0.0.1:0", Recorder)
    before = signal.getsignal(signal.SIGUSR1)
    for call, message in typed_calls(reactor, connection, listener):
        with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
            call()
        assert reactor.listeners() == [listener]
        assert reactor.connections() == [connection]
        assert not connection.is_closing()
        assert connection.get_protocol() is recorder
        assert reactor.run_once(0) == 0
        assert reactor.next_timeout() is None
    with pytest.raises(ValueError, match="backlog must be a number of connections, 0 or more, not -1"):
        reactor.listen("127.0.0.1:0", Recorder, backlog=-1)
    assert signal.getsignal(signal.SIGUSR1) == before
    peer.close()


@pytest.mark.parametrize("made", [None, object(), 5], ids=["None", "object", "5"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_factory_that_makes_no_protocol_ends_only_its_connection(make_selector, certificates, tls, made):
    def factory():
        return made

    errors, others, clients, failed = Errors(), [], [], []
    with Reactor(selector=make_selector(), on_error=errors) as reactor:

        def other():
            others.append(Recorder())
            return others[-1]

        server = {"tls": certificates.server()} if tls else {}
        client = {"tls": certificates.client(), "server_hostname": "localhost"} if tls else {}
        good = reactor.listen("127.0.0.1:0", other, **server)
        bad = reactor.listen("127.0.0.1:0", factory, **server)
        reactor.connect(str(good.addresses[0]), other, **client)
        spin(reactor, lambda: len(others) == 2)

        reactor.connect(
            str(bad.addresses[0]),
            lambda: clients.append(Recorder()) or clients[-1],
            on_failure=failed.append,  # the reset may arrive before the connection is established
            **client,
        )
        spin(reactor, lambda: errors.seen and (failed or (clients and clients[0].lost)))
        exc, where, _ = errors.take()
        assert isinstance(exc, TypeError)
        assert "factory returned " + repr(made) in str(exc)
        assert "neither data_received nor get_buffer" in str(exc)
        assert where == f"the protocol factory of {bad}"

        reactor.connect(str(good.addresses[0]), factory, **client)
        spin(reactor, lambda: errors.seen and len(others) == 3 and others[-1].lost)
        exc, where, _ = errors.take()
        assert isinstance(exc, TypeError)
        assert "factory returned " + repr(made) in str(exc)
        spin(reactor, lambda: len(reactor.connections()) == 2)
        assert not any(each.lost for each in others[:2])


NAMES = ["close", "listener.drain", "drain", "run", "background", "budget", "pool", "slow_callback"]


@pytest.mark.parametrize("name", NAMES)
def test_invalid_duration_is_refused_and_changes_nothing(descriptors, reactor, name):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    listener = reactor.listen("127.0.0.1:0", Recorder)
    call = calls(reactor, connection, listener)[name]
    for value in NO_DURATION:
        with pytest.raises(ValueError, match=r"(timeout|budget|slow_callback) must be "):
            call(value)
    for value in NO_NUMBER:
        if value is None and name in {"close", "budget", "slow_callback"}:
            continue  # the default
        with pytest.raises(TypeError, match=r"(timeout|budget|slow_callback) must be a number of seconds"):
            call(value)
    reactor.run_once(0)
    assert not recorder.lost
    assert not connection.is_closing()
    assert reactor.listeners() == [listener]
    connect(reactor, listener.addresses[0]).close()
    peer.close()


@pytest.mark.parametrize("field", ["first", "max_delay"])
def test_delays_of_reconnect_are_checked(field):
    for value in NO_NUMBER:
        with pytest.raises(TypeError, match=f"{field} must be a number of seconds, not "):
            Reconnect(**{field: value})
    assert Reconnect(max_delay=math.inf).max_delay == math.inf
    assert 0 <= Reconnect(first=TINY).spread(TINY) <= TINY


def test_set_timeouts_changes_all_or_none(reactor):
    connection, peer = pair(reactor, Recorder())
    before = connection.get_timeouts()
    for wrong in (-1, 0, math.nan, "1", True):
        with pytest.raises((ValueError, TypeError), match=r"^idle must be"):
            connection.set_timeouts(read=TINY, write=1, idle=wrong)
        with pytest.raises((ValueError, TypeError), match=r"^read must be"):
            connection.set_timeouts(read=wrong, write=1)
    reactor.run_once(0.01)
    assert connection.get_timeouts() == before
    assert not connection.is_closing()
    peer.close()


@pytest.mark.parametrize("timeout", HUGE, ids=HUGE_IDS)
def test_close_without_a_deadline_sends_all_that_is_queued(reactor, timeout):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    connection.write(b"x" * BIG)
    connection.close(timeout=timeout)
    got = 0

    def take():
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += len(peer.recv(1 << 20))
        return got == BIG and recorder.lost

    spin(reactor, take, wait=0)
    assert recorder.reason is None
    assert reactor.stats().lingering == 1
    peer.close()
    spin(reactor, lambda: not reactor.stats().lingering)


def test_close_with_the_shortest_deadline(reactor):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    connection.write(b"x" * BIG)
    connection.close(timeout=TINY)
    spin(reactor, lambda: recorder.lost)
    assert isinstance(recorder.reason, CloseTimeout)
    peer.close()


@pytest.mark.parametrize(("name", "kind"), [("idle", IdleTimeout), ("read", ReadTimeout)])
def test_shortest_timeout_ends_the_connection(reactor, name, kind):
    given, changed = Recorder(), Recorder()
    _, first = pair(reactor, given, timeouts=Timeouts(**{name: TINY}))
    connection, second = pair(reactor, changed)
    connection.set_timeouts(**{name: TINY})
    spin(reactor, lambda: given.lost and changed.lost)
    assert isinstance(given.reason, kind)
    assert isinstance(changed.reason, kind)
    first.close()
    second.close()


@given(idle=DURATIONS, read=DURATIONS, write=DURATIONS, close=DURATIONS, passed=st.floats(0, 1e9))
def test_connection_ends_when_a_deadline_has_passed_and_not_before(idle, read, write, close, passed):
    clock, recorder = ManualClock(), Recorder()
    with Reactor(clock=clock, on_error=Errors()) as reactor:
        ours, theirs = socket.socketpair()
        timeouts = Timeouts(idle=idle, read=read, write=write, close=close)
        reactor.adopt(ours, lambda: recorder, timeouts=timeouts)
        start = clock()
        clock.advance(passed)
        for _ in range(3):
            reactor.run_once(0)
        shortest = min(timeouts.idle, timeouts.read)
        if recorder.lost:
            assert start + shortest <= clock()
        else:
            assert start + shortest * 17 / 16 >= clock()
        theirs.close()


@given(timeout=DURATIONS | st.just(0))
def test_drain_with_any_timeout_ends(timeout):
    clock, recorder, reports = ManualClock(), Recorder(), []
    recorder.draining = lambda: True
    with Reactor(clock=clock) as reactor:
        connection, peer = pair(reactor, recorder)
        reactor.drain(timeout, reports.append)
        reactor.run_once(0)
        reactor.run_once(0)
        if timeout < 1e300:
            clock.advance(float(timeout))
        else:
            assert not recorder.lost
            connection.abort()
        for _ in range(5):
            reactor.run_once(0)
        assert recorder.lost
        (report,) = reports
        assert report.aborted == isinstance(recorder.reason, DrainTimeout) == (timeout < 1e300)
        peer.close()


def test_run_accepts_the_shortest_and_an_infinite_drain_timeout(reactor):
    for timeout in (TINY, math.inf, 10**400):
        reactor.call_soon(reactor.drain, timeout)
        reactor.run(drain_timeout=timeout)
    for timeout in (TINY, 1e300, math.inf, 10**400):
        with reactor.background(drain_timeout=timeout):
            pass


@given(timeout=DURATIONS)
def test_run_once_with_any_timeout_ends_with_an_event(timeout):
    with Reactor() as reactor:
        reactor.call_soon_threadsafe(int)
        assert reactor.run_once(timeout)
        assert reactor.run_once(0, timeout) == 0
        reactor.call_soon(int)
        assert reactor.run_once(0, timeout) == 1


@given(delay=DURATIONS)
def test_fileno_accepts_any_timer(delay):
    with Reactor() as reactor:
        reactor.fileno()
        handle = reactor.call_later(delay, int)
        reactor.run_once(0)
        handle.cancel()


@pytest.mark.parametrize("timeout", [TINY, 1e-7, *HUGE], ids=["5e-324", "1e-7", *HUGE_IDS])
def test_pool_with_any_write_timeout(reactor, timeout):
    gate = threading.Event()

    def serve(connection):
        connection.sendall(b"hello")
        gate.wait(DEADLINE)

    with Pool(serve) as pool:
        listener = reactor.listen("127.0.0.1:0", pool, timeouts=Timeouts(write=timeout))
        with connect(reactor, listener.addresses[0]) as client:
            client.setblocking(False)
            spin(reactor, lambda: _received(client) == b"hello", wait=0.01)
            gate.set()
            spin(reactor, lambda: not reactor.connections())
        assert pool.close(timeout=max(timeout, DEADLINE))


def _received(client):
    with contextlib.suppress(BlockingIOError):
        return client.recv(100)


def test_tasks_accept_any_delay_and_timeout(reactor):
    done = []

    async def serve(stream):
        for wrong in NO_DURATION:
            with pytest.raises(ValueError, match=r"^seconds must be"):
                await stream.sleep(wrong)
            with pytest.raises(ValueError, match=r"^seconds must be"):
                stream.timeout(wrong)
        for wrong in NO_NUMBER:
            with pytest.raises(TypeError, match=r"^seconds must be a number of seconds, not"):
                await stream.sleep(wrong)
            with pytest.raises(TypeError, match=r"^seconds must be a number of seconds, not"):
                stream.timeout(wrong)
        for long in HUGE:
            with pytest.raises(TimeoutError), stream.timeout(TINY):
                with stream.timeout(long):
                    await stream.sleep(long)
        await stream.sleep(0)
        await stream.sleep(TINY)
        done.append(True)

    listener = reactor.listen("127.0.0.1:0", handler(serve))
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: done)


@given(st.floats() | st.integers(-(10**400), 10**400))
def test_seconds_accepts_numbers_that_are_not_negative(value):
    if value != value or value < 0:
        with pytest.raises(ValueError, match=r"^it must be "):
            seconds("it", value, zero=True)
        return
    assert seconds("it", value, zero=True) == min(value, math.inf) or value >= 1e308
    if value == 0:
        with pytest.raises(ValueError, match=r"^it must be more than 0 seconds, not"):
            seconds("it", value)
    else:
        assert seconds("it", value) + 0.0 > 0


@given(st.integers(2**1024, 10**400))
def test_integer_beyond_floats_is_infinite(value):
    assert number("it", value) == math.inf
    assert number("it", -value) == -math.inf
