"""Fixtures for the tests of the command line."""

import pytest


@pytest.fixture
def tls(certificates):
    """The arguments of a server with TLS."""
    cert, key = certificates.file("server.pem"), certificates.file("server.key")
    return ["--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key]
