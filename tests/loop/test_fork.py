"""A forked child and the reactor that it inherits: every use raises, and the parent is not affected."""

import asyncio
import os
import signal
import socket
import traceback

import pytest

from reactor import Limits, Protocol, Reactor, UsageError
from reactor.embed import asyncio as in_asyncio
from reactor.embed import guest
from reactor.testing import Recorder
from tests.helpers import Echo, connect, pair, silent_address, spin


def in_child(run):
    """Run `run()` in a forked child; fail with its traceback if it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run()
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as report:
        failure = report.read()
    os.waitpid(pid, 0)
    assert failure == ""


@pytest.fixture
def recorder():
    return Recorder()


MESSAGE = r"the reactor belongs to process \d+, and this is a child of it: make a new one"


def test_reactor_s_methods_raise_in_a_child(reactor, recorder):
    connection, peer = pair(reactor, recorder)
    listener = reactor.listen("127.0.0.1:0", Echo)

    def uses():
        for use in (
            reactor.run,
            reactor.run_once,
            reactor.stop,
            reactor.drain,
            reactor.fileno,
            reactor.__enter__,
            listener.pause,
            listener.drain,
            lambda: reactor.call_soon(print),
            lambda: reactor.call_later(1, print),
            lambda: reactor.call_soon_threadsafe(print),
            lambda: reactor.submit(print),
            lambda: reactor.run_in_executor(None, print),
            lambda: reactor.call_at_close(print),
            lambda: reactor.call_each_tick(print),
            reactor.background,
            reactor.timers_in_fileno,
            lambda: reactor.listen("127.0.0.1:0", Echo),
            lambda: reactor.connect("127.0.0.1:1", Echo),
            lambda: reactor.add_reader(0, print),
            lambda: connection.write(b"from the child"),
        ):
            with pytest.raises(UsageError, match=MESSAGE):
                use()

    in_child(uses)
    connection.write(b"from the parent")
    assert peer.recv(100) == b"from the parent"
    peer.close()


def test_child_that_returns_from_a_callback_gets_an_error(reactor):
    came = []
    reactor.call_soon(lambda: came.append(os.fork()))
    reactor.call_soon(reactor.stop)
    try:
        reactor.run()
    except UsageError:
        os._exit(7 if came == [0] else 8)
    except BaseException:
        os._exit(9)
    (pid,) = came
    if not pid:
        os._exit(10)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.parametrize("kind", ["asyncio", "guest"])
def test_child_of_an_attached_reactor_does_not_change_the_parent_s_host(kind):
    loop = asyncio.new_event_loop()
    with Reactor() as inherited:
        attach = in_asyncio.attach if kind == "asyncio" else guest.attach
        attachment = attach(inherited, loop if kind == "asyncio" else loop.call_soon_threadsafe)
        waiting = inherited.submit(int)
        cancelled = []
        waiting.add_done_callback(lambda future: cancelled.append(future.cancelled()))

        def child():
            attachment.detach()
            inherited.close()
            assert cancelled == [], "a future of the parent's was touched"

        in_child(child)
        before = inherited.stats().ticks
        assert loop.run_until_complete(asyncio.wait_for(asyncio.wrap_future(waiting, loop=loop), 20)) == 0
        assert inherited.stats().ticks - before < 10
    loop.close()


def test_parent_goes_on_after_the_child_has_closed_everything(reactor, recorder, tmp_path):
    path = tmp_path / "s"
    listener = reactor.listen(f"unix:{path}", lambda: recorder)
    client = connect(reactor, listener.addresses[0])
    spin(reactor, reactor.connections)
    lingering, other = pair(reactor, Recorder())
    lingering.close()
    reactor.run_once(0)
    reactor.connect("127.0.0.1:1", Recorder, on_failure=lambda exc: None)

    def child():
        reactor.close()
        reactor.close()
        assert reactor.is_closed()
        assert recorder.names == ["connection_made"]

    in_child(child)
    assert path.exists()
    client.sendall(b"still here")
    spin(reactor, lambda: recorder.received == b"still here")
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: listener.connections == 2)
    client.close()
    other.close()
    listener.close()


def test_close_in_a_child_closes_the_inherited_descriptors(reactor, recorder):
    before = set(os.listdir("/proc/self/fd"))
    with Reactor() as inherited:
        _, peer = pair(inherited, Protocol())
        inherited.listen("127.0.0.1:0", Echo, limits=Limits(when_full="refuse"))
        inherited.fileno()  # this opens another one

        def child():
            inherited.close()
            peer.close()
            left = {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
            assert len(left - before) == 2  # the pipe to the parent

        in_child(child)
        peer.close()


def test_child_that_returns_from_a_callback_does_not_continue_the_tick(reactor):
    """The events of the current batch are the parent's; the child must not read their bytes."""
    reader, writer = os.pipe()
    recorders = [Echo() for _ in range(8)]
    peers = [pair(reactor, recorder)[1] for recorder in recorders]
    parent = os.getpid()
    pids = []

    def fork(data):
        if not pids:
            pids.append(os.fork())

    for recorder in recorders:
        recorder.data_received = fork
    for peer in peers:
        peer.send(b"x")
    reactor.call_later(0, os.write, writer, b"a timer of the parent's\n")
    try:
        reactor.run_once(0)
        reactor.run_once(0)
    except UsageError as exc:
        if os.getpid() != parent:
            os.write(writer, f"refused: {exc}\n".encode())
    if os.getpid() != parent:
        os._exit(0)
    os.waitpid(pids[0], 0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        reported = sorted(lines.read().splitlines())
    assert reported[0] == "a timer of the parent's"
    assert reported[1].startswith("refused: the reactor belongs to process")
    assert len(reported) == 2
    for recorder in recorders:
        del recorder.data_received
    for peer in peers:
        peer.send(b"y")
    spin(reactor, lambda: all(recorder.received == b"y" for recorder in recorders))
    for peer in peers:
        peer.close()


def test_signals_of_the_child_do_not_run_the_parent_s_handlers(reactor):
    seen = []
    reactor.add_signal_handler(signal.SIGUSR1, seen.append, "parent")

    def child():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1

    in_child(child)
    assert reactor.run_once(0) == 0
    os.kill(os.getpid(), signal.SIGUSR1)
    spin(reactor, lambda: seen)
    reactor.remove_signal_handler(signal.SIGUSR1)


def test_child_may_make_a_reactor_of_its_own(reactor):
    def child():
        with Reactor() as own:
            echo = Echo()
            ours, theirs = socket.socketpair()
            own.adopt(ours, lambda: echo)
            theirs.send(b"x")
            spin(own, lambda: echo.received)
            assert theirs.recv(1) == b"x"

    in_child(child)


def test_methods_of_the_reactor_s_objects_raise_in_a_child(reactor, recorder, certificates):
    """Methods of a listener, a connection and a connector, those that make no system call included."""
    listener = reactor.listen("127.0.0.1:0", lambda: recorder)
    connection, peer = pair(reactor, Recorder())
    reading, writing = os.pipe()
    reactor.add_reader(reading, print)
    with silent_address() as silent, open(__file__, "rb") as file:
        connector = reactor.connect(silent, Recorder)
        reactor.run_once(0)

        def child():
            for use in (
                listener.close,
                listener.pause,
                listener.resume,
                listener.drain,
                lambda: listener.replace_tls(certificates.server()),
                connector.cancel,
                connection.close,
                connection.abort,
                connection.write_eof,
                connection.pause_reading,
                connection.resume_reading,
                lambda: connection.write(b"x"),
                lambda: connection.writelines([b"x"]),
                lambda: connection.sendfile(file),
                lambda: connection.start_tls(certificates.server()),
                lambda: connection.set_timeouts(idle=1),
                lambda: connection.set_write_buffer_limits(high=1),
                lambda: connection.set_protocol(Recorder()),
                lambda: reactor.remove_reader(reading),
                lambda: reactor.remove_writer(reading),
            ):
                with pytest.raises(UsageError, match=MESSAGE):
                    use()

        in_child(child)
        with connect(reactor, listener.addresses[0]) as client:
            client.sendall(b"accepted, and read")
            spin(reactor, lambda: recorder.received == b"accepted, and read")
        peer.send(b"as well")
        spin(reactor, lambda: connection.get_protocol().received == b"as well")
        assert not connector.is_done()
        connector.cancel()
        reactor.remove_reader(reading)
    connection.abort()
    peer.close()
    os.close(reading)
    os.close(writing)
