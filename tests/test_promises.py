"""`connection_lost` exactly once after `connection_made`, whatever the order of what both sides do."""

import contextlib
import socket
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Reactor, Timeouts, UsageError
from reactor.testing import Errors, ManualClock, Recorder
from tests.conftest import SELECTORS
from tests.helpers import examples

OURS = {
    "write": lambda connection: connection.write(b"x" * 100),
    "write much": lambda connection: connection.write(bytes(300_000)),
    "write_eof": lambda connection: connection.can_write_eof() and connection.write_eof(),
    "close": lambda connection: connection.close(),
    "close late": lambda connection: connection.close(0.5),
    "abort": lambda connection: connection.abort(),
    "pause": lambda connection: connection.pause_reading(),
    "resume": lambda connection: connection.resume_reading(),
    "time out": lambda connection: connection.set_timeouts(read=0.1),
}


class Acting(Recorder):
    """Does the next of `acts` in each of its callbacks but the last."""

    def __init__(self, acts, keep_open):
        super().__init__()
        self.acts, self.keep_open = iter(acts), keep_open

    def act(self):
        what = next(self.acts, None)
        if what == "raise":
            raise LookupError("asked to")
        if what is not None:
            OURS[what](self.connection)

    def connection_made(self, connection):
        super().connection_made(connection)
        self.act()

    def data_received(self, data):
        super().data_received(data)
        self.act()

    def eof_received(self):
        super().eof_received()
        self.act()
        return self.keep_open

    def pause_writing(self):
        super().pause_writing()
        self.act()

    def resume_writing(self):
        super().resume_writing()
        self.act()


class Peer:
    """The peer, whose every step is an act; `context` is None in clear."""

    def __init__(self, sock, context):
        sock.setblocking(False)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context and context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def do(self, act):
        with contextlib.suppress(OSError):  # of a lost connection, or a pending handshake
            getattr(self, act)()
        with contextlib.suppress(OSError):
            self.sock.send(self.outgoing.read())

    def read(self):
        data = self.sock.recv(1 << 17)
        if self.tls:
            self.incoming.write(data)
            self.tls.do_handshake()
            self.tls.read(1 << 17)

    def send(self):
        if self.tls:
            self.tls.do_handshake()
            self.tls.write(b"y" * 50)
        else:
            self.sock.send(b"y" * 50)

    def garbage(self):
        self.sock.send(b"no TLS")

    def half_close(self):
        if self.tls:
            self.tls.unwrap()
        self.sock.shutdown(socket.SHUT_WR)

    def cut(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


PEERS = ["read", "read", "send", "garbage", "half_close", "cut", "close", "reset"]
ACTS = st.one_of(
    st.tuples(st.just("ours"), st.sampled_from([*OURS])),
    st.tuples(st.just("peer"), st.sampled_from(PEERS)),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 0.0, 1.0])),
    st.tuples(st.just("drain"), st.just(1.0)),
)


@pytest.mark.slow
@pytest.mark.parametrize("secured", ["clear", "tls", "upgrade"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_connection_lost_is_called_exactly_once(certificates, selector, secured):
    server, client = certificates.server(), certificates.client()

    @examples(60)
    @given(
        acts=st.lists(ACTS, max_size=25),
        inside=st.lists(st.sampled_from(["raise", *OURS, None, None]), max_size=6),
        keep_open=st.booleans(),
        closes=st.booleans(),
    )
    def run(acts, inside, keep_open, closes):
        protocol, clock = Acting(inside, keep_open), ManualClock()
        ours, theirs = socket.socketpair()
        limits = Limits(high_water=50_000, low_water=1000, max_write_buffer=500_000)
        with theirs, Reactor(selector=SELECTORS[selector](), clock=clock, on_error=Errors()) as reactor:
            tls = {"tls": server, "server_side": True} if secured == "tls" else {}
            timeouts = Timeouts(idle=50, write=2, close=2, handshake=3)
            connection = reactor.adopt(ours, lambda: protocol, limits=limits, timeouts=timeouts, **tls)
            peer = Peer(theirs, None if secured == "clear" else client)
            if secured == "upgrade" and not connection.is_closing():
                with contextlib.suppress(UsageError):  # a direction has ended already
                    connection.start_tls(server, server_side=True)
            if secured != "clear":
                for act in ["send", "read"] * 2:
                    peer.do(act)
                    reactor.run_once(0)
            for who, what in acts:
                if who == "ours":
                    with contextlib.suppress(UsageError):  # written after `write_eof`
                        OURS[what](connection)
                elif who == "peer":
                    peer.do(what)
                elif who == "drain":
                    reactor.drain(what, lambda report: None)
                else:
                    clock.advance(what)
                    reactor.run_once(0)
            if closes:
                theirs.close()
                for _ in range(200):
                    clock.advance(1)
                    reactor.run_once(0)
                assert connection.get_protocol() is None
        made = protocol.names.count("connection_made")
        assert protocol.names.count("connection_lost") == made <= 1
        assert made or not protocol.names
        if made:
            assert protocol.names[0] == "connection_made"
            assert protocol.names[-1] == "connection_lost"

    run()
