"""Futures, queues, events and several awaits at once: each ends, and nothing is lost."""

import asyncio
import gc
import queue
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Reactor
from reactor.errors import StreamClosed, StreamTimeout, UsageError
from reactor.streams import Event, Queue, Stream, first, gather, wait
from tests.coroutines import client_of, reset, timed
from tests.helpers import spin


def result_of(reactor, fn):
    """Return what `fn(stream)` returned."""
    with client_of(reactor, fn) as (run, _):
        spin(reactor, lambda: run.seen)
        if isinstance(run.result, BaseException):
            raise run.result
        return run.result


# Futures


def test_run_in_executor_can_be_awaited(reactor):
    async def serve(stream):
        return await reactor.run_in_executor(None, threading.get_ident), threading.get_ident()

    there, here = result_of(reactor, serve)
    assert here == threading.get_ident() != there


def test_exception_of_run_in_executor_is_raised_by_the_await(reactor):
    async def serve(stream):
        with pytest.raises(ZeroDivisionError):
            await reactor.run_in_executor(None, lambda: 1 // 0)
        return await reactor.submit(lambda: "on the loop's thread")

    assert result_of(reactor, serve) == "on the loop's thread"


def test_wait_accepts_any_concurrent_future(reactor):
    with ThreadPoolExecutor(1) as executor:

        async def serve(stream):
            done = Future()
            done.set_result("done")
            return await wait(done), await wait(executor.submit(threading.get_ident))

        done, ident = result_of(reactor, serve)
    assert done == "done"
    assert ident != threading.get_ident()


def test_future_cancelled_by_another_raises_cancelled_error(reactor):
    future = Future()

    async def serve(stream):
        reactor.call_soon(future.cancel)
        with pytest.raises(CancelledError):
            await wait(future)
        return True

    assert result_of(reactor, serve)


@pytest.mark.parametrize("how", ["timeout", "end"])
def test_future_is_cancelled_when_its_wait_ends(reactor, how):
    future = Future()

    async def serve(stream):
        with stream.timeout(0.001 if how == "timeout" else 3600):
            await wait(future)

    with client_of(reactor, serve) as (run, client):
        if how == "end":
            reset(client)
        spin(reactor, lambda: run.seen)
        assert isinstance(run.result, StreamTimeout if how == "timeout" else StreamClosed)
        assert future.cancelled()


def test_pending_future_does_not_keep_its_stream(reactor):
    future = Future()
    future.set_running_or_notify_cancel()  # from now on it can't be cancelled

    async def serve(stream):
        await wait(future)

    with client_of(reactor, serve) as (run, client):
        reset(client)
        spin(reactor, lambda: run.seen)
    run.stream, run.seen = None, []
    gc.collect()
    assert [each for each in gc.get_objects() if isinstance(each, Stream)] == []
    future.set_result("nobody waits")


def test_future_may_be_completed_after_the_reactor_is_closed(errors):
    future = Future()

    async def serve(stream):
        await wait(future)

    with Reactor(on_error=errors) as reactor, client_of(reactor, serve):
        future.set_running_or_notify_cancel()
    future.set_result(None)
    assert errors.seen == []


# Events


def test_event_wakes_up_all_waiting_tasks():
    event = Event()

    async def serve(stream):
        assert not event.is_set()
        await gather(event.wait(), event.wait())
        await event.wait()
        event.clear()
        with pytest.raises(StreamTimeout), stream.timeout(1):
            await event.wait()
        return True

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        assert not run.seen
        event.set()
        go(0)
        go(1)
        assert run.result is True


def test_event_that_is_set_and_cleared_wakes_up_earlier_waiters_only():
    event = Event()
    went = []

    async def waits(name):
        await event.wait()
        went.append(name)

    async def serve(stream):
        stream.start_soon(waits, "before")
        await stream.sleep(1)
        stream.start_soon(waits, "after")
        await stream.sleep(1)

    reactor, peer, _, go = timed(serve)
    with reactor, peer:
        go(0)
        event.set()
        event.clear()
        go(1)
        go(0)
        assert went == ["before"]


# Queues


def test_queue_between_connections(reactor):
    lines = Queue(1)

    async def serve(stream):
        stream.start_soon(pump, stream)
        async for line in stream.lines():
            await lines.put(line)

    async def pump(stream):
        while True:
            await stream.send(await lines.get())

    with client_of(reactor, serve) as (_, one), client_of(reactor, serve) as (_, two):
        one.sendall(b"a\nb\nc\nd\n")
        got = {one: b"", two: b""}
        for sock in got:
            sock.setblocking(False)

        def step():
            for sock in got:
                try:
                    got[sock] += sock.recv(100)
                except BlockingIOError:
                    pass
            return sum(map(len, got.values())) == 4

        spin(reactor, step, wait=0.01)
        assert sorted(got[one] + got[two]) == list(b"abcd")


def test_queue_nowait_methods_raise_when_full_or_empty():
    held = Queue(2)
    held.put_nowait(1)
    held.put_nowait(2)
    assert (held.full(), held.empty(), held.qsize()) == (True, False, 2)
    with pytest.raises(queue.Full):
        held.put_nowait(3)
    assert [held.get_nowait(), held.get_nowait()] == [1, 2]
    with pytest.raises(queue.Empty):
        held.get_nowait()
    with pytest.raises(ValueError, match="maxsize must be"):
        Queue(-1)


def test_item_is_given_to_the_waiting_task_and_not_to_a_later_get_nowait():
    held = Queue()
    got = []

    async def serve(stream):
        got.append(await held.get())

    reactor, peer, _, go = timed(serve)
    with reactor, peer:
        go(0)
        held.put_nowait("first")
        with pytest.raises(queue.Empty):
            held.get_nowait()
        go(0)
        assert got == ["first"]


@pytest.mark.parametrize("others", [0, 1])
def test_item_of_a_cancelled_get_is_not_lost(others):
    held = Queue()
    got = []

    async def get():
        got.append(await held.get())

    async def serve(stream):
        with pytest.raises(StreamTimeout), stream.timeout(5):
            await held.get()
        await stream.sleep(3600)

    async def beside(stream):
        await stream.sleep(1)
        await get()

    async def both(stream):
        for _ in range(others):
            stream.start_soon(beside, stream)
        await serve(stream)

    reactor, peer, _, go = timed(both)
    with reactor, peer:
        go(0)
        go(1)
        held.put_nowait("item")  # in the next tick timers run first, and the timeout ends the wait
        go(4)
        go(0)
        assert got == ["item"] * others
        assert held.empty() is bool(others)


def test_room_of_a_cancelled_put_is_not_lost():
    held = Queue(1)
    held.put_nowait(0)

    async def serve(stream):
        with pytest.raises(StreamTimeout), stream.timeout(5):
            await held.put(1)
        await stream.sleep(3600)

    reactor, peer, _, go = timed(serve)
    with reactor, peer:
        go(0)
        assert held.get_nowait() == 0
        assert held.full()  # the task has the free place
        go(5)
        assert not held.full()
        held.put_nowait(2)
        assert held.get_nowait() == 2


@given(
    maxsize=st.integers(0, 3),
    steps=st.lists(
        st.sampled_from(["put", "get", "put_nowait", "get_nowait", "cancel", "tick"]), max_size=40
    ),
    picks=st.randoms(use_true_random=False),
)
def test_queue_returns_each_item_once_in_order_within_its_limit(maxsize, steps, picks):
    held = Queue(maxsize)
    put, got = [], []
    stops = []
    stream_of = []

    async def act(what, item, stop):
        which, result = await first(held.put(item) if what == "put" else held.get(), stop.wait())
        if which == 0:
            (put if what == "put" else got).append(item if what == "put" else result)

    async def serve(stream):
        stream_of.append(stream)
        await stream.sleep(3600)

    reactor, peer, _, go = timed(serve)
    with reactor, peer:
        for number, step in enumerate(steps):
            if step in {"put", "get"}:
                stops.append(Event())
                stream_of[0].start_soon(act, step, number, stops[-1])
                reactor.run_once(0)
            elif step == "put_nowait" and not held.full():
                held.put_nowait(number)
                put.append(number)
            elif step == "get_nowait" and not held.empty():
                got.append(held.get_nowait())
            elif step == "cancel" and stops:
                stops.pop(picks.randrange(len(stops))).set()
            elif step == "tick":
                go(0)
            assert maxsize == 0 or held.qsize() <= maxsize
        for stop in stops:
            go(0)
            stop.set()
        go(0)
        go(0)
        while not held.empty():
            got.append(held.get_nowait())
        assert sorted(got) == sorted(put)
        assert held.qsize() == 0


# Several at once


def test_gather_returns_the_results_in_order():
    async def nap(stream, seconds):
        await stream.sleep(seconds)
        return seconds

    async def serve(stream):
        return await gather(nap(stream, 3), nap(stream, 1), stream.send(b"x"), nap(stream, 2)), await gather()

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        for _ in range(3):
            assert not run.seen
            go(1)
        assert run.result == ([3, 1, None, 2], [])


def test_gather_cancels_the_others_when_one_fails():
    ended = []

    async def fails(stream):
        await stream.sleep(1)
        raise LookupError

    async def goes_on(stream):
        try:
            await stream.sleep(3600)
        finally:
            ended.append("now")
            await stream.sleep(3600)

    async def serve(stream):
        with pytest.raises(LookupError):
            await gather(goes_on(stream), fails(stream))
        ended.append("then")
        return await stream.receive()

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        go(1)
        assert ended == ["now", "then"]
        peer.sendall(b"x")
        go(0)
        assert run.result == b"x"


def test_first_returns_index_and_result_and_loses_nothing_of_the_others():
    messages = Queue()

    async def serve(stream):
        got = []
        while len(got) < 4:
            got.append(await first(stream.receive_exactly(2), messages.get()))
        return got

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        peer.sendall(b"a")
        messages.put_nowait("one")
        go(0)
        peer.sendall(b"bcd")
        go(0)
        messages.put_nowait("two")
        go(0)
        go(0)
        assert sorted(run.result, key=str) == [(0, b"ab"), (0, b"cd"), (1, "one"), (1, "two")]


def test_first_does_not_begin_others_after_an_immediate_result():
    async def never():
        raise AssertionError

    async def serve(stream):
        for _ in range(2000):  # awaitables that are done at once don't accumulate
            which, _ = await first(stream.send(b""), never())
            assert which == 0
        with pytest.raises(ValueError, match="something to wait for"):
            await first()
        return True

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        assert run.result is True


def test_first_raises_the_exception_of_the_first():
    async def fails():
        raise LookupError

    async def serve(stream):
        with pytest.raises(LookupError):
            await first(stream.sleep(3600), fails())
        with pytest.raises(UsageError, match="give an `async def` function"):
            await first(fails(), 5)
        return True

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        assert run.result is True


@pytest.mark.parametrize("how", ["timeout", "end"])
def test_nested_waits_end_with_their_timeout_or_connection(reactor, errors, how):
    """Nested waits of a handler, each with a `finally`."""
    ended = []
    event, held, future = Event(), Queue(), Future()

    async def tidy(name, awaitable):
        try:
            await awaitable
        finally:
            ended.append(name)

    async def serve(stream):
        with stream.timeout(0.001 if how == "timeout" else 3600):
            await gather(
                tidy("event", event.wait()),
                tidy("queue", held.get()),
                tidy("future", wait(future)),
                tidy("sleep", stream.sleep(3600)),
                first(tidy("input", stream.receive()), tidy("inner", gather(tidy("deep", event.wait())))),
            )

    with client_of(reactor, serve) as (run, client):
        if how == "end":
            reset(client)
        spin(reactor, lambda: run.seen)
        assert isinstance(run.result, StreamTimeout if how == "timeout" else StreamClosed)
        assert sorted(ended) == ["deep", "event", "future", "inner", "input", "queue", "sleep"]
        assert future.cancelled()
    event.set()
    held.put_nowait("nobody waits")
    reactor.run_once(0)
    assert held.get_nowait() == "nobody waits"
    assert errors.seen == []


def test_exception_of_a_cancelled_awaitable_is_reported(errors):
    async def broken(stream):
        try:
            await stream.sleep(3600)
        finally:
            raise LookupError

    async def serve(stream):
        return await first(broken(stream), stream.sleep(1))

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        go(1)
        assert run.result == (1, None)
        assert reactor.stats().handler_errors == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupt_in_one_of_several_is_raised_by_run(when):
    async def interrupted(stream):
        try:
            await stream.sleep(1 if when == "before" else 3600)
        finally:
            raise KeyboardInterrupt

    async def serve(stream):
        await first(interrupted(stream), stream.sleep(2))

    reactor, peer, _, go = timed(serve)
    with reactor, peer:
        go(0)
        with pytest.raises(KeyboardInterrupt):
            for _ in range(4):
                go(1)
        go(0)


def test_timeout_within_one_of_several_ends_only_that_one():
    async def patient(stream):
        with pytest.raises(StreamTimeout), stream.timeout(1):
            await stream.sleep(3600)
        return "timed out"

    async def serve(stream):
        return await gather(patient(stream), stream.sleep(2))

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(1)
        go(1)
        assert run.result == ["timed out", None]


def test_handler_waiting_for_input_among_others_is_idle():
    held = Queue()

    async def serve(stream):
        await first(stream.receive(), held.get())
        await held.get()

    reactor, peer, run, go = timed(serve)
    with reactor, peer:
        go(0)
        assert run.stream.draining() is False
        peer.sendall(b"x")
        go(0)
        assert run.stream.draining() is True


def test_await_during_clean_up_after_the_end_raises(reactor):
    """Not even for an object that does not belong to the connection: it would wait for ever."""
    refused = []

    async def serve(stream):
        try:
            await stream.receive()
        finally:
            for each in (Queue().get, Event().wait, lambda: wait(Future()), lambda: gather(Event().wait())):
                with pytest.raises(StreamClosed):
                    await each()
                refused.append(each)

    with client_of(reactor, serve) as (run, client):
        reset(client)
        spin(reactor, lambda: run.seen)
        assert len(refused) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda reactor: Queue().get(),
        lambda reactor: Event().wait(),
        lambda reactor: wait(Future()),
        lambda reactor: reactor.submit(int),
        lambda reactor: gather(Event().wait()),
    ],
)
def test_wait_outside_of_a_task_raises(reactor, make):
    async def stranger():
        await make(reactor)

    with pytest.raises(UsageError, match=r"(?i)only|tasks of reactor\.streams"):
        asyncio.run(stranger())
