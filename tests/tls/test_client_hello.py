"""The server name in a ClientHello, compared with what OpenSSL writes."""

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.tls.client_hello import server_name


def hello(name, **options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for option, value in options.items():
        setattr(context, option, value)
    written = ssl.MemoryBIO()
    made = context.wrap_bio(ssl.MemoryBIO(), written, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    return written.read()


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["a", "example.org", "x" * 63 + ".example"])
def test_name_is_known_when_the_message_is_complete(name, version):
    data = hello(name, maximum_version=version)
    assert server_name(data) == name
    assert server_name(data + b"what follows") == name
    assert {server_name(data[:end]) for end in range(len(data))} == {None}


def test_client_hello_without_a_name_has_an_empty_name():
    assert server_name(hello(None)) == ""


def test_name_that_is_not_ascii_is_an_empty_name():
    assert server_name(hello("example.org").replace(b"example", b"ex\xe4mple")) == ""


@given(st.binary(min_size=1))
def test_bytes_that_are_not_tls_have_an_empty_name(data):
    assert server_name(b"G" + data) == ""


@given(st.binary(max_size=300))
def test_garbage_in_a_record_raises_nothing(data):
    record = b"\x16\x03\x01" + (len(data) + 1).to_bytes(2, "big") + b"\x01" + data
    assert isinstance(server_name(record), str)


@given(st.data())
def test_corrupted_message_raises_nothing(data):
    whole = bytearray(hello("example.org"))
    whole[data.draw(st.integers(5, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(server_name(bytes(whole)), str)
