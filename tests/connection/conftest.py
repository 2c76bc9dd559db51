"""Fixtures of the tests of connections."""

import pytest


@pytest.fixture(params=["server", "client"])
def side(request, certificates):
    """Our context, the peer's, and whether ours is the server's: for `tls_peers.established`."""
    server, client = certificates.server(), certificates.client()
    return (server, client, True) if request.param == "server" else (client, server, False)


@pytest.fixture
def server(certificates):
    """As `side`, ours the server's."""
    return certificates.server(), certificates.client(), True
