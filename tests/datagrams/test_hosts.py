"""Endpoints of a reactor that a host's loop drives."""

import asyncio

from reactor import Reactor
from reactor.apps.echo import DatagramEcho
from reactor.embed.asyncio import attach
from reactor.testing import DatagramRecorder


def test_endpoint_inside_asyncio():
    async def main():
        with Reactor() as reactor, attach(reactor):
            server = reactor.bind_datagram("127.0.0.1:0", DatagramEcho)
            loop = asyncio.get_running_loop()
            answer = loop.create_future()

            class Client(DatagramRecorder):
                def datagram_received(self, data, address):
                    answer.set_result(data)

            client = reactor.connect_datagram(server.address, Client)
            client.send(b"hello")
            assert await asyncio.wait_for(answer, 10) == b"hello"
            with_asyncio = loop.create_future()

            class Native(asyncio.DatagramProtocol):
                def connection_made(self, transport):
                    transport.sendto(b"from asyncio's own")

                def datagram_received(self, data, addr):
                    with_asyncio.set_result(data)

            address = (server.address.host, server.address.port)
            transport, _ = await loop.create_datagram_endpoint(Native, remote_addr=address)
            assert await asyncio.wait_for(with_asyncio, 10) == b"from asyncio's own"
            transport.close()

    asyncio.run(main())


def test_gathered_datagrams_are_sent_when_the_host_sends_them():
    async def main():
        with Reactor() as reactor, attach(reactor):
            received = asyncio.get_running_loop().create_future()

            class Server(DatagramRecorder):
                def datagram_received(self, data, address):
                    super().datagram_received(data, address)
                    if len(self.received) == 3:
                        received.set_result(self.received)

            server = reactor.bind_datagram("127.0.0.1:0", Server)
            client = reactor.connect_datagram(server.address, DatagramRecorder, gso=True)
            for _ in range(3):
                client.send(b"hello")
            assert await asyncio.wait_for(received, 10) == [b"hello"] * 3

    asyncio.run(main())
