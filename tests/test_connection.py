from tests.helpers import Echo, pair, spin


def test_echo(reactor, descriptors):
    echo = Echo()
    connection, peer = pair(reactor, echo)
    peer.send(b"hello")
    spin(reactor, lambda: echo.received)
    assert peer.recv(10) == b"hello"
    connection.close()
    spin(reactor, lambda: echo.lost)
    assert echo.reason is None
    peer.close()
