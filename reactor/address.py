"""Addresses to listen on and to connect to, and their text forms.

HOST:PORT      127.0.0.1:9092, localhost:9092
[V6]:PORT      [::1]:9092, [fe80::1%eth0]:9092     IPv6 and nothing else
:PORT          every interface, IPv4 and IPv6
unix:/path     a Unix socket
fd:N           a descriptor that the process inherited
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any, Union

import attrs

from reactor.errors import AddressError

__all__ = ["Address", "AddressLike", "client_prefix", "encode_host", "pack_sockaddr", "unpack_sockaddr"]

_FORMS = "write HOST:PORT, [IPV6]:PORT, :PORT, unix:/path or fd:N"

_PORT = struct.Struct("!H")
_PORT_FLOW_SCOPE = struct.Struct("!HII")
_V4_MAPPED = bytes(10) + b"\xff\xff"  # an IPv4 peer of a socket for both: RFC 4291, 2.5.5.2

_HEX_DIGITS = set("0123456789abcdefABCDEF")  # of an IPv6 address, up to its first colon

# Bytes of a host's whole name in DNS: RFC 1035, 2.3.4, without the lengths of its labels.
_HOST_LIMIT = 253

# Bytes of a path in sun_path without the final zero: unix(7) has 108 on Linux, the BSDs 104.
_UNIX_PATH_LIMIT = 107


@attrs.frozen
class Address:
    """An address to listen on or connect to: host and port, path of a Unix socket, or inherited descriptor.

    Exactly one of `host`, `path` and `fd` is not None. An empty `host` means every interface. `port`
    belongs to `host`; 0 lets the kernel choose one.

    >>> Address.parse("[::1]:9092")
    Address(host='::1', port=9092, path=None, fd=None)
    >>> str(Address.of(("localhost", 80)))
    'localhost:80'
    >>> Address.parse("localhost:99999")
    Traceback (most recent call last):
    reactor.errors.AddressError: port 99999 in 'localhost:99999' is out of range: 0 to 65535
    """

    host: str | None = None
    port: int | None = None
    path: str | None = None
    fd: int | None = None

    @classmethod
    def of(cls, value: object) -> Address:
        """Return `value` as an `Address`.

        value: an `Address`, a string in one of the forms of `parse`, or a pair of host and port.
        Raises AddressError, which names the value and the accepted forms.
        """
        if isinstance(value, Address):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            return cls._inet(value[0], value[1], repr(value))
        raise AddressError(f"{value!r} is no address: {_FORMS}, or give (host, port)")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse HOST:PORT, [IPV6]:PORT, :PORT, unix:/path or fd:N. Raises AddressError."""
        if "://" in text:
            raise AddressError(f"{text!r} is a URL: {_FORMS}")
        kind, separator, rest = text.partition(":")
        if separator and kind == "unix":
            return cls._unix(rest)
        if separator and kind == "fd":
            return cls._descriptor(rest, text)
        host, separator, port = text.rpartition(":")
        if text.startswith("[") and not host.endswith("]"):
            raise AddressError(f"{text!r} has no port: write [IPV6]:PORT")
        if not separator:
            raise AddressError(f"{text!r} has no port: {_FORMS}")
        if not _is_number(port):
            raise AddressError(f"{port!r} in {text!r} is no port number: {_FORMS}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host:
                raise AddressError(f"{host!r} in {text!r} is no IPv6 address: {_FORMS}")
        elif ":" in host:
            if not set(kind) <= _HEX_DIGITS:
                raise AddressError(f"{kind!r} in {text!r} is no kind of address: {_FORMS}")
            raise AddressError(f"{text!r} is ambiguous: put the IPv6 address in brackets, [IPV6]:PORT")
        return cls._inet(host, int(port), repr(text))

    @classmethod
    def from_sockaddr(cls, sockaddr: Any) -> Address:
        """Return the address of `sockaddr`, as `socket.getsockname` and `getpeername` return it."""
        if isinstance(sockaddr, tuple):
            return cls(host=sockaddr[0], port=sockaddr[1])
        path = sockaddr.decode("utf-8", "surrogateescape") if isinstance(sockaddr, bytes) else sockaddr
        return cls(path=path)

    @classmethod
    def _inet(cls, host: str, port: object, text: str) -> Address:
        if isinstance(port, bool) or not isinstance(port, int):
            raise AddressError(f"the port in {text} must be a whole number, not {port!r}")
        if not 0 <= port <= 65535:
            raise AddressError(f"port {port} in {text} is out of range: 0 to 65535")
        if " " in host or not host.isprintable():
            raise AddressError(f"{host!r} in {text} is no host name: {_FORMS}")
        if host in {"unix", "fd"}:
            raise AddressError(f"{host!r} in {text} is a kind of address: give the host's full name")
        if ":" in host or (host and all(part.isdigit() for part in host.split("."))):
            _check_numeric(host, text)
        elif host:
            encode_host(host)
        return cls(host=host, port=port)

    @classmethod
    def _unix(cls, path: str) -> Address:
        if not path:
            raise AddressError("unix: has no path: write unix:/path/of/the/socket")
        if "\0" in path:
            raise AddressError(f"unix:{path!r} has a zero byte in its path")
        size = len(path.encode("utf-8", "surrogateescape"))
        if size > _UNIX_PATH_LIMIT:
            raise AddressError(f"unix:{path!r} is {size} bytes long: at most {_UNIX_PATH_LIMIT} fit")
        return cls(path=path)

    @classmethod
    def _descriptor(cls, number: str, text: str) -> Address:
        if not _is_number(number):
            raise AddressError(f"{number!r} in {text!r} is no descriptor: write fd:N")
        return cls(fd=int(number))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.fd is not None:
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily | None:
        """The address family, if it is known without a look-up; None for a name, "" or a descriptor."""
        if self.path is not None:
            return getattr(socket, "AF_UNIX", None)
        if not self.host:
            return None
        if ":" in self.host:
            return socket.AF_INET6
        return socket.AF_INET if self.host.replace(".", "").isdigit() else None

    def resolve(self, *, passive: bool = False) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the pairs of address family and socket address that this address resolves to, best first.

        passive: True for listening, where an empty host means every interface; else it means this machine.
        A name is looked up with getaddrinfo(3), which may block for seconds.
        Raises OSError (`socket.gaierror`) for an unknown name, AddressError for `fd:N`.
        """
        if self.path is not None:
            if self.family is None:
                raise AddressError(f"{self}: this platform has no Unix sockets")
            return [(self.family, self.path)]
        if self.fd is not None:
            raise AddressError(f"{self} has no socket address of its own")
        try:
            found = socket.getaddrinfo(
                self.host or None,
                self.port,
                family=self.family or socket.AF_UNSPEC,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE if passive else 0,
            )
        except UnicodeError as exc:  # from encoding the name
            raise socket.gaierror(socket.EAI_NONAME, str(exc)) from exc
        return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


AddressLike = Union[Address, str, "tuple[str, int]"]


def encode_host(host: str) -> bytes:
    """Return the host name as DNS and TLS encode it: ASCII, other characters by IDNA.

    Raises AddressError for a name that can't be encoded.
    """
    if " " in host or not host.isprintable():
        raise AddressError(f"{host!r} is no host name: it has a space or a control character")
    try:
        encoded = host.encode("idna")
    except UnicodeError as exc:
        cause = exc.__cause__ or exc  # the codec wraps the reason
        raise AddressError(f"{host!r} is no host name: {getattr(cause, 'reason', cause)}") from None
    if not encoded:
        raise AddressError("a host name can't be empty")
    if len(encoded.removesuffix(b".")) > _HOST_LIMIT:
        raise AddressError(f"{host!r} is no host name: {len(encoded)} bytes, and {_HOST_LIMIT} fit")
    return encoded


def pack_sockaddr(sockaddr: Any) -> bytes | str | None:
    """Pack a socket address into a bytes object: 48 bytes of memory instead of a tuple's 160.

    The path of a Unix socket is returned as str. None is returned for None and for an unnamed Unix socket.
    """
    if isinstance(sockaddr, tuple):
        if len(sockaddr) == 2:
            return socket.inet_pton(socket.AF_INET, sockaddr[0]) + _PORT.pack(sockaddr[1])
        host, port, flow, scope = sockaddr
        host = host.partition("%")[0]
        return socket.inet_pton(socket.AF_INET6, host) + _PORT_FLOW_SCOPE.pack(port, flow, scope)
    return os.fsdecode(sockaddr) if sockaddr else None


def unpack_sockaddr(packed: bytes | str) -> Any:
    """Return the socket address that `pack_sockaddr` packed."""
    if isinstance(packed, str):
        return packed
    if len(packed) == _PORT.size + 4:
        return socket.inet_ntop(socket.AF_INET, packed[:4]), *_PORT.unpack(packed[4:])
    return socket.inet_ntop(socket.AF_INET6, packed[:16]), *_PORT_FLOW_SCOPE.unpack(packed[16:])


def client_prefix(packed: bytes | str | None) -> bytes | None:
    """Return the client prefix that `Limits.max_per_ip` counts by: an IPv4 address, or an IPv6 one's /64.

    packed: a socket address from `pack_sockaddr`. Returns None for Unix sockets.
    """
    if not isinstance(packed, bytes):
        return None
    if len(packed) == _PORT.size + 4:
        return packed[:4]
    return packed[12:16] if packed.startswith(_V4_MAPPED) else packed[:8]


def _check_numeric(host: str, text: str) -> None:
    """Raise AddressError, naming `text`, if the numeric address `host` is malformed."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        pass  # or it has a scope, which inet_pton does not accept
    else:
        return
    import ipaddress  # noqa: PLC0415 - for the cause

    check, version = (ipaddress.IPv6Address, 6) if ":" in host else (ipaddress.IPv4Address, 4)
    try:
        check(host)
    except ipaddress.AddressValueError as exc:
        raise AddressError(f"{host!r} in {text} is no IPv{version} address: {exc}") from None


def _is_number(text: str) -> bool:
    """Return whether `text` is a decimal number of at most 9 ASCII digits."""
    return text.isascii() and text.isdigit() and len(text) < 10
