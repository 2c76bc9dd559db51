"""A pending handshake: the protocol is made when the handshake is done, and not before."""

from reactor import Protocol, Reactor, TLSHandshakeError
from reactor.connection.handshake import PendingHandshake, pending_handshake_of
from reactor.testing import Recorder
from tests.helpers import connect, spin


def test_factory_may_bring_its_own_class():
    class Own(PendingHandshake):
        """Its class is asked for."""

    class Factory:
        pending_handshake = Own

        def __call__(self):
            raise AssertionError

    assert pending_handshake_of(Protocol) is PendingHandshake
    assert pending_handshake_of(Factory()) is Own


def test_protocol_is_made_after_the_handshake(certificates):
    made = []
    with Reactor() as reactor:
        listener = reactor.listen(
            "127.0.0.1:0", lambda: made.append(Recorder()) or made[-1], tls=certificates.server()
        )
        with connect(reactor, listener.addresses[0]):
            spin(reactor, reactor.connections)
            assert isinstance(reactor.connections()[0].get_protocol(), PendingHandshake)
            assert made == []
        client = Recorder()
        reactor.connect(f"localhost:{listener.addresses[0].port}", lambda: client, tls=certificates.client())
        spin(reactor, lambda: made)
        assert made[0].names == ["connection_made"]


def test_failure_is_reported_once_and_not_to_the_factory(certificates):
    failed = []
    with Reactor() as reactor:
        listener = reactor.listen(
            "127.0.0.1:0", Recorder, tls=certificates.server(), on_tls_error=failed.append
        )
        with connect(reactor, listener.addresses[0]) as client:
            client.sendall(b"no TLS\r\n" * 10)
            spin(reactor, lambda: failed)
        spin(reactor, lambda: not reactor.connections())
    assert [type(exc) for exc in failed] == [TLSHandshakeError]
