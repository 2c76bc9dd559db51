"""Certificates for the tests of TLS, of an authority that is made for each run."""

import ssl
from pathlib import Path

import attrs
import pytest
import trustme

from reactor.tls import client_context, server_context


@attrs.frozen
class Certificates:
    """The files of an authority, of a server called localhost, 127.0.0.1 and example.org, and of a client."""

    folder: Path
    authority: trustme.CA

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def server(self, **options: object) -> ssl.SSLContext:
        return server_context(self.file("server.pem"), self.file("server.key"), **options)

    def client(self, **options: object) -> ssl.SSLContext:
        return client_context(self.file("ca.pem"), **options)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("tls"), trustme.CA(key_type=trustme.KeyType.ECDSA))
    made.authority.cert_pem.write_to_path(made.file("ca.pem"))
    for name, whose in {
        "server": ["localhost", "127.0.0.1", "example.org"],
        "other": ["other.example"],
        "client": ["client@example.org"],
    }.items():
        issued = made.authority.issue_cert(*whose, key_type=trustme.KeyType.ECDSA)
        issued.private_key_pem.write_to_path(made.file(f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(made.file(f"{name}.pem"))
    return made
