"""TLS contexts: secure defaults, and errors of one line for files that can't be used."""

import os
import ssl
import subprocess

import pytest

from reactor.errors import TLSContextError
from reactor.tls import client_context, server_context


def test_defaults_are_secure(certificates):
    server, client = certificates.server(), certificates.client()
    for context in (server, client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
    assert client.verify_mode is ssl.CERT_REQUIRED
    assert client.check_hostname
    assert server.verify_mode is ssl.CERT_NONE


def test_files_may_be_given_as_strings_or_paths(certificates):
    cert, key, ca = map(certificates.file, ("server.pem", "server.key", "ca.pem"))
    assert server_context(cert=cert, key=key).protocol is ssl.PROTOCOL_TLS_SERVER
    assert client_context(ca=ca).protocol is ssl.PROTOCOL_TLS_CLIENT


def test_client_trusts_the_system_s_authorities_by_default():
    assert client_context().verify_mode is ssl.CERT_REQUIRED


def test_verification_is_turned_off_explicitly():
    context = client_context(verify=False)
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_minimum_version_can_be_raised(certificates):
    context = certificates.server(min_version=ssl.TLSVersion.TLSv1_3)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def encrypted(certificates, tmp_path):
    path = tmp_path / "encrypted.key"
    key = certificates.file("server.key")
    words = ["openssl", "ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    return path


def test_encrypted_key_is_loaded_with_its_password(certificates, tmp_path):
    key = encrypted(certificates, tmp_path)
    for password in ("secret", lambda: "secret"):
        server_context(certificates.file("server.pem"), key, password=password)


@pytest.mark.parametrize(
    ("password", "message"),
    [(None, "is encrypted, and no password was given"), ("wrong", "is encrypted, and the password is wrong")],
)
def test_encrypted_key_without_its_password_is_refused(certificates, tmp_path, password, message):
    key = encrypted(certificates, tmp_path)
    with pytest.raises(TLSContextError) as caught:
        server_context(certificates.file("server.pem"), key, password=password)
    assert str(caught.value) == f"{key} {message}"


def test_key_of_another_certificate_is_refused(certificates):
    cert, key = certificates.file("server.pem"), certificates.file("client.key")
    with pytest.raises(TLSContextError) as caught:
        server_context(cert, key)
    assert str(caught.value) == f"the key of {key} does not belong to the certificate of {cert}"


def test_missing_file_is_refused(certificates, tmp_path):
    missing = tmp_path / "missing.pem"
    for make in (
        lambda: server_context(missing),
        lambda: server_context(certificates.file("server.pem"), missing),
        lambda: certificates.server(client_ca=missing),
        lambda: client_context(missing),
    ):
        with pytest.raises(TLSContextError) as caught:
            make()
        assert str(caught.value) == f"cannot read {missing}: No such file or directory"


def test_unreadable_file_is_refused(certificates, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reactor.tls.contexts.os.open", refuse)  # CI runs as root, which may read everything
    with pytest.raises(TLSContextError) as caught:
        certificates.server()
    assert str(caught.value) == f"cannot read {certificates.file('server.pem')}: Permission denied"


def fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize("make_file", [fifo, os.mkdir])
def test_file_that_is_not_regular_is_refused_at_once(certificates, tmp_path, make_file):
    """A FIFO above all: opening it waits for a writer, and reading it for the end."""
    path = tmp_path / "special.pem"
    make_file(path)
    for make in (
        lambda: server_context(path),
        lambda: server_context(certificates.file("server.pem"), path),
        lambda: certificates.server(client_ca=path),
        lambda: client_context(path),
        lambda: client_context(cert=certificates.file("client.pem"), key=path),
    ):
        with pytest.raises(TLSContextError) as caught:
            make()
        assert str(caught.value) == f"cannot read {path}: it is not a regular file"


def test_endless_device_is_refused():
    with pytest.raises(TLSContextError, match="cannot read /dev/zero: it is not a regular file"):
        client_context("/dev/zero")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["h2", ""], "the ALPN name '' must have 1 to 255 ASCII characters"),
        (["x" * 256], "must have 1 to 255 ASCII characters"),
        (["é"], "the ALPN name 'é' must have 1 to 255 ASCII characters"),
        (["x" * 255] * 256, "256 ALPN names are too many"),
    ],
)
def test_alpn_names_that_cannot_be_sent_are_refused(certificates, names, message):
    for make in (certificates.server, client_context):
        with pytest.raises(TLSContextError, match=message):
            make(alpn=names)


def test_longest_alpn_names_are_accepted(certificates):
    for make in (certificates.server, client_context):
        make(alpn=["x", "x" * 255])
        make(alpn=["x" * 254] * 257)  # 65535 bytes with their lengths


def test_alpn_is_a_sequence_of_names_and_not_one_text(certificates):
    for make in (certificates.server, client_context):
        with pytest.raises(TypeError, match="alpn must be a sequence of names"):
            make(alpn="h2")


def test_file_of_another_format_is_refused(certificates, tmp_path):
    other = tmp_path / "other.pem"
    other.write_text("not a certificate\n")
    with pytest.raises(TLSContextError) as caught:
        server_context(other)
    assert str(caught.value) == f"no certificate and private key in PEM could be read from {other}"
    with pytest.raises(TLSContextError) as caught:
        client_context(other)
    assert str(caught.value) == f"no certificate in PEM could be read from {other}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client_ca": "ca.pem"}, "must ask for certificates"),
        ({"min_version": ssl.TLSVersion.TLSv1_3}, "must have the min_version"),
    ],
)
def test_context_of_a_name_cannot_be_stricter_than_the_server_s(certificates, options, message):
    """Switching contexts in the handshake changes the certificate, not what is required of clients."""
    options = {
        key: certificates.file(value) if key == "client_ca" else value for key, value in options.items()
    }
    strict = certificates.server(**options)
    with pytest.raises(TLSContextError, match=message):
        certificates.server(names={"example.org": strict})
    with pytest.raises(TLSContextError, match=message):
        certificates.server(names={"example.org": certificates.server()}, **options)
    certificates.server(names={"example.org": strict}, **options)
