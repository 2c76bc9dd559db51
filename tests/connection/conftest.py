"""Fixtures of the tests of connections."""

import pytest


@pytest.fixture(params=["server", "client"])
def side(request, certificates):
    """Our TLS context, the peer's, and whether we are the server: for `tls_peers.established`."""
    server, client = certificates.server(), certificates.client()
    return (server, client, True) if request.param == "server" else (client, server, False)


@pytest.fixture
def server(certificates):
    """As `side`, where we are the server."""
    return certificates.server(), certificates.client(), True
