"""The syntax of requests, without I/O: from received bytes to heads and pieces of bodies, by h11.

h11 parses every head and every body. What it accepts and two servers in a row may read in two ways is
refused here, so that no request is smuggled past the first of them (RFC 9112, 11.2): a bare LF, a folded
line, Content-Length beside Transfer-Encoding, Transfer-Encoding in HTTP/1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import attrs

from reactor.errors import ReactorError, missing_package

try:
    import h11
except ImportError:
    raise missing_package("reactor.http", "h11", "http") from None

__all__ = ["HTTPError", "Head", "Headers", "RequestReader", "reason_of"]

#: Fields of a head; Apache allows as many.
MAX_FIELDS = 100

#: Blocks of fields that are remembered, and the bytes of the longest. Clients repeat theirs with other paths.
REMEMBERED = 256
REMEMBERED_SIZE = 1024

#: Bytes of a chunk's size with its extensions, and of a trailer; and of a chunked body that h11 gets at once.
#: It takes a millisecond for a kilobyte of short fields, and nobody reads them.
CHUNK_PIECE = 4096

# That of h11: a method and a target, each followed by one space.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9a-zA-Z-]+) ([\x21-\x7e]+) ")

# What h11 quotes of a request at the end of a message: it is not sent back.
_QUOTED = re.compile(r":? \(?(?:b['\"]|bytearray)")

_BARE_LF = re.compile(rb"(?<!\r)\n")
_TOKEN_FIRST = re.compile(rb"[!#$%&'*+.^_`|~0-9a-zA-Z-]")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(r"https?://([^/?#]+)((?:[/?].*)?)", re.IGNORECASE)


class HTTPError(ReactorError, ValueError):
    """An error that is answered with a status. A handler raises it; a bad request is answered so by itself.

    status: the status code, from 400 on. message: text for the client, after the status; "" for none.
    headers: pairs of further fields of the answer.

    Correct the request: the message says what is wrong with it.
    """

    def __init__(self, status: int, message: str = "", headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{status} {reason_of(status)}" + (f": {message}" if message else ""))
        self.status = status
        self.headers = headers


def reason_of(status: int) -> str:
    """Return the reason phrase of a status code; "" for one that is not registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Headers(Mapping[str, str]):
    """The fields of a head: a mapping from names, in any case, to values.

    The values of a field that was sent several times are joined by ", " (RFC 9110, 5.3).

    >>> Headers([("Accept", "text/html"), ("accept", "text/plain")])["ACCEPT"]
    'text/html, text/plain'
    """

    __slots__ = ("_values",)

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        values: dict[str, str] = {}
        for name, value in fields:
            key = name.lower()
            values[key] = f"{values[key]}, {value}" if key in values else value
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({list(self._values.items())})"

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, or `default`, without the exception that `Mapping` makes of it."""
        return self._values.get(name.lower(), default)

    def tokens(self, name: str) -> list[str]:
        """Return the members of a comma-separated list, in lower case."""
        value = self._values.get(name)
        return [] if value is None else [each for part in value.lower().split(",") if (each := part.strip())]


class Block(NamedTuple):
    """The version and the fields of a head without a body, parsed. The names are those of `Head`."""

    host: str
    headers: Headers
    is_http11: bool
    keep_alive: bool


@attrs.define(eq=False)
class Head:
    """The head of a request, parsed.

    target: as it was sent. path: decoded. query_string: after the "?", as it was sent. host: of the target if
    that has one, else of the field Host; "" without one.
    length: bytes of the body; None: in chunks. keep_alive: the client may send another request.
    """

    method: str
    target: str
    path: str
    query_string: str
    host: str
    headers: Headers
    is_http11: bool
    keep_alive: bool
    length: int | None = 0
    expects_continue: bool = False


class RequestReader:
    """Reads the requests of one connection: a head, the pieces of its body, the next head, and so on.

    max_head: bytes of a head.
    known: remembered blocks of fields, by their bytes, which begin with the version; shared by the
        connections of a server. Of a head with such a block only the first line is parsed, as h11 would.
    Errors are `HTTPError`; after one, nothing more can be read.
    """

    __slots__ = (
        "_buffer", "_fed", "_has_skipped", "_is_chunked", "_known", "_max_head", "_parser", "_searched",
    )  # fmt: skip

    def __init__(self, max_head: int, known: dict[bytes, Block]) -> None:
        self._max_head = max_head
        self._known = known
        self._buffer: bytes | bytearray = b""
        self._searched = 0  # bytes of the buffer in which no head ends
        self._has_skipped = False  # an empty line before the head
        self._parser: h11.Connection | None = None  # that of a request whose body is not read yet
        self._is_chunked = False  # its body
        self._fed = b""  # what the parser got last, and 4 bytes before that

    def buffered(self) -> int:
        """Return how many bytes are not read yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        if not self._buffer:
            self._buffer = data
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def next_head(self) -> Head | None:
        """Return the next head; None if it is not complete."""
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] == 13 and not self._has_skipped:  # an empty line first, RFC 9112, 2.2
            if buffer == b"\r":
                return None
            if buffer[1] == 10:
                self._has_skipped = True
                buffer = self._buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        if end < 4 or end > self._max_head:
            self._check_beginning(buffer)
            return None
        head = bytes(buffer[:end])
        self._buffer = buffer[end:]
        self._searched = 0
        self._has_skipped = False
        return self.known_head(head) or self._parse(head)

    def known_head(self, data: bytes) -> Head | None:
        """Return the head that `data` is, if it is one with a known block of fields; else None."""
        start = data.find(b"\r\n") - 8  # of the version
        block = self._known.get(data[start:])
        line = block and _REQUEST_LINE.fullmatch(data, 0, start)
        if not block or not line or len(data) > self._max_head:
            return None
        method, target = line[1].decode(), line[2].decode()
        return Head(method, target, *_split(method, target, block.host), *block[1:])

    def take_rest(self) -> bytes:
        """Return what is not read yet, for the protocol that the connection is switched to."""
        rest, self._buffer = bytes(self._buffer), b""
        return rest

    def next_piece(self) -> bytes | None:
        r"""Return the next piece of the body; None if it has not arrived, b"" at the end of the body."""
        event = self._next_body_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            return None
        assert self._parser is not None
        behind, _ = self._parser.trailing_data
        taken = self._fed[: len(self._fed) - len(behind)]
        self._buffer = behind + self._buffer
        self._parser = None
        if self._is_chunked and not taken.endswith(b"\r\n\r\n"):  # h11 lets a bare LF end the trailer
            raise HTTPError(400, "lines end with CR and LF")
        return b""

    def _next_body_event(self) -> object:
        parser = self._parser
        assert parser is not None
        event = _next_event(parser)
        while event is h11.NEED_DATA and self._buffer:
            size = CHUNK_PIECE if self._is_chunked else len(self._buffer)
            piece, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
            self._fed = self._fed[-4:] + piece
            parser.receive_data(piece)
            event = _next_event(parser)
        return event

    def _check_beginning(self, buffer: bytes | bytearray) -> None:
        """Raise HTTPError if no head can come of the buffer."""
        if not buffer:
            return
        if _BARE_LF.search(buffer, max(0, self._searched - 1)):
            raise HTTPError(400, "lines end with CR and LF")
        if not _TOKEN_FIRST.match(buffer):
            raise HTTPError(400, "a request begins with its method")
        if len(buffer) > self._max_head:
            if buffer.find(b"\r\n", 0, self._max_head) < 0:
                raise HTTPError(414)
            raise HTTPError(431)
        self._searched = len(buffer)

    def _parse(self, data: bytes) -> Head:
        lines = data.count(b"\r\n")
        if data.count(b"\n") != lines:
            raise HTTPError(400, "lines end with CR and LF")
        if b"\n " in data or b"\n\t" in data:
            raise HTTPError(400, "a field is folded")
        if lines > MAX_FIELDS + 2:
            raise HTTPError(431, f"{MAX_FIELDS} fields are the limit")
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=CHUNK_PIECE)  # the head is whole
        parser.receive_data(data)
        event = _next_event(parser)
        if not isinstance(event, h11.Request):
            raise HTTPError(400)
        head = _head_of(event)
        if head.length != 0:
            self._parser, self._fed, self._is_chunked = parser, b"", head.length is None
        elif len(data) <= REMEMBERED_SIZE:
            self._remember(data[data.find(b"\r\n") - 8 :], head)
        return head

    def _remember(self, block: bytes, head: Head) -> None:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        host = head.headers.get("host", "")
        self._known[block] = Block(host, head.headers, head.is_http11, head.keep_alive)


def _next_event(parser: h11.Connection) -> object:
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as exc:
        text = _QUOTED.split(str(exc))[0]
        raise HTTPError(exc.error_status_hint, text[:1].lower() + text[1:]) from exc


def _head_of(event: h11.Request) -> Head:
    if event.http_version[:2] != b"1.":
        raise HTTPError(505, "HTTP/1.1 is spoken here")
    is_http11 = event.http_version != b"1.0"
    headers = Headers([(name.decode(), value.decode("latin-1")) for name, value in event.headers.raw_items()])
    method, target = event.method.decode(), event.target.decode()
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise HTTPError(400, "the field Host is none")
    path, query_string, host = _split(method, target, host)
    connection = headers.tokens("connection")
    return Head(
        method=method,
        target=target,
        path=path,
        query_string=query_string,
        host=host,
        headers=headers,
        is_http11=is_http11,
        keep_alive="close" not in connection and (is_http11 or "keep-alive" in connection),
        length=_length(headers, is_http11),
        expects_continue=is_http11 and _expects_continue(headers),
    )


def _length(headers: Headers, is_http11: bool) -> int | None:
    """Return the length of the body, None for one in chunks (RFC 9112, 6.3)."""
    length = headers.get("content-length")
    if "transfer-encoding" not in headers:
        return 0 if length is None else int(length)
    if length is not None:
        raise HTTPError(400, "Content-Length and Transfer-Encoding exclude each other")
    if not is_http11:
        raise HTTPError(400, "HTTP/1.0 has no Transfer-Encoding")
    return None


def _expects_continue(headers: Headers) -> bool:
    expected = headers.get("expect")
    if expected is None:
        return False
    if expected.lower() != "100-continue":
        raise HTTPError(417)
    return True


def _split(method: str, target: str, host: str) -> tuple[str, str, str]:
    """Return path, query and host of a request target (RFC 9112, 3.2)."""
    if method in {"CONNECT", "OPTIONS"} and target[0] != "/":
        return target, "", host
    if target[0] != "/":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not _HOST.fullmatch(absolute[1]):
            raise HTTPError(400, "the request target is neither a path nor an http URL")
        host, target = absolute[1], absolute[2]
        target = target if target[:1] == "/" else f"/{target}"
    path, _, query_string = target.partition("?")
    if "#" in target:
        raise HTTPError(400, "a request target has no fragment")
    return _decoded(path), query_string, host


def _decoded(path: str) -> str:
    """Return `path` with its escapes decoded; the result means one path and no other."""
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise HTTPError(400, "an escape in the path is no %XX")
        segments = path.count("/")
        try:
            path = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            raise HTTPError(400, "the path is not in UTF-8") from None
        if _UNSAFE.search(path) or path.count("/") != segments:
            raise HTTPError(400, "the path has an escaped slash or control character")
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise HTTPError(400, "the path has a dot segment")
    return path
