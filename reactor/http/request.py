"""Requests, as handlers get them, and the ways to answer them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from typing import IO, TYPE_CHECKING, Any
from typing import Protocol as Interface
from urllib.parse import parse_qs

from reactor.connection.connection import Connection
from reactor.errors import UsageError
from reactor.http.files import FilePart, open_below, open_file, part_of, type_of
from reactor.http.response import Fields, Response
from reactor.http.streaming import EventStream, ResponseStream
from reactor.http.syntax import Head, Headers, HTTPError
from reactor.http.tasks import Scope
from reactor.options import seconds as check_seconds
from reactor.streams import Event
from reactor.streams.task import Place, Timeout

if TYPE_CHECKING:  # a page without WebSockets does not need wsproto
    from reactor.http.websocket import WebSocket

__all__ = ["Request", "Upload"]

#: Bytes of an upload that wait for its handler; then reading is stopped.
LIMIT = 64 * 1024


class _Server(Interface):
    """The side of a connection's protocol that its request uses."""

    connection: Connection

    def respond(self, request: Request, response: Response) -> bool: ...

    def go_on_later(self) -> None: ...

    def start(
        self, request: Request, status: int, headers: Fields, content_type: str | None, length: int | None
    ) -> ResponseStream: ...

    def send_file(
        self, request: Request, file: IO[bytes], part: FilePart, content_type: str, headers: Fields
    ) -> None: ...

    def start_events(self, request: Request, headers: Fields, ping: float | None) -> EventStream: ...


class Request:
    r"""A request. Handlers get it, and answer it once: with the `Response` that they return, or later.

    A handler that returns None answers later: with `respond`, or with a stream of `start` or `events`.
    Its methods are called on the thread that drives the reactor.

        from reactor import Reactor
        from reactor.http import HTTP, Response

        def greet(request):
            name = request.query.get("name", ["world"])[0]
            return Response(200, f"Hello, {name}!\n")

        with Reactor() as reactor:
            reactor.listen("127.0.0.1:0", HTTP({"/greet": greet}))
            reactor.call_soon(reactor.stop)
            reactor.run()
    """

    __slots__ = ("_query", "_server", "body", "head", "scope", "switched")

    def __init__(self, server: _Server, head: Head, body: bytes = b"") -> None:
        self._server = server
        self._query: dict[str, list[str]] | None = None
        self.head = head
        #: The body; b"" if it has none.
        self.body = body
        self.scope: Scope | None = None  # of the coroutine that handles it
        self.switched: WebSocket | None = None  # the protocol that its connection was switched to

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.head.target}>"

    @property
    def method(self) -> str:
        """The method: "GET", "HEAD", "POST"."""
        return self.head.method

    @property
    def path(self) -> str:
        """The path, decoded. It begins with a slash and has no dot segments."""
        return self.head.path

    @property
    def query(self) -> dict[str, list[str]]:
        """The values of each name in the query, decoded; one without a value has "".

        Raises HTTPError, which is answered with status 400, for more than 1,000 of them.
        """
        if self._query is None:
            try:
                self._query = parse_qs(self.head.query_string, keep_blank_values=True, max_num_fields=1000)
            except ValueError:
                raise HTTPError(400, "the query has too many fields") from None
        return self._query

    @property
    def headers(self) -> Headers:
        """The fields of its head, a mapping; names are in any case."""
        return self.head.headers

    @property
    def host(self) -> str:
        """The host, and the port if there is one, that the client has asked for."""
        return self.head.host

    @property
    def connection(self) -> Connection:
        """Its connection, for facts about it. Do not write to it."""
        return self._server.connection

    @property
    def peername(self) -> Any:
        """The socket address of the client."""
        return self._server.connection.get_extra_info("peername")

    # Answering

    def respond(self, response: Response) -> bool:
        """Send `response`; for a handler that has returned None.

        Returns False if the connection has ended, so that nothing was sent, and if more than the high-water
        mark is queued then. Raises UsageError if the request is answered already.
        """
        return self._server.respond(self, response)

    def start(
        self,
        status: int = 200,
        headers: Fields = (),
        *,
        content_type: str | None = None,
        length: int | None = None,
    ) -> ResponseStream:
        """Send the head of a response, and return the stream for its body.

        length: bytes of the body, if known; None: it is sent in chunks, or to an HTTP/1.0 client until the
            connection ends. The others are those of `Response`, and raise as they do there; so does a status
            whose response has no body: 204, 304.
        Raises UsageError if the request is answered already, or the connection has ended.
        """
        return self._server.start(self, status, headers, content_type, length)

    def send_file(
        self,
        path: str | os.PathLike[str],
        *,
        below: str | os.PathLike[str] | None = None,
        content_type: str | None = None,
        headers: Fields = (),
    ) -> None:
        """Answer with a file, which the kernel sends: sendfile(2).

        path: of the file. below: a directory; `path` is then one below it that the client may choose. No name
            in it may begin with a dot, no symbolic link is followed, and of a directory (a path that ends
            with a slash, or "") index.html is sent.
        content_type: None for that of the file's name. headers: further fields.
        Answers with ETag and Last-Modified, to conditional requests with 304 or 412, to one range with 206 or
        416, and to several with the whole file.
        Raises HTTPError, which is the answer if it leaves the handler: 404 if there is no such file. Raises
        UsageError if the request is answered already or the connection has ended, OSError when descriptors or
        memory have run out, and ValueError if the file has just become shorter.
        """
        name = os.fspath(path)
        if below is None:
            file = open_file(name)
        else:
            name = name.removeprefix("/")
            name += "index.html" if name[-1:] in {"", "/"} else ""
            file = open_below(below, name)
        try:
            part = part_of(file, self.method, self.headers)
            self._server.send_file(self, file, part, content_type or type_of(name), headers)
        except BaseException:
            file.close()
            raise

    def events(self, headers: Fields = (), *, ping: float | None = 15.0) -> EventStream:
        """Answer with a stream of server-sent events.

        headers: further fields. ping: seconds of silence after which a comment is sent, so that a client
            that has vanished is noticed; None for never.
        Raises UsageError if the request is answered already or the connection has ended, ValueError for a
        `ping` of 0 or less.
        """
        ping = None if ping is None else check_seconds("ping", ping)
        return self._server.start_events(self, headers, ping)

    def websocket(
        self,
        *,
        origins: Collection[str] | None = None,
        subprotocols: Sequence[str] = (),
        max_message: int = 1024 * 1024,
        ping: float | None = 20.0,
        close_timeout: float = 10.0,
        compress: bool = False,
    ) -> WebSocket:
        """Answer the opening handshake of a WebSocket, and return it.

        origins: of the pages that may connect, as "https://example.org", or "*" for all; None: those of the
            host that the request names. Without this check any page could connect in the name of its visitor,
            whose browser sends the cookies along (cross-site WebSocket hijacking).
        subprotocols: that this side speaks, best first. max_message: bytes of a message, or characters of
            text, before it is closed with status 1009.
        ping: seconds between pings; the connection ends with `ReadTimeout` if nothing comes for as long after
            one. None for no pings. close_timeout: seconds in which the peer must answer `WebSocket.close`.
        compress: whether to agree on permessage-deflate.
        Raises HTTPError, which is the answer if it leaves the handler: 400 for no opening handshake, 403 for
        another origin. Raises UsageError if the request is answered already, or the connection has ended.
        Needs the extra `web`.
        """
        from reactor.http.websocket import accept  # noqa: PLC0415 - needs wsproto

        return accept(
            self._server,
            self,
            origins=origins,
            subprotocols=subprotocols,
            max_message=max_message,
            ping=ping,
            close_timeout=close_timeout,
            compress=compress,
        )

    # For coroutines

    def sleep(self, seconds: float) -> Generator[Place, Any, None]:
        """Wait for at least `seconds`, in a coroutine that handles this request."""
        return self._scope().sleep(seconds)

    def timeout(self, seconds: float) -> Timeout:
        """Return a context manager that raises `StreamTimeout` if its body takes longer than `seconds`.

        In the coroutine that handles this request.
        """
        return self._scope().timeout(seconds)

    def _scope(self) -> Scope:
        if self.scope is None:
            raise UsageError("only a handler that is a coroutine can wait")
        return self.scope


class Upload(Request):
    r"""A request whose body is received piece by piece: what a handler gets that is `streamed`.

    on_piece: called with each piece of the body, and b"" at its end; None: they wait for `pieces`, and
        reading stops when there are 64 KiB. While `connection.pause_reading` is in effect no piece comes.

    An answer that is complete before the body was received ends the connection.

        from reactor import Reactor
        from reactor.http import HTTP, Response, streamed

        @streamed
        async def store(request):
            size = 0
            async for piece in request.pieces():
                size += len(piece)
            return Response(200, f"{size} bytes\n")

        with Reactor() as reactor:
            reactor.listen("127.0.0.1:0", HTTP({"POST /store": store}))
            reactor.call_soon(reactor.stop)
            reactor.run()
    """

    __slots__ = ("_arrived", "_is_complete", "_pieces", "_waiting", "on_piece")

    def __init__(self, server: _Server, head: Head) -> None:
        super().__init__(server, head)
        self.on_piece: Callable[[bytes], object] | None = None
        self._pieces: deque[bytes] = deque()
        self._waiting = 0  # bytes of them
        self._is_complete = head.length == 0
        self._arrived = Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the body. In a coroutine that handles the request, while `on_piece` is None."""
        if self.on_piece is not None:
            raise UsageError("the pieces go to on_piece: pieces is for an upload without it")
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._waiting -= len(piece)
                self._server.go_on_later()
                yield piece
            if self._is_complete:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def has_room(self) -> bool:
        """Return whether the handler takes another piece. Called by the server."""
        if self.on_piece is None:
            return self._waiting < LIMIT
        return self.connection.wants_input()

    def take(self, piece: bytes) -> None:
        """Pass a piece on, b"" at the end. Called by the server."""
        self._is_complete = not piece
        if self.on_piece is not None:
            self.on_piece(piece)
            return
        if piece:
            self._pieces.append(piece)
            self._waiting += len(piece)
        self._arrived.set()
