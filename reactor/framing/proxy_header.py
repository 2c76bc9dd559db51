"""PROXY protocol headers, versions 1 and 2: the client's addresses, in front of what a proxy forwards.

The specification is HAProxy's proxy-protocol.txt (2020/03/05). Nothing here does I/O: `ProxyHeader.parse`
reads a header from the bytes that were received, `ProxyHeader.encode` returns one to send.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import cache
from typing import Any, Literal

import attrs

from reactor.errors import ProxyHeaderError
from reactor.framing.base import Data

__all__ = ["PROXY_HEADER_LIMIT", "ProxyHeader", "ProxyTLS", "TLVType"]

#: Bytes of the longest header of version 2 that is accepted. Its length field allows 65,551, and 536 are
#: recommended; names in certificates and the TLVs of cloud providers need more than that.
PROXY_HEADER_LIMIT = 4096

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")  # signature; version and command; family and transport; bytes that follow
_LOCAL, _PROXY = 0x20, 0x21
_STREAM = 1

_V1 = b"PROXY "
_V1_LIMIT = 107
_V1_UNKNOWN = b"PROXY UNKNOWN"

_PORTS = struct.Struct("!HH")
_PATH = 108  # bytes of a Unix socket's path
_UNIX = 3

# By family in version 2: the address family, the bytes of an address, and the word for it in version 1.
_INET = {1: (socket.AF_INET, 4, b"TCP4"), 2: (socket.AF_INET6, 16, b"TCP6")}
_BLOCK = {1: 12, 2: 36, _UNIX: 2 * _PATH}

_TLVs = tuple[tuple[int, bytes], ...]
_TLV = struct.Struct("!BH")
_TLS = struct.Struct("!BI")
_OVER_TLS, _CERTIFICATES = 0x01, 0x06  # PP2_CLIENT_SSL; PP2_CLIENT_CERT_CONN and PP2_CLIENT_CERT_SESS
_UNIQUE_ID_LIMIT = 128

_MAPPED = "::ffff:"  # an IPv4 address as an IPv6 one: RFC 4291, 2.5.5.2

_NO_HEADER = "the first bytes are no PROXY header: they begin neither version 1 nor version 2"
_NO_HEADER_BUT_TLS = "the first byte is that of a TLS handshake, and a PROXY header must come before it"


class TLVType(IntEnum):
    """Types of the TLVs in a header of version 2. 0xE0 to 0xEF are free for applications."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    TLS = 0x20
    TLS_VERSION = 0x21  # this and the next four are within TLS
    TLS_COMMON_NAME = 0x22
    TLS_CIPHER = 0x23
    TLS_SIGNATURE_ALGORITHM = 0x24
    TLS_KEY_ALGORITHM = 0x25
    NETNS = 0x30


_OF_TLS = {
    "version": TLVType.TLS_VERSION,
    "common_name": TLVType.TLS_COMMON_NAME,
    "cipher": TLVType.TLS_CIPHER,
    "signature_algorithm": TLVType.TLS_SIGNATURE_ALGORITHM,
    "key_algorithm": TLVType.TLS_KEY_ALGORITHM,
}


@attrs.frozen(kw_only=True)
class ProxyTLS:
    """The TLS between the client and the proxy, as the proxy reports it (PP2_TYPE_SSL).

    certificate: the client has presented a certificate, on this connection or earlier in its TLS session.
    verified: it has, and the proxy has verified it.
    version, cipher: as "TLSv1.3" and "TLS_AES_256_GCM_SHA384". common_name: that of the client's certificate,
    which proves nothing unless `verified` is True.
    signature_algorithm, key_algorithm: those of the proxy's certificate. None: not reported.

    >>> ProxyTLS(version="TLSv1.3", certificate=True, verified=True, common_name="ann").encode().hex()
    '0700000000210007544c5376312e33220003616e6e'
    """

    certificate: bool = False
    verified: bool = False
    version: str | None = None
    cipher: str | None = None
    common_name: str | None = None
    signature_algorithm: str | None = None
    key_algorithm: str | None = None

    def encode(self) -> bytes:
        """Return the value of the TLV `TLVType.TLS`."""
        flags = _OVER_TLS | (_CERTIFICATES if self.certificate else 0)
        texts = ((kind, getattr(self, name)) for name, kind in _OF_TLS.items())
        parts = (_encode_tlv(kind, text.encode()) for kind, text in texts if text is not None)
        return _TLS.pack(flags, not self.verified) + b"".join(parts)


def _decode_tls(value: bytes) -> ProxyTLS | None:
    """Return the value of a TLV that `_check_tlv` has accepted; None if the client does not speak TLS."""
    flags, problem = _TLS.unpack_from(value)
    if not flags & _OVER_TLS:
        return None
    found: dict[int, bytes] = {kind: part for kind, _, part in _split(value, _TLS.size)}
    texts = {name: _text(found.get(kind)) for name, kind in _OF_TLS.items()}
    certificate = bool(flags & _CERTIFICATES)
    return ProxyTLS(certificate=certificate, verified=certificate and not problem, **texts)


def _endpoint(value: Any) -> Any:
    """Return a socket address in the form of `ProxyHeader.source`. Raises ValueError if it is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return os.fsdecode(value)
    try:
        host, port = value[:2]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        host = socket.inet_ntop(family, socket.inet_pton(family, host.partition("%")[0]))
        _PORTS.pack(port, 0)
    except (TypeError, ValueError, AttributeError, OSError, struct.error):
        raise ValueError(
            f"{value!r} is no address for a PROXY header: give (HOST, PORT) with a numeric host, or a path"
        ) from None
    return (host, port, 0, 0) if family == socket.AF_INET6 else (host, port)


def _frozen_tlvs(tlvs: Iterable[tuple[int, Data]]) -> _TLVs:
    return tuple((int(kind), bytes(memoryview(value))) for kind, value in tlvs)


def _family(endpoint: Any) -> int:
    """Return the family in version 2 of an endpoint; 0 for None."""
    if endpoint is None:
        return 0
    if isinstance(endpoint, str):
        return _UNIX
    return 1 if len(endpoint) == 2 else 2


@attrs.frozen(kw_only=True)
class ProxyHeader:
    r"""A header of the PROXY protocol.

    version: 1, a line of text, or 2, binary.
    source, destination: the client's address and the one that it connected to: (host, port) for IPv4,
        (host, port, 0, 0) for IPv6, as `socket.getpeername` returns them, or the path of a Unix socket. Both
        are None if the proxy does not know them, or speaks for itself.
    local: the proxy speaks for itself, as in a health check (the command LOCAL of version 2).
    tlvs: pairs of type and value, without CRC32C and NOOP: see `TLVType`.
    checksum: the header has a CRC32c. One that was received was checked.

    Raises ValueError for a value that no header can have, TypeError for TLVs that are no pairs of int and
    bytes.

    >>> header = ProxyHeader(version=1, source=("192.0.2.7", 40000), destination=("192.0.2.1", 443))
    >>> header.encode()
    b'PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n'
    >>> ProxyHeader.parse(header.encode() + b"GET /") == (header, 42)
    True
    """

    version: Literal[1, 2] = 2
    source: Any = attrs.field(default=None, converter=_endpoint)
    destination: Any = attrs.field(default=None, converter=_endpoint)
    local: bool = False
    tlvs: _TLVs = attrs.field(default=(), converter=_frozen_tlvs)
    checksum: bool = False

    def __attrs_post_init__(self) -> None:
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        family = _family(self.source)
        if self.version not in {1, 2}:
            yield f"version must be 1 or 2, not {self.version!r}"
        if family != _family(self.destination):
            yield f"source {self.source!r} and destination {self.destination!r} must be of one family"
        if self.version == 1 and (self.local or self.tlvs or self.checksum or family == _UNIX):
            yield "version 1 has no local, tlvs, checksum or Unix sockets: use version 2"
        if self.local and family:
            yield "a local header has no source and destination: the connection's own addresses count"
        for path in (self.source, self.destination) if family == _UNIX else ():
            if len(os.fsencode(path)) > _PATH:
                yield f"the path {path!r} is too long: {_PATH} bytes fit"
        yield from self._problems_of_tlvs()

    def _problems_of_tlvs(self) -> Iterator[str]:
        size = _FIXED.size + _BLOCK.get(_family(self.source), 0) + (7 if self.checksum else 0)
        for kind, value in self.tlvs:
            if not 0 <= kind <= 0xFF or kind in {TLVType.CRC32C, TLVType.NOOP}:
                yield f"{kind!r} is no type for tlvs: give 0 to 255, and checksum=True for the CRC32c"
            problem = _problem_of_tlv(kind, value)
            if problem is not None:
                yield problem
            size += _TLV.size + len(value)
        if size > PROXY_HEADER_LIMIT:
            yield f"the header has {size} bytes: at most {PROXY_HEADER_LIMIT} are accepted"

    # Reading

    @classmethod
    def parse(cls, data: Data) -> tuple[ProxyHeader, int] | None:
        """Return the header at the beginning of `data`, and its size in bytes; None if `data` ends within it.

        What follows the header makes no difference. Raises ProxyHeaderError as soon as `data` can't become a
        header any more, with the reason.
        """
        start = bytes(data[: len(_SIGNATURE)])
        if start.startswith(_V1):
            return _parse_v1(bytes(data[:_V1_LIMIT]))
        if start == _SIGNATURE:
            return _parse_v2(bytes(data[:PROXY_HEADER_LIMIT]))
        if not (_V1.startswith(start) or _SIGNATURE.startswith(start)):
            raise ProxyHeaderError(_NO_HEADER_BUT_TLS if start[0] == 0x16 else _NO_HEADER)
        return None

    # Writing

    @classmethod
    def between(cls, source: Any, destination: Any, version: Literal[1, 2] = 2) -> ProxyHeader:
        """Return the header for a connection between two socket addresses, as getpeername(2) returns them.

        IPv4 addresses of a socket for both families are sent as such, and addresses of two families both as
        IPv6. Where one is unknown, or is of a Unix socket and `version` is 1, the header has neither.
        Raises ValueError for anything else.
        """
        ends = [_unmapped(_endpoint(end)) for end in (source, destination)]
        families = {_family(end) for end in ends}
        if 0 in families or (_UNIX in families and (version == 1 or len(families) == 2)):
            return cls(version=version)
        if len(families) == 2:
            ends = [(_MAPPED + end[0], end[1]) if len(end) == 2 else end for end in ends]
        return cls(version=version, source=ends[0], destination=ends[1])

    def encode(self) -> bytes:
        """Return the header's bytes, to be sent before all others."""
        if self.version == 2:
            return self._encode_v2()
        family = _family(self.source)
        if not family:
            return _V1_UNKNOWN + b"\r\n"
        addresses = f"{self.source[0]} {self.destination[0]} {self.source[1]} {self.destination[1]}"
        return b"PROXY %b %b\r\n" % (_INET[family][2], addresses.encode())

    def _encode_v2(self) -> bytes:
        family = _family(self.source)
        block = _encode_addresses(family, self.source, self.destination)
        tlvs = b"".join(_encode_tlv(kind, value) for kind, value in self.tlvs)
        if self.checksum:
            tlvs = _encode_tlv(TLVType.CRC32C, bytes(4)) + tlvs
        command, transport = (_LOCAL if self.local else _PROXY), (_STREAM if family else 0)
        size = len(block) + len(tlvs)
        header = _FIXED.pack(_SIGNATURE, command, family << 4 | transport, size) + block + tlvs
        if self.checksum:
            at = _FIXED.size + len(block) + _TLV.size
            header = header[:at] + _crc32c(header).to_bytes(4) + header[at + 4 :]
        return header

    # Values of TLVs. None: the header has no such TLV. Bytes that are not UTF-8 are shown as escapes.

    def tlv(self, kind: int) -> bytes | None:
        """Return the value of the first TLV of the type `kind`, or None."""
        return next((value for found, value in self.tlvs if found == kind), None)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for: over TLS its SNI (RFC 6066, 3)."""
        return _text(self.tlv(TLVType.AUTHORITY))

    @property
    def alpn(self) -> str | None:
        """The application protocol that the client and the proxy agreed on, as "h2" (RFC 7301)."""
        return _text(self.tlv(TLVType.ALPN))

    @property
    def unique_id(self) -> bytes | None:
        """The proxy's identifier for the connection: up to 128 bytes, the same across several proxies."""
        return self.tlv(TLVType.UNIQUE_ID)

    @property
    def tls(self) -> ProxyTLS | None:
        """The TLS between the client and the proxy; None if there is none, or it is not reported."""
        value = self.tlv(TLVType.TLS)
        return None if value is None else _decode_tls(value)


def least_missing(data: bytes) -> int:
    """Return how many bytes, at least, the header lacks that begins with `data` and is not complete.

    >>> least_missing(b"PROXY UNK")
    6
    """
    if len(data) >= _FIXED.size and data.startswith(_SIGNATURE):
        return int(_FIXED.size + _FIXED.unpack_from(data)[3] - len(data))
    if data.startswith(_SIGNATURE[:1]):
        return _FIXED.size - len(data)
    return max(len(_V1_UNKNOWN) + 2 - len(data), 1 if data.endswith(b"\r") else 2)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _unmapped(endpoint: Any) -> Any:
    host = endpoint[0] if isinstance(endpoint, tuple) else ""
    ipv4 = host.removeprefix(_MAPPED)
    return (ipv4, endpoint[1]) if ipv4 != host and "." in ipv4 else endpoint


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    line, end, _ = data.partition(b"\r\n")
    if not end:
        if len(data) == _V1_LIMIT:
            raise ProxyHeaderError(f"the PROXY line does not end within {_V1_LIMIT} bytes")
        return None
    size = len(line) + len(end)
    if line == _V1_UNKNOWN or line.startswith(_V1_UNKNOWN + b" "):
        return ProxyHeader(version=1), size
    try:
        _, transport, source, destination, source_port, destination_port = line.decode("ascii").split(" ")
        family = next(entry[0] for entry in _INET.values() if entry[2].decode() == transport)
        return ProxyHeader(
            version=1,
            source=(_host(family, source), _port(source_port)),
            destination=(_host(family, destination), _port(destination_port)),
        ), size
    except (ValueError, OSError, StopIteration):
        raise ProxyHeaderError(
            f"{line!r} is no PROXY line: TCP4 or TCP6, two addresses and two ports must follow"
        ) from None


def _host(family: int, text: str) -> str:
    return socket.inet_ntop(family, socket.inet_pton(family, text))


def _port(text: str) -> int:
    port = int(text)
    if str(port) != text:
        raise ValueError(text)  # a sign, a space or a leading zero
    return port


def _parse_v2(data: bytes) -> tuple[ProxyHeader, int] | None:
    _check_first_bytes(data)
    if len(data) < _FIXED.size:
        return None
    _, command, kind, more = _FIXED.unpack_from(data)
    local, size = command == _LOCAL, _FIXED.size + more
    family = 0 if local or not kind & 15 else kind >> 4
    end_of_addresses = _FIXED.size + _BLOCK.get(family, 0)
    if size > PROXY_HEADER_LIMIT:
        raise ProxyHeaderError(f"the header has {size} bytes: at most {PROXY_HEADER_LIMIT} are accepted")
    if size < end_of_addresses:
        raise ProxyHeaderError(f"the header has {size} bytes, too few for its addresses")
    if len(data) < size:
        return None
    # Datagrams are not forwarded in a stream: their addresses are those of no client of ours.
    source, destination = _parse_addresses(family if kind & 15 == _STREAM else 0, data[_FIXED.size :])
    tlvs, checksum = _tlvs_behind(kind, family, data[:size], end_of_addresses)
    return ProxyHeader(
        source=source, destination=destination, local=local, tlvs=tlvs, checksum=checksum
    ), size


def _check_first_bytes(data: bytes) -> None:
    """Raise ProxyHeaderError for a version, command, family or transport that is not known."""
    if len(data) > 12 and data[12] not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError(f"version and command are {data[12]:#04x}: 0x20 and 0x21 are known")
    if len(data) > 13 and data[12] == _PROXY and (data[13] >> 4 > _UNIX or data[13] & 15 > 2):
        raise ProxyHeaderError(f"family and transport are {data[13]:#04x}, which are not assigned")


def _tlvs_behind(kind: int, family: int, header: bytes, at: int) -> tuple[_TLVs, bool]:
    """Return the TLVs of a whole header, and whether there is a checksum, which is checked.

    at: the end of the addresses. Of a family that is not known here all that follows is skipped.
    """
    if kind and not family:
        return (), False
    try:
        return _parse_tlvs(header, at)
    except _NotDivisibleError as exc:
        if kind:
            raise ProxyHeaderError(str(exc)) from None
        return (), False  # unspecified addresses, of a size that the sender alone knows


def _parse_addresses(family: int, block: bytes) -> tuple[Any, Any]:
    if not family:
        return None, None
    if family == _UNIX:
        paths = block[:_PATH], block[_PATH : 2 * _PATH]
        return os.fsdecode(paths[0].rstrip(b"\0")), os.fsdecode(paths[1].rstrip(b"\0"))
    kind, size, _ = _INET[family]
    ports = _PORTS.unpack_from(block, 2 * size)
    return (
        (socket.inet_ntop(kind, block[:size]), ports[0]),
        (socket.inet_ntop(kind, block[size : 2 * size]), ports[1]),
    )


def _encode_addresses(family: int, source: Any, destination: Any) -> bytes:
    if not family:
        return b""
    if family == _UNIX:
        return b"".join(os.fsencode(path).ljust(_PATH, b"\0") for path in (source, destination))
    hosts = b"".join(socket.inet_pton(_INET[family][0], end[0]) for end in (source, destination))
    return hosts + _PORTS.pack(source[1], destination[1])


# TLVs


class _NotDivisibleError(Exception):
    """The bytes don't divide into TLVs."""


def _encode_tlv(kind: int, value: bytes) -> bytes:
    return _TLV.pack(kind, len(value)) + value


def _split(data: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, position of the value, and value of each TLV from `at` on."""
    while at < len(data):
        start = at + _TLV.size
        kind, size = _TLV.unpack_from(data, at) if start <= len(data) else (0, len(data))
        if start + size > len(data):
            raise _NotDivisibleError(f"a TLV at byte {at} does not fit into the {len(data)} bytes")
        yield kind, start, data[start : start + size]
        at = start + size


def _parse_tlvs(header: bytes, at: int) -> tuple[_TLVs, bool]:
    tlvs = list(_split(header, at))
    checksums = [(start, value) for kind, start, value in tlvs if kind == TLVType.CRC32C]
    if checksums:
        _check_sum(header, checksums)
    kept = [(kind, value) for kind, _, value in tlvs if kind not in {TLVType.CRC32C, TLVType.NOOP}]
    problem = next(filter(None, (_problem_of_tlv(kind, value) for kind, value in kept)), None)
    if problem is not None:
        raise ProxyHeaderError(problem)
    return tuple(kept), bool(checksums)


def _problem_of_tlv(kind: int, value: bytes) -> str | None:
    if kind == TLVType.UNIQUE_ID and len(value) > _UNIQUE_ID_LIMIT:
        return f"the unique id has {len(value)} bytes: at most {_UNIQUE_ID_LIMIT} are allowed"
    if kind == TLVType.TLS:
        try:
            parts = len(value) >= _TLS.size and list(_split(value, _TLS.size))
        except _NotDivisibleError as exc:
            return f"within the TLV of TLS, {exc}"
        if parts is False:
            return f"the TLV of TLS has {len(value)} bytes: at least {_TLS.size} are needed"
    return None


def _check_sum(header: bytes, checksums: list[tuple[int, bytes]]) -> None:
    if len(checksums) > 1 or len(checksums[0][1]) != 4:
        raise ProxyHeaderError("the CRC32c is not one TLV of 4 bytes")
    at, value = checksums[0]
    if _crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value):
        raise ProxyHeaderError("the CRC32c does not match: the header was changed on its way")


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def _crc32c(data: bytes) -> int:
    """Return the CRC32c of `data`: RFC 9260, Appendix A."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
