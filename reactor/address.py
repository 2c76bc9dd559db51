"""One address type for everything that listens or connects, how it is written and how it is read.

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
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Union

import attrs

from reactor.errors import AddressError

__all__ = ["Address", "AddressLike", "client_prefix", "encode_host", "pack_sockaddr", "unpack_sockaddr"]

_FORMS = "write HOST:PORT, [IPV6]:PORT, :PORT, unix:/path or fd:N"

_PORT = struct.Struct("!H")
_PORT_FLOW_SCOPE = struct.Struct("!HII")
_V4_MAPPED = bytes(10) + b"\xff\xff"  # an IPv4 peer of a socket for both: RFC 4291, 2.5.5.2

# Bytes of a host's whole name in DNS: RFC 1035, 2.3.4, without the lengths of its labels.
_HOST_MOST = 253

# What sun_path holds, without the closing zero: unix(7) has 108 on Linux, the BSDs 104.
_UNIX_PATH_MOST = 107


@attrs.frozen
class Address:
    """Where to listen or connect: a host and port, a Unix path, or an inherited descriptor.

    Exactly one of `host`, `path` and `fd` is not None; `host` is "" for every interface. `port` goes
    with `host`; 0 lets the kernel pick one.
    """

    host: str | None = None
    port: int | None = None
    path: str | None = None
    fd: int | None = None

    @classmethod
    def of(cls, value: object) -> Address:
        """Return `value` as an `Address`.

        value: an `Address`, a text in one of the forms above, or a pair of host and port.
        Raises AddressError with the cause and the forms that are understood.
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
        """Return the address that `text` writes. Raises AddressError."""
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
            raise AddressError(f"{text!r} is ambiguous: put the IPv6 address in brackets, [IPV6]:PORT")
        return cls._inet(host, int(port), repr(text))

    @classmethod
    def from_sockaddr(cls, sockaddr: Any) -> Address:
        """Return the address that getsockname(2) or getpeername(2) gave, as `socket` hands it out."""
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
        if ":" in host:
            try:
                IPv6Address(host)
            except AddressValueError as exc:
                raise AddressError(f"{host!r} in {text} is no IPv6 address: {exc}") from None
        elif host and all(part.isdigit() for part in host.split(".")):
            try:
                IPv4Address(host)
            except AddressValueError as exc:
                raise AddressError(f"{host!r} in {text} is no IPv4 address: {exc}") from None
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
        if size > _UNIX_PATH_MOST:
            raise AddressError(f"unix:{path!r} is {size} bytes long: at most {_UNIX_PATH_MOST} fit")
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
        """The address family where the address alone tells it; None for a name, "" or a descriptor."""
        if self.path is not None:
            return getattr(socket, "AF_UNIX", None)
        if not self.host:
            return None
        if ":" in self.host:
            return socket.AF_INET6
        return socket.AF_INET if self.host.replace(".", "").isdigit() else None

    def resolve(self, *, passive: bool = False) -> list[tuple[socket.AddressFamily, Any]]:
        """Return each family and socket address that this address stands for, best first.

        passive: for listening: "" means every interface. Else "" means this machine.
        A name is looked up with getaddrinfo(3) and may block for seconds.
        Raises OSError (`socket.gaierror`) for a name that is not known, AddressError for `fd:N`.
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
        except UnicodeError as exc:  # it encodes the name first
            raise socket.gaierror(socket.EAI_NONAME, str(exc)) from exc
        return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


AddressLike = Union[Address, str, "tuple[str, int]"]


def encode_host(host: str) -> bytes:
    """Return the name of a host as DNS and TLS have it: in ASCII, by IDNA where it has other characters.

    Raises AddressError for a name that neither can have.
    """
    if " " in host or not host.isprintable():
        raise AddressError(f"{host!r} is no host name: it has a space or a control character")
    try:
        encoded = host.encode("idna")
    except UnicodeError as exc:
        cause = exc.__cause__ or exc  # the codec wraps it in words of its own
        raise AddressError(f"{host!r} is no host name: {getattr(cause, 'reason', cause)}") from None
    if not encoded:
        raise AddressError("a host name can't be empty")
    if len(encoded.removesuffix(b".")) > _HOST_MOST:
        raise AddressError(f"{host!r} is no host name: {len(encoded)} bytes, and {_HOST_MOST} fit")
    return encoded


def pack_sockaddr(sockaddr: Any) -> bytes | str | None:
    """Return a socket address in as little memory as it takes: 48 bytes instead of a tuple's 160.

    A Unix path stays what it is; the nameless peer of a Unix socket and None are None.
    """
    if isinstance(sockaddr, tuple):
        if len(sockaddr) == 2:
            return socket.inet_pton(socket.AF_INET, sockaddr[0]) + _PORT.pack(sockaddr[1])
        host, port, flow, scope = sockaddr
        host = host.partition("%")[0]
        return socket.inet_pton(socket.AF_INET6, host) + _PORT_FLOW_SCOPE.pack(port, flow, scope)
    return os.fsdecode(sockaddr) if sockaddr else None


def unpack_sockaddr(packed: bytes | str) -> Any:
    """Return the socket address that `pack_sockaddr` was given."""
    if isinstance(packed, str):
        return packed
    if len(packed) == _PORT.size + 4:
        return socket.inet_ntop(socket.AF_INET, packed[:4]), *_PORT.unpack(packed[4:])
    return socket.inet_ntop(socket.AF_INET6, packed[:16]), *_PORT_FLOW_SCOPE.unpack(packed[16:])


def client_prefix(packed: bytes | str | None) -> bytes | None:
    """Return what tells one peer's site from others': an IPv4 address, or the /64 of an IPv6 one.

    packed: a socket address from `pack_sockaddr`. Unix sockets have no site: None.
    """
    if not isinstance(packed, bytes):
        return None
    if len(packed) == _PORT.size + 4:
        return packed[:4]
    return packed[12:16] if packed.startswith(_V4_MAPPED) else packed[:8]


def _is_number(text: str) -> bool:
    """Return whether `text` is a number in ASCII digits, and no longer than one here can be."""
    return text.isascii() and text.isdigit() and len(text) < 10
