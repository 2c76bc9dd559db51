"""Scripts for dispatchers: the same calls on two implementations, and all that they call back."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

from hypothesis import strategies as st

PIECE = 40_000  # bytes; a few fill the buffers of a pair of sockets


class Recording:
    """Records its callbacks, and does the next of its `acts` in some of them."""

    def prepare(self, world, name, acts):
        self.world, self.name, self.acts = world, name, iter(acts)

    def note(self, what, *details):
        self.world.log.append((self.name, what, *details))

    def act(self):
        act = next(self.acts, None)
        if act is not None:
            self.note("acts", *act)
            self.world.do(*act)

    def handle_read(self):
        data = self.recv(3)
        self.note("read", data)
        if data:
            self.act()

    def handle_expt(self):
        self.note("expt")

    def handle_close(self):
        self.note("close")
        self.close()

    def handle_error(self):
        self.note("error", *self.world.error())
        self.close()


class Writing(Recording):
    def handle_write(self):
        self.note("write")
        self.act()


class Asked(Writing):
    """Has predicates of its own."""

    wants = (True, True)

    def readable(self):
        self.note("readable?")
        return self.wants[0]

    def writable(self):
        self.note("writable?")
        return self.wants[1]


class AskedSometimes(Asked):
    """Counts on being asked: it wants to write in each third pass."""

    passes = 0

    def writable(self):
        self.passes += 1
        self.note("writable?", self.passes)
        return self.passes % 3 == 0


class Sending(Recording):
    def handle_write(self):
        self.note("write", len(self.out_buffer))
        super().handle_write()
        self.note("left", len(self.out_buffer))


class Chatting(Recording):
    def prepare(self, *args):
        super().prepare(*args)
        self.set_terminator(b"\r\n")

    def handle_read(self):
        self.note("read")
        super(Recording, self).handle_read()

    def handle_write(self):
        self.note("write", len(self.producer_fifo))
        super().handle_write()

    def collect_incoming_data(self, data):
        self.note("collect", data)

    def found_terminator(self):
        self.note("found", self.terminator)
        self.act()


class Producer:
    def __init__(self, count):
        self.left = count

    def more(self):
        self.left -= 1
        return b"p" * PIECE if self.left >= 0 else b""


#: The objects of a script: mixins, and the class of the module that they are in front of.
KINDS = {
    "quiet": (Recording, "dispatcher"),
    "writing": (Writing, "dispatcher"),
    "asked": (Asked, "dispatcher"),
    "sometimes": (AskedSometimes, "dispatcher"),
    "sending": (Sending, "dispatcher_with_send"),
    "chatting": (Chatting, "async_chat"),
    "accepting": (Recording, "dispatcher"),
}


class World:
    """The objects of one script on one implementation, and their peers."""

    def __init__(self, asyncore, asynchat, kinds, acts, use_poll, private):
        self.asyncore, self.use_poll = asyncore, use_poll
        self.log = []
        self.map = {} if private else asyncore.socket_map
        self.objects, self.peers, self.extra = [], [], []
        for number, kind in enumerate(kinds):
            mixin, base = KINDS[kind]
            module = asynchat if base == "async_chat" else asyncore
            made = type("Made", (mixin, getattr(module, base)), {})
            self.add(made, f"{number} {kind}", kind, acts.get(number, ()))

    def add(self, made, name, kind, acts):
        if kind == "accepting":
            obj = made(None, self.map)
            obj.create_socket(socket.AF_UNIX)
            obj.bind("")  # a name that the kernel gives
            obj.listen(5)
            obj.addr = "listening"
            peer = None
        else:
            ours, peer = socket.socketpair()
            peer.setblocking(False)
            obj = made(ours, self.map)
        obj.prepare(self, name, acts)
        self.objects.append(obj)
        self.peers.append(peer)
        obj.handle_accepted = lambda sock, addr: (obj.note("accepted"), sock.close())

    def error(self):
        exc = sys.exception()
        return type(exc).__name__, str(exc)

    def do(self, what, number, value):
        number %= len(self.objects)
        getattr(self, f"do_{what}")(self.objects[number], number, value)

    # On our side

    def do_pass(self, obj, number, value):
        make = self.asyncore.poll2 if self.use_poll else self.asyncore.poll
        make(0, self.map)
        self.log.append(("map", *(each.name for each in self.map.values())))

    def do_loop(self, obj, number, value):
        self.asyncore.loop(0, self.use_poll, self.map, value)
        self.log.append(("map", *(each.name for each in self.map.values())))

    def do_close(self, obj, number, value):
        obj.close()

    def do_leave(self, obj, number, value):
        obj.del_channel()

    def do_enter(self, obj, number, value):
        if obj.socket.fileno() >= 0:
            obj.set_socket(obj.socket)

    def do_delete(self, obj, number, value):
        self.map.pop(obj.socket.fileno(), None)

    def do_insert(self, obj, number, value):
        if obj.socket.fileno() >= 0:
            obj._fileno = obj.socket.fileno()
            self.map[obj._fileno] = obj

    def do_update(self, obj, number, value):
        self.map.update({each._fileno: each for each in self.objects if each._fileno is not None})

    def do_clear(self, obj, number, value):
        self.map.clear()

    def do_wants(self, obj, number, value):
        obj.wants = (bool(value & 1), bool(value & 2))

    def do_shadow(self, obj, number, value):
        obj.writable = lambda: obj.note("own writable?") or value & 1

    def do_send(self, obj, number, value):
        if obj.socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.log.append(("sent", obj.send(b"s" * value * PIECE)))

    def do_push(self, obj, number, value):
        if hasattr(obj, "push"):
            obj.push(b"p" * value * PIECE)

    def do_produce(self, obj, number, value):
        if hasattr(obj, "push_with_producer"):
            obj.push_with_producer(Producer(value))

    def do_queue(self, obj, number, value):
        if hasattr(obj, "producer_fifo"):
            obj.producer_fifo.append(b"q" * value)
        if hasattr(obj, "out_buffer"):
            obj.out_buffer += b"q" * value

    def do_finish(self, obj, number, value):
        if hasattr(obj, "close_when_done"):
            obj.close_when_done()

    def do_terminator(self, obj, number, value):
        if hasattr(obj, "set_terminator"):
            obj.set_terminator([b"\r\n", 4, None, b"a\r\n.\r\n", 1][value])

    def do_raise(self, obj, number, value):
        raise [ValueError("no"), OSError(errno.ECONNRESET, "reset"), OSError(errno.EIO, "io"), KeyError(1)][
            value % 4
        ]

    # On the peers'

    def do_peer_sends(self, obj, number, value):
        if obj.accepting:
            self.do_peer_connects(obj, number, value)
        elif self.peers[number] is not None:
            with contextlib.suppress(OSError):
                self.peers[number].send([b"x", b"hello", b"a\r\nb", b"\r", b"\na\r\n.\r"][value])

    def do_peer_connects(self, obj, number, value):
        with contextlib.suppress(OSError):
            client = socket.socket(socket.AF_UNIX)
            self.extra.append(client)
            client.setblocking(False)
            client.connect(obj.socket.getsockname())

    def do_peer_reads(self, obj, number, value):
        if self.peers[number] is not None:
            with contextlib.suppress(OSError):
                self.log.append(("received", len(self.peers[number].recv(value * PIECE))))

    def do_peer_shuts(self, obj, number, value):
        if self.peers[number] is not None:
            with contextlib.suppress(OSError):
                self.peers[number].shutdown([socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR][value % 3])

    def do_peer_closes(self, obj, number, value):
        if self.peers[number] is not None:
            self.peers[number].close()
            self.peers[number] = None

    def close(self):
        for obj in self.objects:
            obj.close()
        self.map.clear()
        for sock in [*self.peers, *self.extra]:
            if sock is not None:
                sock.close()


def run(asyncore, asynchat, kinds, steps, acts, use_poll, private):
    """Run a script; return all that was called and returned."""
    world = World(asyncore, asynchat, kinds, acts, use_poll, private)
    try:
        for step in steps:
            try:
                world.do(*step)
            except Exception as exc:
                world.log.append(("raised", type(exc).__name__, str(exc)))
        for _ in range(3):
            world.do("pass", 0, 0)
    finally:
        world.close()
    return world.log


IN_CALLBACKS = [
    "close", "leave", "delete", "wants", "push", "produce", "queue", "finish", "terminator", "raise", "send",
    "peer_sends", "peer_closes", "shadow",
]  # fmt: skip
OUTSIDE = [
    "pass", "pass", "pass", "loop", "close", "leave", "enter", "delete", "insert", "update", "clear", "wants",
    "push", "produce", "queue", "finish", "terminator", "send", "peer_sends", "peer_sends", "peer_sends",
    "peer_reads", "peer_shuts", "peer_closes", "shadow",
]  # fmt: skip


def calls(names):
    return st.tuples(st.sampled_from(names), st.integers(0, 4), st.integers(0, 4))


kinds = st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=5)
steps = st.lists(calls(OUTSIDE), max_size=20)
acts = st.dictionaries(st.integers(0, 4), st.lists(calls(IN_CALLBACKS), max_size=4))
