"""An interrupt at any line: the loop continues, protocols are called in order, and nothing is stuck."""

import contextlib
import os
import socket
import ssl
import struct

import pytest

from reactor import Limits, Protocol, ProxyProtocol, Reactor, Reconnect, Timeouts
from reactor.framing.proxy_header import ProxyHeader
from reactor.testing import ManualClock
from tests.tracing import Interrupt, failures, without_collector

ROUNDS = 400  # steps of the scenario after which something is stuck
SHARES = 4  # tests that the lines of the largest scenario are divided among
BULK = bytes(range(256)) * 4096


class Served(Protocol):
    """Checks the order of its calls; echoes lines, and sends a bulk for `bulk`."""

    def __init__(self, kept, broken):
        self.calls, self.broken = [], broken
        kept.append(self)

    def connection_made(self, connection):
        self.calls.append("made")
        self.connection = connection

    def data_received(self, data):
        self.calls.append("data")
        try:
            self.answer(data)
        except Interrupt:
            self.broken.add(self.connection.get_extra_info("peername")[1])
            raise

    def answer(self, data):
        if data.startswith(b"bulk"):
            self.connection.write(BULK)
        elif data.startswith(b"bye"):
            self.connection.write(b"bye")
            self.connection.close()
        elif data.startswith(b"half"):
            self.connection.write(b"half")
            self.connection.write_eof()
        else:
            self.connection.write(data)

    def eof_received(self):
        self.calls.append("eof")

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")

    def connection_lost(self, exc):
        self.calls.append("lost")

    def check(self):
        calls = self.calls
        assert calls.count("made") <= 1, calls
        assert calls.count("lost") <= 1, calls
        assert not calls or calls[0] == "made", calls
        assert "lost" not in calls[:-1], calls
        assert calls.count("eof") <= 1, calls


class Peer:
    """A client that sends something, reads the answer, and ends in the given way."""

    def __init__(self, address, says, expects, ending, context):
        self.sock = socket.create_connection(address)
        self.sock.setblocking(False)
        self.says, self.expects, self.ending = says, expects, ending
        self.received = bytearray()
        self.tls = None
        if context is not None:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.said = self.over = False

    def name_itself(self):
        """Send a PROXY header with its own addresses."""
        self.sock.send(ProxyHeader.between(self.sock.getsockname(), self.sock.getpeername()).encode())

    def act(self):
        """Do what can be done now."""
        if self.over:
            return
        try:
            if self.tls is None:
                self.step(self.sock.send, self.sock.recv)
            else:
                self.secure_step()
        except BlockingIOError:
            pass
        except (OSError, ssl.SSLError):
            self.end()

    def step(self, send, recv):
        if not self.said:
            send(self.says)
            self.said = True
            if self.ending == "half-close" and self.tls is None:
                self.sock.shutdown(socket.SHUT_WR)
            elif self.ending == "reset":
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.end()
                return
        for _ in range(20):
            data = recv(1 << 16)
            self.received += data
            closes = self.ending == "close" or (self.tls and self.ending == "half-close")
            if not data or (closes and len(self.received) >= len(self.expects)):
                self.end()
                return

    def secure_step(self):
        try:
            data = self.sock.recv(1 << 17)
            self.incoming.write(data) if data else self.incoming.write_eof()
        except BlockingIOError:
            pass
        try:
            self.tls.do_handshake()
            self.step(self.tls.write, self.tls.read)
        except ssl.SSLWantReadError:
            pass
        finally:
            if out := self.outgoing.read():
                with contextlib.suppress(OSError):
                    self.sock.setblocking(True)
                    self.sock.sendall(out)
                    self.sock.setblocking(False)

    def end(self):
        self.over = True
        self.sock.close()

    def check(self):
        assert self.expects.startswith(bytes(self.received)), (self.says, bytes(self.received[:40]))


SCRIPT = [
    (b"echo", b"echo", "close"),
    (b"bulk", BULK, "close"),
    (b"bye", b"bye", None),
    (b"half", b"half", "half-close"),
    (b"lost", b"lost", "reset"),
    (b"more", b"more", "half-close"),
    (b"last", b"last", "close"),
]


def scenario(tracer, server_context, client_context, proxied=None):
    """Serve the peers of the script under the tracer, then one more, then drain; return what was done."""
    kept, errors, called, broken = [], [], [], set()
    before = len(os.listdir("/proc/self/fd"))
    clock = ManualClock()
    reactor = Reactor(clock=clock, on_error=lambda *what: errors.append(what))
    listener = reactor.listen(
        "127.0.0.1:0",
        lambda: Served(kept, broken),
        limits=Limits(max_connections=4, max_per_ip=100, high_water=4096, low_water=1024),
        timeouts=Timeouts(idle=60, close=5),
        tls=server_context,
        on_tls_error=lambda exc: None,
        proxy_protocol=proxied,
    )
    address = listener.addresses[0].host, listener.addresses[0].port
    for number in range(40):
        reactor.call_later(number * 1e-4, called.append, number)
        reactor.call_soon_threadsafe(called.append, number)
    peers = [Peer(address, *line, client_context) for line in SCRIPT]

    def serve(peers):
        for peer in peers if proxied else ():
            peer.name_itself()
        for number in range(ROUNDS):
            for peer in peers:
                if not peer.over and peer.sock.getsockname()[1] in broken and number > ROUNDS // 2:
                    peer.end()  # its callback was interrupted, and does not answer
                peer.act()
            clock.advance(0.0005)
            tracer.run(reactor.run_once, 0)
            if all(peer.over for peer in peers) and not reactor.connections():
                return
        stuck = [peer.says for peer in peers if not peer.over]
        raise AssertionError(f"stuck: {stuck}, {reactor.connections()}, {reactor.stats()}")

    serve(peers)
    serve([Peer(address, b"echo", b"echo", "close", client_context) for _ in range(6)])
    reactor.call_later(0, called.append, "timer")
    reactor.call_soon_threadsafe(called.append, "thread")
    drained = []
    for number in range(100):
        clock.advance(0.01)
        reactor.run_once(0)
        if number == 50:
            assert listener.connections == 0
            reactor.drain(0.4, drained.append)
    assert len(called) == 82
    assert drained
    reactor.close()
    for protocol in kept:
        protocol.check()
        assert not protocol.calls or protocol.calls[-1] == "lost", protocol.calls
    for peer in peers:
        peer.check()
    assert [what for what in errors if not isinstance(what[0], OSError)] == []
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # lost by its owner in an interrupt


class Client(Protocol):
    """Records its calls; sends hello, and closes at the answer."""

    def __init__(self, kept):
        self.calls = []
        kept.append(self)

    def connection_made(self, connection):
        self.calls.append("made")
        self.connection = connection
        connection.write(b"hello")

    def data_received(self, data):
        self.connection.close()

    def connection_lost(self, exc):
        self.calls.append("lost")


class Attempt:
    """A connector, its protocols and failures; the connector is None if an interrupt prevented it."""

    def __init__(self, reactor, tracer, address, **options):
        self.kept, self.failures = [], []
        self.connector = None
        tracer.run(self.begin, reactor, address, options)

    def begin(self, reactor, address, options):
        self.connector = reactor.connect(
            address, lambda: Client(self.kept), on_failure=self.failures.append, **options
        )

    def connected(self):
        """Return how often `connection_made` was called of its protocols."""
        return sum("made" in client.calls for client in self.kept)

    def lost(self):
        """Return how often `connection_lost` was called of its protocols."""
        return sum("lost" in client.calls for client in self.kept)

    def check(self):
        for client in self.kept:
            assert client.calls in ([], ["made"], ["made", "lost"]), client.calls


def connecting(tracer, server_context, client_context):
    """Drive connectors with every kind of end under the tracer, on a clock that reaches no timeout."""
    errors = []
    before = len(os.listdir("/proc/self/fd"))
    clock = ManualClock()
    with (
        Reactor(clock=clock) as serving,
        Reactor(clock=clock, on_error=lambda *what: errors.append(what)) as reactor,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))
        refused = closed.getsockname()
        kept, broken = [], set()
        listener = serving.listen("127.0.0.1:0", lambda: Served(kept, broken), tls=server_context)
        there = ("localhost" if client_context else "127.0.0.1", listener.addresses[0].port)
        again = Reconnect(first=0.5, max_delay=0.5, attempts=3, random=lambda: 1.0)
        long = Timeouts(connect=1000)
        once = Attempt(reactor, tracer, there, tls=client_context, timeouts=long)
        often = Attempt(reactor, tracer, there, tls=client_context, timeouts=long, reconnect=again)
        fails = Attempt(reactor, tracer, refused, timeouts=long)
        fails_often = Attempt(reactor, tracer, refused, timeouts=long, reconnect=again)
        late = Attempt(reactor, tracer, refused, timeouts=long, reconnect=Reconnect(first=900, max_delay=900))
        attempts = [each for each in (once, often, fails, fails_often) if each.connector is not None]

        def done(each):
            if each is often:
                return each.lost() >= 3
            if each is once:
                return each.connected() or each.failures
            return each.connector.is_done()

        for _ in range(ROUNDS):
            clock.advance(0.05)
            tracer.run(reactor.run_once, 0.0005)
            serving.run_once(0)
            if all(map(done, attempts)):
                break
        stuck = [(each.connector.state, each.kept, each.failures) for each in attempts if not done(each)]
        assert stuck == []
        for each in (often, late):
            if each.connector is not None:
                tracer.run(each.connector.cancel)
                each.connector.cancel()
                assert each.connector.is_done()
        for _ in range(10):
            clock.advance(0.05)
            tracer.run(reactor.run_once, 0)
            serving.run_once(0)
        for each in attempts:
            each.check()
        assert once.connected() <= 1
        assert len(once.failures) <= 1
        assert len(fails.failures) == (fails in attempts)
        assert len(fails_often.failures) <= 4  # a round ended by an interrupt is not a failed one
    assert [what for what in errors if not isinstance(what[0], OSError)] == []
    assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.slow
@pytest.mark.parametrize("secured", [False, True])
def test_interrupt_at_any_line_of_a_connector(certificates, secured):
    contexts = (certificates.server(), certificates.client()) if secured else (None, None)
    with without_collector():
        failed = failures(lambda tracer: connecting(tracer, *contexts), folder="connecting")
    assert not failed, f"{len(failed)} of them:\n" + "\n".join(failed[:40])


@pytest.mark.slow
@pytest.mark.parametrize("module", ["listening/listener.py", "connection/pending_header.py"])
def test_interrupt_at_any_line_before_the_proxy_header(module):
    proxied = ProxyProtocol(trusted=["127.0.0.1"])
    with without_collector():
        failed = failures(lambda tracer: scenario(tracer, None, None, proxied), folder=module)
    assert not failed, f"{len(failed)} of them:\n" + "\n".join(failed[:40])


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("secured", [False, True])
def test_interrupt_at_any_line(certificates, secured, share):
    server_context = certificates.server() if secured else None
    client_context = certificates.client() if secured else None
    with without_collector():
        failed = failures(
            lambda tracer: scenario(tracer, server_context, client_context), share=share, shares=SHARES
        )
    assert not failed, f"{len(failed)} of them:\n" + "\n".join(failed[:40])
