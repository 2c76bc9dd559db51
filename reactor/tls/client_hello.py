"""Server name indication (SNI): the host name in a TLS client's first message, its ClientHello.

OpenSSL reports it only to a callback of the context, for which CPython prints a traceback for each client
whose name is not ASCII, without a limit.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["server_name"]

_HANDSHAKE = 22  # the type of a record, RFC 8446, 5.1
_CLIENT_HELLO = 1  # of a message, RFC 8446, 4
_SERVER_NAME = 0  # of an extension, RFC 6066, 3


def server_name(data: bytes) -> str | None:
    """Return the host name that a client asks for; "" if it asks for none, None if more input is needed.

    data: everything received from the client so far. A ClientHello that is split over several records, as no
    usual client sends it, counts as one without a name.
    """
    if data[:1] != bytes([_HANDSHAKE]):
        return "" if data else None
    if len(data) < 6 or len(data) < 5 + int.from_bytes(data[3:5]):
        return None
    hello = data[5 : 5 + int.from_bytes(data[3:5])]
    try:
        for kind, body in _extensions(hello):
            if kind == _SERVER_NAME:
                return body[5 : 5 + int.from_bytes(body[3:5])].decode("ascii")
    except (IndexError, UnicodeDecodeError):
        pass  # malformed: OpenSSL reports the error
    return ""


def _extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each extension of a ClientHello: RFC 8446, 4.1.2."""
    if hello[0] != _CLIENT_HELLO:
        return
    at = 1 + 3 + 2 + 32  # type, length, version, random
    at += 1 + hello[at]  # session id
    at += 2 + int.from_bytes(hello[at : at + 2])  # cipher suites
    at += 1 + hello[at]  # compression methods
    at += 2  # length of the extensions
    while at < len(hello):
        size = int.from_bytes(hello[at + 2 : at + 4])
        body = hello[at + 4 : at + 4 + size]
        if len(body) < size:
            return
        yield int.from_bytes(hello[at : at + 2]), body
        at += 4 + size
