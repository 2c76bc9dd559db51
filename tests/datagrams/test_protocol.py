"""`DatagramProtocol`: a subclass needs no more than what it uses."""

from reactor.datagrams import DatagramProtocol


class Silent(DatagramProtocol):
    """Defines nothing."""


def test_every_callback_has_a_default(reactor, ends, closed_port):
    endpoint = reactor.bind_datagram("127.0.0.1:0", Silent, info=True)
    sender = reactor.connect_datagram(closed_port, Silent)
    sender.send(b"nobody is there")
    client = ends.connect(endpoint.address)
    client.endpoint.send(b"x")
    ends.until(lambda: endpoint.stats().received and sender.stats().errors)
    endpoint.set_write_buffer_limits(0, 0)
    endpoint.close()
    ends.until(lambda: endpoint.get_protocol() is None)
