"""The reactor in the loops of real hosts: each drives it, runs its own timers, and is restored at the end."""

import asyncio
import contextlib
import gc
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import attrs
import pytest
import trio

from reactor import Protocol, Reactor, UsageError
from reactor.apps.echo import Echo
from reactor.embed import Attachment, guest
from reactor.embed import asyncio as in_asyncio
from reactor.embed import trio as in_trio
from tests.helpers import DEADLINE

ROOT = Path(__file__).parent.parent.parent

# PyGObject comes from the system, and so with its Python.
SYSTEM_PYTHON = "/usr/bin/python3"


def program_of(package, *names):
    found = next((path for name in names if (path := shutil.which(name))), None)
    assert found, f"{names[0]} is missing: install the package {package}"
    return found


@pytest.fixture(scope="module")
def display():
    """The number of a screen in memory."""
    receiver, sender = os.pipe()
    words = [program_of("xvfb", "Xvfb"), "-displayfd", str(sender), "-screen", "0", "640x480x24"]
    with subprocess.Popen(words, pass_fds=[sender], stderr=subprocess.DEVNULL) as server:
        os.close(sender)
        with os.fdopen(receiver) as output:
            number = output.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
        server.terminate()


def command_of(host):
    """Return how to start a host of `tests.hosts`, and what its environment has beside ours."""
    environment = {"QT_QPA_PLATFORM": "offscreen"}
    python = sys.executable
    if host == "glib":
        found = Path("/usr/lib/python3/dist-packages/gi").exists()
        assert found, "gi is missing: install the package python3-gi"
        python = SYSTEM_PYTHON
        environment["PYTHONPATH"] = str(Path(attrs.__file__).parent.parent)
    return [python, "-m", "tests.hosts", host], {**os.environ, **environment}


HOSTS = ["asyncio", "uvloop", "trio", "pyside6", "pyqt6", "glib", "twisted", "guest"]


@pytest.mark.parametrize("host", HOSTS)
def test_host_and_reactor_both_make_progress(host):
    command, environment = command_of(host)
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=3 * DEADLINE
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_reactor_runs_while_a_tkinter_dialog_is_open(display):
    environment = {**os.environ, "DISPLAY": display}
    command, _ = command_of("tkinter")
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as host:
        click, x, y = host.stdout.readline().split()
        assert click == "click"
        xdotool = program_of("xdotool", "xdotool")
        words = [xdotool, "mousemove", "--sync", x, y, "click", "1"]
        subprocess.run(words, env=environment, check=True, timeout=DEADLINE)
        assert host.communicate(timeout=3 * DEADLINE) == ("True True\n", "")
    assert host.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("host", [*HOSTS, "tkinter"])
def test_idle_reactor_causes_no_wake_ups_of_its_host(host, display, tmp_path):
    command, environment = command_of(host)
    strace = [program_of("strace", "strace"), "-f", "-o", str(tmp_path / "trace")]
    done = subprocess.run(
        [*strace, *command, "--idle"],
        env={**environment, "DISPLAY": display},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    trace = (tmp_path / "trace").read_text()
    between = trace[trace.index('"before') : trace.index('"after')].splitlines()[1:]
    # What is left is the host's own: its timer, and the wait for it.
    ours = [line for line in between if "timerfd" in line or "recvfrom" in line or "sendto" in line]
    assert ours == []
    assert len(between) < 40, between


# asyncio, from one to the other and back


@contextlib.contextmanager
def nested_in(loop):
    with Reactor() as reactor, in_asyncio.attach(reactor, loop):
        yield reactor


@pytest.fixture
def loop(descriptors):
    made = asyncio.new_event_loop()
    yield made
    made.close()


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, DEADLINE))


def fail():
    raise LookupError("mine")


def test_call_returns_or_raises_what_the_function_does(loop):
    with nested_in(loop) as reactor:
        assert run(loop, in_asyncio.call(reactor, pow, 2, 3)) == 8
        assert run(loop, in_asyncio.call(reactor, int, "11", base=2)) == 3
        with pytest.raises(LookupError, match="mine"):
            run(loop, in_asyncio.call(reactor, fail))


def test_call_reaches_a_reactor_in_another_thread(loop):
    with Reactor() as reactor, reactor.background(name="elsewhere"):
        name = run(loop, in_asyncio.call(reactor, lambda: threading.current_thread().name))
    assert name == "elsewhere"


def test_call_is_cancelled_with_its_reactor(loop):
    async def main():
        with Reactor() as reactor:
            asked = asyncio.ensure_future(in_asyncio.call(reactor, int))
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asked

    run(loop, main())


@pytest.mark.parametrize("where", ["nested", "in a thread"])
def test_future_is_completed_from_a_callback(loop, where):
    async def main(reactor):
        result, failed, cancelled = (asyncio.get_running_loop().create_future() for _ in range(3))
        cancelled.cancel()
        reactor.call_soon_threadsafe(in_asyncio.complete, cancelled, 1)
        reactor.call_soon_threadsafe(in_asyncio.complete, result, 1)
        reactor.call_soon_threadsafe(in_asyncio.complete, result, 2)
        reactor.call_soon_threadsafe(in_asyncio.complete, failed, LookupError("mine"))
        with pytest.raises(LookupError, match="mine"):
            await failed
        assert await result == 1

    if where == "nested":
        with nested_in(loop) as reactor:
            run(loop, main(reactor))
    else:
        with Reactor() as reactor, reactor.background():
            run(loop, main(reactor))


def test_loop_without_add_reader_is_refused_with_an_alternative(loop, monkeypatch):
    def refuse(fd, callback):
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_reader", refuse)
    with Reactor() as reactor, pytest.raises(UsageError, match=r"use reactor\.embed\.guest"):
        in_asyncio.attach(reactor, loop)


def test_host_sets_timers_where_the_descriptor_has_none(loop, monkeypatch):
    monkeypatch.setattr("reactor.loop.loop.new_alarm", lambda on_alarm: None)

    async def main(reactor):
        assert not reactor.timers_in_fileno()
        later = asyncio.get_running_loop().create_future()
        reactor.call_later(0.001, lambda: reactor.call_later(0.001, in_asyncio.complete, later, "came"))
        assert await later == "came"
        later = asyncio.get_running_loop().create_future()
        reactor.call_later(DEADLINE, int)
        reactor.call_later(0.001, in_asyncio.complete, later, "came too")
        assert await later == "came too"

    with nested_in(loop) as reactor:
        run(loop, main(reactor))


# Detaching, errors, and global state


def test_three_reactors_in_one_process(loop):
    """One nested, one as a guest, one in a thread; a client of each in the next."""
    over = []
    stopped = asyncio.Event()

    class Greet(Protocol):
        def connection_made(self, connection):
            self.connection = connection
            connection.write(b"hello")

        def data_received(self, data):
            over.append(threading.get_ident())
            if len(over) == 3:
                loop.call_soon_threadsafe(stopped.set)
            self.connection.close()

    async def main():
        with contextlib.ExitStack() as stack:
            first, second, third = (stack.enter_context(Reactor()) for _ in range(3))
            stack.enter_context(in_asyncio.attach(first))
            stack.enter_context(guest.attach(second, loop.call_soon_threadsafe))
            stack.enter_context(third.background())
            ring = [first, second, third]
            listeners = [await in_asyncio.call(each, each.listen, "127.0.0.1:0", Echo) for each in ring]
            for each, listener in zip(ring, listeners[1:] + listeners[:1], strict=True):
                await in_asyncio.call(each, each.connect, listener.addresses[0], Greet)
            await stopped.wait()

    run(loop, main())
    here = threading.get_ident()
    assert sorted(ident == here for ident in over) == [False, True, True]


@pytest.mark.parametrize("kind", ["asyncio", "guest"])
def test_detached_or_closed_reactor_leaves_the_host_as_it_was(loop, kind):
    def attach(reactor):
        if kind == "asyncio":
            return in_asyncio.attach(reactor, loop)
        return guest.attach(reactor, loop.call_soon_threadsafe)

    threads = threading.active_count()
    watched = len(loop._selector.get_map())
    ran = []
    reactor = Reactor()
    attachment = attach(reactor)
    attachment.detach()
    attachment.detach()
    assert threading.active_count() == threads
    reactor.call_soon(ran.append, 1)
    run(loop, asyncio.sleep(0))
    assert ran == []
    with attach(reactor):
        run(loop, in_asyncio.call(reactor, int))
    assert ran == [1]
    attach(reactor)
    reactor.close()
    assert threading.active_count() == threads
    assert len(loop._selector.get_map()) == watched
    run(loop, asyncio.sleep(0))


def test_guest_callbacks_run_on_the_host_s_thread(loop):
    async def main():
        over = asyncio.get_running_loop().create_future()
        threads = set()

        def count(left):
            threads.add(threading.get_ident())
            if left:
                reactor.call_later(0.0001 * (left % 2), count, left - 1)
            else:
                over.set_result(None)

        with Reactor() as reactor, guest.attach(reactor, asyncio.get_running_loop().call_soon_threadsafe):
            reactor.call_soon(count, 100)
            await over
        assert threads == {threading.get_ident()}

    run(loop, main())


def test_guest_without_timers_in_the_descriptor(loop, monkeypatch):
    monkeypatch.setattr("reactor.loop.loop.new_alarm", lambda on_alarm: None)

    async def main():
        over = asyncio.get_running_loop().create_future()
        with Reactor() as reactor, guest.attach(reactor, asyncio.get_running_loop().call_soon_threadsafe):
            reactor.call_later(DEADLINE, int)
            await asyncio.sleep(0.001)
            reactor.call_later(0.001, over.set_result, "came")
            assert await over == "came"

    run(loop, main())


@pytest.mark.parametrize("kind", ["asyncio", "guest"])
def test_driving_an_attached_reactor_is_refused(loop, kind):
    def attach(budget=0.002):
        if kind == "asyncio":
            return in_asyncio.attach(reactor, loop, budget=budget)
        return guest.attach(reactor, loop.call_soon_threadsafe, budget=budget)

    async def second():
        for again in (attach, reactor.background, lambda: guest.attach(reactor, print)):
            with pytest.raises(UsageError, match="the reactor is attached to a host"):
                again()
        with pytest.raises(UsageError, match="the reactor is attached to a host"):
            await in_trio.run(reactor)
        done = asyncio.Event()
        reactor.call_later(0.001, done.set)
        await asyncio.wait_for(done.wait(), DEADLINE)

    with Reactor() as reactor:
        for wrong, kinds in ((math.nan, ValueError), (-1, ValueError), ("1", TypeError)):
            with pytest.raises(kinds, match="budget must be"):
                attach(wrong)
        with attach():
            run(loop, second())
        with attach():
            pass


@pytest.mark.parametrize("kind", ["asyncio", "guest"])
def test_reactor_driven_by_another_caller_is_detached(loop, kind):
    problems = []
    refused = asyncio.Event()

    def handle(loop, context):
        problems.append(context["exception"])
        refused.set()

    loop.set_exception_handler(handle)
    with Reactor() as reactor:
        attach = in_asyncio.attach if kind == "asyncio" else guest.attach
        with attach(reactor, loop if kind == "asyncio" else loop.call_soon_threadsafe):
            other = threading.Thread(target=reactor.run)
            other.start()
            reactor.submit(int).result(DEADLINE)
            held, release = threading.Event(), threading.Event()

            def hold():
                held.set()
                release.wait(DEADLINE)

            reactor.call_soon_threadsafe(hold)
            assert held.wait(DEADLINE)
            reactor.call_soon_threadsafe(int)  # so that a callback waits behind it
            run(loop, refused.wait())
            release.set()
            reactor.stop()
            other.join(DEADLINE)
    (problem,) = problems
    assert "driven by another thread already" in str(problem)


@pytest.mark.parametrize("kind", ["asyncio", "guest"])
def test_close_from_another_thread_runs_on_the_host_s_thread(loop, kind):
    threads = []

    class Last(Protocol):
        def connection_lost(self, exc):
            threads.append(threading.get_ident())
            loop.call_soon_threadsafe(lost.set)

    lost = asyncio.Event()
    attach = in_asyncio.attach if kind == "asyncio" else guest.attach
    reactor = Reactor()
    attach(reactor, loop if kind == "asyncio" else loop.call_soon_threadsafe)
    ours, theirs = socket.socketpair()
    reactor.adopt(ours, Last)
    thread = threading.Thread(target=reactor.close)
    thread.start()
    run(loop, lost.wait())
    thread.join()
    assert reactor.is_closed()
    assert threads == [threading.get_ident()]
    theirs.close()


def test_host_that_drops_a_source_that_raised_is_attached_again():
    """As GLib: it drops a source whose callback has raised."""
    sources = []

    def watch(fd, callback):
        sources.append(callback)
        return lambda: sources.remove(callback) if callback in sources else None

    ran = []
    with Reactor() as reactor, Attachment(reactor, 1.0, watch, lambda *args: None):
        reactor.call_soon(exec, "raise KeyboardInterrupt")
        dropped = sources[0]
        with pytest.raises(KeyboardInterrupt):
            dropped()
        reactor.call_soon(ran.append, 1)
        (again,) = sources
        again()
        assert ran == [1]
    assert sources == []


def test_trio_task_ends_with_its_reactor(descriptors):
    async def main():
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                reactor = await nursery.start(in_trio.run, Reactor())
                reactor.call_later(0.001, reactor.close)
            with Reactor() as reactor:
                async with trio.open_nursery() as nursery:
                    await nursery.start(in_trio.run, reactor)
                    await trio.lowlevel.checkpoint()
                    reactor.close()

    trio.run(main)


def test_interrupt_in_a_callback_is_raised_by_the_host_s_loop(loop):
    ran = []
    with nested_in(loop) as reactor:
        reactor.call_soon(signal.raise_signal, signal.SIGINT)
        reactor.call_soon(ran.append, 1)
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(asyncio.sleep(DEADLINE))
        finally:
            signal.signal(signal.SIGINT, previous)
        run(loop, in_asyncio.call(reactor, int))
    assert ran == [1]


@pytest.mark.parametrize(
    ("module", "hidden", "package"),
    [
        ("qt", "PySide6, PyQt6", "PySide6 or PyQt6"),
        ("glib", "gi", "PyGObject"),
        ("twisted", "twisted", "Twisted"),
        ("trio", "trio", "trio"),
    ],
)
def test_missing_host_is_reported_with_the_commands_that_install_it(module, hidden, package):
    program = textwrap.dedent(f"""
        import sys
        sys.modules |= dict.fromkeys({hidden.split(", ")!r})
        from reactor import Reactor
        try:
            import reactor.embed.{module} as host
            with Reactor() as reactor:
                host.attach(reactor)
        except ImportError as exc:
            print(exc)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE
    )
    assert done.stderr == ""
    assert done.stdout == (
        f"reactor.embed.{module} needs {package}: pip install 'selectors-reactor[{module}]', "
        f"or in a checkout pip install -e '.[{module}]'\n"
    )


def test_thousand_reactors_leak_nothing(descriptors):
    def life():
        class Last(Protocol):
            def connection_made(self, connection):
                connection.write(b"x")
                self.connection = connection

            def data_received(self, data):
                self.connection.close()

            def connection_lost(self, exc):
                reactor.stop()

        with Reactor() as reactor:
            reactor.fileno()
            listener = reactor.listen("127.0.0.1:0", Echo)
            reactor.connect(listener.addresses[0], Last)
            reactor.run()

    def objects():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(20):
        life()
    before, threads = objects(), threading.enumerate()
    for _ in range(1000):
        life()
    assert objects() - before < 100
    assert set(threading.enumerate()) <= set(threads)


def test_no_global_state_is_changed():
    program = textwrap.dedent("""
        import asyncio, atexit, concurrent.futures, gc, logging, signal, socket, sys, threading, warnings

        def state():
            return {
                "signals": [signal.getsignal(number) for number in signal.valid_signals()],
                "wakeup descriptor": signal.set_wakeup_fd(signal.set_wakeup_fd(-1)),
                "default timeout": socket.getdefaulttimeout(),
                "logging": (logging.root.handlers[:], logging.root.level, logging.getLoggerClass(),
                            logging.getLogger("reactor").handlers, logging.getLogger("reactor").level),
                "event loop policy": asyncio.get_event_loop_policy(),
                "collector": (gc.isenabled(), gc.get_threshold(), gc.callbacks[:], gc.get_freeze_count()),
                "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace()),
                "switch interval": sys.getswitchinterval(),
                "warnings": warnings.filters[:],
                "at exit": (atexit._ncallbacks(), len(threading._threading_atexits)),
                "threads": threading.enumerate(),
            }

        async def in_a_host():
            with Reactor() as reactor, attach(reactor):
                await call(reactor, int)

        asyncio.get_event_loop_policy()
        before = state()
        from reactor import Reactor
        from reactor.apps.echo import Echo
        from reactor.embed.asyncio import attach, call

        def use():
            with Reactor() as reactor, reactor.background():
                reactor.submit(reactor.listen, "127.0.0.1:0", Echo).result(10)
            loop = asyncio.new_event_loop()
            loop.run_until_complete(in_a_host())
            loop.close()

        use()
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        after = state()
        print([key for key in before if before[key] != after[key]])
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
