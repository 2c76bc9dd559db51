"""The new side of a handover: what it takes over, and what it refuses."""

import socket
from contextlib import ExitStack

import pytest

from reactor import Limits, Timeouts
from reactor.apps.chat import Hall
from reactor.apps.echo import Echo
from reactor.deploy import Transfer, take_over
from reactor.deploy.messages import Messages
from tests.deploy.chain import Movable, Plain, World, read, world


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
