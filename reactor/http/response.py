"""Responses, and how their heads are written.

h11 does not write them: for a response with a body of known length that takes it as long as parsing the
request. What it would check is checked here, when a response is made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from functools import lru_cache

from reactor.http.syntax import HTTPError, reason_of

__all__ = ["Fields", "Response", "date_line", "error_response", "field_lines", "start_lines"]

#: Further fields of a response: a mapping, or pairs, of names and values.
Fields = Mapping[str, str] | Iterable[tuple[str, str]]

#: Statuses whose responses have no body (RFC 9110, 6.4.1).
BODILESS = frozenset({204, 304})

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]+")
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")

#: Fields that the server writes itself.
_OWN = frozenset({"connection", "content-length", "date", "transfer-encoding"})


class Response:
    r"""A response with a body of known length.

    status: the status code, from 200 on. body: bytes, or text, which is sent as UTF-8.
    content_type: of the body; None: "text/plain; charset=utf-8" for text, "application/octet-stream" for
        bytes, none for an empty body.
    headers: further fields; Content-Length, Date and Connection are the server's.

    It can be made once and returned many times. Raises ValueError for a status out of range, a body that the
    status excludes, and a name or value that is no field's (a line break in it would begin another field).

    >>> Response(200, "hello\n").body
    b'hello\n'
    """

    __slots__ = ("body", "lines", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes | str = b"",
        *,
        content_type: str | None = None,
        headers: Fields = (),
    ) -> None:
        if isinstance(body, str):
            body = body.encode()
            content_type = content_type or "text/plain; charset=utf-8"
        elif body and content_type is None:
            content_type = "application/octet-stream"
        self.status = status
        self.body = body
        lines = start_lines(status, content_type)
        if headers:
            lines += field_lines(headers)
        if status not in BODILESS:
            lines = b"%bContent-Length: %d\r\n" % (lines, len(body))
        elif body:
            raise ValueError(f"a response with status {status} has no body")
        self.lines = lines  # of its head, but those that depend on the request and the time

    @staticmethod
    def redirect(location: str, status: int = 303) -> Response:
        """Return a response that sends the client to `location`, a URL or a path.

        status: 303 to be followed by GET; 307 and 308 to repeat the request, as it is.
        """
        return Response(status, headers=(("Location", location),))

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.body)} bytes>"


@lru_cache(maxsize=64)
def start_lines(status: int, content_type: str | None) -> bytes:
    """Return the status line, and the field Content-Type if there is one. Raises ValueError."""
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"status must be from 200 to 599, not {status!r}")
    line = f"HTTP/1.1 {status} {reason_of(status)}\r\n".encode()
    return line if content_type is None else line + _field_line("Content-Type", content_type)


def field_lines(fields: Fields, *, own: frozenset[str] = _OWN) -> bytes:
    """Return the lines of `fields`. own: names that are refused. Raises ValueError."""
    lines = b""
    for name, value in fields.items() if isinstance(fields, Mapping) else fields:
        if name.lower() in own:
            raise ValueError(f"the field {name} is written by the server")
        lines += _field_line(name, value)
    return lines


@lru_cache(maxsize=256)
def _field_line(name: str, value: str) -> bytes:
    if not isinstance(value, str) or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"{name!r}: {value!r} is no field: a value is one line of text in Latin-1")
    return f"{name}: {value}\r\n".encode("latin-1")


def error_response(error: HTTPError) -> Response:
    """Return the response that says what `error` says."""
    body = "" if error.status in BODILESS else f"{error}\n"
    return Response(error.status, body, headers=error.headers)


class _Today:
    """The field Date, made once a second (RFC 9110, 6.6.1)."""

    second = -1
    line = b""


def date_line() -> bytes:
    """Return the line of the field Date."""
    now = int(time.time())
    if now != _Today.second:
        _Today.line = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        _Today.second = now
    return _Today.line
