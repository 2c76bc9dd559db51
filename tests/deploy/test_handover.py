"""Live connections handed over to another reactor here; `test_handover_processes` has the real thing."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import IdleTimeout, Limits, Reactor, ReadTimeout, Timeouts
from reactor.apps.chat import Hall
from reactor.apps.echo import Echo
from reactor.apps.lines import Upper
from reactor.deploy import Transfer, hand_over, take_over
from reactor.errors import HandedOver, UsageError
from reactor.framed import FramedProtocol
from reactor.framing import Block, LengthPrefixed, Lines
from reactor.testing import ManualClock
from tests.deploy.chain import Movable, exchange, read, send, world
from tests.helpers import examples, spin

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 20_000)),
        st.tuples(st.just("read"), st.integers(1, 20_000)),
        st.tuples(st.sampled_from(["turn", "move"]), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("factory", [Echo, Upper])
@examples(60)
@given(steps=STEPS)
def test_every_byte_goes_through_once_and_in_order(factory, steps):
    marks = Limits(high_water=3000, low_water=1000)
    with world(*[factory] * 4, limits=marks) as made:
        (client,) = made.connect()
        line = b"".join(b"%d\n" % number for number in range(4000))
        sent, received, moved, under_way = 0, bytearray(), 0, False
        for step, size in steps:
            if step == "send":
                sent += send(client, line[sent : sent + size])
            elif step == "read":
                received += read(client, size)
            elif step == "move" and moved < 3 and not under_way:
                made.begin(moved)
                under_way = True
            else:
                made.turn()
            if under_way and len(made.transfers) == 2:
                moved, under_way = moved + 1, False
        end = line.rfind(b"\n", 0, sent) + 1 if factory is Upper else sent
        made.until(lambda: received.extend(read(client)) or len(received) == end)
        assert received == line[:end]
        made.until(lambda: not under_way or len(made.transfers) == 2)
        owner = moved + under_way
        assert [listener.connections for listener in made.listeners] == [at == owner for at in range(4)]
        assert [reactor.stats().open for reactor in made.reactors] == [at == owner for at in range(4)]


def test_the_state_of_the_protocol_goes_over():
    with world(Movable, Movable) as made:
        (client,) = made.connect()
        client.send(b"before")
        old = made.only(0).get_protocol()
        made.until(lambda: old.received == b"before")
        reports = made.move()
        assert reports == [Transfer(moved=1, kept=0)] * 2
        assert isinstance(old.reason, HandedOver)
        client.send(b" after")
        new = made.only(1).get_protocol()
        made.until(lambda: new.received == b"before after")
        assert made.only(1).listener is made.listeners[1]
        assert made.only(1).get_extra_info("peername") == client.getsockname()
        first, second = (reactor.stats() for reactor in made.reactors)
        assert (first.open, first.accepted, first.closed) == (0, 1, {"HandedOver": 1})
        assert (second.open, second.accepted, second.taken_over, second.closed) == (1, 0, 1, {})
        client.close()
        made.until(lambda: not made.reactors[1].connections())
        assert made.reactors[1].stats().closed == {"clean": 1}


def test_connections_of_a_unix_socket_and_of_a_listener_that_is_closed(tmp_path):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.listen()
    reports = []
    with Reactor() as old, Reactor() as new, socket.socket(socket.AF_UNIX) as client:
        before, after = old.listen(listening.dup(), Movable), new.listen(listening, Movable)
        client.connect(str(tmp_path / "socket"))
        after.pause()
        spin(old, lambda: before.connections)
        before.close()
        ours, theirs = socket.socketpair()
        hand_over(old, ours, on_done=reports.append)
        take_over(new, theirs, [after], on_done=reports.append)
        spin(old, lambda: [new.run_once(0), len(reports)][1] == 2, wait=0.002)
        assert reports == [Transfer(moved=1, kept=0)] * 2
        client.send(b"x")
        (connection,) = new.connections()
        spin(new, lambda: connection.get_protocol().received == b"x")
        assert connection.get_extra_info("peername") is None


def test_chat_keeps_names_and_rooms():
    halls = Hall(), Hall()
    with world(*halls) as made:
        clients = made.connect(6)
        for number, client in enumerate(clients):
            client.send(b"/nick n%d\r\n/join room%d\r\nhel" % (number, number % 2))
        made.until(lambda: len(halls[0].rooms.get("room1", ())) == 3 and "lobby" not in halls[0].rooms)
        before = sorted((m.name, m.room) for m in halls[0].names.values())
        made.turn()
        for client in clients:
            read(client)
        made.begin()
        clients[0].send(b"lo\r\n")  # meanwhile
        made.until(lambda: len(made.transfers) == 2)
        made.turn()
        assert (halls[0].names, halls[0].rooms) == ({}, {})
        assert sorted((m.name, m.room) for m in halls[1].names.values()) == before
        heard = dict.fromkeys(clients, b"")
        made.until(
            lambda: (
                [heard.update({c: heard[c] + read(c)}) for c in clients]
                and all(heard[client] for client in clients[::2])
            )
        )
        assert list(heard.values()) == [b"n0: hello\r\n", b""] * 3


class Counting(FramedProtocol):
    """Answers each frame with its number, two in a tick."""

    frames_per_tick = 2
    framers = staticmethod(Lines)

    def __init__(self, number=0):
        super().__init__(self.framers())
        self.number = number

    def frame_received(self, frame):
        self.number += 1
        self.send(b"%d %b" % (self.number, frame))

    def hand_over(self):
        return b"%d" % self.number

    @classmethod
    def take_over(cls, connection, state):
        protocol = cls(int(state))
        protocol.connection_made(connection)
        return protocol


class Prefixed(Counting):
    framers = staticmethod(lambda: LengthPrefixed(2))


@pytest.mark.parametrize("factory", [Counting, Prefixed])
@examples(40)
@given(
    cuts=st.lists(st.integers(0, 400), max_size=6), turns=st.lists(st.integers(0, 5), min_size=8, max_size=8)
)
def test_partial_and_waiting_frames_go_over(factory, cuts, turns):
    encoder = factory.framers()
    data = b"".join(encoder.encode(b"frame %d" % number) for number in range(40))
    with world(*[factory] * 4, limits=Limits(high_water=100, low_water=10)) as made:
        (client,) = made.connect()
        moved, at = 0, 0
        for cut, turned in zip([*sorted(cuts), len(data)], turns, strict=False):
            client.send(data[at : min(cut, len(data))])
            at = max(at, min(cut, len(data)))
            for _ in range(turned):
                made.turn()
            if moved < 3:
                made.move(moved)
                moved += 1
        expected = b"".join(encoder.encode(b"%d frame %d" % (n + 1, n)) for n in range(40))
        assert exchange(made, client, data[at:], len(expected)) == expected


class Store(FramedProtocol):
    """A line with a length, then a block of that length, which it answers."""

    framer_changes = True

    def __init__(self, size=None):
        super().__init__(Lines() if size is None else Block(size))
        self.size = size

    def frame_received(self, frame):
        if self.size is None:
            self.size = int(frame)
            self.set_framer(Block(self.size))
        else:
            self.connection.write(frame)
            self.size = None
            self.set_framer(Lines())

    def hand_over(self):
        return b"" if self.size is None else b"%d" % self.size

    @classmethod
    def take_over(cls, connection, state):
        protocol = cls(int(state) if state else None)
        protocol.connection_made(connection)
        return protocol


@pytest.mark.parametrize("cut", range(15))
def test_a_framer_that_changes_goes_over(cut):
    data = b"5\nhello6\nworld!0\n"
    with world(Store, Store) as made:
        (client,) = made.connect()
        client.send(data[:cut])
        for _ in range(3):
            made.turn()
        made.move()
        assert exchange(made, client, data[cut:], 11) == b"helloworld!"


@pytest.mark.parametrize(
    ("timeouts", "error"), [(Timeouts(idle=10.0), IdleTimeout), (Timeouts(read=10.0), ReadTimeout)]
)
def test_deadlines_go_on(timeouts, error):
    clock = ManualClock()
    with world(Movable, Movable, clock=clock, timeouts=timeouts) as made:
        made.connect()
        clock.advance(6)
        made.turn()
        made.move()
        new = made.only(1).get_protocol()
        clock.advance(3)
        made.turn()
        assert new.reason == "open"
        clock.advance(2)
        made.until(lambda: new.reason != "open")
        assert isinstance(new.reason, error)


def test_a_half_closed_connection_goes_on():
    class Late(Movable):
        def eof_received(self):
            return True

    with world(Late, Late) as made:
        first, second = made.connect(2)
        first.shutdown(socket.SHUT_WR)
        by_peer = made.by_peer(0)
        by_peer[second.getsockname()].write_eof()
        made.until(lambda: not by_peer[first.getsockname()].is_reading())
        made.move()
        by_peer = made.by_peer(1)
        by_peer[first.getsockname()].write(b"answer")
        assert exchange(made, first, b"", 6) == b"answer"
        second.send(b"more")
        ours = by_peer[second.getsockname()].get_protocol()
        made.until(lambda: ours.received == b"more")
        second.setblocking(True)
        assert second.recv(10) == b""
        second.close()
        made.until(lambda: ours.reason is None)


def test_end_of_file_behind_a_queue_goes_over():
    with world(Movable, Movable) as made:
        (client,) = made.connect()
        connection = made.only(0)
        connection.write(b"x" * 500_000)
        connection.write_eof()
        made.move()
        received = bytearray()
        made.until(lambda: received.extend(read(client)) or len(received) == 500_000)
        made.turn()
        client.setblocking(True)
        assert client.recv(10) == b""


# Failures: the old reactor goes on with everything, or the new one has it


class Breaking:
    """A socket that breaks, with what was sent until then, at a certain call of one of the two sides."""

    def __init__(self, sock, at):
        self.sock = sock
        self.left = at

    def __getattr__(self, name):
        if name in {"send", "sendmsg", "recvmsg"}:
            self.left -= 1
            if self.left == 0:
                self.sock.shutdown(socket.SHUT_RDWR)
        return getattr(self.sock, name)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("at", range(1, 16))
def test_one_of_them_serves_wherever_the_channel_breaks(side, at):
    with world(Echo, Echo) as made:
        clients = made.connect(3)
        for client in clients:
            client.send(b"before ")
        made.turn()
        ends = list(made.channel())
        ends[side] = Breaking(ends[side], at)
        reports = []
        hand_over(made.reactors[0], ends[0], on_done=reports.append)
        take_over(made.reactors[1], ends[1], on_done=reports.append)
        made.until(lambda: len(reports) == 2)
        counts = [listener.connections for listener in made.listeners]
        assert sorted(counts) == [0, 3]
        for client in clients:
            assert exchange(made, client, b"after", 12) == b"before after"


def test_cancel_and_close():
    with world(Echo, Echo) as made:
        (client,) = made.connect()
        old, new = made.begin()
        made.reactors[0].run_once(0)
        made.reactors[0].run_once(0)
        old.cancel()
        made.until(new.is_done)
        assert old.is_done()
        assert [str(transfer.error) for transfer in made.transfers] == [
            "[Errno 125] the handover was cancelled",
            "[Errno 103] the old process says: the handover was cancelled",
        ]
        assert exchange(made, client, b"x", 1) == b"x"
        made.begin()
        made.reactors[1].close()
        assert made.transfers[0].error is not None
        spin(made.reactors[0], lambda: len(made.transfers) == 2)
        assert made.listeners[0].connections == 1


@pytest.mark.parametrize("which", [hand_over, take_over])
def test_wrong_arguments(which):
    ours, theirs = socket.socketpair()
    with ours, theirs, Reactor() as reactor:
        with pytest.raises(ValueError, match="timeout"):
            which(reactor, ours, timeout=-1)
        with pytest.raises(TypeError, match="on_done"):
            which(reactor, ours, on_done=3)
        with socket.socket() as unfit, pytest.raises(UsageError, match="a Unix stream socket"):
            which(reactor, unfit)
