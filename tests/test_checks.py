"""What is given in seconds, at each call that takes some: any duration works, and what is none is refused."""

import contextlib
import math
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import CloseTimeout, DrainTimeout, IdleTimeout, Reactor, ReadTimeout, Reconnect, Timeouts
from reactor.checks import number, seconds
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


NAMES = ["close", "listener.drain", "drain", "run", "background", "budget", "pool", "slow_callback"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_duration_is_refused_and_changes_nothing(descriptors, reactor, name):
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


@pytest.mark.parametrize("field", ["first", "most"])
def test_delays_of_reconnect(field):
    for value in NO_NUMBER:
        with pytest.raises(TypeError, match=f"{field} must be a number of seconds, not "):
            Reconnect(**{field: value})
    assert Reconnect(most=math.inf).most == math.inf
    assert 0 <= Reconnect(first=TINY).spread(TINY) <= TINY


def test_timeouts_of_one_connection_are_changed_all_or_none(reactor):
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
def test_any_drain_ends(timeout):
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


def test_run_with_an_infinite_drain_and_the_shortest(reactor):
    for timeout in (TINY, math.inf, 10**400):
        reactor.call_soon(reactor.drain, timeout)
        reactor.run(drain_timeout=timeout)
    for timeout in (TINY, 1e300, math.inf, 10**400):
        with reactor.background(drain_timeout=timeout):
            pass


@given(timeout=DURATIONS)
def test_any_wait_ends_with_an_event(timeout):
    with Reactor() as reactor:
        reactor.call_soon_threadsafe(int)
        assert reactor.run_once(timeout)
        assert reactor.run_once(0, timeout) == 0
        reactor.call_soon(int)
        assert reactor.run_once(0, timeout) == 1


@given(delay=DURATIONS)
def test_host_that_waits_for_the_descriptor_can_have_any_timer(delay):
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


def test_tasks_sleep_and_are_bounded(reactor):
    told = []

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
        told.append(True)

    listener = reactor.listen("127.0.0.1:0", handler(serve))
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: told)


@given(st.floats() | st.integers(-(10**400), 10**400))
def test_seconds_are_the_numbers_that_are_not_negative(value):
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
def test_whole_numbers_beyond_floats_are_infinite(value):
    assert number("it", value) == math.inf
    assert number("it", -value) == -math.inf
