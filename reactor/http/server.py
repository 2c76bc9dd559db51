"""The server side of HTTP/1.1: `HTTP`, a factory of protocols for `Reactor.listen`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Coroutine, Mapping
from enum import Enum
from typing import IO, TYPE_CHECKING, Any

from reactor.connection.connection import Connection, activity, interrupted, is_frozen
from reactor.connection.interrupts import Step
from reactor.errors import ReadTimeout, StreamClosed, UsageError
from reactor.http.files import FilePart
from reactor.http.request import Request, Upload
from reactor.http.response import (
    BODILESS,
    Fields,
    Response,
    date_line,
    error_response,
    field_lines,
    start_lines,
)
from reactor.http.routes import Handler, Routes, Streamed
from reactor.http.streaming import EventStream, ResponseStream
from reactor.http.syntax import Block, Head, HTTPError, RequestReader
from reactor.http.tasks import Scope
from reactor.options import seconds, size
from reactor.protocol import Protocol

if TYPE_CHECKING:  # a page without WebSockets does not need wsproto
    from reactor.http.websocket import WebSocket

__all__ = ["HTTP", "HTTPProtocol"]

#: Steps (a head, or a piece of a body) of one connection in a tick, so that none starves the others.
STEPS_PER_TICK = 64

#: Seconds that the connection of a bad request lingers, as Apache's: a slow loris would stay for longer.
LINGER = 2.0

#: Bytes of a file up to which it is read and sent with its head: it takes no descriptor while it is queued.
SMALL_FILE = 16 * 1024

#: Fields of an event stream. nginx would collect 4 KiB of it, unless the response has the second.
_OF_EVENTS = (("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))


class HTTP:
    r"""A server of HTTP/1.1: a factory of protocols for `Reactor.listen`.

    handler: a function that is called with every `Request` whose method is GET, HEAD or POST; or a mapping
        from paths to such functions. A key is a path, for GET and HEAD, or a method, a space and a path:
        "POST /jobs". A path that ends with "/*" is for all below it that have none of their own. Other paths
        are answered with status 404, other methods with 405, and those of no handler at all with 501. HEAD
        is answered as GET, without the body.
    max_head: bytes of a request's head, before status 431. max_body: bytes of its body, before 413.
    head_timeout: seconds in which a head must be complete, whatever bytes arrive, before status 408 (nginx
        and Node.js have 60; a head fits in one packet). body_timeout: the same for the body.
    keep_alive: seconds after a response in which the next request must begin (as nginx); then the connection
        is closed.
    The limits and timeouts of `Reactor.listen` hold too; `Timeouts.idle` would also end long answers.

    A handler that raises `HTTPError` is answered with its status; any other exception with 500, without the
    traceback, which goes to the reactor's `on_error`.
    Raises TypeError for a handler that is not callable, ValueError for an invalid key or number.

        from reactor import Reactor
        from reactor.http import HTTP, Response

        def hello(request):
            return Response(200, "hello\n")

        with Reactor() as reactor:
            reactor.listen("127.0.0.1:0", HTTP({"/": hello}))
            reactor.call_soon(reactor.stop)
            reactor.run()
    """

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler],
        *,
        max_head: int = 16 * 1024,
        max_body: int = 1024 * 1024,
        head_timeout: float = 10.0,
        body_timeout: float = 60.0,
        keep_alive: float = 75.0,
    ) -> None:
        self.routes = Routes(handler)
        self.max_head = size("max_head", max_head)
        self.max_body = size("max_body", max_body)
        self.head_timeout = seconds("head_timeout", head_timeout)
        self.body_timeout = seconds("body_timeout", body_timeout)
        self.keep_alive = seconds("keep_alive", keep_alive)
        self.known: dict[bytes, Block] = {}  # what `RequestReader` remembers

    def __call__(self) -> HTTPProtocol:
        """Return the protocol of a new connection."""
        return HTTPProtocol(self)

    def take_over(self, connection: Connection, state: bytes) -> HTTPProtocol | WebSocket:
        """Return the protocol of a connection that another process has handed over (`reactor.deploy`).

        It is one between two requests, or a WebSocket with `on_hand_over`.
        """
        fields, _, state = state.partition(b"\n")
        known = json.loads(fields)
        if "path" not in known:
            return HTTPProtocol.go_on(self, connection, is_timed=known["is_timed"])
        from reactor.http.websocket import go_on  # noqa: PLC0415 - needs wsproto

        return go_on(connection, known, state, self.routes.take_over_of(known["path"]))


class _State(Enum):
    """State of a connection between a request and its answer."""

    HEAD = "head"  # the next head is awaited
    BODY = "body"  # a body is being received
    ANSWER = "answer"  # the handler was called, and its answer is not complete
    OVER = "over"  # nothing more is read: the connection is closing, or switched to another protocol

    __hash__ = object.__hash__


_HEAD, _BODY, _ANSWER, _OVER = _State.HEAD, _State.BODY, _State.ANSWER, _State.OVER


class HTTPProtocol(Protocol):
    """The protocol of one connection. Made by `HTTP`.

    Requests are handled one at a time; those that are pipelined wait, and so does the reading of more of
    them. The read deadline is that of a head or a body while `_is_timed`; else it only looks whether the
    connection has been idle for too long, so that a request that arrives at once sets no deadline.
    """

    __slots__ = (
        "_advancing", "_body", "_handler", "_http", "_is_draining", "_is_held", "_is_timed", "_left",
        "_peer_ended", "_reader", "_request", "_scopes", "_state", "_stream", "_upload", "connection",
    )  # fmt: skip

    _interruptible = ()  # an interrupt would leave a request without its answer

    connection: Connection

    def __init__(self, http: HTTP) -> None:
        self._http = http
        self._reader = RequestReader(http.max_head, http.known)
        self._state = _HEAD
        self._advancing = False
        self._is_timed = True
        self._is_draining = False
        self._is_held = False  # reading is stopped, as requests wait
        self._peer_ended = False  # its end of file was received
        self._request: Request | None = None  # that is not answered yet
        self._handler: Handler | None = None
        self._body = bytearray()
        self._upload: Upload | None = None  # the request, while its body is received beside its handler
        self._left: float = 0  # bytes that its body may have
        self._stream: ResponseStream | None = None
        self._scopes: list[Scope] = []  # of the coroutines that run; one may go on after its answer

    @classmethod
    def go_on(cls, http: HTTP, connection: Connection, *, is_timed: bool) -> HTTPProtocol:
        """Return the protocol of a connection that was between two requests in another process."""
        protocol = cls(http)
        protocol.connection = connection
        protocol._is_timed = is_timed
        return protocol

    # Callbacks of the reactor

    def connection_made(self, connection: Connection) -> None:
        """Set the deadline of the first head."""
        self.connection = connection
        connection.set_timeouts(read=self._http.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Handle the requests that are complete now."""
        reader = self._reader
        if self._state is _HEAD and not reader.buffered() and not self.connection.is_paused():
            try:
                head = reader.known_head(data)
            except HTTPError as exc:
                self._refuse(exc)
                return
            if head is not None:  # what is received is one request
                self._begin(head)
                return
        reader.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Complete the answer, then close; an upload, a coroutine and a stream of events end at once."""
        self._peer_ended = True
        if self._state is _HEAD:
            self._advance()  # requests may wait for the next tick
        elif self._state is _BODY:
            self._refuse(HTTPError(400, "the request is not complete"))
        if self._state is not _ANSWER:
            return self._state is _HEAD or self._is_behind()
        is_coroutine = self._request is not None and self._request.scope is not None
        return self._upload is None and not is_coroutine and not isinstance(self._stream, EventStream)

    def resume_writing(self) -> None:
        """Go on with the stream, or with the next request."""
        if self._stream is not None:
            self._stream.resume()
        if self._state is _OVER:
            self._close()
        elif self._is_held:
            self.go_on_later()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the coroutine and the stream."""
        self._state = _OVER
        self._request = None
        stream, self._stream = self._stream, None
        scopes, self._scopes = self._scopes, []
        for scope in scopes:
            scope.connection_lost(exc)
        if stream is not None:
            stream.lose(exc)

    def draining(self) -> bool:
        """Return whether a request is under way. From now on answers are the last; streams of events end."""
        self._is_draining = True
        if isinstance(self._stream, EventStream):
            self.connection.close()  # the browser connects again, to whoever listens then
        if self._state is _HEAD and not self._reader.buffered():
            self.connection.set_timeouts(read=None)
            return False
        return self._state is not _OVER

    def timed_out(self, exc: ReadTimeout) -> bool:
        """Answer a request that is not complete in time, or close an idle connection."""
        if self._upload is not None:
            return self._is_upload_alive()
        if self._state is _ANSWER:
            self.connection.set_timeouts(read=self._http.keep_alive)
        elif self._is_timed and (self._state is _BODY or self._reader.buffered()):
            self._refuse(HTTPError(408))
        elif self._is_timed:
            return False  # nothing came since the connection was made
        else:
            left = activity(self.connection) + self._http.keep_alive - self.connection.reactor.time()
            if left > 0:
                self.connection.set_timeouts(read=left)
            else:
                self._close()
        return True

    def _is_upload_alive(self) -> bool:
        """Return True, if something has come in the time for it; or answer, if there is no answer yet."""
        http, now = self._http, self.connection.reactor.time()
        if activity(self.connection) > now - http.body_timeout:
            self.connection.set_timeouts(read=http.body_timeout)
            return True
        if self._stream is None:
            self._refuse(HTTPError(408))
            return True
        return False

    def reading_resumed(self) -> None:
        """Go on with an upload, or with requests that wait since the connection was frozen."""
        if self._upload is not None or (self._state is _HEAD and self._reader.buffered()):
            self.go_on_later()

    def hand_over(self) -> bytes | None:
        """Return the state between two requests; None within one, which is answered here."""
        if self._state is _HEAD and not self._peer_ended:
            return json.dumps({"is_timed": self._is_timed}).encode()
        self._is_draining = True  # an answer that comes before the drain begins is the last one, too
        return None

    def buffered_input(self) -> bytes:
        """Return what of the next requests was received."""
        rest = self._reader.take_rest()
        self._reader.feed(rest)
        return rest

    def restore_input(self, data: bytes) -> None:
        """Go on with that, when the connection is no longer frozen."""
        self._reader.feed(data)

    # Reading

    def _advance(self) -> None:
        """Read on, as far as the state allows it."""
        if self._advancing:
            return  # an answer within a handler: the loop below goes on
        self._advancing = True
        is_behind = False
        try:
            for _ in range(STEPS_PER_TICK):
                if not self._step():
                    break
            else:
                is_behind = self._state is not _OVER
        except HTTPError as exc:
            self._refuse(exc)
        finally:
            self._advancing = False
        if is_behind:
            self.go_on_later()
        self._hold(is_behind or self._is_full())

    def _step(self) -> bool:
        """Read a head, or a piece of a body; return whether to go on."""
        if self._state is _HEAD:
            if self.connection.is_paused():
                return False
            head = self._reader.next_head()
            if head is None:
                self._await_head()
                return False
            self._begin(head)
            return True
        if self._state is _BODY:
            piece = self._reader.next_piece()
            if piece is None:
                return False
            self._take_piece(piece)
            return True
        return self._state is _ANSWER and self._upload is not None and self._step_upload(self._upload)

    def _step_upload(self, upload: Upload) -> bool:
        """Pass on a piece of an upload; return whether to go on."""
        piece = self._reader.next_piece() if upload.has_room() else None
        if piece is None:
            return False
        self._left -= len(piece)
        if self._left < 0:
            raise HTTPError(413)
        if not piece:
            self._upload = None
        upload.take(piece)
        return bool(piece)

    def _await_head(self) -> None:
        if self._peer_ended and self._reader.buffered():
            raise HTTPError(400, "the request is not complete")
        if self._peer_ended:
            self._close()
        elif self._reader.buffered() and not self._is_timed:
            self._is_timed = True
            self.connection.set_timeouts(read=self._http.head_timeout)

    def _is_full(self) -> bool:
        """Return whether requests wait that can't be handled yet, and no more are to be received."""
        if self._upload is not None:
            return not self._upload.has_room()
        if self._state is _ANSWER:
            return self._reader.buffered() > self._http.max_head
        return self._state is not _BODY and self._is_behind()

    def _is_behind(self) -> bool:
        """Return whether the client takes its answers more slowly than they are made."""
        connection = self.connection
        return connection.is_paused() and not connection.is_closing() and connection.get_protocol() is self

    def _hold(self, held: bool) -> None:
        if held is not self._is_held:
            self._is_held = held
            self.connection.hold_reading(held)

    def go_on_later(self) -> None:
        """Read on in the next tick."""
        self.connection.reactor.call_soon(self._go_on)

    def _go_on(self) -> None:
        if is_frozen(self.connection):
            return  # until `reading_resumed`
        with Step(lambda exc: interrupted(self.connection, exc)):
            try:
                self._advance()
            except Exception as exc:
                self.connection.reactor.report(exc, "Upload.on_piece", self.connection)
                self.connection.abort(exc)

    def _begin(self, head: Head) -> None:
        """Call the handler of a request, or receive its body first."""
        self._is_timed = False
        self._request = request = Request(self, head)
        try:
            handler = self._http.routes.find(head)
        except HTTPError as exc:
            self._refuse(exc, is_close=head.length != 0)
            return
        if isinstance(handler, Streamed):
            self._request = request = Upload(self, head)
        if head.length == 0:
            self._handle(handler, request)
        elif self._await_body(head, handler):
            if isinstance(request, Upload):
                self._upload = request
                self._handle(handler, request)
            else:
                self._handler, self._state = handler, _BODY

    def _await_body(self, head: Head, handler: Handler) -> bool:
        """Set the deadline of the body; return False if it is too long."""
        limit = handler.max_body if isinstance(handler, Streamed) else self._http.max_body
        self._left = math.inf if limit is None else limit
        if head.length is not None and head.length > self._left:
            self._refuse(HTTPError(413))
            return False
        self._is_timed = True
        self.connection.set_timeouts(read=self._http.body_timeout)
        if head.expects_continue and not self._reader.buffered():
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _take_piece(self, piece: bytes) -> None:
        if piece:
            self._body += piece
            self._left -= len(piece)
            if self._left < 0:
                raise HTTPError(413)
            return
        request, handler = self._request, self._handler
        assert request is not None
        assert handler is not None
        request.body, self._body, self._handler = bytes(self._body), bytearray(), None
        self._is_timed = False
        self._handle(handler, request)

    # Handling

    def _handle(self, handler: Handler, request: Request) -> None:
        self._state = _ANSWER
        try:
            result = handler(request)
        except Exception as exc:
            self._failed(request, exc, handler)
            return
        if isinstance(result, Coroutine):
            self._run(handler, request, result)
        elif result is not None:
            self._returned(handler, request, result)

    def _run(self, handler: Handler, request: Request, coroutine: Coroutine[Any, Any, object]) -> None:
        def end(result: object, exc: BaseException | None) -> None:
            if scope in self._scopes:
                self._scopes.remove(scope)
            if exc is not None and not isinstance(exc, Exception):
                self.connection.abort(exc)  # an interrupt
            elif request.switched is not None:
                self._switched_ended(handler, request.switched, exc)
            elif exc is None:
                self._returned(handler, request, result)
            else:
                self._failed(request, exc, handler)

        request.scope = scope = Scope(self.connection, end)
        self._scopes.append(scope)
        scope.start(coroutine)

    def _switched_ended(self, handler: Handler, protocol: WebSocket, exc: Exception | None) -> None:
        """End the WebSocket of a coroutine that has returned, or of a handler that has raised."""
        if exc is not None and not isinstance(exc, StreamClosed):
            self._report(exc, handler)
        protocol.close(1000 if exc is None else 1011)

    def _returned(self, handler: Handler, request: Request, result: object) -> None:
        try:
            if isinstance(result, Response):
                self.respond(request, result)
            elif result is not None:
                raise TypeError(f"a handler returns a Response or None, not {result!r}")
        except (TypeError, UsageError) as exc:
            self._failed(request, exc, handler)

    def _failed(self, request: Request, exc: Exception, handler: Handler) -> None:
        """Answer for a handler that has raised; reset the connection if a part of an answer is sent."""
        if request.switched is not None:
            self._switched_ended(handler, request.switched, exc)
            return
        is_answered = self._request is not request or self._stream is not None
        if isinstance(exc, HTTPError) and not is_answered:
            try:
                response = error_response(exc)
            except ValueError as problem:  # its status or headers can't be sent
                exc = problem
            else:
                self.respond(request, response)
                return
        self._report(exc, handler)
        if not is_answered:
            self.respond(request, error_response(HTTPError(500)))
        elif self._request is request:
            self.connection.abort(exc)

    def _report(self, exc: Exception, handler: Handler) -> None:
        called = handler.handler if isinstance(handler, Streamed) else handler
        name = getattr(called, "__qualname__", repr(called))
        self.connection.reactor.report(exc, name, self.connection)

    # Answering

    def respond(self, request: Request, response: Response) -> bool:
        """Send a response, and go on with the next request."""
        if self._state is _OVER and self.connection.is_closing():
            return False
        self._check(request)
        is_close = self._is_last(request.head)
        head = self._lines(response.lines, request.head, is_close)
        body = response.body
        if request.head.method == "HEAD":
            accepted = self.connection.write(head)
        elif len(body) <= 65536:
            accepted = self.connection.write(head + body)
        else:
            accepted = self.connection.writelines((head, body))
        self._finish(is_close)
        return accepted

    def start(
        self, request: Request, status: int, headers: Fields, content_type: str | None, length: int | None
    ) -> ResponseStream:
        """Send the head of a response, and return the stream for its body."""
        self._check(request)
        head = request.head
        lines = start_lines(status, content_type) + field_lines(headers)
        if status in BODILESS:
            raise ValueError(f"a response with status {status} has no body: answer with a Response")
        if length is not None:
            size("length", length)
        chunked = length is None and head.is_http11
        if chunked:
            lines += b"Transfer-Encoding: chunked\r\n"
        elif length is not None:
            lines += b"Content-Length: %d\r\n" % length
        is_close = self._is_last(head) or not (chunked or length is not None)
        stream = ResponseStream(
            self.connection,
            lambda: self._finish(is_close or self._is_draining),
            chunked=chunked,
            length=length,
            is_head=head.method == "HEAD",
        )
        self._send_start(lines, head, is_close, stream)
        if head.method == "HEAD":  # its handler may wait for `on_drain`, which does not come
            self.connection.reactor.call_soon(stream.end_head)
        return stream

    def start_events(self, request: Request, headers: Fields, ping: float | None) -> EventStream:
        """Send the head of a stream of events, and return the stream."""
        self._check(request)
        head = request.head
        lines = start_lines(200, "text/event-stream") + field_lines(_OF_EVENTS) + field_lines(headers)
        stream = EventStream(
            self.connection,
            lambda: self._finish(is_close=True),
            last_id=head.headers.get("last-event-id", ""),
            ping=ping,
            is_head=head.method == "HEAD",
        )
        self._send_start(lines, head, True, stream)
        if head.method == "HEAD":
            self.connection.close()
        return stream

    def send_file(
        self, request: Request, file: IO[bytes], part: FilePart, content_type: str, headers: Fields
    ) -> None:
        """Send a response with a part of `file`, which is closed at its end."""
        self._check(request)
        head = request.head
        lines = start_lines(part.status, None if part.status == 304 else content_type)
        lines += field_lines(part.fields) + field_lines(headers)
        if part.status != 304:
            lines += b"Content-Length: %d\r\n" % part.count
        is_close = self._is_last(head)
        data = self._lines(lines, head, is_close)
        if head.method == "HEAD" or part.count <= SMALL_FILE:
            with file:
                body = b"" if head.method == "HEAD" else os.pread(file.fileno(), part.count, part.offset)
            if len(body) < part.count and head.method != "HEAD":
                raise ValueError(f"the file has become shorter: {len(body)} of {part.count} bytes are left")
            self.connection.write(data + body)
        else:
            self.connection.write(data)
            try:
                self.connection.sendfile(file, part.offset, part.count)
            except BaseException as exc:
                self.connection.abort(exc)  # its head is sent
                raise
        self._finish(is_close)

    def switch(self, request: Request, lines: bytes, protocol: WebSocket) -> bytes:
        """Send the head of a response with status 101; `protocol` takes the connection over.

        Returns the bytes that were received after the request.
        """
        self._check(request)
        self._state = _OVER
        self._request = None
        request.switched = protocol
        self._is_held = False  # `set_protocol` lets the connection read
        self.connection.write(lines)
        self.connection.set_protocol(protocol)
        if self._peer_ended:
            self.connection.close()
        return self._reader.take_rest()

    def _send_start(self, lines: bytes, head: Head, is_close: bool, stream: ResponseStream) -> None:
        self._stream = stream
        self.connection.write(self._lines(lines, head, is_close))

    def _check(self, request: Request) -> None:
        if self._request is not request or self._stream is not None:
            raise UsageError(f"{request} is answered already, or its connection has ended")

    def _is_last(self, head: Head) -> bool:
        return not head.keep_alive or self._is_draining or self._upload is not None

    def _lines(self, lines: bytes, head: Head, is_close: bool) -> bytes:
        """Return the head of a response, with the fields that depend on the request and the time."""
        if is_close:
            return b"%b%bConnection: close\r\n\r\n" % (lines, date_line())
        if head.is_http11:
            return b"%b%b\r\n" % (lines, date_line())
        return b"%b%bConnection: keep-alive\r\n\r\n" % (lines, date_line())

    def _finish(self, is_close: bool, linger: float | None = None) -> None:
        """Go on with the next request, or close. linger: seconds to wait for the peer's end then."""
        self._request = self._stream = None
        upload, self._upload = self._upload, None
        if upload is not None or is_close or self.connection.is_closing():
            self._close(linger)
            return
        self._state = _HEAD
        if not self._advancing and (self._peer_ended or self._reader.buffered()):
            self.go_on_later()

    def _refuse(self, exc: HTTPError, *, is_close: bool = True) -> None:
        """Answer a request that can't be handled. is_close: where the next request begins is not known."""
        request = self._request
        if self._stream is not None:
            self.connection.abort(exc)  # a part of an answer is sent
            return
        response = error_response(exc)
        is_head = request is not None and request.head.method == "HEAD"
        is_close = is_close or request is None or self._is_last(request.head)
        if request is None or is_close:
            head = b"%b%bConnection: close\r\n\r\n" % (response.lines, date_line())
        else:
            head = self._lines(response.lines, request.head, is_close)
        self.connection.write(head if is_head else head + bytes(response.body))
        self._finish(is_close, LINGER)

    def _close(self, linger: float | None = None) -> None:
        """Close the connection after what was written; it lingers, so that the client can read that.

        A long answer is sent first: it has the write timeout, and not that of `Connection.close`.
        """
        self._state = _OVER
        self._body = bytearray()
        if self._is_behind():
            self._hold(True)  # until `resume_writing`
            return
        is_behind = self.connection.get_write_buffer_size() > self._http.max_head
        self.connection.close(None if is_behind else linger)
