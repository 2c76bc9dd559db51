"""The kernel's side of a map: what is asked of objects and of the kernel, and what is not."""

import contextlib
import gc
import os
import select
import socket
import threading
import weakref

import pytest

from reactor import UsageError
from reactor.compat import asynchat, asyncore, poller
from tests.helpers import DEADLINE
from tests.tracing import Interrupt, Tracer, places

SELECTORS = {
    "epoll": select.epoll,
    "poll": poller.PollSelector,
    "select": poller.SelectSelector,
}


class Counting:
    """A selector that counts its calls."""

    def __init__(self, made):
        self.made, self.calls = made, []

    def __getattr__(self, name):
        method = getattr(self.made, name)
        if name != "fileno":
            self.calls.append(name)
        return method


@pytest.fixture(params=[*SELECTORS])
def calls(request, monkeypatch, descriptors):
    """The calls of the selector of each kind that the test makes."""
    calls = []

    def new_selector():
        made = Counting(SELECTORS[request.param]())
        made.calls = calls
        return made

    monkeypatch.setattr(poller, "new_selector", new_selector)
    return calls


@pytest.fixture
def pairs(descriptors):
    with contextlib.ExitStack() as stack:
        made = [[stack.enter_context(sock) for sock in socket.socketpair()] for _ in range(20)]
        for ours, theirs in made:
            ours.setblocking(False)
            theirs.setblocking(False)
        yield made
        asyncore.close_all()


class Chat(asynchat.async_chat):
    got = b""

    def __init__(self, *args):
        super().__init__(*args)
        self.set_terminator(None)

    def collect_incoming_data(self, data):
        self.got += data


def test_only_what_changes_reaches_the_selector(calls, pairs):
    chats = [Chat(ours, map) for map in [{}] for ours, _ in pairs]
    map = chats[0]._map
    asyncore.poll(0, map)
    assert calls == ["register"] * 20 + ["poll"]
    calls.clear()
    for _ in range(3):
        asyncore.poll(0, map)
    assert calls == ["poll"] * 3
    calls.clear()
    pairs[3][1].send(b"x")
    asyncore.poll(0, map)
    asyncore.poll2(0, map)
    assert (chats[3].got, calls) == (b"x", ["poll"] * 2)
    calls.clear()
    chats[5].producer_fifo.append(b"hello")
    asyncore.poll(0, map)
    asyncore.poll2(0, map)
    assert (pairs[5][1].recv(10), calls) == (b"hello", ["modify", "poll"] * 2)
    calls.clear()
    for chat in chats:
        chat.close()
    assert calls == ["unregister"] * 20 + ["close"]


def test_inherited_predicates_are_not_called(pairs, monkeypatch):
    asked = []
    chats = [Chat(ours) for ours, _ in pairs]
    chats[7].writable = lambda: asked.append("own") or False
    monkeypatch.setattr(asyncore.socket_map.poller, "_swept", float("inf"))
    for _ in range(3):
        asyncore.poll()
    assert asked == ["own"] * 3


def test_each_selector_serves(calls, pairs):
    for use_poll in (False, True):
        for ours, theirs in pairs[: 2 if use_poll else 1]:
            chat = Chat(ours.dup(), map := {})
            theirs.send(b"hello")
            chat.push(b"x" * 1_000_000)
            chat.close_when_done()
            got = 0
            while map:
                with contextlib.suppress(BlockingIOError):
                    got += len(theirs.recv(1_000_000))
                asyncore.loop(0.01, use_poll, map, 1)
            while theirs.gettimeout() == 0.0 and got < 1_000_000:
                got += len(theirs.recv(1_000_000))
            assert (chat.got, got) == (b"hello", 1_000_000)


@pytest.mark.parametrize("kind", [*SELECTORS])
def test_selector_waits(kind, pairs):
    selector = SELECTORS[kind]()
    ours, theirs = pairs[0]
    assert selector.poll(0.001, 1) == []
    selector.register(ours.fileno(), poller.IN | poller.PRI)
    assert selector.poll(0.0001, 1) == []
    later = threading.Timer(0.01, theirs.send, [b"x"])
    later.start()
    assert selector.poll(None, 1) == [(ours.fileno(), poller.IN)]
    later.join(DEADLINE)
    selector.modify(ours.fileno(), poller.IN | poller.OUT)
    assert selector.poll(DEADLINE, 1) == [(ours.fileno(), poller.IN | poller.OUT)]
    selector.unregister(ours.fileno())
    assert selector.poll(0, 1) == []
    selector.close()


def test_platform_without_epoll(monkeypatch, pairs):
    monkeypatch.delattr(select, "epoll")
    assert isinstance(poller.new_selector(), poller.PollSelector)
    monkeypatch.delattr(select, "poll")
    assert isinstance(poller.new_selector(), poller.SelectSelector)
    made = poller.Poller({}, lambda *args: None)
    with pytest.raises(UsageError, match="no epoll"):
        made.fileno()


def test_poller_goes_with_its_map(pairs):
    map = {}
    chat = Chat(pairs[0][0].dup(), map)
    asyncore.poll(0, map)
    kept = weakref.ref(chat._reactor_poller)
    chat.socket.close()
    del chat, map
    gc.collect()
    assert kept() is None


def test_limit_of_events(pairs):
    map = {}
    for ours, theirs in pairs:
        Chat(ours, map)
        theirs.send(b"x")
    made = poller.poller_of(map, asyncore._steady_interest)
    ready = made.ready(0, limit=6)
    assert len(ready) == 6
    ranks = [rank for rank, _, _ in ready]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("where", ["register", "modify", "poll", "unregister"])
def test_interrupt_at_any_call_of_the_selector(where, pairs, monkeypatch):
    interrupts = [1]

    class Interrupting:
        def __init__(self):
            self.made = select.epoll()

        def __getattr__(self, name):
            if name == where and interrupts and armed:
                interrupts.clear()
                raise KeyboardInterrupt
            return getattr(self.made, name)

    armed = []
    monkeypatch.setattr(poller, "new_selector", Interrupting)
    first, second = (Chat(ours, map) for map in [{}] for ours, _ in pairs[:2])
    map = first._map
    if where != "register":
        asyncore.poll(0, map)
    armed.append(True)
    first.producer_fifo.append(b"out")
    pairs[1][1].send(b"in")
    with contextlib.suppress(KeyboardInterrupt):
        if where == "unregister":
            first.readable = first.writable = lambda: False
        asyncore.poll(0, map)
        asyncore.poll(0, map)
    assert not interrupts
    if where == "unregister":
        del first.readable, first.writable
    for _ in range(2):
        asyncore.poll(0, map)
    assert (pairs[0][1].recv(10), second.got) == (b"out", b"in")


class Asked(Chat):
    def readable(self):
        return True

    def writable(self):
        return super().writable()


def interrupted(tracer, map):
    """Let dispatchers come, talk and go under the trace; see that the next passes do what was left."""
    pairs = [socket.socketpair() for _ in range(4)]
    chats = [kind(ours, map) for kind, (ours, _) in zip((Chat, Asked, Chat), pairs, strict=False)]
    made = poller.poller_of(map, asyncore._steady_interest)
    for number in range(3):
        for _, theirs in pairs:
            theirs.send(b"x")
        chats[number].producer_fifo.clear()
        tracer.run(chats[number].producer_fifo.append, b"out")
        tracer.run(asyncore.poll, 0, map)
    tracer.run(chats[2].close)
    chats[2].close()
    made_whole = []
    tracer.run(lambda: made_whole.append(Chat(pairs[3][0], map)))
    if not made_whole:
        map.pop(pairs[3][0].fileno(), None)
        Chat(pairs[3][0], map)
    tracer.run(asyncore.poll2, 0, map)
    for each in (*chats[:2], map[pairs[3][0].fileno()]):
        each.producer_fifo.append(b"end")
    made._swept = float("-inf")  # 2 s later
    for _ in range(4):
        asyncore.poll(0, map)
    for number in (0, 1, 3):
        assert pairs[number][1].recv(100).endswith(b"end")
        assert map[pairs[number][0].fileno()].got.endswith(b"x")
    for sock in [sock for pair in pairs for sock in pair]:
        sock.close()
    map.clear()


@pytest.mark.parametrize("private", [False, True])
def test_interrupt_at_any_line(private, descriptors, monkeypatch):
    passing = (*asyncore._reraised_exceptions, Interrupt)  # as KeyboardInterrupt does
    monkeypatch.setattr(asyncore, "_reraised_exceptions", passing)

    def scenario(tracer):
        interrupted(tracer, {} if private else asyncore.socket_map)

    seen = [place for place in places(scenario) if place[0][0].endswith("poller.py")]
    assert len(seen) > 100
    for place in seen:
        scenario(Tracer(place))


def test_no_descriptor_is_left_by_a_fork(pairs):
    Chat(pairs[0][0])
    asyncore.poll()
    child = os.fork()
    if not child:
        left = [name for name in os.listdir("/proc/self/fd") if _is_epoll(name)]
        os._exit(1 if left else 0)
    assert os.waitpid(child, 0)[1] == 0


def _is_epoll(name):
    try:
        return "eventpoll" in os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return False


def test_map_of_the_module_is_a_dict():
    made = poller.SocketMap(lambda *args: None)
    assert isinstance(made, dict)
    made.update({3: "three"}, four="four")
    assert made.pop(3) == "three"
    assert made.pop(3, None) is None
    with pytest.raises(KeyError):
        made.pop(3)
    with pytest.raises(KeyError):
        del made[3]
    assert made == {"four": "four"}
    made.clear()
    with pytest.raises(KeyError):
        made.popitem()
    assert not made
