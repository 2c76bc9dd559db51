"""Live connections handed over to another reactor, in this process; `test_processes` has the real thing."""

import os
import socket
import ssl
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import IdleTimeout, Limits, Protocol, Reactor, ReadTimeout, Timeouts
from reactor.apps.chat import Hall
from reactor.apps.echo import Echo
from reactor.apps.lines import Upper
from reactor.deploy import Transfer, hand_over, take_over
from reactor.deploy.messages import Messages
from reactor.errors import HandedOver, UsageError
from reactor.framed import FramedProtocol
from reactor.framing import Block, LengthPrefixed, Lines
from reactor.testing import Errors, ManualClock
from tests.helpers import examples, spin

SMALL = 4096  # bytes of a socket's buffers


class Plain(Protocol):
    """A protocol that records what it receives, and why it ended."""

    def __init__(self):
        self.received = b""
        self.reason = "open"

    def connection_made(self, connection):
        self.connection = connection

    def data_received(self, data):
        self.received += data

    def connection_lost(self, exc):
        self.reason = exc


class Movable(Plain):
    """The same; it can be handed over, and what it has received is its state."""

    def hand_over(self):
        return self.received

    @classmethod
    def take_over(cls, connection, state):
        protocol = cls()
        protocol.connection_made(connection)
        protocol.received = state
        return protocol


class World:
    """A chain of reactors that listen on one port; connections go from each to the next."""

    def __init__(self, stack, factories, clock=None, limits=None, timeouts=None, tls=None):
        self.errors = [Errors() for _ in factories]
        clocks = {} if clock is None else {"clock": clock}
        self.reactors = [stack.enter_context(Reactor(on_error=e, **clocks)) for e in self.errors]
        options = [(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)]
        self.listeners = []
        for reactor, factory in zip(self.reactors, factories, strict=True):
            at = "127.0.0.1:0" if not self.listeners else self.shared()
            limited = limits.pop(0) if isinstance(limits, list) else limits
            self.listeners.append(
                reactor.listen(at, factory, limits=limited, timeouts=timeouts, tls=tls, options=options)
                if not self.listeners
                else reactor.listen(at, factory, limits=limited, timeouts=timeouts, tls=tls)
            )
        self.stack = stack
        self.transfers = []

    def shared(self):
        return socket.socket(fileno=os.dup(self.listeners[0]._sockets[0].fileno()))

    def connect(self, count=1):
        """Return plain clients that the first reactor has accepted."""
        address = self.listeners[0].addresses[0]
        clients = []
        for _ in range(count):
            client = self.stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            client.connect((address.host, address.port))
            client.setblocking(False)
            clients.append(client)
        before = self.listeners[0].connections
        spin(self.reactors[0], lambda: self.listeners[0].connections == before + count)
        return clients

    def channel(self):
        return map(self.stack.enter_context, socket.socketpair())

    def begin(self, at=0, timeout=10.0):
        """Begin a handover from one reactor to the next."""
        ours, theirs = self.channel()
        self.transfers = []
        return (
            hand_over(self.reactors[at], ours, timeout=timeout, on_done=self.transfers.append),
            take_over(self.reactors[at + 1], theirs, timeout=timeout, on_done=self.transfers.append),
        )

    def turn(self):
        for reactor in self.reactors:
            reactor.run_once(0)

    def until(self, what):
        def passed():
            for reactor in self.reactors[1:]:
                reactor.run_once(0)
            return what()

        spin(self.reactors[0], passed, wait=0.002)

    def move(self, at=0, timeout=10.0):
        """Hand everything over, and return the two reports."""
        self.begin(at, timeout)
        self.until(lambda: len(self.transfers) == 2)
        self.turn()
        return self.transfers

    def by_peer(self, at):
        return {found.get_extra_info("peername"): found for found in self.reactors[at].connections()}

    def only(self, at):
        (connection,) = self.reactors[at].connections()
        return connection


@contextmanager
def world(*factories, **options):
    with ExitStack() as stack:
        made = World(stack, factories, **options)
        yield made
        assert [errors.seen for errors in made.errors] == [[] for _ in factories]


def read(client, limit=1 << 20):
    try:
        return client.recv(limit)
    except BlockingIOError:
        return b""


def send(client, data):
    try:
        return client.send(data) if data else 0
    except BlockingIOError:
        return 0


def exchange(made, client, data, size):
    """Send data, and return the first bytes of the answer."""
    answer = bytearray()

    def done():
        nonlocal data
        data = data[send(client, data) :]
        answer.extend(read(client))
        return not data and len(answer) >= size

    made.until(done)
    return bytes(answer)


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


@pytest.mark.parametrize(
    ("name", "here", "there"),
    [
        (b"guest1", b"", b"* guest1 is taken: you are guest2\r\n"),  # it was given, not chosen
        (b"Ann", b"* Ann is taken: you are guest2\r\n", b""),
    ],
)
def test_a_name_that_is_taken_there_is_replaced(name, here, there):
    halls = Hall(), Hall()
    with world(*halls) as made:
        (client,) = made.connect()
        address = made.listeners[1].addresses[0]
        made.listeners[0].pause()
        other = made.stack.enter_context(socket.create_connection((address.host, address.port)))
        for member in (client, other):
            member.setblocking(False)
            member.send(b"/nick %b\r\n" % name)
        made.until(lambda: all(name.decode().casefold() in hall.names for hall in halls))
        made.turn()
        made.turn()
        read(client), read(other)
        made.move()
        assert set(halls[1].names) == {name.decode().casefold(), "guest2"}
        made.turn()
        assert (read(client), read(other)) == (here, there)


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


def test_own_timeouts_and_marks_go_over_and_others_are_the_new_listeners():
    with world(Movable, Movable, limits=[Limits(high_water=20_000), Limits(high_water=70_000)]) as made:
        made.connect(2)
        mine, other = made.reactors[0].connections()
        mine.set_timeouts(idle=12.0, close=float("inf"))
        mine.set_write_buffer_limits(high=90, low=30)
        made.move()
        mine, other = made.reactors[1].connections()
        assert (mine.get_timeouts().idle, mine.get_timeouts().close) == (12.0, float("inf"))
        assert (mine.get_write_buffer_limits(), other.get_write_buffer_limits()) == (
            (30, 90),
            (16_384, 70_000),
        )
        assert other.get_timeouts() == Timeouts()


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


def test_what_is_written_during_the_transfer_arrives():
    with world(Movable, Movable) as made:
        (client,) = made.connect()
        connection = made.only(0)
        made.begin()
        pieces = []
        while connection.write(b"%d," % len(pieces)):
            pieces.append(b"%d," % len(pieces))
            made.turn()
        assert len(pieces) >= 2
        sent = b"".join(pieces)
        assert exchange(made, client, b"", len(sent)) == sent
        made.until(lambda: len(made.transfers) == 2)
        assert made.transfers[0].moved == 1


def test_a_connection_that_is_closed_or_reset_during_the_transfer_stays():
    with world(Movable, Movable) as made:
        clients = made.connect(3)
        by_peer = made.by_peer(0)
        closed, lost, other = (by_peer[client.getsockname()].get_protocol() for client in clients)
        made.begin()
        made.reactors[0].run_once(0)
        made.reactors[0].run_once(0)
        closed.connection.write(b"bye")
        closed.connection.close()
        lost.connection.abort()
        made.until(lambda: len(made.transfers) == 2)
        made.turn()
        assert [transfer.moved for transfer in made.transfers] == [1, 1]
        assert isinstance(other.reason, HandedOver)
        clients[0].setblocking(True)
        assert clients[0].recv(10) + clients[0].recv(10) == b"bye"
        with pytest.raises(ConnectionResetError):
            clients[1].recv(10)
        clients[0].close()
        made.until(lambda: closed.reason is None)


def test_connections_that_cannot_go_stay(certificates):
    class Mixed:
        made = 0

        def __call__(self):
            self.made += 1
            return Movable() if self.made % 2 else Plain()

        take_over = Movable.take_over

    with world(Mixed(), Mixed()) as made:
        clients = made.connect(4)
        assert made.move() == [Transfer(moved=2, kept=2), Transfer(moved=2, kept=0)]
        assert [listener.connections for listener in made.listeners] == [2, 2]
        for client in clients:
            client.send(b"x")
        everybody = [c.get_protocol() for reactor in made.reactors for c in reactor.connections()]
        made.until(lambda: all(protocol.received == b"x" for protocol in everybody))


def test_connections_that_the_program_has_made_are_not_counted():
    with world(Movable, Movable) as made, socket.create_server(("127.0.0.1", 0)) as elsewhere:
        made.connect(2)
        own = Plain()
        connecting = made.reactors[0].connect(elsewhere.getsockname(), lambda: own)
        made.until(lambda: len(made.reactors[0].connections()) == 3)
        assert made.move()[0] == Transfer(moved=2, kept=0)
        connecting.cancel()


def test_connections_over_tls_stay(certificates):
    with world(Movable, Movable, tls=certificates.server()) as made:
        (client,) = made.connect()
        secured = certificates.client().wrap_socket(
            client, server_hostname="localhost", do_handshake_on_connect=False
        )

        def shaken():
            with suppress(ssl.SSLWantReadError):
                secured.do_handshake()
                return True

        made.until(shaken)
        made.until(lambda: isinstance(made.only(0).get_protocol(), Movable))
        assert made.move()[0] == Transfer(moved=0, kept=1)
        secured.send(b"x")
        made.until(lambda: made.only(0).get_protocol().received == b"x")
        secured.close()


def test_a_file_that_is_queued_stays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"f" * 500_000)
    with world(Movable, Movable) as made:
        (client,) = made.connect()
        made.only(0).sendfile(path.open("rb"))
        assert made.move()[0] == Transfer(moved=0, kept=1)
        assert exchange(made, client, b"", 500_000) == b"f" * 500_000
        assert made.move()[0] == Transfer(moved=1, kept=0)


def test_a_listener_that_is_not_there_refuses(caplog):
    with world(Movable, Movable) as made:
        (client,) = made.connect()
        made.listeners[1].close()
        made.reactors[1].listen("127.0.0.1:0", Movable)
        first, second = made.move()
        assert (first, second) == (Transfer(moved=0, kept=1), Transfer(moved=0, kept=1))
        assert "nothing listens on 127.0.0.1" in caplog.text
        client.send(b"here")
        protocol = made.only(0).get_protocol()
        made.until(lambda: protocol.received == b"here")


def test_a_factory_without_take_over_refuses(caplog):
    with world(Movable, Plain) as made:
        made.connect()
        assert made.move()[0] == Transfer(moved=0, kept=1)
        assert "has no take_over" in caplog.text


def test_limits_that_do_not_fit_are_refused(caplog):
    limits = [Limits(), Limits(high_water=10, low_water=5, max_write_buffer=1000)]
    with world(Movable, Movable, limits=limits) as made:
        made.connect()
        made.only(0).set_write_buffer_limits(high=5000)
        assert made.move()[0] == Transfer(moved=0, kept=1)
        assert "must not be above max_write_buffer" in caplog.text


def test_hand_over_may_say_not_now_and_may_raise():
    class Busy(Movable):
        def hand_over(self):
            if self.received != b"busy":
                raise RuntimeError("no state")

    with ExitStack() as stack:
        made = World(stack, [Busy, Busy])
        clients = made.connect(2)
        clients[0].send(b"busy")
        made.until(lambda: any(c.get_protocol().received for c in made.reactors[0].connections()))
        assert made.move()[0] == Transfer(moved=0, kept=2)
        assert [str(exc) for exc, *_ in made.errors[0].seen] == ["no state"]


def test_take_over_that_raises_resets_its_connection_alone():
    class Picky(Movable):
        @classmethod
        def take_over(cls, connection, state):
            if state == b"bad":
                raise ValueError("a state of another version")
            return super().take_over(connection, state)

    with ExitStack() as stack:
        made = World(stack, [Picky, Picky])
        bad, good = made.connect(2)
        bad.send(b"bad")
        made.until(lambda: any(c.get_protocol().received for c in made.reactors[0].connections()))
        assert made.move()[1] == Transfer(moved=2, kept=0)
        assert [str(exc) for exc, *_ in made.errors[1].seen] == ["a state of another version"]
        bad.setblocking(True)
        with pytest.raises(ConnectionResetError):
            bad.recv(10)
        good.send(b"x")
        made.until(lambda: made.only(1).get_protocol().received == b"x")


def test_a_new_listener_counts_and_limits_what_it_takes_over():
    limits = Limits(max_connections=2, max_per_ip=2)
    with world(Movable, Movable, limits=limits) as made:
        clients = made.connect(2)
        made.move()
        late = made.stack.enter_context(socket.create_connection(clients[0].getpeername()))
        made.turn()
        assert [listener.connections for listener in made.listeners] == [0, 2]
        for client in clients:
            client.close()
        late.send(b"x")
        made.until(lambda: made.listeners[1].connections == 1)
        made.until(lambda: made.only(1).get_protocol().received == b"x")


def test_an_old_listener_that_drains_afterwards_is_done():
    reports = []
    with world(Movable, Movable) as made:
        made.connect(3)
        made.begin()
        made.listeners[0].drain(on_done=reports.append)
        made.until(lambda: len(made.transfers) == 2 and reports)
        assert (reports[0].aborted, reports[0].failed) == (0, 0)
        moved = made.transfers[0].moved
        assert moved + reports[0].idle == 3


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


def test_time_is_up_while_the_new_process_does_nothing():
    with world(Echo, Echo) as made:
        (client,) = made.connect()
        ours, theirs = made.channel()
        reports = []
        hand_over(made.reactors[0], ours, timeout=0.05, on_done=reports.append)
        made.until(lambda: reports)
        assert (reports[0].moved, reports[0].kept) == (0, 1)
        assert str(reports[0]) == "0 handed over, 1 kept: not done within 0.05 s"
        assert exchange(made, client, b"x", 1) == b"x"
        take_over(made.reactors[1], theirs, on_done=reports.append)
        made.until(lambda: len(reports) == 2)
        assert "the old process says: not done within 0.05 s" in str(reports[1])
        late = made.stack.enter_context(socket.create_connection(client.getpeername()))
        late.setblocking(False)
        assert exchange(made, late, b"y", 1) == b"y"


def test_time_is_up_while_the_old_process_does_nothing():
    with world(Echo, Echo) as made:
        ours, theirs = made.channel()
        reports = []
        take_over(made.reactors[1], theirs, timeout=0.05, on_done=reports.append)
        made.until(lambda: reports)
        assert "not done within 0.05 s" in str(reports[0])
        assert Echo not in map(type, made.reactors[1].connections())
        ours.close()


def test_another_version_is_refused():
    with world(Echo, Echo) as made:
        ours, theirs = made.channel()
        reports = []
        calls = dict.fromkeys(["on_message", "on_end", "on_clear", "on_interrupt"], lambda *_: None)
        messages = Messages(made.reactors[0], ours, **calls)
        messages.begin()
        take_over(made.reactors[1], theirs, on_done=reports.append)
        messages.send({"kind": "begin", "version": 99}, descriptor=ours.fileno())
        made.until(lambda: reports)
        assert "its messages are of version 99, and these of 1" in str(reports[0])
        messages.close()


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


def test_a_plain_protocol_is_no_candidate():
    with world(Protocol, Protocol) as made:
        made.connect()
        assert made.move()[0] == Transfer(moved=0, kept=1)
