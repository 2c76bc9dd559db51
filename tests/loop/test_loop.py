"""The loop: running and ending it, descriptors, and the budget of a host."""

import contextlib
import os
import resource
import select
import selectors
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from reactor import Reactor, UsageError
from reactor.loop.loop import EVENTS_PER_TICK, Loop
from reactor.reactor import loop_of
from reactor.testing import Errors, Recorder
from tests.helpers import DEADLINE, pair


@pytest.fixture
def ran():
    return []


@pytest.fixture
def pairs():
    """Return a function that makes pairs of sockets; they are closed at the end."""
    made = []

    def make(number):
        new = [socket.socketpair() for _ in range(number)]
        made.extend(new)
        return new

    yield make
    for each in made:
        for sock in each:
            sock.close()


# Running and leaving


def test_run_once_returns_how_much_it_handled(reactor):
    assert reactor.run_once() == 0
    reactor.call_soon(int)
    reactor.call_later(0, int)
    assert reactor.run_once() == 2


def test_stop_in_a_callback_ends_run_after_the_tick(reactor, ran):
    reactor.call_soon(reactor.stop)
    reactor.call_soon(ran.append, 1)
    reactor.run()
    assert ran == [1]


def test_stop_before_run_ends_it_at_once(reactor, ran):
    reactor.stop()
    reactor.run()
    reactor.call_soon(ran.append, 1)
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert ran == [1]


@pytest.mark.parametrize("drive", ["run", "run_once"])
def test_driving_from_inside_a_callback_is_an_error(reactor, errors, drive):
    reactor.call_soon(getattr(reactor, drive))
    reactor.run_once()
    exc, _, _ = errors.take()
    assert isinstance(exc, UsageError)
    assert str(exc) == "the reactor is being driven by this thread already: return from the callback first"


def test_driving_from_a_second_thread_is_an_error(reactor, ran):
    def drive():
        try:
            reactor.run_once()
        except UsageError as exc:
            ran.append(str(exc))

    def start():
        thread = threading.Thread(target=drive)
        thread.start()
        thread.join(DEADLINE)

    reactor.call_soon(start)
    reactor.run_once()
    assert ran == ["the reactor is being driven by another thread already: pass it calls by submit"]


@pytest.mark.parametrize("leaver", [KeyboardInterrupt, SystemExit])
def test_interrupt_leaves_the_loop_usable(reactor, ran, leaver):
    def leave():
        raise leaver

    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    reactor.call_soon(connection.write, b"written before")
    reactor.call_soon(leave)
    reactor.call_soon(ran.append, 1)
    with pytest.raises(leaver):
        reactor.run()
    assert peer.recv(100) == b"written before"
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert ran == [1]
    peer.close()


def test_interrupt_in_data_received_loses_no_event(reactor):
    class Leaver(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise KeyboardInterrupt

    protocols = [Leaver(), Leaver()]
    peers = [pair(reactor, protocol)[1] for protocol in protocols]
    for peer in peers:
        peer.send(b"x")
    for _ in protocols:
        with pytest.raises(KeyboardInterrupt):
            reactor.run_once(1)
    assert [protocol.received for protocol in protocols] == [b"x", b"x"]
    for peer in peers:
        peer.close()


def test_close_from_a_callback_closes_after_the_tick(make_selector, ran):
    reactor = Reactor(selector=make_selector())
    reactor.call_soon(reactor.close)
    reactor.call_soon(lambda: ran.append(reactor.is_closed()))
    reactor.run()
    assert ran == [False]
    assert reactor.is_closed()


def test_close_drops_scheduled_callbacks(ran):
    with Reactor() as reactor:
        reactor.call_soon(ran.append, 1)
        reactor.call_later(0, ran.append, 1)
        reactor.call_soon_threadsafe(ran.append, 1)
    assert ran == []


def test_methods_of_a_closed_loop_raise():
    reactor = Reactor()
    reactor.close()
    for use in (
        lambda: reactor.call_soon(print),
        lambda: reactor.call_later(1, print),
        lambda: reactor.call_at(1, print),
        lambda: reactor.call_soon_threadsafe(print),
        lambda: reactor.add_reader(0, print),
        lambda: reactor.add_writer(0, print),
        lambda: reactor.add_signal_handler(10, print),
    ):
        with pytest.raises(UsageError, match=r"^the reactor is closed: make a new one$"):
            use()


def test_context_manager_returns_the_reactor():
    reactor = Reactor()
    with reactor as given:
        assert given is reactor


def test_negative_timeout_does_not_wait(reactor):
    assert reactor.run_once(-0.5) == 0


@pytest.mark.parametrize("timeout", [float("inf"), 1e9, None])
def test_long_wait_ends_with_an_event(reactor, timeout):
    reactor.call_soon_threadsafe(int)
    assert reactor.run_once(timeout)


def test_closing_reactor_refuses_listen_connect_and_add_reader(make_selector, descriptors):
    refused = []

    class Last(Recorder):
        def connection_lost(self, exc):
            for use in (
                lambda: reactor.listen("127.0.0.1:0", Recorder),
                lambda: reactor.connect("127.0.0.1:1", Recorder),
                lambda: reactor.add_reader(0, print),
            ):
                try:
                    use()
                except UsageError as problem:
                    refused.append(str(problem))
            reactor.close()
            super().connection_lost(exc)

    last = Last()
    with Reactor(selector=make_selector()) as reactor:
        if hasattr(loop_of(reactor).registry.selector, "fileno"):
            reactor.fileno()
        _, peer = pair(reactor, last)
    assert refused == ["the reactor is being closed: make a new one"] * 3
    assert last.lost
    peer.close()


def test_reactor_works_after_a_thousand_interrupts():
    """In a child process, and without a tracer: an interrupt could leave its lock locked."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupts"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_callbacks_run_beside_a_wake_up_under_a_tiny_budget(nested):
    ran = []

    def again():
        ran.append(True)
        nested.call_soon(again)

    nested.call_soon(again)
    for _ in range(1000):
        nested.run_once(0, budget=0)
    assert len(ran) > 400


def test_reactor_without_descriptors_raises_and_leaks_none(descriptors):
    with contextlib.ExitStack() as undo:
        reactor = undo.enter_context(Reactor())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        taken = undo.enter_context(socket.socket())
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken.fileno() + 1, hard))
        with pytest.raises(OSError, match="Too many open files"):
            reactor.fileno()
        for left in (1, 2):
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken.fileno() + 1 + left, hard))
            with pytest.raises(OSError, match="Too many open files"):
                Reactor()


# Descriptors


def test_calls_need_no_descriptor_once_the_reactor_is_made():
    """In a new interpreter, whose imports would need one."""
    program = textwrap.dedent("""
        import os, resource
        from reactor import Address, Reactor

        def broken(exc, callback, connection):
            raise LookupError

        with Reactor(on_error=broken) as reactor:
            resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
            taken = []
            try:
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            done = [reactor.submit(int, "1"), reactor.run_in_executor(None, int, "2")]
            addresses = [Address.parse("127.0.0.1:1"), Address.parse("[::1]:1")]
            reactor.call_soon(int, "x")
            while not all(future.done() for future in done):
                reactor.run_once(0.1)
            for fd in taken:
                os.close(fd)
            print([future.result() for future in done], len(addresses))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.stdout == "[1, 2] 2\n", done.stderr


def test_host_can_wait_for_the_reactor_s_descriptor():
    with Reactor() as reactor:
        recorder = Recorder()
        _, peer = pair(reactor, recorder)
        assert select.select([reactor.fileno()], [], [], 0)[0] == []
        peer.send(b"x")
        assert select.select([reactor.fileno()], [], [], DEADLINE)[0]
        reactor.run_once(0)
        assert recorder.received == b"x"
        peer.close()


def readable(reactor, wait=0.0):
    return bool(select.select([reactor.fileno()], [], [], wait)[0])


@pytest.fixture
def nested():
    """A reactor in a host that waits for `fileno`."""
    with Reactor() as reactor:
        assert reactor.timers_in_fileno()
        assert not readable(reactor)
        yield reactor


def test_fileno_is_readable_at_a_timer(nested, ran):
    early = nested.call_later(0.01, ran.append, "early")
    nested.call_later(0.02, ran.append, "late")
    early.cancel()
    while not ran:
        assert readable(nested, DEADLINE)
        nested.run_once(0)
    assert ran == ["late"]
    assert not readable(nested)


def test_fileno_is_readable_at_a_timer_set_before_it(ran):
    with Reactor() as reactor:
        reactor.call_later(0, ran.append, 1)
        assert readable(reactor, DEADLINE)
        reactor.run_once(0)
        assert ran == [1]
        assert not readable(reactor)


def test_fileno_is_readable_at_an_earlier_timer(nested, ran):
    nested.call_later(DEADLINE, ran.append, "late")
    nested.run_once(0)
    nested.call_later(0.001, ran.append, "early")
    assert readable(nested, DEADLINE / 2)
    while not ran:
        nested.run_once(0)
    assert ran == ["early"]


def test_fileno_is_readable_for_callbacks(nested, ran):
    nested.call_soon(nested.call_soon, ran.append, 1)
    for left in (True, False):
        assert readable(nested)
        nested.run_once(0)
        assert readable(nested) == left
    assert ran == [1]


def test_fileno_is_readable_for_a_due_connection_lost(nested):
    recorder = Recorder()
    connection, peer = pair(nested, recorder)
    connection.abort()
    assert readable(nested)
    nested.run_once(0)
    assert recorder.lost
    assert not readable(nested)
    peer.close()


def test_fileno_is_readable_for_events_left_by_the_budget(nested, ran, pairs):
    for ours, theirs in pairs(10):
        theirs.send(b"x")
        nested.add_reader(ours, lambda sock: ran.append(sock.recv(1)), ours)
    for handled in range(1, 11):
        assert readable(nested)
        nested.run_once(0, budget=0)
        assert len(ran) == handled
    nested.run_once(0)
    assert not readable(nested)


# The host's budget


def test_tick_ends_with_its_budget_and_keeps_the_rest(make_selector, ran, pairs):
    now = 0.0

    def work(what, sock=None):
        nonlocal now
        now += 1.0
        ran.append(what)
        if sock is not None:
            sock.recv(1)

    with Reactor(selector=make_selector(), clock=lambda: now) as reactor:
        for ours, theirs in pairs(10):
            theirs.send(b"x")
            reactor.add_reader(ours, work, "event", ours)
        for _ in range(5):
            reactor.call_at(0, work, "timer")
            reactor.call_soon(work, "callback")
        steps = []
        while len(ran) < 20:
            ran, before = [], ran
            reactor.run_once(0, budget=3.0)
            steps.append(ran)
            ran = before + ran
    assert ran.count("event") == 10
    assert ran.count("timer") == ran.count("callback") == 5
    assert steps[0] == ["event"] * 3 + ["timer", "callback"]
    for step in steps[:-1]:
        assert 3 <= len(step) <= 5


def test_budget_does_not_count_the_wait(ran):
    with Reactor() as reactor:
        reactor.call_later(0.02, ran.append, "late")
        reactor.call_later(0.02, ran.append, "late")
        while not ran:
            reactor.run_once(None, budget=0.01)
        assert ran == ["late"] * 2


def test_tick_continues_within_its_budget(reactor, ran):
    def again(left):
        ran.append(left)
        if left:
            reactor.call_soon(again, left - 1)

    reactor.call_soon(again, 1000)
    assert reactor.run_once(0, budget=DEADLINE) == 1001
    assert len(ran) == 1001


def test_stop_ends_a_tick_before_its_budget(reactor):
    def again():
        reactor.call_soon(again)

    again()
    reactor.call_soon(reactor.stop)
    assert reactor.run_once(0, budget=DEADLINE) == 2


@pytest.mark.parametrize("budget", [-1.0, float("nan")])
def test_invalid_budget_is_refused(reactor, budget):
    with pytest.raises(ValueError, match="budget"):
        reactor.run_once(0, budget=budget)


def test_call_at_close_runs_while_descriptors_are_open(make_selector, ran):
    reactor = Reactor(selector=make_selector())
    reactor.call_at_close(lambda: ran.append(reactor.is_closed()))
    reactor.call_at_close(ran.append, "cancelled").cancel()
    reactor.close()
    reactor.close()
    assert ran == [False]


def test_callbacks_of_each_tick_run_at_its_end_and_begin_none(reactor, errors, ran):
    handle = reactor.call_each_tick(lambda: ran.append("end"))
    reactor.call_each_tick(lambda: ran[:1].pop() if ran else ran.remove("none"))
    assert reactor.next_timeout() is None
    reactor.call_soon(ran.append, "callback")
    reactor.run_once()
    assert ran == ["callback", "end"]
    assert reactor.next_timeout() is None
    handle.cancel()
    reactor.run_once()
    assert ran == ["callback", "end"]
    assert errors.seen == []
    ran.clear()
    reactor.run_once()
    ((error, callback, _),) = errors.seen
    errors.seen.clear()
    assert isinstance(error, ValueError)
    assert "lambda" in callback


def test_callback_of_each_tick_may_cancel_itself_and_add_another(reactor, ran):
    def once():
        ran.append("once")
        handle.cancel()
        reactor.call_each_tick(ran.append, "next")

    handle = reactor.call_each_tick(once)
    reactor.run_once()
    assert ran == ["once"]
    reactor.run_once()
    assert ran == ["once", "next"]


def test_alarm_that_the_selector_refuses_is_closed(descriptors):
    class Refusing(selectors.EpollSelector):
        refuses = False

        def register(self, fileobj, events, data=None):
            if self.refuses:
                raise OSError("no more watches")
            return super().register(fileobj, events, data)

    selector = Refusing()
    with Reactor(selector=selector) as reactor:
        selector.refuses = True
        with pytest.raises(OSError, match="no more watches"):
            reactor.fileno()
        selector.refuses = False
        assert reactor.timers_in_fileno()


def test_fileno_is_refused_for_a_selector_without_one():
    with Reactor(selector=selectors.PollSelector()) as reactor:
        with pytest.raises(UsageError, match="PollSelector has no descriptor: call run_once instead"):
            reactor.fileno()


def test_reader_and_writer_of_one_descriptor(reactor, pairs, ran):
    ((ours, theirs),) = pairs(1)
    reactor.add_reader(ours, ran.append, "old")
    reactor.add_reader(ours, lambda: (ran.append("read"), ours.recv(10)))
    reactor.add_writer(ours.fileno(), ran.append, "write")
    reactor.run_once(1)
    assert ran == ["write"]
    theirs.send(b"x")
    reactor.run_once(1)
    assert ran == ["write", "read", "write"]
    assert reactor.remove_writer(ours) is True
    assert reactor.remove_writer(ours) is False
    theirs.send(b"x")
    reactor.run_once(1)
    assert ran[3:] == ["read"]
    assert reactor.remove_reader(ours) is True
    assert reactor.remove_reader(ours) is False


def test_reader_may_remove_the_writer_of_the_same_event(reactor, pairs, ran):
    ((ours, theirs),) = pairs(1)
    reactor.add_reader(ours, reactor.remove_writer, ours)
    reactor.add_writer(ours, ran.append, 1)
    theirs.send(b"x")
    reactor.run_once(1)
    assert ran == []


def test_reader_that_raises_is_reported_and_stays_registered(reactor, pairs, errors):
    ((ours, theirs),) = pairs(1)
    reactor.add_reader(ours, lambda: 1 / ours.recv(10).count(b"y"))
    theirs.send(b"x")
    reactor.run_once(1)
    assert isinstance(errors.take()[0], ZeroDivisionError)
    theirs.send(b"y")
    reactor.run_once(1)
    assert errors.seen == []


def test_closed_file_is_refused(reactor, pairs):
    ((ours, _),) = pairs(1)
    ours.close()
    with pytest.raises(ValueError, match="is closed: it has no descriptor to wait for"):
        reactor.add_reader(ours, print)


def test_regular_file_is_refused_on_epoll(tmp_path):
    with Reactor() as reactor, open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError, match="a regular file is always ready, read it on a thread"):
            reactor.add_reader(file, print)
        assert reactor.remove_reader(file) is False


def test_ready_descriptors_beyond_the_limit_of_a_tick_are_handled_in_later_ticks(reactor, pairs, ran):
    number = EVENTS_PER_TICK + 20
    for index, (ours, theirs) in enumerate(pairs(number)):
        theirs.send(b"x")
        reactor.add_reader(ours, ran.append, index)  # never read: ready for ever
    assert reactor.run_once(1) == EVENTS_PER_TICK
    assert len(ran) == EVENTS_PER_TICK
    for _ in range(3):
        reactor.run_once(1)
    assert set(ran) == set(range(number))


def test_event_of_a_closed_descriptor_does_not_reach_the_next_owner_of_its_number(reactor, pairs, ran):
    (first, second) = pairs(2)
    new = []

    def take_over(mine, other):
        ran.append(mine)
        mine.recv(10)
        if not new:
            number = other.fileno()
            reactor.remove_reader(other)
            other.close()
            new.extend(socket.socketpair())
            assert new[0].fileno() == number
            reactor.add_reader(new[0], ran.append, "new owner")

    for (ours, theirs), (other, _) in ((first, second), (second, first)):
        reactor.add_reader(ours, take_over, ours, other)
        theirs.send(b"x")
    reactor.run_once(1)
    assert len(ran) == 1
    reactor.run_once(0)
    assert "new owner" not in ran
    new[1].send(b"x")
    reactor.run_once(1)
    assert ran[-1] == "new owner"
    reactor.remove_reader(new[0])
    for sock in new:
        sock.close()


def test_event_whose_interest_was_removed_in_the_batch_is_dropped(reactor, pairs, ran):
    (first, second) = pairs(2)
    for (ours, theirs), (other, _) in ((first, second), (second, first)):
        reactor.add_reader(ours, lambda other=other: (ran.append(1), reactor.remove_reader(other)))
        reactor.add_writer(ours, int)
        theirs.send(b"x")
    reactor.run_once(1)
    assert ran == [1]


def test_hang_up_of_an_unwatched_direction_is_dropped(pairs):
    # epoll reports a hang-up even if no event is registered.
    ((ours, theirs),) = pairs(1)
    with contextlib.closing(Loop()) as loop:
        ran = []
        loop.add_reader(ours, lambda: (ran.append(ours.recv(10)), loop.remove_reader(ours)))
        theirs.close()
        loop.run_once(1)
        loop.run_once(0)
        assert ran == [b""]


def test_events_that_were_not_registered_are_ignored(make_selector, pairs, ran):
    ((ours, _),) = pairs(1)
    with contextlib.closing(Loop(selector=make_selector())) as loop:
        loop.add_reader(ours, ran.append, 1)
        real = loop.registry.poll
        loop.registry.poll = lambda timeout, limit: [*real(0, limit), (ours.fileno(), 0)]
        loop.run_once(0)
    assert ran == []


@pytest.mark.slow
def test_idle_loop_makes_no_system_calls():
    strace = shutil.which("strace")
    assert strace, "strace is missing: install the package strace"
    program = textwrap.dedent("""
        import socket, sys
        from reactor import Protocol, Reactor
        with Reactor() as reactor:
            address = reactor.listen("127.0.0.1:0", Protocol).addresses[0]
            clients = [socket.create_connection((address.host, address.port)) for _ in range(100)]
            while len(reactor.connections()) < 100:
                reactor.run_once(1)
            reactor.call_soon(lambda: print("ready", flush=True))
            reactor.run()
    """)
    idle = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert idle.stdout.readline() == "ready\n"
        tracer = subprocess.Popen(
            [strace, "-f", "-p", str(idle.pid)], stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
        )
        with pytest.raises(subprocess.TimeoutExpired):
            tracer.communicate(timeout=1)
        tracer.terminate()
        _, trace = tracer.communicate(timeout=DEADLINE)
    finally:
        idle.kill()
        idle.communicate()
    calls = [line for line in trace.splitlines() if "(" in line and not line.startswith("strace:")]
    assert f"Process {idle.pid} attached" in trace
    assert len(calls) <= 1, trace  # the epoll_wait that strace interrupted
    assert all("epoll_" in call for call in calls)


def test_loop_without_connections_needs_no_flush(ran):
    errors = Errors()
    with contextlib.closing(Loop(on_error=errors)) as loop:
        loop.scheduler.call_soon(lambda: loop.outbox.append("something"))
        loop.run_once()
    assert errors.seen == []
    assert time.monotonic() >= loop.now
