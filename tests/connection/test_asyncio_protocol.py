"""Protocols written for asyncio that use only their transport run unchanged."""

import asyncio

from tests.helpers import connect, pair, spin


class UpperLines(asyncio.Protocol):
    """Answers each line in capitals; `quit` ends the connection."""

    def connection_made(self, transport):
        self.transport = transport
        self.rest = b""
        self.lost = []
        host, port = transport.get_extra_info("peername")[:2]
        transport.write(f"welcome {host} {port}\n".encode())

    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line == b"quit":
                self.transport.close()
                assert self.transport.is_closing()
            else:
                self.transport.writelines([line.upper(), b"\n"])

    def eof_received(self):
        self.transport.write(b"bye\n")
        assert self.transport.can_write_eof()
        self.transport.write_eof()

    def connection_lost(self, exc):
        self.lost.append(exc)


class HalfFull(asyncio.Protocol):
    """Pauses reading while writing is paused."""

    def connection_made(self, transport):
        self.transport = transport
        self.calls = []
        transport.set_write_buffer_limits(high=1000, low=100)

    def data_received(self, data):
        self.transport.write(data * 1000)

    def pause_writing(self):
        self.calls.append("pause")
        self.transport.pause_reading()

    def resume_writing(self):
        self.calls.append("resume")
        self.transport.resume_reading()


class Filler(asyncio.BufferedProtocol):
    """A `BufferedProtocol` with one buffer."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(100)
        self.received = b""

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.received += self.buffer[:nbytes]


def test_line_server_of_asyncio_runs_unchanged(reactor):
    made = []

    def factory():
        made.append(UpperLines())
        return made[-1]

    address = reactor.listen("127.0.0.1:0", factory).addresses[0]
    with connect(reactor, address) as client:
        client.sendall(b"one\ntw")
        client.sendall(b"o\n")
        client.sendall(b"quit\n")
        spin(reactor, lambda: made and made[0].lost)
        received = client.makefile("rb").read()
    assert received == f"welcome 127.0.0.1 {client_port(received)}\nONE\nTWO\n".encode()
    assert made[0].lost == [None]


def client_port(received):
    return int(received.split(b"\n")[0].split()[-1])


def test_end_of_file_is_answered(reactor):
    address = reactor.listen("127.0.0.1:0", UpperLines).addresses[0]
    with connect(reactor, address) as client:
        client.shutdown(1)
        spin(reactor, reactor.connections)
        spin(reactor, lambda: not reactor.connections())
        assert client.makefile("rb").read().endswith(b"bye\n")


def test_flow_control_pauses_and_resumes_an_asyncio_protocol(reactor):
    protocol = HalfFull()
    connection, peer = pair(reactor, protocol)
    assert protocol.transport is connection
    peer.send(b"x" * 5000)
    spin(reactor, lambda: protocol.calls)
    assert not connection.is_reading()
    received = 0
    while received < 5_000_000:
        try:
            received += len(peer.recv(1 << 20))
        except BlockingIOError:
            pass
        reactor.run_once(0)
    assert protocol.calls == ["pause", "resume"]
    assert connection.is_reading()
    peer.close()


def test_asyncio_buffered_protocol_receives_and_can_be_replaced(reactor):
    filler = Filler()
    connection, peer = pair(reactor, HalfFull())
    filler.connection_made(connection)
    connection.set_protocol(filler)
    assert connection.get_protocol() is filler
    peer.send(b"hello")
    spin(reactor, lambda: filler.received)
    assert filler.received == b"hello"
    connection.abort()
    peer.close()
    spin(reactor, lambda: not reactor.connections())
