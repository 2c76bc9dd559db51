"""The host name in a client's first message, beside what OpenSSL writes there."""

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
def test_name_is_known_when_the_message_is_there(name, version):
    data = hello(name, maximum_version=version)
    assert server_name(data) == name
    assert server_name(data + b"what follows") == name
    assert {server_name(data[:end]) for end in range(len(data))} == {None}


def test_client_that_asks_for_none():
    assert server_name(hello(None)) == ""


def test_name_that_is_not_ascii():
    assert server_name(hello("example.org").replace(b"example", b"ex\xe4mple")) == ""


@given(st.binary(min_size=1))
def test_what_is_no_tls_asks_for_none(data):
    assert server_name(b"G" + data) == ""


@given(st.binary(max_size=300))
def test_garbage_in_a_record_is_no_fault(data):
    record = b"\x16\x03\x01" + (len(data) + 1).to_bytes(2, "big") + b"\x01" + data
    assert isinstance(server_name(record), str)


@given(st.data())
def test_any_byte_may_be_another(data):
    whole = bytearray(hello("example.org"))
    whole[data.draw(st.integers(5, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(server_name(bytes(whole)), str)
