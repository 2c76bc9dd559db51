"""PROXY headers: the same answer however the bytes are cut and whatever follows; malformed ones."""

import socket
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.errors import ProxyHeaderError
from reactor.framing.proxy_header import (
    PROXY_HEADER_LIMIT,
    ProxyHeader,
    ProxyTLS,
    TLVType,
    least_missing,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

IPV4 = st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535))
IPV6 = st.tuples(st.ip_addresses(v=6).map(str), st.integers(0, 65535))
PATHS = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=108)
ENDS = st.one_of(st.tuples(ends, ends) for ends in (IPV4, IPV6, PATHS))
TEXTS = st.none() | st.text(max_size=20)
TLS = st.builds(
    ProxyTLS,
    certificate=st.just(True),
    verified=st.booleans(),
    **dict.fromkeys(("version", "cipher", "common_name", "signature_algorithm", "key_algorithm"), TEXTS),
)
TLVS = st.lists(
    st.tuples(st.integers(0xE0, 0xEF) | st.sampled_from([1, 2, 0x30]), st.binary(max_size=40))
    | st.tuples(st.just(int(TLVType.UNIQUE_ID)), st.binary(max_size=128))
    | st.tuples(st.just(int(TLVType.TLS)), TLS.map(ProxyTLS.encode)),
    max_size=5,
).map(tuple)
V1 = st.builds(
    lambda ends: ProxyHeader(version=1, source=ends[0], destination=ends[1]),
    st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6), st.just((None, None))),
)
V2 = st.builds(
    lambda ends, **rest: ProxyHeader(source=ends[0], destination=ends[1], **rest),
    ENDS,
    tlvs=TLVS,
    checksum=st.booleans(),
) | st.builds(ProxyHeader, local=st.booleans(), tlvs=TLVS, checksum=st.booleans())
HEADERS = V1 | V2


def outcome(data):
    """Return what `parse` says: the result, or the error's message."""
    try:
        return ProxyHeader.parse(data)
    except ProxyHeaderError as exc:
        return str(exc)


def first_outcome(data, ends):
    """Return the first answer of `parse`, and how many bytes it was given, when `data` comes in pieces."""
    for end in sorted({min(end, len(data)) for end in ends} | {len(data)}):
        found = outcome(data[:end])
        if found is not None:
            return found
    return None


def v2(command=0x21, family=0x11, block=bytes(12), size=None):
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if size is None else size) + block


@given(HEADERS, st.binary(max_size=50))
def test_every_header_round_trips_whatever_follows(header, rest):
    encoded = header.encode()
    assert ProxyHeader.parse(encoded + rest) == (header, len(encoded))


@given(HEADERS, st.binary(max_size=10))
def test_header_gives_one_answer_at_every_split(header, rest):
    encoded = header.encode()
    for end in range(len(encoded)):
        assert ProxyHeader.parse(encoded[:end]) is None
    for end in range(len(encoded), len(encoded) + len(rest) + 1):
        assert ProxyHeader.parse(bytearray((encoded + rest)[:end])) == (header, len(encoded))


@given(HEADERS | st.just(ProxyHeader(version=1)))
def test_no_more_bytes_are_said_missing_than_come(header):
    encoded = header.encode()
    for end in range(len(encoded)):
        assert 1 <= least_missing(encoded[:end]) <= len(encoded) - end
        if header.version == 2 and end >= 16:
            assert least_missing(encoded[:end]) == len(encoded) - end


@st.composite
def mutated(draw):
    """A header with some bytes changed, removed or added."""
    data = bytearray(draw(HEADERS).encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@given(mutated() | st.binary(max_size=300) | st.binary(max_size=300).map((SIGNATURE + b"\x21\x11\0").__add__))
def test_bytes_that_are_no_header_raise_the_documented_error_alone_and_the_same_in_any_split(data):
    whole = outcome(data)
    ends = range(len(data) + 1)
    assert first_outcome(data, ends) == whole
    assert outcome(memoryview(data)) == whole
    if isinstance(whole, tuple):
        header, size = whole
        assert size <= len(data)
        for name in ("authority", "alpn", "unique_id", "tls"):
            getattr(header, name)


@given(mutated(), st.lists(st.integers(0, 400), max_size=5))
def test_split_makes_no_difference_to_an_error(data, ends):
    assert first_outcome(data, ends) == outcome(data)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2",
        b"PROXY TCP6 2001:db8::1 ::1 65535 0",
        b"PROXY UNKNOWN",
        b"PROXY UNKNOWN ffff:f...f:ffff whatever 65535 65535",
    ],
)
def test_line_of_version_1_is_accepted(line):
    header, size = ProxyHeader.parse(line + b"\r\n\r\nrest")
    assert size == len(line) + 2
    assert (header.version, header.local, header.tlvs) == (1, False, ())
    assert (header.source is None) is (b"UNKNOWN" in line)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.5 1",
        b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2 3",
        b"PROXY  TCP4 1.2.3.4 1.2.3.5 1 2",
        b"PROXY TCP4 01.2.3.4 1.2.3.5 1 2",
        b"PROXY TCP4 1.2.3 1.2.3.5 1 2",
        b"PROXY TCP4 1.2.3.4 1.2.3.5 01 2",
        b"PROXY TCP4 1.2.3.4 1.2.3.5 +1 2",
        b"PROXY TCP4 1.2.3.4 1.2.3.5 1 65536",
        b"PROXY TCP4 ::1 ::1 1 2",
        b"PROXY TCP6 1.2.3.4 1.2.3.5 1 2",
        b"PROXY TCP6 fe80::1%lo ::1 1 2",
        b"PROXY TCP5 1.2.3.4 1.2.3.5 1 2",
        b"PROXY UNKNOWNS",
        b"PROXY TCP4 \xff 1.2.3.5 1 2",
        b"PROXY TCP4 1.2.3.4\0 1.2.3.5 1 2",
    ],
)
def test_line_that_does_not_match_is_refused_by_its_text(line):
    with pytest.raises(ProxyHeaderError) as caught:
        ProxyHeader.parse(line + b"\r\n")
    assert str(caught.value).startswith(f"{line!r} is no PROXY line")


def test_longest_line_has_107_bytes():
    line = b"PROXY UNKNOWN ".ljust(105, b"x")
    assert ProxyHeader.parse(line + b"\r\n")[1] == 107
    assert ProxyHeader.parse(line + b"x") is None
    with pytest.raises(ProxyHeaderError, match="does not end within 107 bytes"):
        ProxyHeader.parse(line + b"x\r")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n", "the first bytes are no PROXY header"),
        (b"P0", "the first bytes are no PROXY header"),
        (b"\x16\x03\x01", "the first byte is that of a TLS handshake"),
        (SIGNATURE + b"\x11", "version and command are 0x11"),
        (SIGNATURE + b"\x22", "version and command are 0x22"),
        (SIGNATURE + b"\x21\x41", "family and transport are 0x41"),
        (SIGNATURE + b"\x21\x13", "family and transport are 0x13"),
        (v2(size=PROXY_HEADER_LIMIT), "the header has 4112 bytes: at most 4096 are accepted"),
        (v2(block=bytes(11)), "the header has 27 bytes, too few for its addresses"),
        (v2(block=bytes(12) + b"\xe0\0"), "a TLV at byte 28 does not fit into the 30 bytes"),
        (v2(block=bytes(12) + b"\xe0\0\5abcd"), "a TLV at byte 28 does not fit into the 35 bytes"),
        (v2(block=bytes(12) + b"\3\0\4abcd"), "the CRC32c does not match"),
        (v2(block=bytes(12) + b"\3\0\3abc"), "the CRC32c is not one TLV of 4 bytes"),
        (v2(block=bytes(12) + 2 * b"\3\0\4abcd"), "the CRC32c is not one TLV of 4 bytes"),
        (v2(block=bytes(12) + b"\5\0\x81" + bytes(129)), "the unique id has 129 bytes"),
        (v2(block=bytes(12) + b"\x20\0\4abcd"), "the TLV of TLS has 4 bytes"),
        (v2(block=bytes(12) + b"\x20\0\6abcdef"), "within the TLV of TLS, a TLV at byte 5"),
    ],
)
def test_error_names_what_is_wrong(data, message):
    with pytest.raises(ProxyHeaderError) as caught:
        ProxyHeader.parse(data)
    assert str(caught.value).startswith(message)


def test_checksum_has_the_polynomial_of_rfc_9260():
    encoded = ProxyHeader(source=("1.2.3.4", 5), destination=("6.7.8.9", 10), checksum=True).encode()
    at = 16 + 12 + 3
    zeroed = encoded[:at] + bytes(4) + encoded[at + 4 :]
    crc = 0xFFFFFFFF
    for byte in zeroed:  # bit by bit, where the module has a table
        for bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if (crc ^ byte >> bit) & 1 else 0)
    assert encoded[at : at + 4] == (crc ^ 0xFFFFFFFF).to_bytes(4)


@given(st.data())
def test_changed_bit_of_a_header_with_checksum_is_found(data):
    header = ProxyHeader(
        source=("192.0.2.1", 5), destination=("192.0.2.9", 10), tlvs=((2, b"example.org"),), checksum=True
    )
    encoded = bytearray(header.encode())
    at = data.draw(st.integers(16, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    assert outcome(bytes(encoded)) != (header, len(encoded))
    if not 28 <= at < 31:  # the type and length of the checksum itself
        assert isinstance(outcome(bytes(encoded)), str)


def test_values_of_tlvs_are_attributes():
    tls = ProxyTLS(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", certificate=True, verified=True)
    header = ProxyHeader(
        source=("2001:db8::1", 5),
        destination=("2001:db8::2", 443),
        tlvs=(
            (TLVType.AUTHORITY, b"b\xc3\xbccher.example"),
            (TLVType.ALPN, b"h2"),
            (TLVType.UNIQUE_ID, b"\0id"),
            (TLVType.TLS, tls.encode()),
            (0xE5, b"own"),
            (0xE5, b"second"),
        ),
    )
    assert (header.authority, header.alpn, header.unique_id, header.tls) == (
        "bücher.example",
        "h2",
        b"\0id",
        tls,
    )
    assert (header.tlv(0xE5), header.tlv(0xE6)) == (b"own", None)
    assert header.source == ("2001:db8::1", 5, 0, 0)
    bare = ProxyHeader()
    assert (bare.authority, bare.alpn, bare.unique_id, bare.tls) == (None, None, None, None)


@pytest.mark.parametrize(
    ("flags", "verify", "expected"),
    [
        (0x00, 0, None),
        (0x01, 0, ProxyTLS()),  # no certificate, though the result of the verification is 0
        (0x03, 0, ProxyTLS(certificate=True, verified=True)),
        (0x05, 0, ProxyTLS(certificate=True, verified=True)),
        (0x03, 18, ProxyTLS(certificate=True)),
    ],
)
def test_client_is_verified_only_with_a_certificate(flags, verify, expected):
    value = struct.pack("!BI", flags, verify)
    assert ProxyHeader(tlvs=((TLVType.TLS, value),)).tls == expected


def test_tlvs_may_be_given_as_any_pairs():
    given = ProxyHeader(tlvs=[[TLVType.ALPN, bytearray(b"h2")]])
    assert given == ProxyHeader(tlvs=((1, b"h2"),))
    assert hash(given) == hash(ProxyHeader.parse(given.encode())[0])
    for wrong in (((1, "text"),), ((1, 5),), 5):
        with pytest.raises(TypeError):
            ProxyHeader(tlvs=wrong)


def test_bytes_that_are_no_text_are_shown_as_escapes():
    assert ProxyHeader(tlvs=((TLVType.AUTHORITY, b"a\xff"),)).authority == "a\\xff"


def test_local_header_is_skipped_with_whatever_family_and_block_it_has():
    for family in (0x00, 0x11, 0x77):
        assert ProxyHeader.parse(v2(0x20, family, b"x" * 30) + b"!") == (ProxyHeader(local=True), 46)


def test_unspecified_and_datagram_headers_have_no_addresses():
    for family in (0x00, 0x10, 0x01, 0x20):
        header, size = ProxyHeader.parse(v2(family=family, block=b"x" * 40))
        assert (header, size) == (ProxyHeader(), 56)
    tlv = b"\2\0\1a"
    for family, block in ((0x12, 12), (0x22, 36), (0x32, 216), (0x00, 0)):
        header, _ = ProxyHeader.parse(v2(family=family, block=bytes(block) + tlv))
        assert (header.source, header.destination, header.authority) == (None, None, "a")


def test_padding_is_dropped():
    assert ProxyHeader.parse(v2(block=bytes(12) + b"\4\0\2xx"))[0].tlvs == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 3}, "version must be 1 or 2, not 3"),
        ({"source": ("1.2.3.4", 5)}, "must be of one family"),
        ({"source": ("1.2.3.4", 5), "destination": ("::1", 5)}, "must be of one family"),
        ({"source": ("example.org", 5), "destination": ("::1", 5)}, "is no address for a PROXY header"),
        ({"source": ("1.2.3.4", 70000), "destination": ("1.2.3.4", 5)}, "is no address for a PROXY header"),
        ({"source": 5, "destination": 5}, "is no address for a PROXY header"),
        ({"version": 1, "local": True}, "version 1 has no local"),
        ({"version": 1, "checksum": True}, "version 1 has no local"),
        ({"version": 1, "tlvs": ((2, b"a"),)}, "version 1 has no local"),
        ({"version": 1, "source": "/a", "destination": "/b"}, "version 1 has no local"),
        ({"local": True, "source": "/a", "destination": "/b"}, "a local header has no source"),
        ({"source": "x" * 109, "destination": ""}, "is too long: 108 bytes fit"),
        ({"tlvs": ((3, b"abcd"),)}, "3 is no type for tlvs"),
        ({"tlvs": ((256, b""),)}, "256 is no type for tlvs"),
        ({"tlvs": ((5, bytes(129)),)}, "the unique id has 129 bytes"),
        ({"tlvs": ((0xE0, bytes(4078)),)}, "the header has 4097 bytes"),
    ],
)
def test_value_that_no_header_can_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProxyHeader(**options)


def test_longest_header_is_4096_bytes():
    header = ProxyHeader(tlvs=((0xE0, bytes(4077)),))
    assert len(header.encode()) == PROXY_HEADER_LIMIT
    assert ProxyHeader.parse(header.encode())[0] == header


@pytest.mark.parametrize(
    ("source", "destination", "version", "line"),
    [
        (("1.2.3.4", 5), ("6.7.8.9", 10), 1, b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"),
        (("::ffff:1.2.3.4", 5, 0, 0), ("::ffff:6.7.8.9", 1, 0, 0), 1, b"PROXY TCP4 1.2.3.4 6.7.8.9 5 1\r\n"),
        (("1.2.3.4", 5), ("::1", 10, 0, 0), 1, b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5 10\r\n"),
        (("fe80::1%lo", 5, 0, 1), ("::1", 10, 0, 0), 1, b"PROXY TCP6 fe80::1 ::1 5 10\r\n"),
        (None, ("6.7.8.9", 10), 1, b"PROXY UNKNOWN\r\n"),
        ("/client", "/server", 1, b"PROXY UNKNOWN\r\n"),
        (None, "/server", 2, v2(family=0, block=b"")),
        ("/client", ("6.7.8.9", 10), 2, v2(family=0, block=b"")),
        (b"\0a", "/b", 2, v2(family=0x31, block=b"\0a".ljust(108, b"\0") + b"/b".ljust(108, b"\0"))),
    ],
)  # fmt: skip
def test_header_between_two_sockets(source, destination, version, line):
    assert ProxyHeader.between(source, destination, version).encode() == line


def test_addresses_are_those_of_the_kernel():
    for family, name in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((name, 0), family=family) as server:
            with socket.create_connection(server.getsockname()[:2]) as client:
                header = ProxyHeader.between(client.getsockname(), client.getpeername())
                assert (header.source, header.destination) == (client.getsockname(), client.getpeername())
                assert attrs.evolve(header, version=1).encode().startswith(b"PROXY TCP")
