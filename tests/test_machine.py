"""The whole reactor against a small model, step by step, on every selector."""

import os
import selectors
import socket
import struct

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from reactor import Reactor
from reactor.selector import FlatSelector
from tests.helpers import Errors, Recorder, connect, spin

RESET = struct.pack("ii", 1, 0)
SIZES = st.sampled_from([0, 1, 100, 4096, 4097, 70_000, 3_000_000])


class Served(Recorder):
    """A recorder that keeps what it has written, as the model of what the peer may get."""

    def __init__(self, keep_open, echo):
        super().__init__()
        self.keep_open = keep_open
        self.echo = echo
        self.written = bytearray()
        self.ended = False  # our direction was closed by us

    def data_received(self, data):
        super().data_received(data)
        if self.echo:
            self.write(data)

    def write(self, data):
        if not self.ended and not self.connection.is_closing():
            self.written += data
            self.connection.write(data)


@attrs.define(eq=False)
class Link:
    """One connection from both ends."""

    protocol: Served
    client: socket.socket
    sent: bytearray = attrs.field(factory=bytearray)
    got: bytearray = attrs.field(factory=bytearray)
    faulty: bool = False  # a reset or abort: what was under way may be lost
    finished: bool = False  # the client has sent its end of file, or has closed
    client_open: bool = True

    def send(self, size):
        """Send as much of `size` bytes as the kernel takes at once."""
        data = bytes([len(self.sent) % 251]) * size
        try:
            self.sent += data[: self.client.send(data)]
        except BlockingIOError:
            pass
        except ConnectionError:
            self.faulty = True

    def receive(self, most):
        """Receive up to `most` bytes; return whether there is nothing more to come."""
        try:
            more = self.client.recv(most)
        except BlockingIOError:
            return False
        except ConnectionError:
            self.faulty = True
            return True
        self.got += more
        return not more


class ReactorMachine(RuleBasedStateMachine):
    """Listens, and lets clients and protocols do what they may in any order."""

    make_selector = FlatSelector
    links = Bundle("links")

    def __init__(self):
        super().__init__()
        self.before = len(os.listdir("/proc/self/fd"))
        self.errors = Errors()
        self.reactor = Reactor(selector=self.make_selector(), on_error=self.errors)
        self.policies = []
        self.made = []
        self.all = []
        self.paused = False
        self.listener = self.reactor.listen("127.0.0.1:0", self.make_protocol)
        self.timers = []

    def spin(self, until):
        spin(self.reactor, until, deadline=5)  # a failing example is tried many times

    def make_protocol(self):
        self.made.append(Served(*self.policies.pop(0)))
        return self.made[-1]

    # What may happen

    @rule(target=links, keep_open=st.booleans(), echo=st.booleans())
    def accept(self, keep_open, echo):
        if self.paused:
            return multiple()
        self.policies.append((keep_open, echo))
        client = connect(self.reactor, self.listener.addresses[0])
        client.setblocking(False)
        self.spin(lambda: not self.policies)
        link = Link(self.made[-1], client)
        self.all.append(link)
        return link

    @rule()
    def pause_listener(self):
        self.listener.pause()
        self.paused = True

    @rule()
    def resume_listener(self):
        self.listener.resume()
        self.paused = False

    @rule(link=links, size=SIZES)
    def client_sends(self, link, size):
        if not link.finished:
            link.send(size)

    @rule(link=links, most=st.sampled_from([1, 1000, 1 << 20]))
    def client_receives(self, link, most):
        if link.client_open:
            link.receive(most)

    @rule(link=links)
    def client_ends_its_direction(self, link):
        if not link.finished:
            link.finished = True
            try:
                link.client.shutdown(socket.SHUT_WR)
            except OSError:
                link.faulty = True

    @rule(link=consumes(links), reset=st.booleans())
    def client_vanishes(self, link, reset):
        if reset:
            link.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        link.client.close()
        link.finished = link.faulty = True
        link.client_open = False

    @rule(link=links, size=SIZES, in_tick=st.booleans())
    def protocol_writes(self, link, size, in_tick):
        data = bytes([len(link.protocol.written) % 251]) * size
        if in_tick:
            self.reactor.call_soon(link.protocol.write, data)
            self.reactor.run_once(0)
        else:
            link.protocol.write(data)

    @rule(link=links, reading=st.booleans())
    def protocol_pauses_or_resumes(self, link, reading):
        if reading:
            link.protocol.connection.resume_reading()
        else:
            link.protocol.connection.pause_reading()

    @rule(link=links)
    def protocol_ends_its_direction(self, link):
        link.protocol.ended = True
        link.protocol.connection.write_eof()

    @rule(link=links)
    def protocol_closes(self, link):
        link.protocol.ended = True
        link.faulty = True  # what the client still sends finds nobody, and is answered with a reset
        link.protocol.connection.close()

    @rule(link=links)
    def protocol_aborts(self, link):
        link.protocol.ended = link.faulty = True
        link.protocol.connection.abort()

    @rule(delay=st.sampled_from([0, 0.001, 1000]))
    def timer_is_set(self, delay):
        self.timers.append(self.reactor.call_later(delay, lambda: None))

    @rule(data=st.data())
    def timer_is_cancelled(self, data):
        if self.timers:
            data.draw(st.sampled_from(self.timers)).cancel()

    @rule()
    def step(self):
        self.reactor.run_once(0)

    # What always holds

    @invariant()
    def bytes_are_a_prefix_of_what_was_sent(self):
        for link in self.all:
            assert link.sent.startswith(link.protocol.received)
            assert link.protocol.written.startswith(link.got)

    @invariant()
    def the_loss_is_told_once_and_last(self):
        for link in self.all:
            names = link.protocol.names
            assert names[0] == "connection_made"
            assert names.count("connection_lost") <= 1
            assert "connection_lost" not in names[:-1]
            assert names.count("eof_received") <= 1
            assert (
                "data_received" not in names[names.index("eof_received") :]
                if "eof_received" in names
                else True
            )

    @invariant()
    def selector_holds_what_is_waited_for(self):
        expected = {self.reactor._wakeup.fileno(): selectors.EVENT_READ}
        if not self.paused:
            for sock in self.listener._sockets:
                expected[sock.fileno()] = selectors.EVENT_READ
        for connection in self.reactor.connections():
            events = selectors.EVENT_READ * connection.is_reading()
            events |= selectors.EVENT_WRITE * bool(connection.get_write_buffer_size())
            if events:
                expected[connection.get_extra_info("socket").fileno()] = events
        watched = self.reactor.registry.selector.get_map()
        assert {fd: watched[fd].events for fd in watched} == expected

    @invariant()
    def live_connections_are_those_not_lost(self):
        live = {link.protocol.connection for link in self.all if not link.protocol.lost}
        closed = {connection for connection in live if connection not in self.reactor.connections()}
        assert set(self.reactor.connections()) == live - closed
        assert all(connection.is_closing() for connection in closed)

    @invariant()
    def nothing_was_reported(self):
        assert self.errors.seen == []

    def teardown(self):
        try:
            for link in self.all:
                link.protocol.connection.resume_reading()
                if link.client_open:
                    self.finish(link)
                else:
                    link.protocol.connection.close()
            self.spin(lambda: all(link.protocol.lost for link in self.all))
            for link in self.all:
                self.check_end(link)
        finally:
            self.reactor.close()
            for link in self.all:
                link.client.close()
        self.the_loss_is_told_once_and_last()
        assert len(os.listdir("/proc/self/fd")) == self.before

    def finish(self, link):
        """End both directions in order, reading all that comes."""
        self.client_ends_its_direction(link)
        spin(
            self.reactor,
            lambda: link.protocol.connection.is_closing() or "eof_received" in link.protocol.names,
        )
        link.protocol.ended = True
        link.protocol.connection.close()
        self.spin(lambda: link.receive(1 << 20))

    def check_end(self, link):
        if not link.faulty:
            assert link.protocol.reason is None
            assert link.protocol.received == link.sent
            assert link.got == link.protocol.written


def case(make_selector, name):
    machine = type(name, (ReactorMachine,), {"make_selector": staticmethod(make_selector)})
    machine.TestCase.settings = settings(settings.default, stateful_step_count=30)
    return machine.TestCase


TestOnFlatSelector = case(FlatSelector, "OnFlatSelector")
TestOnEpollSelector = case(selectors.EpollSelector, "OnEpollSelector")
TestOnPollSelector = case(selectors.PollSelector, "OnPollSelector")
TestOnSelectSelector = case(selectors.SelectSelector, "OnSelectSelector")
