"""`asynchat` on the reactor: the standard module's calls, and buffers in linear time."""

import copy
import socket
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.compat import asynchat, asyncore
from tests.compat import standard
from tests.helpers import DEADLINE, examples

STANDARD = standard.asynchat


@pytest.fixture
def pair(descriptors):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield ours, theirs
        asyncore.close_all()


def recording(module):
    """A class of chats of `module`, without a socket: it receives what it is given, and records its calls."""

    class Chat(module.async_chat):
        def __init__(self, pieces, terminators, reads_buffer):
            super().__init__(map={})
            self.pieces, self.terminators, self.log = list(pieces), iter(terminators), []
            self.reads_buffer = reads_buffer
            self.set_terminator(next(self.terminators, None))

        def recv(self, size):
            return self.pieces.pop(0)

        def buffer(self):
            return self.ac_in_buffer if self.reads_buffer else None

        def collect_incoming_data(self, data):
            self.log.append(("collect", data, self.buffer(), self.terminator))
            self._collect_incoming_data(data)

        def found_terminator(self):
            self.log.append(("found", self._get_data(), self.buffer(), self.get_terminator()))
            what = next(self.terminators, "same")
            if what == "drop":
                self.discard_buffers()
            elif what == "insert":
                self.ac_in_buffer = b"ab" + self.ac_in_buffer
            elif what != "same":
                self.set_terminator(what)

    return Chat


terminators = st.lists(
    st.sampled_from([None, b"", 0, 1, 3, b"\n", b"\r\n", b"aab", b"abab", "same", "drop", "insert", True]),
    max_size=6,
)


@given(st.lists(st.text("ab\r\n", max_size=12).map(str.encode), max_size=8), terminators, st.booleans())
@examples(500)
def test_input_is_collected_as_by_the_standard_module(pieces, ends, reads_buffer):
    logs = []
    for module in (STANDARD, asynchat):
        chat = recording(module)(pieces, ends, reads_buffer)
        for _ in pieces:
            try:
                chat.handle_read()
            except Exception as exc:
                chat.log.append(type(exc))
            chat.log.append(chat.ac_in_buffer)
        logs.append(chat.log)
    assert logs[0] == logs[1]


@given(st.binary(max_size=6), st.binary(min_size=1, max_size=6))
def test_find_prefix_at_end_is_as_the_standard_one(haystack, needle):
    assert asynchat.find_prefix_at_end(haystack, needle) == STANDARD.find_prefix_at_end(haystack, needle)


def test_every_name_of_the_standard_module_is_here():
    names = {name for name in vars(STANDARD) if not name.startswith("_")}
    assert names - set(vars(asynchat)) == set()
    assert set(vars(STANDARD.async_chat)) - set(dir(asynchat.async_chat)) == set()
    for name in ["ac_in_buffer_size", "ac_out_buffer_size", "use_encoding", "encoding"]:
        assert getattr(asynchat.async_chat, name) == getattr(STANDARD.async_chat, name)
    chat = asynchat.async_chat()
    assert not hasattr(chat, "terminator")
    assert isinstance(chat.producer_fifo, deque)


def test_methods_of_subclasses_are_asked_for():
    chat = asynchat.async_chat()
    with pytest.raises(NotImplementedError):
        chat.collect_incoming_data(b"")
    with pytest.raises(NotImplementedError):
        chat.found_terminator()
    with pytest.raises(ValueError, match="positive"):
        chat.set_terminator(-1)
    with pytest.raises(TypeError, match="bytes"):
        chat.push("text")


def test_encoding():
    class Chat(asynchat.async_chat):
        use_encoding = 1
        pieces = ["caf\xe9\n"]

        def recv(self, size):
            return self.pieces.pop()

        def send(self, data):
            self.sent = data
            return len(data)

        def collect_incoming_data(self, data):
            self._collect_incoming_data(data)

        def found_terminator(self):
            self.found = self._get_data()

    chat = Chat()
    chat.connected = True
    chat.set_terminator("\n")
    chat.handle_read()
    assert chat.found == b"caf\xe9"
    chat.push_with_producer(asynchat.simple_producer("\xe9t\xe9"))
    assert chat.sent == b"\xe9t\xe9"


def test_linear_time_of_lines():
    class Counted(bytes):
        """Bytes that count how many of them are copied."""

        copied = 0

        def __getitem__(self, key):
            piece = super().__getitem__(key)
            if isinstance(key, slice):
                Counted.copied += len(piece)
            return piece

        def __radd__(self, other):
            assert other == b""
            return self

    class Chat(asynchat.async_chat):
        lines = 0

        def recv(self, size):
            return data

        def collect_incoming_data(self, line):
            assert len(line) == 60

        def found_terminator(self):
            self.lines += 1

    data = Counted((b"x" * 60 + b"\r\n") * 10_000)
    chat = Chat()
    chat.set_terminator(b"\r\n")
    chat.handle_read()
    assert chat.lines == 10_000
    assert Counted.copied <= len(data)


def test_errors_of_recv_and_send(pair):
    class Chat(asynchat.async_chat):
        errors = 0

        def handle_error(self):
            self.errors += 1

    chat = Chat(pair[0])
    chat.set_terminator(b"\n")
    chat.handle_read()  # nothing is there
    assert chat.errors == 0
    chat.recv = chat.send = lambda argument: (_ for _ in ()).throw(OSError("broken"))
    chat.handle_read()
    chat.push(b"x")
    assert chat.errors == 2


@given(
    st.lists(st.sampled_from(["bytes", "long", "empty", "producer", "none"]), max_size=8), st.integers(1, 5)
)
@examples(100)
def test_output_is_sent_as_by_the_standard_module(items, size):
    logs = []
    for module in (STANDARD, asynchat):
        log = []

        class Chat(module.async_chat):
            ac_out_buffer_size = size
            connected = True

            def send(self, data, log=log):
                log.append(data)
                return min(len(data), 2)

            def handle_close(self, log=log):
                log.append("close")
                self.connected = False

        chat = Chat(map={})
        for item in items:
            if item == "bytes":
                chat.push(b"abc")
            elif item == "long":
                chat.push(memoryview(b"0123456789"))
            elif item == "empty":
                chat.push(b"")
            elif item == "producer":
                chat.push_with_producer(module.simple_producer(b"producer", 3))
            else:
                chat.close_when_done()
            log.append(("writable", bool(chat.writable())))
        for _ in range(40):
            chat.handle_write()
        log.append(len(chat.producer_fifo))
        logs.append(log)
    assert logs[0] == logs[1]


GROW = {
    "append": lambda queue: queue.append(b"x"),
    "appendleft": lambda queue: queue.appendleft(b"x"),
    "extend": lambda queue: queue.extend([b"x"]),
    "extendleft": lambda queue: queue.extendleft([b"x"]),
    "insert": lambda queue: queue.insert(0, b"x"),
}


@pytest.mark.parametrize("how", [*GROW, "iadd", "replace", "own class"])
def test_output_that_is_queued_directly_is_sent(how, pair):
    chat = asynchat.async_chat(pair[0])
    asyncore.poll()
    if how in GROW:
        GROW[how](chat.producer_fifo)
    elif how == "iadd":
        chat.producer_fifo += [b"x"]
    elif how == "replace":
        chat.producer_fifo = deque([b"x"])
    else:
        chat.producer_fifo = []
        asyncore.poll()
        chat.producer_fifo.append(b"x")
    asyncore.poll()
    assert pair[1].recv(10) == b"x"


def test_queue_can_be_copied():
    queue = asynchat.async_chat().producer_fifo
    queue.append(b"x")
    for other in (copy.copy(queue), queue.copy(), queue + deque()):
        other.append(b"y")
        assert (list(queue), list(other)) == ([b"x"], [b"x", b"y"])


def test_close_when_done_closes_in_a_later_pass(pair):
    chat = asynchat.async_chat(pair[0])
    chat.push(b"bye")
    chat.close_when_done()
    assert chat.connected
    asyncore.loop(timeout=DEADLINE)
    assert not chat.connected
    assert pair[1].recv(10) == b"bye"
    assert pair[1].recv(10) == b""


def test_unreferenced_chat_is_freed_without_the_collector():
    class Ending(asynchat.async_chat):
        def __del__(self):
            ended.append(True)

    ended = []
    Ending()
    assert ended == [True]


def test_old_queue():
    queue = asynchat.fifo([b"a"])
    queue.push(b"b")
    assert (len(queue), queue.first(), queue.is_empty()) == (2, b"a", False)
    assert [queue.pop() for _ in range(3)] == [(1, b"a"), (1, b"b"), (0, None)]
    assert asynchat.fifo().is_empty()
    with pytest.raises(IndexError):
        queue.first()
