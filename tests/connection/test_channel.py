"""Rate limits: both directions, with both kinds of protocol."""

import pytest

from reactor import BufferedProtocol, Limits, Reactor
from reactor.testing import ManualClock, Recorder
from tests.helpers import pair


class Pot(BufferedProtocol):
    def __init__(self):
        self.buffer = bytearray(1 << 20)
        self.received = b""

    def connection_made(self, connection):
        self.connection = connection

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.received += bytes(self.buffer[:nbytes])


def seconds_until(reactor, clock, done, limit=100):
    """Return the seconds of the manual clock until `done()`."""
    start = clock.now
    while not done():
        if reactor.run_once(0):
            continue
        wait = reactor.next_timeout()
        assert clock.now - start < limit
        clock.advance(0.001 if wait is None else max(wait, 0.001))
    return clock.now - start


@pytest.mark.parametrize("kind", [Recorder, Pot])
def test_input_is_received_at_the_read_rate(make_selector, kind):
    clock, protocol = ManualClock(), kind()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        _, peer = pair(reactor, protocol, limits=Limits(read_rate=10_000))
        sent = bytes(range(250)) * 200
        assert peer.send(sent) == len(sent)
        took = seconds_until(reactor, clock, lambda: len(protocol.received) == len(sent))
        assert 4 <= took <= 4.5  # one second's worth passes at once
        assert protocol.received == sent
        peer.close()
        seconds_until(reactor, clock, lambda: not reactor.connections())


def test_output_is_sent_at_the_write_rate(make_selector):
    clock, recorder = ManualClock(), Recorder()
    received = bytearray()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, limits=Limits(write_rate=10_000))
        sent = bytes(range(250)) * 200
        for at in range(0, len(sent), 1000):
            connection.write(sent[at : at + 1000])

        def over():
            try:
                received.extend(peer.recv(1 << 16))
            except BlockingIOError:
                pass
            return len(received) == len(sent)

        took = seconds_until(reactor, clock, over)
        assert 4 <= took <= 4.5
        assert bytes(received) == sent
        connection.write(b"last")
        connection.close()
        seconds_until(reactor, clock, lambda: recorder.lost)
        assert recorder.reason is None
        assert peer.recv(10) == b"last"
        peer.close()


def test_pause_reading_holds_under_a_read_rate(make_selector):
    clock, recorder = ManualClock(), Recorder()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, limits=Limits(read_rate=100))
        peer.send(bytes(1000))
        while reactor.run_once(0):
            pass
        assert len(recorder.received) == 100
        connection.pause_reading()
        clock.advance(5)
        while reactor.run_once(0):
            pass
        assert len(recorder.received) == 100
        connection.resume_reading()
        while reactor.run_once(0):
            pass
        assert len(recorder.received) == 200
        other = Pot()
        connection.set_protocol(other)
        seconds_until(reactor, clock, lambda: len(other.received) == 800)
        connection.abort()
        reactor.run_once(0)
        clock.advance(5)
        reactor.run_once(0)
        peer.close()
