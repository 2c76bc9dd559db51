"""The peer of a TLS connection under test: OpenSSL on a socket, driven step by step."""

import contextlib
import socket
import ssl

from reactor.testing import Recorder
from tests.helpers import spin

BIG = bytes(range(256)) * 4096 * 4  # more than the buffers of both sockets hold
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class TlsPeer:
    """A peer that speaks TLS: OpenSSL between two buffers, whose bytes go to and from a socket.

    sock: is set to not block. options: of `SSLContext.wrap_bio`.
    """

    def __init__(self, sock, context, **options):
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.established = False
        self.received = bytearray()
        self.ended = None  # how the other side ended: "close_notify", "eof", "reset" or OpenSSL's error
        self.unsent = bytearray()
        self.in_clear = b""  # bytes that came before TLS
        self.clear_left = 0  # how many of them are still to come

    def write(self, data):
        """Encrypt all of `data`; `flush` sends it."""
        left = memoryview(data)
        while left:
            left = left[self.ssl.write(left) :]

    def close(self):
        """Encrypt close_notify; `flush` sends it."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()

    def receive(self, limit=1 << 20):
        """Receive up to `limit` bytes, if there are any, and decrypt them."""
        try:
            data = self.sock.recv(limit)
        except BlockingIOError:
            data = None
        except ConnectionResetError:
            self.ended = self.ended or "reset"
            return
        if data == b"":
            self.ended = self.ended or "eof"
        elif data:
            self.in_clear += data[: self.clear_left]
            self.incoming.write(data[self.clear_left :])
            self.clear_left -= min(len(data), self.clear_left)
        self.process()

    def process(self):
        """Go on with the handshake, and decrypt what has come."""
        try:
            if not self.established:
                self.ssl.do_handshake()
                self.established = True
            while data := self.ssl.read(1 << 16):
                self.received += data
            self.ended = self.ended or "close_notify"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = self.ended or "close_notify"
        except ssl.SSLError as exc:
            self.ended = exc.reason

    def flush(self, limit=1 << 30):
        """Send up to `limit` bytes of what was encrypted."""
        self.unsent += self.outgoing.read()
        with contextlib.suppress(BlockingIOError, ConnectionError):
            del self.unsent[: self.sock.send(self.unsent[:limit])]

    def step(self):
        """Receive and send what can be at once. Returns True, to stand before a condition."""
        self.receive()
        self.flush()
        return True


class Greeter(Recorder):
    """Says hello: a client of TLS 1.3 has its session once it has received something."""

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(b"hello")


@contextlib.contextmanager
def peer_of(theirs, context, *, server_side):
    """Yield a peer on `theirs`, which is closed at the end. server_side: the side of the connection."""
    options = {"server_hostname": "localhost"} if server_side else {"server_side": True}
    with theirs:
        yield TlsPeer(theirs, context, **options)


def hostname(*, server_side):
    """Return the option `server_hostname` of a connection that is the client, and none of a server."""
    return {} if server_side else {"server_hostname": "localhost"}


@contextlib.contextmanager
def secured(reactor, protocol, peer_context, context, *, server_side=True, wrap=lambda sock: sock, **options):
    """Yield a connection with `protocol` over TLS, and its peer, before their handshake.

    wrap: is given the connection's socket, and returns what is adopted. options: of `adopt`.
    """
    ours, theirs = socket.socketpair()
    options |= hostname(server_side=server_side)
    connection = reactor.adopt(wrap(ours), lambda: protocol, tls=context, server_side=server_side, **options)
    with peer_of(theirs, peer_context, server_side=server_side) as peer:
        yield connection, peer


@contextlib.contextmanager
def upgraded(clear, reactor, protocol, peer_context, context, *, server_side=True, wrap=lambda sock: sock):
    """As `secured`, of a connection that writes `clear` and then calls `start_tls`."""
    ours, theirs = socket.socketpair()
    connection = reactor.adopt(wrap(ours), lambda: protocol)
    connection.write(clear)
    connection.start_tls(context, server_side=server_side, **hostname(server_side=server_side))
    with peer_of(theirs, peer_context, server_side=server_side) as peer:
        peer.clear_left = len(clear)
        yield connection, peer


@contextlib.contextmanager
def established(reactor, protocol, side, **options):
    """As `secured`, after the handshake. side: our context, the peer's, and whether we are the server."""
    ours, theirs, server_side = side
    with secured(reactor, protocol, theirs, ours, server_side=server_side, **options) as (connection, peer):
        spin(reactor, lambda: peer.step() and peer.established and protocol.calls)
        yield connection, peer
