"""`asyncore` on the reactor: the standard module's calls, in their order, and what is better."""

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Protocol, Reactor, UsageError
from reactor.compat import asynchat, asyncore
from reactor.compat.poller import new_selector
from reactor.embed.asyncio import attach as attach_to_asyncio
from reactor.testing import Recorder
from tests.compat import script, standard
from tests.helpers import DEADLINE, examples, settle, spin

STANDARD = standard.asyncore

PASSES = {"poll": asyncore.poll, "poll2": asyncore.poll2}


@pytest.fixture(autouse=True)
def closed(descriptors):
    """Every test leaves an empty map, and no descriptor."""
    assert not asyncore.socket_map
    yield
    asyncore.close_all(ignore_all=True)


@pytest.fixture(params=[*PASSES])
def make_pass(request):
    return PASSES[request.param]


@pytest.fixture
def new_pair(closed):
    """Makes two connected sockets: for a dispatcher, and its peer."""
    with contextlib.ExitStack() as stack:

        def make():
            ours, theirs = map(stack.enter_context, socket.socketpair())
            theirs.setblocking(False)
            return ours, theirs

        yield make


@pytest.fixture
def pair(new_pair):
    return new_pair()


class Waits:
    """A selector that records how long it is to wait, and does not."""

    def __init__(self):
        self.real, self.waits, self.found = new_selector(), [], []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def poll(self, timeout, maxevents):
        self.waits.append(timeout)
        self.found.append(self.real.poll(0, maxevents))
        return self.found[-1]


@pytest.fixture
def waits(monkeypatch):
    made = Waits()
    monkeypatch.setattr("reactor.compat.poller.new_selector", lambda: made)
    return made.waits


@pytest.fixture
def found(waits, monkeypatch):
    """The events that the selector has reported, a list for each wait."""
    made = Waits()
    monkeypatch.setattr("reactor.compat.poller.new_selector", lambda: made)
    return made.found


class Keeping(asyncore.dispatcher):
    """Keeps what it receives."""

    got = b""

    def handle_read(self):
        self.got += self.recv(65536)

    def handle_close(self):
        self.close()


def until(condition, make_pass=asyncore.poll, map=None, timeout=0.05):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        make_pass(timeout, map)


# Beside the standard module


def test_every_name_of_the_standard_module_is_here():
    names = {name for name, value in vars(STANDARD).items() if not isinstance(value, ModuleType)}
    missing = names - set(vars(asyncore)) - {"_DEPRECATION_MSG"}
    assert [name for name in missing if not name.startswith("__")] == []
    for name in ["dispatcher", "dispatcher_with_send", "file_dispatcher", "file_wrapper"]:
        assert set(vars(getattr(STANDARD, name))) - set(dir(getattr(asyncore, name))) == set()
    for name in ["debug", "connected", "accepting", "connecting", "closing", "addr", "ignore_log_types"]:
        assert getattr(asyncore.dispatcher, name) == getattr(STANDARD.dispatcher, name)
    assert asyncore.poll3 is asyncore.poll2
    assert asyncore._DISCONNECTED == STANDARD._DISCONNECTED
    assert isinstance(asyncore.socket_map, dict)


@given(script.kinds, script.steps, script.acts, st.booleans(), st.booleans())
@examples(400)
def test_calls_are_those_of_the_standard_module(kinds, steps, acts, use_poll, private):
    modules = [(STANDARD, standard.asynchat), (asyncore, asynchat)]
    first, second = (script.run(*each, kinds, steps, acts, use_poll, private) for each in modules)
    assert first == second


def test_urgent_data_is_the_last_phase(make_pass):
    calls = []

    class Noting(asyncore.dispatcher):
        def handle_read(self):
            calls.append((self.name, "read", self.recv(100)))

        def handle_write(self):
            calls.append((self.name, "write"))

        def handle_expt(self):
            calls.append((self.name, "urgent"))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        peers = [socket.create_connection(listening.getsockname()) for _ in "ab"]
        for name in "ab":
            Noting(listening.accept()[0]).name = name
    for peer in peers:
        peer.send(b"hello")
        peer.send(b"!", socket.MSG_OOB)
    poller = select.poll()
    for obj in asyncore.socket_map.values():
        poller.register(obj.socket, select.POLLPRI)
    while len(poller.poll()) < 2:
        pass
    make_pass(1)
    reads, writes, urgent = ([(name, kind) for name in "ab"] for kind in ("read", "write", "urgent"))
    by_phase = [*reads, *writes, *urgent]
    by_object = [call for name in "ab" for call in by_phase if call[0] == name]
    assert [call[:2] for call in calls] == (by_phase if make_pass is asyncore.poll else by_object)
    for peer in peers:
        peer.close()


def test_oserror_of_the_disconnected_is_handle_close_in_poll2(pair, make_pass):
    calls = []

    class Broken(asyncore.dispatcher):
        def handle_read(self):
            raise OSError(errno.EPIPE, "gone")

        def handle_error(self):
            calls.append("error")
            self.close()

        def handle_close(self):
            calls.append("close")
            self.close()

    Broken(pair[0])
    pair[1].send(b"x")
    make_pass(1)
    assert calls == (["close"] if make_pass is asyncore.poll2 else ["error"])


@pytest.mark.parametrize("exception", [asyncore.ExitNow, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("use_poll", [False, True])
def test_exit_now_and_interrupts_leave_a_loop_that_can_be_run_again(exception, use_poll, pair):
    class Leaving(Keeping):
        def handle_read(self):
            super().handle_read()
            raise exception

    leaving = Leaving(pair[0])
    for word in (b"one", b"two"):
        pair[1].send(word)
        with pytest.raises(exception):
            asyncore.loop(use_poll=use_poll)
    assert leaving.got == b"onetwo"


@pytest.mark.parametrize("function", ["read", "write", "_exception", "readwrite"])
@pytest.mark.parametrize("exception", [ValueError, GeneratorExit, asyncore.ExitNow])
def test_functions_report_to_handle_error(function, exception):
    class Failing:
        failed = False

        def handle_read_event(self):
            raise exception

        handle_write_event = handle_expt_event = handle_read_event

        def handle_error(self):
            self.failed = True

    obj = Failing()
    args = (obj, select.POLLIN) if function == "readwrite" else (obj,)
    if exception is asyncore.ExitNow:
        with pytest.raises(asyncore.ExitNow):
            getattr(asyncore, function)(*args)
    else:
        getattr(asyncore, function)(*args)
    assert obj.failed == (exception is not asyncore.ExitNow)


def test_exception_of_a_predicate_leaves_a_loop_that_can_be_run_again(pair, make_pass):
    class Failing(Keeping):
        fails = True

        def readable(self):
            if self.fails:
                raise LookupError("asked")
            return True

    failing = Failing(pair[0])
    with pytest.raises(LookupError):
        make_pass()
    failing.fails = False
    pair[1].send(b"hello")
    make_pass(1)
    assert failing.got == b"hello"


def test_error_is_logged_in_the_standard_s_words(pair, capsys):
    class Failing(asyncore.dispatcher):
        def handle_read(self):
            raise ValueError("no")

        def __repr__(self):
            raise LookupError

    Failing(pair[0])
    pair[1].send(b"x")
    asyncore.poll()
    out = capsys.readouterr().out
    assert out.startswith(
        "error: uncaptured python exception, closing channel <__repr__(self) failed for object at"
    )
    assert "(<class 'ValueError'>:no [" in out
    assert "|handle_read|" in out
    assert not asyncore.socket_map


def test_stock_handlers_log_unless_their_type_is_ignored(pair, capsys):
    noisy = asyncore.dispatcher(pair[0])
    asyncore.poll2()
    assert capsys.readouterr().out == ""
    noisy.ignore_log_types = ()
    noisy.handle_write = noisy.handle_write  # it is noticed when a handler is set
    pair[1].send(b"x")
    asyncore.poll2()
    noisy.handle_expt()
    noisy.handle_connect()
    noisy.handle_accepted(socket.socket(), None)
    noisy.log("hello")
    noisy.handle_close()
    out, err = capsys.readouterr()
    what = [
        "read event",
        "write event",
        "incoming priority event",
        "connect event",
        "accepted event",
        "close event",
    ]
    assert out.splitlines() == [f"warning: unhandled {each}" for each in what]
    assert err == "log: hello\n"


def test_compact_traceback():
    try:
        raise ValueError("no")
    except ValueError as exc:
        where, kind, value, way = asyncore.compact_traceback()
        assert (where[0], where[1]) == (__file__, "test_compact_traceback")
        assert (kind, value) == (ValueError, exc)
        assert way == "[{}|{}|{}]".format(*where)
    with pytest.raises(AssertionError, match="traceback does not exist"):
        asyncore.compact_traceback()


def test_close_all_raises_what_the_standard_one_raises():
    class Failing:
        def __init__(self, exception):
            self.exception = exception

        def close(self):
            raise self.exception

    for exception, ignore_all, raises in [
        (OSError(errno.EBADF, "closed"), False, False), (OSError(errno.EIO, "io"), False, True),
        (OSError(errno.EIO, "io"), True, False), (ValueError(), False, True), (ValueError(), True, False),
        (SystemExit(), True, True),
    ]:  # fmt: skip
        map = {-1: Failing(exception)}
        with pytest.raises(type(exception)) if raises else contextlib.nullcontext():
            asyncore.close_all(map, ignore_all=ignore_all)
        assert bool(map) == raises


def test_repr_has_the_address(pair):
    made = asyncore.dispatcher(pair[0])
    assert f"{made!r}".startswith("<reactor.compat.asyncore.dispatcher connected '' at 0x")
    made.addr = ("::1", 80)
    assert " connected ::1:80 at " in repr(made)
    made.accepting = True
    assert " listening ::1:80 at " in repr(made)


# Sockets


def test_connecting_and_its_failure(make_pass):
    calls = []

    class Client(asyncore.dispatcher):
        def handle_connect(self):
            calls.append(("connect", self.connected))

        def handle_write(self):
            calls.append(("write", self.connected))
            self.close()

        def handle_error(self):
            calls.append(("error", str(sys.exception())))
            self.close()

        def handle_close(self):
            calls.append("close")
            self.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        client = Client()
        client.create_socket()
        client.connect(address)
        assert client.addr == address
        until(lambda: not asyncore.socket_map, make_pass)
    assert calls == [("connect", False), ("write", True)]
    calls.clear()
    client = Client()
    client.create_socket()
    client.connect(address)  # where nobody listens now
    until(lambda: not asyncore.socket_map, make_pass)
    assert calls[-1] in ("close", ("error", f"[Errno {errno.ECONNREFUSED}] Connection refused"))


def test_connect_that_succeeds_or_fails_at_once(tmp_path):
    class Client(asyncore.dispatcher):
        def handle_connect(self):
            self.seen = self.connected

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        client = Client()
        client.create_socket(socket.AF_UNIX)
        client.connect(str(tmp_path / "s"))
        assert (client.seen, client.connected, client.connecting) == (False, True, False)
    other = Client()
    other.create_socket(socket.AF_UNIX)
    with pytest.raises(OSError, match="ENOENT"):
        other.connect(str(tmp_path / "none"))


def test_accept_returns_none_where_there_is_nobody():
    server = asyncore.dispatcher()
    server.create_socket()
    server.set_reuse_addr()
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    assert server.accept() is None
    server.socket.close()
    with pytest.raises(OSError, match="Bad file"):
        server.accept()


def test_accepted_connections_are_closed_by_default(make_pass):
    server = asyncore.dispatcher()
    server.create_socket()
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    with socket.create_connection(server.socket.getsockname(), timeout=DEADLINE) as client:
        make_pass(DEADLINE)
        assert client.recv(1) == b""


def test_send_returns_0_where_the_kernel_takes_nothing(pair):
    sending = asyncore.dispatcher(pair[0])
    while sending.send(bytes(100_000)):
        pass
    assert sending.send(b"x") == 0
    pair[1].close()
    assert (sending.send(b"x"), sending.connected, asyncore.socket_map) == (0, False, {})


def test_recv_at_the_end_closes_and_returns_nothing(pair):
    closing = Keeping(pair[0])
    pair[1].close()
    assert (closing.recv(10), closing._fileno, asyncore.socket_map) == (b"", None, {})


def test_broken_socket_leaves_the_map(pair, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            return getattr(pair[0], name)

        def getpeername(self):
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        asyncore.dispatcher(Broken())
    assert asyncore.socket_map == {}


def test_dispatcher_with_send_sends_the_rest_later(pair, make_pass, capsys):
    sending = asyncore.dispatcher_with_send(pair[0])
    sending.debug = True
    sending.send(b"x" * 1_000_000)
    assert 0 < len(sending.out_buffer) < 1_000_000
    assert capsys.readouterr().out.startswith("info: sending b'xxx")
    got = 0
    while got < 1_000_000:
        with contextlib.suppress(BlockingIOError):
            got += len(pair[1].recv(100_000))
        make_pass()
    assert (got, sending.out_buffer, sending.writable()) == (1_000_000, b"", 0)


# Files


def test_pipes(make_pass):
    class Reader(asyncore.file_dispatcher):
        got = b""

        def handle_read(self):
            self.got += self.recv(100)

        def handle_close(self):
            self.close()

    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as file:
        reader = Reader(file)
    os.write(writing, b"hello")
    make_pass(1)
    os.close(writing)
    until(lambda: not asyncore.socket_map, make_pass)
    assert reader.got == b"hello"


def test_regular_file_is_always_ready(tmp_path, make_pass):
    (tmp_path / "file").write_bytes(b"hello")

    class Reader(asyncore.file_dispatcher):
        got = b""

        def writable(self):
            return False

        def handle_read(self):
            data = self.recv(3)
            self.got += data

        def handle_close(self):
            self.close()

    with open(tmp_path / "file", "rb") as file:
        reader = Reader(file)
    until(lambda: not asyncore.socket_map, make_pass, timeout=DEADLINE)
    assert reader.got == b"hello"


def test_file_wrapper(recwarn):
    reading, writing = os.pipe()
    wrapper = asyncore.file_wrapper(writing)
    assert wrapper.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    with pytest.raises(NotImplementedError, match="SO_ERROR"):
        wrapper.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    assert wrapper.write(b"x") == 1
    wrapper.close()
    wrapper.close()
    assert wrapper.fileno() == -1
    wrapper = asyncore.file_wrapper(writing)
    with pytest.warns(ResourceWarning, match="unclosed file"):
        wrapper.__del__()
    os.close(reading)
    os.close(writing)


# Maps


def test_private_map_is_private(pair, make_pass):
    map = {}
    keeping = Keeping(pair[0], map)
    assert (list(map), asyncore.socket_map) == ([pair[0].fileno()], {})
    pair[1].send(b"hello")
    make_pass(0)
    assert keeping.got == b""
    make_pass(0, map)
    assert keeping.got == b"hello"
    pair[1].close()
    asyncore.loop(map=map)
    assert map == {}


@pytest.mark.parametrize("private", [False, True])
def test_map_may_be_changed_directly(private, make_pass, new_pair):
    map = {} if private else asyncore.socket_map
    pairs = [new_pair() for _ in range(3)]
    first, second, third = (Keeping(ours, map) for ours, _ in pairs)

    def say():
        for _, theirs in pairs:
            theirs.send(b"x")
        make_pass(0, map)
        return [len(each.got) for each in (first, second, third)]

    assert say() == [1, 1, 1]
    del map[second._fileno]
    assert say() == [2, 1, 2]
    map.pop(first._fileno)
    map[second._fileno] = second
    assert say() == [2, 3, 3]
    map.setdefault(first._fileno, first)
    assert map.setdefault(first._fileno, None) is first
    assert say() == [4, 4, 4]
    successor = Keeping()
    successor.socket = first.socket
    map[first._fileno] = successor
    say()
    assert [len(each.got) for each in (successor, first, second, third)] == [1, 4, 5, 5]
    map |= {first._fileno: first}
    assert map.popitem()[1] is first
    assert say() == [4, 6, 6]
    map.clear()
    assert say() == [4, 6, 6]
    map.update({each._fileno: each for each in (first, second, third)})
    assert say() == [7, 8, 8]
    for each in (first, second, third):
        each.close()


def test_object_of_any_class_may_be_in_a_map(pair, make_pass):
    class Foreign:
        accepting = False
        asked = 0
        __slots__ = ("got",)

        def readable(self):
            return True

        def writable(self):
            return False

        def handle_read_event(self):
            self.got = pair[0].recv(100)

    foreign = Foreign()
    map = {pair[0].fileno(): foreign}
    pair[1].send(b"hello")
    make_pass(0, map)
    assert foreign.got == b"hello"


def test_descriptor_is_given_out_again(make_pass, new_pair):
    first, _ = new_pair()
    Keeping(first)
    make_pass()
    number = first.fileno()
    first.close()  # behind the back of its dispatcher, which stays in the map
    second, second_peer = new_pair()
    assert second.fileno() == number
    other = Keeping(second)
    second_peer.send(b"hello")
    make_pass(0)
    assert other.got == b"hello"


def test_dispatcher_may_have_a_new_socket(make_pass, pair, new_pair):
    keeping = Keeping(pair[0])
    make_pass()
    keeping.socket.close()
    second, second_peer = new_pair()
    keeping.set_socket(second)
    second_peer.send(b"hello")
    make_pass(0)
    assert keeping.got == b"hello"


def test_event_of_a_closed_dispatcher_is_not_passed_to_the_new_one_with_its_number(make_pass, new_pair):
    pairs = [new_pair() for _ in range(2)]
    new = []

    class Replacing(Keeping):
        def handle_read(self):
            super().handle_read()
            other.close()
            ours, _ = new_pair()
            new.append(Keeping(ours))

    Replacing(pairs[0][0])
    other = Keeping(pairs[1][0])
    number = other._fileno
    for _, theirs in pairs:
        theirs.send(b"x")
    make_pass(0)
    (successor,) = new
    assert successor._fileno == number
    assert (successor.got, successor.connected) == (b"", True)


@pytest.mark.parametrize("attached", [False, True])
def test_copy_of_a_descriptor_may_stay_open_elsewhere(attached, reactor, pair, new_pair):
    # As a child process has one: the kernel goes on watching, and tells of a number that nobody has.
    ours, theirs = pair
    keeping, other = Keeping(ours, map := {}), new_pair()
    kept = Keeping(other[0], map)
    copy = ours.dup()
    asyncore.poll(0, map)
    with contextlib.ExitStack() as stack:
        if attached:
            stack.enter_context(asyncore.attach(reactor, map))
        del map[keeping._fileno]  # and no pass sees that while it is open
        ours.close()
        stack.enter_context(open(os.devnull))  # has the number now
        theirs.send(b"x")
        for word in (b"one", b"two"):
            kept.got = b""
            other[1].send(word)
            if attached:
                spin(reactor, lambda word=word: kept.got == word)
            else:
                until(lambda word=word: kept.got == word, map=map)
        if attached:
            settle(reactor)
            assert reactor.run_once(0) == 0  # it is not told of again and again
    assert keeping.got == b""
    copy.close()


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_closed_descriptor_is_handle_close(asked, known, pair, make_pass, monkeypatch):
    monkeypatch.setattr("reactor.compat.poller._SWEEP", 0)
    keeping = Keeping(pair[0])
    if asked:
        keeping.writable = lambda: False
    if known:
        make_pass()
    pair[0].close()
    make_pass()
    make_pass()
    assert not asyncore.socket_map


class Passes:
    """Counts its passes by its predicates; has what it is asked for in `wants`."""

    wants = (False, False)
    passes = written = 0

    def readable(self):
        self.passes += 1
        return self.wants[0]

    def writable(self):
        return self.wants[1]

    def handle_write(self):
        self.written += 1


class Passing(Passes, asyncore.dispatcher):
    pass


def fill(sock):
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(100_000))


def test_hang_up_that_nobody_asked_for_is_not_reported(found, pair):
    passing = Passing(pair[0], map := {})
    passing.wants = (False, True)
    fill(pair[0])
    pair[1].shutdown(socket.SHUT_RDWR)
    for _ in range(5):
        asyncore.poll(0, map)
    assert passing.written == 0
    assert found[2:] == [[]] * 3  # nor does a pass return for it
    passing.wants = (True, True)
    asyncore.poll2(0, map)  # has hang-ups as `handle_close`
    assert map == {}


def test_urgent_data_that_nobody_asked_for_is_not_reported(make_pass, monkeypatch):
    seen = []
    monkeypatch.setattr(Passing, "handle_expt", lambda self: seen.append("urgent"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        passing = Passing(listening.accept()[0], map := {})
    passing.wants = (False, True)
    with peer:
        fill(passing.socket)
        peer.send(b"!", socket.MSG_OOB)
        urgent = select.poll()
        urgent.register(passing.socket, select.POLLPRI)
        assert urgent.poll(DEADLINE * 1000)
        for _ in range(3):
            make_pass(0, map)
        assert seen == (["urgent"] * 3 if make_pass is asyncore.poll else [])
        while not passing.written:  # it is told of room all the same
            peer.recv(1_000_000)
            make_pass(0, map)
        make_pass(0, map)
        assert passing.written == 2
        passing.close()


def test_paused_acceptor_is_left_alone(make_pass):
    accepting = Passing()
    accepting.create_socket()
    accepting.bind(("127.0.0.1", 0))
    accepting.listen(5)
    accepting.wants = (False, True)
    with socket.create_connection(accepting.socket.getsockname()):
        make_pass(0)
        accepting.socket.shutdown(socket.SHUT_RDWR)
        for _ in range(3):
            make_pass(0)
    assert (accepting.passes, accepting.written, accepting.socket.fileno()) == (4, 0, accepting._fileno)


def test_fork(pair):
    keeping = Keeping(pair[0])
    pair[1].send(b"parent")
    asyncore.poll()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            until(lambda: keeping.got == b"parentchild")
            os.write(writing, keeping.got)
            keeping.close()
            status = 0 if not asyncore.socket_map else 1
        finally:
            os._exit(status)
    pair[1].send(b"child")
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    assert os.read(reading, 100) == b"parentchild"
    os.close(reading)
    pair[1].send(b"again")
    asyncore.poll(1)
    assert keeping.got == b"parentagain"


# Passes


def test_loop_ends_with_an_empty_map_or_after_its_count(make_pass, pair):
    asyncore.loop(timeout=DEADLINE)
    make_pass(DEADLINE)
    asked = []

    class Asked(Keeping):
        def readable(self):
            asked.append("r")
            return True

        def writable(self):
            asked.append("w")
            return False

    Asked(pair[0])
    asyncore.loop(timeout=0.001, use_poll=make_pass is asyncore.poll2, count=3)
    assert asked == ["r", "w"] * 3
    asyncore.loop(count=0)
    assert len(asked) == 6
    pair[1].close()
    asyncore.loop()


def test_timeouts():
    with pytest.raises(ValueError, match="timeout must be 0 seconds or more"):
        asyncore.poll(-1)
    with pytest.raises(ValueError, match="timeout must be 0 seconds or more"):
        asyncore.loop(-1)


class Leaving(asyncore.dispatcher):
    """Leaves the loop after `passes` of it."""

    passes = 3

    def readable(self):
        self.passes -= 1
        if not self.passes:
            raise asyncore.ExitNow
        return False

    def writable(self):
        return False


def test_passes_wait_a_millisecond_where_the_program_can_count_them(waits, pair, new_pair):
    quiet, other = Keeping(pair[0]), new_pair()
    asyncore.poll(5)
    asyncore.poll2(None)
    asyncore.loop(5, count=1)
    assert waits == [0.001] * 3  # it is writable all the time
    Leaving(other[0])
    with pytest.raises(asyncore.ExitNow):
        asyncore.loop(5)
    assert waits[3:] == [0.001] * 2
    quiet.close()
    asyncore.loop(5, count=1)
    assert waits[5:] == [5]


def test_passes_of_an_endless_loop_wait_for_its_timeout(waits, pair, monkeypatch):
    class Once(Keeping):
        def handle_read(self):
            super().handle_read()
            raise asyncore.ExitNow

    Once(pair[0])
    for wait in (30.0, None):
        pair[1].send(b"x")
        with pytest.raises(asyncore.ExitNow):
            asyncore.loop(wait)
    with pytest.raises(asyncore.ExitNow):
        pair[1].send(b"x")
        asyncore.loop(0.0129, use_poll=True)
    assert waits == [30.0, None, 0.012]


@pytest.mark.parametrize("change", ["handle_write", "log", "connecting"])
def test_dispatchers_that_need_write_events_have_them(change, pair):
    calls = []

    class Writing(Keeping):
        if change == "log":

            def log_info(self, message, type="info"):
                calls.append(message)

    writing = Writing(pair[0])
    asyncore.poll()
    if change == "handle_write":
        assert calls == []
        writing.handle_write = lambda: calls.append("write")
        asyncore.poll()
        del writing.handle_write
        with pytest.raises(AttributeError):
            del writing.handle_write
        asyncore.poll()
    elif change == "connecting":
        writing.connected = False
        writing.handle_connect = lambda: calls.append("connect")
        with contextlib.suppress(OSError):
            writing.connect("elsewhere")
        asyncore.poll()
    assert (
        calls
        == {"handle_write": ["write"], "log": ["unhandled write event"], "connecting": ["connect"]}[change]
    )


def test_several_loops_in_threads(make_pass, new_pair):
    count, results = 4, {}

    class Echo(asyncore.dispatcher):
        def handle_read(self):
            self.send(self.recv(100))

        def handle_close(self):
            self.close()

    def serve(number, sock):
        map = {}
        Echo(sock, map)
        asyncore.loop(use_poll=make_pass is asyncore.poll2, map=map)
        results[number] = map

    pairs = [new_pair() for _ in range(count)]
    threads = [threading.Thread(target=serve, args=(i, ours)) for i, (ours, _) in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for _, theirs in pairs:
        theirs.settimeout(DEADLINE)
        theirs.send(b"hello")
        assert theirs.recv(10) == b"hello"
        theirs.close()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {number: {} for number in range(count)}


def test_another_thread_s_push_and_new_dispatcher_take_effect_while_a_loop_waits(pair, new_pair):
    other = new_pair()
    chat = asynchat.async_chat(pair[0], map := {})
    late = []

    def serve():
        asyncore.loop(None, map=map)

    thread = threading.Thread(target=serve)
    thread.start()
    pair[1].setblocking(True)
    pair[1].settimeout(DEADLINE)
    chat.push(b"x" * 3_000_000)
    got = 0
    while got < 3_000_000:
        got += len(pair[1].recv(1_000_000))
    late.append(Keeping(other[0], map))
    other[1].send(b"hello")
    other[1].close()
    pair[1].close()
    thread.join(DEADLINE)
    assert (late[0].got, map) == (b"hello", {})


def test_signal_handler_s_push_takes_effect(pair):
    chat = asynchat.async_chat(pair[0], map := {})
    chat.set_terminator(None)
    before = signal.signal(signal.SIGUSR1, lambda *_: (chat.push(b"x" * 2_000_000), chat.close_when_done()))
    received = []

    def drain():
        pair[1].setblocking(True)
        os.kill(os.getpid(), signal.SIGUSR1)
        while data := pair[1].recv(1_000_000):
            received.append(len(data))

    thread = threading.Thread(target=drain)
    try:
        thread.start()
        asyncore.loop(None, map=map)
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join(DEADLINE)
    assert sum(received) == 2_000_000


# On a reactor


class Upper(asynchat.async_chat):
    def __init__(self, sock, map=None):
        super().__init__(sock, map)
        self.set_terminator(b"\n")

    def collect_incoming_data(self, data):
        self._collect_incoming_data(data)

    def found_terminator(self):
        self.push(self._get_data().upper() + b"\n")


@pytest.mark.parametrize("use_poll", [False, True])
def test_map_on_a_reactor(reactor, pair, new_pair, use_poll):
    Upper(pair[0])
    recorder = Recorder()
    ours, theirs = new_pair()
    reactor.adopt(ours, lambda: recorder)
    with asyncore.attach(reactor, use_poll=use_poll):
        pair[1].send(b"hello\n" * 3)
        theirs.send(b"beside")
        received = b""

        def done():
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                received += pair[1].recv(100)
            return received == b"HELLO\n" * 3 and recorder.received == b"beside"

        spin(reactor, done)
        pair[1].close()
        spin(reactor, lambda: not asyncore.socket_map)


def test_attached_map_takes_what_others_do_at_once(reactor, pair, new_pair):
    chat = Upper(pair[0], map := {})
    with asyncore.attach(reactor, map):
        reactor.call_soon(chat.push, b"x" * 1_000_000)
        got = 0

        def done():
            nonlocal got
            with contextlib.suppress(BlockingIOError):
                got += len(pair[1].recv(100_000))
            return got == 1_000_000

        spin(reactor, done)
        other = new_pair()
        late = Keeping(other[0], map)
        other[1].send(b"hello")
        spin(reactor, lambda: late.got == b"hello", wait=DEADLINE)
        late.close()
        chat.close()
        assert map == {}


def test_map_beside_a_tls_listener(reactor, pair, certificates):
    Upper(pair[0])
    listener = reactor.listen("127.0.0.1:0", Recorder, tls=certificates.server())
    recorder, timers = Recorder(), []
    address = f"127.0.0.1:{listener.addresses[0].port}"
    reactor.connect(address, lambda: recorder, tls=certificates.client(), server_hostname="localhost")
    reactor.call_later(0.001, timers.append, "ran")
    with asyncore.attach(reactor):
        spin(reactor, lambda: recorder.names and timers)
        pair[1].send(b"hello\n")
        spin(reactor, lambda: select.select([pair[1]], [], [], 0)[0])
        assert pair[1].recv(100) == b"HELLO\n"


@pytest.mark.parametrize("own", [False, True])
def test_map_in_the_loop_of_a_host(own, pair):
    upper = Upper(pair[0])
    if own:
        upper.readable = lambda: True

    async def main():
        with Reactor() as reactor, attach_to_asyncio(reactor), asyncore.attach(reactor):
            for word in (b"one", b"two"):
                await asyncio.get_running_loop().sock_sendall(pair[1], word + b"\n")
                answer = asyncio.get_running_loop().sock_recv(pair[1], 100)
                assert await asyncio.wait_for(answer, DEADLINE) == word.upper() + b"\n"

    asyncio.run(main())


def test_detached_map_is_left_alone(reactor, pair):
    keeping = Keeping(pair[0])
    attachment = asyncore.attach(reactor)
    attachment.detach()
    attachment.detach()
    pair[1].send(b"hello")
    settle(reactor)
    assert keeping.got == b""
    asyncore.poll()
    assert keeping.got == b"hello"


def test_reactor_that_is_closed_lets_go_of_its_map(pair):
    keeping = Keeping(pair[0])
    with Reactor() as reactor:
        attachment = asyncore.attach(reactor)
    attachment.detach()
    pair[1].send(b"hello")
    asyncore.poll()
    assert keeping.got == b"hello"
    with pytest.raises(UsageError, match="closed"):
        asyncore.attach(reactor)


def test_map_is_on_one_reactor(reactor, pair):
    Keeping(pair[0])
    with asyncore.attach(reactor):
        with pytest.raises(UsageError, match="the map is on a reactor already"):
            asyncore.attach(reactor)
    asyncore.attach(reactor).detach()


def test_child_leaves_the_reactor_of_its_map_alone(reactor, pair):
    keeping = Keeping(pair[0])
    with asyncore.attach(reactor):
        spin(reactor, lambda: reactor.stats().ticks > 3)
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                pair[1].send(b"child")
                asyncore.loop(1, count=1)
                status = 0 if keeping.got == b"child" else 1
                keeping.close()
            return_to_parent(status)
        assert os.waitpid(child, 0)[1] == 0
        pair[1].send(b"parent")
        spin(reactor, lambda: keeping.got == b"parent")


def test_detaching_in_a_child(reactor, pair):
    Keeping(pair[0])
    attachment = asyncore.attach(reactor)
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            attachment.detach()
            status = 0
        return_to_parent(status)
    assert os.waitpid(child, 0)[1] == 0
    pair[1].send(b"x")
    spin(reactor, lambda: next(iter(asyncore.socket_map.values())).got == b"x")
    attachment.detach()


def return_to_parent(status):
    os._exit(status)


def test_interrupt_while_predicates_are_asked_on_a_reactor(reactor, pair):
    class Interrupting(Keeping):
        interrupts = [True]

        def readable(self):
            if self.interrupts:
                self.interrupts.clear()
                raise KeyboardInterrupt
            return True

        def writable(self):
            return False

    interrupting = Interrupting(pair[0])
    with asyncore.attach(reactor):
        with pytest.raises(KeyboardInterrupt):
            reactor.run()
        pair[1].send(b"x")
        spin(reactor, lambda: interrupting.got == b"x")


def test_predicates_are_asked_in_every_tick_and_each_interval(reactor, pair):
    flags = {"write": False}
    asked, written = [], []

    class Asked(Keeping):
        def writable(self):
            asked.append(reactor.time())
            return flags["write"]

        def handle_write(self):
            written.append(flags["write"])
            flags["write"] = False

    asked_one = Asked(pair[0])
    with asyncore.attach(reactor, interval=3600):
        spin(reactor, lambda: asked)
        reactor.call_soon(flags.__setitem__, "write", True)  # by something else of the reactor's
        spin(reactor, lambda: written, wait=DEADLINE)
    count = len(asked)
    with asyncore.attach(reactor, interval=0.001):
        spin(reactor, lambda: len(asked) >= count + 5, wait=DEADLINE)
        flags["write"] = True  # behind everybody's back
        spin(reactor, lambda: len(written) == 2, wait=DEADLINE)
        asked_one.close()
    with pytest.raises(ValueError, match="interval"):
        asyncore.attach(reactor, interval=0)


def test_exit_now_stops_the_reactor_and_other_errors_are_handled(reactor, pair):
    class Leaving(Keeping):
        def handle_read(self):
            super().handle_read()
            raise asyncore.ExitNow

    leaving = Leaving(pair[0])
    with asyncore.attach(reactor):
        pair[1].send(b"x")
        reactor.run()
        assert leaving.got == b"x"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through_the_reactor_and_it_goes_on(reactor, pair, exception):
    class Interrupted(Keeping):
        def handle_read(self):
            super().handle_read()
            if self.got == b"x":
                raise exception

    interrupted = Interrupted(pair[0])
    with asyncore.attach(reactor):
        pair[1].send(b"x")
        with pytest.raises(exception):
            reactor.run()
        pair[1].send(b"y")
        spin(reactor, lambda: interrupted.got == b"xy")


def test_regular_file_on_a_reactor(reactor, tmp_path):
    (tmp_path / "file").write_bytes(b"hello")

    class Reader(asyncore.file_dispatcher):
        got = b""

        def handle_read(self):
            self.got += self.recv(3)

        def handle_close(self):
            self.close()

    with asyncore.attach(reactor), open(tmp_path / "file", "rb") as file:
        reader = Reader(file)
        spin(reactor, lambda: not asyncore.socket_map)
    assert reader.got == b"hello"


def test_idle_map_costs_a_reactor_nothing(reactor, new_pair):
    for _ in range(50):
        Upper(new_pair()[0])
    with asyncore.attach(reactor):
        spin(reactor, lambda: reactor.stats().ticks > 3, wait=0)
        ticks, events = reactor.stats().ticks, reactor.stats().events
        assert reactor.next_timeout() is None
        assert reactor.run_once(0.05) == 0
        assert (reactor.stats().ticks, reactor.stats().events) == (ticks + 1, events)


def test_one_dispatcher_at_a_time_moves_to_a_protocol(reactor):
    class Server(asyncore.dispatcher):
        def __init__(self, protocol):
            super().__init__()
            self.protocol = protocol
            self.create_socket()
            self.bind(("127.0.0.1", 0))
            self.listen(5)

        def handle_accepted(self, sock, addr):
            reactor.adopt(sock, self.protocol)

    class Shout(Protocol):
        def connection_made(self, connection):
            self.connection = connection

        def data_received(self, data):
            self.connection.write(data.upper())

    server = Server(Shout)
    with asyncore.attach(reactor), socket.create_connection(server.socket.getsockname()) as client:
        client.send(b"hello")
        client.setblocking(False)
        got = []

        def answered():
            with contextlib.suppress(BlockingIOError):
                got.append(client.recv(100))
            return got

        spin(reactor, answered)
        assert got == [b"HELLO"]
