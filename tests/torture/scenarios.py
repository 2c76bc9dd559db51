"""What is played once without a fault, and then again for each fault there can be."""

from __future__ import annotations

from collections.abc import Callable
from errno import ECONNRESET

from reactor import BufferedProtocol, CloseTimeout, Connection, IdleTimeout, Limits, Timeouts
from reactor.errors import ReadTimeout, WriteTimeout
from reactor.testing import Recorder
from tests.helpers import Echo
from tests.simulation.peers import Peer
from tests.torture.stage import Stage

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Callable[[Stage], None]] = {}

BULK = bytes(range(256)) * 160
LINES = [BULK[start : start + 1000] for start in range(0, len(BULK), 1000)]


def scenario(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
    SCENARIOS[play.__name__] = play
    return play


class BufferedEcho(BufferedProtocol):
    """Receives into its own buffer, and sends back what it gets."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.buffer = bytearray(64)

    def connection_made(self, connection: Connection) -> None:
        self.names.append("connection_made")
        self.connection = connection

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.connection.write(self.buffer[:nbytes])

    def connection_lost(self, exc: BaseException | None) -> None:
        self.names.append("connection_lost")


class Greeter(Recorder):
    """Sends the peer's address, and closes."""

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.write(str(connection.get_extra_info("peername")[0]).encode())
        connection.close()


class Sender(Recorder):
    """Writes much at once."""

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.writelines(LINES)


class Writer(Sender):
    """Writes much at once, and closes when all has gone."""

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.close()


class Answerer(Recorder):
    """Answers the first bytes that come, and closes."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.connection.write(BULK[:8000])
        self.connection.close()


class Pauser(Echo):
    """Reads only while nothing much waits to be sent."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.connection.resume_reading()


class HalfCloser(Recorder):
    """Ends its direction first, and goes on reading to the end."""

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.write(b"no more from here")
        connection.write_eof()


class Patient(Recorder):
    """Answers after the peer's end of file."""

    def eof_received(self) -> bool:
        super().eof_received()
        self.connection.write(self.received.upper())
        self.connection.write_eof()
        return True


class Aborter(Recorder):
    """Resets whoever says something."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.connection.abort()


class Meddler(Recorder):
    """Resets all the others when it gets something, whatever this tick has for them."""

    def __init__(self, others: list[Recorder]) -> None:
        super().__init__()
        self.others = others

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for other in self.others:
            if other is not self and "connection_made" in other.names:
                other.connection.abort()


class Raiser(Recorder):
    """Raises in one of its callbacks."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        self.fail("connection_made")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.fail("data_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.fail("connection_lost")

    def fail(self, where: str) -> None:
        if where == self.where:
            raise ZeroDivisionError(where)


@scenario
def accept(stage: Stage) -> None:
    """Clients come in bursts, more than one tick accepts."""
    stage.make = Greeter
    stage.listen(limits=Limits(accept_batch=2))
    for burst in (1, 5, 2):
        peers = [stage.connect(half_close=False) for _ in range(burst)]
        stage.drive()
        for peer in peers:
            stage.expect(peer, b"10.0.0.1")


@scenario
def hold(stage: Stage) -> None:
    """The listener stops accepting, at its limit and when paused, and starts again."""
    stage.make = Patient
    listener = stage.listen(limits=Limits(max_connections=1))
    peers = [stage.connect(b"hello") for _ in range(3)]
    stage.drive()
    listener.pause()
    peers.append(stage.connect(b"hello"))
    stage.drive()
    assert not peers[-1].over
    listener.resume()
    stage.drive()
    for peer in peers:
        stage.expect(peer, b"HELLO")


@scenario
def echo(stage: Stage) -> None:
    """Three kinds of connection send back what they get."""
    stage.listen()
    peers = [stage.connect(b"to and fro") for _ in range(2)]
    stage.drive()
    stage.make = BufferedEcho
    peers += [stage.connect(b"to and fro"), stage.adopt(b"to and fro")[1]]
    stage.drive()
    for peer in peers:
        stage.expect(peer, b"to and fro")


@scenario
def bulk(stage: Stage) -> None:
    """Much is queued: what was written before close arrives, and echoing waits for a slow peer."""
    stage.make = Writer
    stage.listen(limits=Limits(high_water=2048, low_water=512))
    writer = stage.connect(half_close=False)
    stage.drive()
    stage.make = Pauser
    pauser = stage.connect(BULK[:20_000])
    pauser.reading = False
    stage.drive(2.0)
    pauser.reading = True
    stage.drive()
    stage.expect(writer, BULK)
    stage.expect(pauser, BULK[:20_000])


@scenario
def close(stage: Stage) -> None:
    """Either end goes first, by halves, with a reset, and in the middle of a word."""
    stage.listen()
    for make, received, error in (
        (HalfCloser, b"no more from here", None),
        (Patient, b"HELLO", None),
        (Aborter, b"", ECONNRESET),
    ):
        stage.make = make
        peer = stage.connect(b"hello")
        stage.drive()
        stage.expect(peer, received, error)
    stage.make = Echo
    vanished = stage.connect(b"hello", half_close=False)
    stage.drive(2.0)
    vanished.vanish()
    stage.drive()
    stage.expect(vanished, b"hello", ECONNRESET)


@scenario
def meddle(stage: Stage) -> None:
    """Events of a tick meet connections that were ended in it, and descriptors that were given out again."""
    stage.listen()
    stage.make = lambda: Meddler(stage.protocols)
    peers = [stage.connect(half_close=False) for _ in range(3)]
    for _ in range(3):
        stage.drive(2.0)
        for peer in peers:
            peer.outgoing += b"hello"
        peers = [stage.connect(half_close=False) for _ in range(3)]
    stage.drive()


@scenario
def broken(stage: Stage) -> None:
    """Protocols raise, and so does what makes them."""
    stage.listen()
    for where in ("connection_made", "data_received", "connection_lost"):
        stage.make = lambda where=where: Raiser(where)
        peer = stage.connect(b"hello")
        stage.drive()
        assert peer.over
    stage.make = lambda: Raiser("anywhere").fail("anywhere")
    stage.connect(b"hello")
    stage.drive()
    stage.expected = 4


@scenario
def linger(stage: Stage) -> None:
    """The server closes while the peer goes on sending: what was written arrives all the same."""
    stage.make = Answerer
    stage.listen(timeouts=Timeouts(close=5.0))
    good = stage.connect(BULK)
    stage.drive(2.0)
    if stage.undisturbed:
        assert len(stage.network.ends()) == 1, "kept after the peer's end of file"
    endless = stage.connect(BULK[:1000], half_close=False)
    endless.reading = False
    stage.drive()
    assert len(stage.network.ends()) == 1, "kept after its time was up"
    endless.reading = True
    stage.drive()
    stage.expect(good, BULK[:8000])
    stage.expect(endless, BULK[:8000])


@scenario
def refuse(stage: Stage) -> None:
    """Connections above `max_per_ip` and `max_connections` are closed at once."""
    stage.listen(limits=Limits(max_connections=2, max_per_ip=1, when_full="refuse"))
    peers = [stage.connect(b"hello", half_close=False, host=f"10.0.{net}.1") for net in (1, 1, 2, 3)]
    stage.drive(2.0)
    if stage.undisturbed:
        assert peers[1].over, "a second connection of one address was let in"
        assert peers[3].over, "a third connection was let in"
    for peer in peers:
        peer.half_close = True
    stage.drive()
    for peer in peers:
        assert peer.over


def connect_deaf(stage: Stage) -> Peer:
    """Connect a peer that does not read yet."""
    deaf = stage.connect(half_close=False)
    deaf.reading = False
    return deaf


def expect_reasons(stage: Stage, deaf: Peer, *kinds: type[Exception]) -> None:
    """Run everything; then `deaf` reads to its end. Check the reasons of the protocols' ends."""
    stage.drive()
    deaf.reading = True
    stage.drive()
    assert deaf.over
    if stage.undisturbed:
        reasons = [type(protocol.reason) for protocol in stage.protocols]
        assert reasons == list(kinds)


@scenario
def owe(stage: Stage) -> None:
    """The peer owes a message, or takes nothing of what is queued."""
    stage.listen(timeouts=Timeouts(read=10.0, write=20.0))
    silent = stage.connect(half_close=False)
    stage.drive()
    stage.expect(silent, b"")
    stage.make = Sender
    deaf = connect_deaf(stage)
    stage.drive(2.0)
    if stage.protocols[-1].names == ["connection_made"]:
        stage.protocols[-1].connection.set_timeouts(read=None)
    expect_reasons(stage, deaf, ReadTimeout, WriteTimeout)


@scenario
def timeouts(stage: Stage) -> None:
    """The peer is silent, or takes nothing of what close should send."""
    stage.listen(timeouts=Timeouts(idle=10.0, close=5.0))
    silent = stage.connect(half_close=False)
    stage.drive()
    stage.expect(silent, b"")
    stage.make = Writer
    expect_reasons(stage, connect_deaf(stage), IdleTimeout, CloseTimeout)


def open_in_all_states(stage: Stage) -> list[Peer]:
    """Leave connections open that do nothing, that have much to send, and that are half closed or closing."""
    peers = [stage.connect(b"hello", half_close=False)]
    stage.drive(2.0)
    for make in (Sender, Writer, HalfCloser):
        stage.make = make
        peers.append(stage.connect(half_close=False))
        peers[-1].reading = False
        stage.drive(2.0)
    return peers


@scenario
def reach(stage: Stage) -> None:
    """The reactor listens and connects by address and by name."""
    stage.listen()
    stage.make = Greeter
    stage.listen_at("10.0.0.9:80")
    stage.network.names["server.example"] = ["fd00::9", "10.0.0.9"]
    client = Recorder()
    stage.protocols.append(client)
    failures: list[Exception] = []
    stage.reactor.connect("server.example:80", lambda: client, on_failure=failures.append)
    stage.drive()
    assert bool(client.calls) is not bool(failures)
    if stage.undisturbed:
        assert client.received == b"10.0.0.1"
        assert client.reason is None


@scenario
def shutdown(stage: Stage) -> None:
    """The reactor is closed while connections are open and one waits to be accepted."""
    listener = stage.listen()
    open_in_all_states(stage)
    listener.pause()
    stage.connect(b"hello")
    stage.reactor.close()


@scenario
def drain(stage: Stage) -> None:
    """Accepting stops, and open connections have a moment to receive what is queued."""
    stage.listen()
    peers = open_in_all_states(stage)
    stage.reactor.drain(1.0)
    stage.drive(0.5)
    peers[1].reading = True
    stage.drive()
    stage.expect(peers[0], b"hello")
    stage.expect(peers[1], BULK)
    assert stage.reactor.connections() == []
    stage.listen()
