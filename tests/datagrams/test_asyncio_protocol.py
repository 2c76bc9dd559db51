"""A protocol written for asyncio's datagram endpoints runs unchanged, on asyncio and here."""

import asyncio

import pytest


class Server(asyncio.DatagramProtocol):
    """Counts what each client has sent, and answers with the count."""

    def __init__(self, ended):
        self.ended = ended
        self.counts = {}

    def connection_made(self, transport):
        assert transport.get_extra_info("peername") is None
        self.transport = transport

    def datagram_received(self, data, addr):
        self.counts[addr] = self.counts.get(addr, 0) + 1
        self.transport.sendto(b"%d:%s" % (self.counts[addr], data), addr)
        if data == b"end":
            self.transport.close()
            assert self.transport.is_closing()

    def connection_lost(self, exc):
        assert exc is None
        self.ended()


class Client(asyncio.DatagramProtocol):
    """Asks one thing after the other, then talks to a port that is closed."""

    def __init__(self, log, questions, done):
        self.log, self.questions, self.done = log, list(questions), done

    def connection_made(self, transport):
        self.transport = transport
        assert transport.get_write_buffer_size() == 0
        self.ask()

    def ask(self):
        self.transport.sendto(self.questions.pop(0))

    def datagram_received(self, data, addr):
        assert addr == self.transport.get_extra_info("peername")
        self.log.append(data)
        self.ask()

    def error_received(self, exc):
        self.log.append(type(exc).__name__)
        self.transport.abort()

    def connection_lost(self, exc):
        self.log.append("client lost")
        self.done()


QUESTIONS = [b"one", b"two", b"three", b"end", b"nobody hears this"]
EXPECTED = [
    b"1:one",
    b"2:two",
    b"3:three",
    b"4:end",
    "ConnectionRefusedError",
    "client lost",
]


def on_asyncio(log):
    async def main():
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        server_ended = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Server(lambda: server_ended.set_result(None)), ("127.0.0.1", 0)
        )
        address = transport.get_extra_info("sockname")
        await loop.create_datagram_endpoint(
            lambda: Client(log, QUESTIONS, lambda: ended.set_result(None)), remote_addr=address
        )
        await ended
        await server_ended

    asyncio.run(main())


@pytest.fixture
def on_reactor(reactor):
    def run(log):
        ended = []
        server = reactor.bind_datagram("127.0.0.1:0", lambda: Server(lambda: ended.append(True)))
        reactor.connect_datagram(server.address, lambda: Client(log, QUESTIONS, reactor.stop))
        reactor.run()
        assert ended == [True]

    return run


def test_asyncio_protocol_runs_unchanged(on_reactor):
    theirs, ours = [], []
    on_asyncio(theirs)
    on_reactor(ours)
    assert ours == theirs == EXPECTED
