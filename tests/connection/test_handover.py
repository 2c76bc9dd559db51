"""A connection that is frozen, and revived on another descriptor of its socket."""

import socket
from contextlib import contextmanager, suppress
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Reactor, Timeouts, WriteTimeout
from reactor.connection.handover import (
    can_hand_over,
    freeze,
    leave,
    make_protocol_of,
    revive,
    socket_of,
    take_snapshot,
    thaw,
    written_since,
)
from reactor.errors import HandedOver
from reactor.listening.listener import settings_of
from reactor.testing import Errors, ManualClock, ScriptedSocket
from tests.deploy.chain import Movable
from tests.helpers import examples, pair, settle, spin


@contextmanager
def two_reactors(**options):
    clock, errors = ManualClock(), Errors()
    with Reactor(clock=clock) as old, Reactor(clock=clock, on_error=errors) as new:
        listener = new.listen("127.0.0.1:0", Movable, **options)
        yield old, new, settings_of(listener), clock
        assert errors.seen == []


def moved(connection, settings, sock=None, factory=Movable):
    """Move a connection, and return the new one, frozen, with its snapshot."""
    frozen = freeze(connection)
    snapshot = take_snapshot(frozen, settings)
    sock = socket_of(connection).dup() if sock is None else sock
    sock.setblocking(False)
    revived = revive(type(connection), settings, sock, snapshot)
    leave(connection)
    make_protocol_of(revived, snapshot, factory)
    return revived, snapshot


def test_a_frozen_connection_neither_receives_nor_sends_and_keeps_what_is_written():
    with Reactor() as reactor:
        protocol = Movable()
        connection, peer = pair(reactor, protocol)
        reactor.call_soon(connection.write, b"gathered ")
        reactor.call_soon(freeze, connection)
        reactor.run_once(0)
        assert not can_hand_over(connection)
        connection.write(b"queued")
        peer.send(b"unread")
        settle(reactor)
        assert (protocol.received, connection.get_write_buffer_size()) == (b"", 15)
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        assert not connection.wants_input()
        thaw(connection)
        settle(reactor)
        assert (protocol.received, peer.recv(100)) == (b"unread", b"gathered queued")
        assert can_hand_over(connection)
        peer.close()


def test_no_deadline_passes_while_it_is_frozen():
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        protocol = Movable()
        timeouts = Timeouts(idle=5.0, read=5.0, write=5.0)
        connection, peer = pair(reactor, protocol, timeouts=timeouts)
        connection.write(bytes(1 << 22))
        freeze(connection)
        clock.advance(60)
        settle(reactor)
        assert protocol.reason == "open"
        thaw(connection)
        clock.advance(4)
        settle(reactor)
        assert protocol.reason == "open"
        clock.advance(60)
        settle(reactor)
        assert protocol.reason != "open"
        peer.close()


def test_the_write_deadline_goes_on():
    with two_reactors() as (old, new, settings, clock):
        connection, peer = pair(old, Movable())
        ours, theirs = socket.socketpair()
        stuck = ScriptedSocket(ours, send=repeat(BlockingIOError), sendmsg=repeat(BlockingIOError))
        connection.set_timeouts(write=10.0)
        connection.write(bytes(1 << 22))
        clock.advance(6)
        revived, snapshot = moved(connection, settings, stuck)
        assert snapshot.stuck == 6
        assert len(snapshot.output) == revived.get_write_buffer_size()
        clock.advance(100)  # until the other process has it
        new.run_once(0)
        thaw(revived, snapshot)
        clock.advance(3)
        settle(new)
        assert revived.get_protocol().reason == "open"
        protocol = revived.get_protocol()
        clock.advance(2)
        settle(new)
        assert isinstance(protocol.reason, WriteTimeout)
        peer.close()
        theirs.close()


def test_write_rate_holds_it_back_there_too():
    with two_reactors(limits=Limits(write_rate=1000)) as (old, new, settings, clock):
        connection, peer = pair(old, Movable(), limits=Limits(write_rate=1000))
        connection.write(b"x" * 3000)
        assert len(peer.recv(5000)) == 1000
        revived, snapshot = moved(connection, settings)
        clock.advance(1)
        settle(old)  # the timer of the rate finds nothing to send
        with pytest.raises(BlockingIOError):
            peer.recv(5000)
        thaw(revived, snapshot)
        assert len(peer.recv(5000)) == 1000
        settle(new)
        with pytest.raises(BlockingIOError):
            peer.recv(5000)
        clock.advance(1)
        settle(new)
        assert len(peer.recv(5000)) == 1000
        peer.close()


def test_a_protocol_that_was_paused_is_paused_there_until_the_queue_is_sent():
    class Paused(Movable):
        calls = ""

        def pause_writing(self):
            self.calls += "pause "

        def resume_writing(self):
            self.calls += "resume "

    with two_reactors() as (old, new, settings, _):
        connection, peer = pair(old, Paused())
        connection.write(bytes(1 << 22))
        revived, snapshot = moved(connection, settings, factory=Paused)
        protocol = revived.get_protocol()
        assert (protocol.calls, revived.is_paused()) == ("pause ", True)
        thaw(revived, snapshot)
        left = 1 << 22
        while left:
            left -= len(peer.recv(1 << 20))
            new.run_once(0)
        assert protocol.calls == "pause resume "
        peer.close()


def test_take_over_may_write_and_close():
    class Brief(Movable):
        @classmethod
        def take_over(cls, connection, state):
            connection.write(b"bye")
            connection.close()
            return super().take_over(connection, state)

    with two_reactors() as (old, new, settings, _):
        connection, peer = pair(old, Movable())
        revived, snapshot = moved(connection, settings, factory=Brief)
        with pytest.raises(BlockingIOError):
            peer.recv(10)
        protocol = revived.get_protocol()
        thaw(revived, snapshot)
        assert (peer.recv(10), peer.recv(10)) == (b"bye", b"")
        peer.close()
        spin(new, lambda: protocol.reason is None)


def test_take_over_may_change_the_water_marks():
    class Roomy(Movable):
        calls = 0

        def pause_writing(self):
            self.calls += 1

        @classmethod
        def take_over(cls, connection, state):
            connection.set_write_buffer_limits(high=1 << 25)
            connection.write(b"end")
            return super().take_over(connection, state)

    with two_reactors() as (old, new, settings, _):
        connection, peer = pair(old, Movable())
        connection.write(bytes(1 << 22))
        revived, snapshot = moved(connection, settings, factory=Roomy)
        assert (snapshot.write_paused, revived.is_paused(), revived.get_protocol().calls) == (True, False, 0)
        thaw(revived, snapshot)
        received = bytearray()
        while not received.endswith(b"end"):
            received += peer.recv(1 << 20)
            new.run_once(0)
        assert len(received) == (1 << 22) + 3
        peer.close()


def test_leave_calls_connection_lost_and_the_new_connection_goes_on():
    with two_reactors() as (old, new, settings, _):
        before = Movable()
        connection, peer = pair(old, before)
        revived, snapshot = moved(connection, settings)
        old.run_once(0)
        assert isinstance(before.reason, HandedOver)
        assert connection.write(b"lost") is False
        thaw(revived, snapshot)
        peer.send(b"x")
        settle(new)
        assert revived.get_protocol().received == b"x"
        peer.close()


def test_what_was_written_since_the_snapshot():
    with two_reactors() as (old, _, settings, _):
        connection, peer = pair(old, Movable())
        frozen = freeze(connection)
        connection.write(b"before")
        snapshot = take_snapshot(frozen, settings)
        connection.write(b"after")
        assert (snapshot.output, written_since(frozen, len(snapshot.output))) == (b"before", b"after")
        connection.close()
        assert written_since(frozen, 6) is None
        assert take_snapshot(frozen, settings) is None
        peer.close()


def test_a_state_that_is_not_bytes_is_reported():
    class Wrong(Movable):
        def hand_over(self):
            return "text"

    errors = Errors()
    with Reactor(on_error=errors) as old, two_reactors() as (_, _, settings, _):
        connection, peer = pair(old, Wrong())
        assert take_snapshot(freeze(connection), settings) is None
        exc, callback, where = errors.seen[0]
        assert (str(exc), where) == ("hand_over must return bytes or None, not str", connection)
        assert callback.endswith("Wrong.hand_over")
        peer.close()


def test_a_take_over_that_returns_no_protocol_is_reported():
    class Wrong(Movable):
        @classmethod
        def take_over(cls, connection, state):
            return None

    errors = Errors()
    with Reactor() as old, Reactor(on_error=errors) as new:
        settings = settings_of(new.listen("127.0.0.1:0", Wrong))
        connection, peer = pair(old, Movable())
        moved(connection, settings, factory=Wrong)
        assert "take_over returned None" in str(errors.seen[0][0])
        new.run_once(0)
        assert new.connections() == []
        peer.close()


@examples(40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.sampled_from(["read_rate", "write_rate"]))
def test_rates_hold_through_any_number_of_handovers(tenths, rate):
    limits = Limits(**{rate: 1000})
    with two_reactors(limits=limits) as (first, second, settings, clock):
        connection, peer = pair(first, Movable(), limits=limits)
        both = {first: settings_of(first.listen("127.0.0.1:0", Movable, limits=limits)), second: settings}
        reactors, passed, start = [first, second], 0, clock()
        (peer.send if rate == "read_rate" else connection.write)(bytes(20_000))
        for tenth in tenths:
            for reactor in reactors:
                settle(reactor)
            revived, snapshot = moved(connection, both[reactors[1]])
            thaw(revived, snapshot)
            connection = revived
            reactors.reverse()
            clock.advance(tenth / 10)
            settle(reactors[0])
            with suppress(BlockingIOError):
                passed += len(peer.recv(1 << 20))
            since = clock() - start
            total = passed if rate == "write_rate" else len(connection.get_protocol().received)
            assert 1000 * since - 200 <= total <= 1000 * (since + 1)
        peer.close()


def test_a_rate_that_is_lower_there_is_not_exceeded():
    with two_reactors(limits=Limits(write_rate=100)) as (old, _, settings, clock):
        connection, peer = pair(old, Movable(), limits=Limits(write_rate=10_000))
        connection.write(bytes(1000))
        connection.write(bytes(20_000))
        assert len(peer.recv(1 << 20)) == 10_000
        clock.advance(1)
        revived, snapshot = moved(connection, settings)
        assert snapshot.write_tokens == 10_000
        thaw(revived, snapshot)
        assert len(peer.recv(1 << 20)) == 100
        peer.close()
