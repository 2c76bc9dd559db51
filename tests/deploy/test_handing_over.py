"""The old side of a handover: what goes, what stays, and what happens to it meanwhile."""

import socket
import ssl
from contextlib import ExitStack, suppress

import pytest

from reactor import Protocol
from reactor.apps.echo import Echo
from reactor.deploy import Transfer, hand_over, take_over
from reactor.errors import HandedOver
from tests.deploy.chain import Movable, Plain, World, exchange, world


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


def test_a_plain_protocol_is_no_candidate():
    with world(Protocol, Protocol) as made:
        made.connect()
        assert made.move()[0] == Transfer(moved=0, kept=1)
