"""The states of an endpoint, and what follows from them."""

import errno

from reactor.datagrams import EndpointState
from reactor.testing import DatagramRecorder, MemoryNetwork, MemoryReactor


class Watcher(DatagramRecorder):
    """Notes the state of its endpoint in its first and last callback."""

    def connection_made(self, endpoint):
        super().connection_made(endpoint)
        self.seen = [endpoint.state]

    def connection_lost(self, exc):
        self.seen.append(self.endpoint.state)


def test_states_come_in_their_order():
    full = False

    def fault(name, index):
        return errno.EAGAIN if full and name == "send" else None

    with MemoryNetwork(fault=fault) as network:
        network.names["server.example"] = ["10.0.0.1"]
        watcher = Watcher()
        reactor = network.reactor("10.0.0.2")
        endpoint = reactor.connect_datagram("server.example:53", lambda: watcher)
        assert endpoint.state is EndpointState.OPENING
        network.settle()
        full = True
        endpoint.send(b"x")
        endpoint.close()
        assert endpoint.state is EndpointState.CLOSING
        assert not endpoint.send(b"too late")
        full = False
        network.settle()
        assert endpoint.state is EndpointState.LOST
        assert watcher.seen == [EndpointState.OPEN, EndpointState.LOST]
        assert endpoint.stats().refused == {"closing": 1}


def test_closed_endpoint_is_not_lost_before_its_callback():
    with MemoryReactor() as reactor:
        endpoint = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
        endpoint.abort()
        assert (endpoint.state, endpoint.is_closing()) == (EndpointState.CLOSED, True)
        reactor.settle()
        assert (endpoint.state, endpoint.get_protocol()) == (EndpointState.LOST, None)
