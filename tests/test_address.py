"""Addresses: their text forms, and the errors for invalid ones."""

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor import Address, AddressError
from reactor.address import encode_host, pack_sockaddr, unpack_sockaddr

PORTS = st.integers(0, 65535)
NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True).filter(
    lambda name: name not in {"unix", "fd"}
)
IPV4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
IPV6 = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
PATHS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=30)
ADDRESSES = (
    st.builds(lambda *pair: Address.of(pair), NAMES | IPV4 | IPV6 | st.just(""), PORTS)
    | st.builds(lambda path: Address(path=path), PATHS)
    | st.builds(lambda fd: Address(fd=fd), st.integers(0, 10**6))
)


@given(ADDRESSES)
def test_printed_address_parses_to_the_same_address(address):
    assert Address.parse(str(address)) == address
    assert Address.of(str(address)) == address
    assert Address.of(address) is address


@example("\n:0")
@example(":" + "9" * 5000)
@example("fd:" + "9" * 5000)
@given(st.text() | st.from_regex(r"[\[\]:.%a-f0-9]{0,20}"))
def test_any_text_is_an_address_or_an_error_of_one_line(text):
    try:
        address = Address.parse(text)
    except AddressError as exc:
        assert "\n" not in str(exc)
    else:
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        ("localhost:", "'' in 'localhost:' is no port number"),
        ("localhost:http", "'http' in 'localhost:http' is no port number"),
        ("localhost:-1", "'-1' in 'localhost:-1' is no port number"),
        ("localhost:65536", "port 65536 in 'localhost:65536' is out of range: 0 to 65535"),
        ("localhost:٣", "is no port number"),
        ("::1:80", "'::1:80' is ambiguous: put the IPv6 address in brackets, [IPV6]:PORT"),
        ("fe80::1:80", "'fe80::1:80' is ambiguous: put the IPv6 address in brackets, [IPV6]:PORT"),
        ("tcp:127.0.0.1:80", "'tcp' in 'tcp:127.0.0.1:80' is no kind of address: write HOST:PORT"),
        ("[::1]", "'[::1]' has no port: write [IPV6]:PORT"),
        ("[::1]80", "'[::1]80' has no port: write [IPV6]:PORT"),
        ("[::1", "'[::1' has no port: write [IPV6]:PORT"),
        ("http://localhost:80", "'http://localhost:80' is a URL: write HOST:PORT"),
        ("https://localhost", "'https://localhost' is a URL: write HOST:PORT"),
        ("x" * 64 + ".org:80", "is no host name: label"),
        ("a..b:80", "'a..b' is no host name: label empty"),
        (".a:80", "'.a' is no host name: label empty"),
        ("x." * 127 + "x:80", "is no host name: 255 bytes, and 253 fit"),
        ("\udc80:80", r"is no host name"),
        ("a\x1b[2J:80", r"'a\x1b[2J' in 'a\x1b[2J:80' is no host name"),
        ("[localhost]:80", "'localhost' in '[localhost]:80' is no IPv6 address"),
        ("[::g]:80", "'::g' in '[::g]:80' is no IPv6 address"),
        ("1.2.3.4.5:80", "'1.2.3.4.5' in '1.2.3.4.5:80' is no IPv4 address"),
        ("1.2.3.256:80", "'1.2.3.256' in '1.2.3.256:80' is no IPv4 address"),
        ("a host:80", "'a host' in 'a host:80' is no host name"),
        ("unix:", "unix: has no path"),
        ("unix:a\0b", "has a zero byte in its path"),
        ("unix:" + "x" * 108, "is 108 bytes long: at most 107 fit"),
        ("fd:x", "'x' in 'fd:x' is no descriptor: write fd:N"),
        ("fd:", "is no descriptor"),
    ],
)
def test_invalid_address_is_refused_with_the_cause(text, cause):
    with pytest.raises(AddressError) as refused:
        Address.parse(text)
    assert cause in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value", [None, 80, ("localhost",), (80, "localhost"), ["localhost", 80], b"localhost:80"]
)
def test_value_of_another_type_is_refused(value):
    with pytest.raises(AddressError, match=r"is no address|must be a whole number"):
        Address.of(value)


@pytest.mark.parametrize("host", ["unix", "fd"])
def test_host_that_would_print_as_another_kind_is_refused(host):
    with pytest.raises(AddressError, match="is a kind of address: give the host's full name"):
        Address.of((host, 80))


@pytest.mark.parametrize("port", ["80", 80.0, None, True])
def test_port_of_a_pair_is_a_whole_number(port):
    with pytest.raises(AddressError, match="must be a whole number"):
        Address.of(("localhost", port))


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("127.0.0.1:1", socket.AF_INET),
        ("[::1]:1", socket.AF_INET6),
        ("unix:/a", socket.AF_UNIX),
        ("localhost:1", None),
        (":1", None),
        ("fd:1", None),
    ],
)
def test_family_is_known_for_numeric_addresses_and_paths(text, family):
    assert Address.parse(text).family == family


def test_platform_without_unix_sockets(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    address = Address.parse("unix:/a")
    assert address.family is None
    with pytest.raises(AddressError, match="this platform has no Unix sockets"):
        address.resolve()


def test_resolve_returns_family_and_socket_address():
    assert Address.parse("127.0.0.1:1").resolve() == [(socket.AF_INET, ("127.0.0.1", 1))]
    assert Address.parse("[::1]:1").resolve() == [(socket.AF_INET6, ("::1", 1, 0, 0))]
    assert Address.parse("unix:/a").resolve() == [(socket.AF_UNIX, "/a")]
    assert (socket.AF_INET, ("0.0.0.0", 1)) in Address.parse(":1").resolve(passive=True)
    with pytest.raises(AddressError, match="fd:3 has no socket address of its own"):
        Address.parse("fd:3").resolve()


@pytest.mark.parametrize(
    ("host", "encoded"), [("example.org", b"example.org"), ("bücher.example.", b"xn--bcher-kva.example.")]
)
def test_host_is_encoded_by_idna(host, encoded):
    assert encode_host(host) == encoded


@pytest.mark.parametrize("host", ["", ".", "a b", "a\n", "\udc80", "a..b", "x" * 64, "x." * 127 + "x"])
def test_host_that_dns_cannot_encode_is_refused(host):
    with pytest.raises(AddressError, match="host name"):
        encode_host(host)


def test_host_name_of_253_bytes_is_accepted():
    assert encode_host("x" * 63)
    assert Address.parse("x." * 126 + "x:80").host == "x." * 126 + "x"
    assert Address.parse("x." * 126 + "x.:80")


def test_name_that_cannot_be_encoded_resolves_as_unknown():
    with pytest.raises(socket.gaierror, match="label"):
        Address(host="x" * 64, port=1).resolve()


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("127.0.0.1", 1), "127.0.0.1:1"),
        (("::1", 1, 0, 0), "[::1]:1"),
        ("/a", "unix:/a"),
        (b"/a", "unix:/a"),
    ],
)
def test_from_sockaddr_accepts_the_kernel_s_addresses(sockaddr, text):
    assert str(Address.from_sockaddr(sockaddr)) == text


@given(
    st.tuples(IPV4, PORTS)
    | st.tuples(IPV6, PORTS, st.integers(0, 2**20 - 1), st.integers(0, 2**32 - 1))
    | PATHS
)
def test_unpacking_a_packed_address_returns_it(sockaddr):
    packed = pack_sockaddr(sockaddr)
    unpacked = unpack_sockaddr(packed)
    if isinstance(sockaddr, tuple):
        assert unpacked[1:] == sockaddr[1:]
        assert socket.inet_pton(family(sockaddr), unpacked[0]) == socket.inet_pton(
            family(sockaddr), sockaddr[0]
        )
    else:
        assert unpacked == sockaddr


def family(sockaddr):
    return socket.AF_INET if len(sockaddr) == 2 else socket.AF_INET6


@pytest.mark.parametrize("nobody", [None, "", b""])
def test_unnamed_unix_peer_packs_to_none(nobody):
    assert pack_sockaddr(nobody) is None


def test_scope_of_a_link_local_address_is_kept():
    packed = pack_sockaddr(("fe80::1%eth0", 1, 0, 7))
    assert unpack_sockaddr(packed) == ("fe80::1", 1, 0, 7)
