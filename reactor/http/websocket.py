"""WebSocket, the server's side (RFC 6455): upgrade, messages, pings, closing handshake.

wsproto reads and writes the frames. Compression (permessage-deflate) is off by default: it takes some 300 KiB
of memory for each connection, its length tells what is sent beside a secret (CRIME), and a message of 1 KiB
may be 1 MiB when it is decompressed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import Any

from reactor.connection.connection import Connection, interrupted, is_frozen
from reactor.connection.interrupts import Step
from reactor.errors import ReadTimeout, StreamClosed, UsageError, missing_package
from reactor.http.frames import encode_frame, received_by
from reactor.http.streaming import Outflow
from reactor.http.syntax import Head, HTTPError
from reactor.options import seconds
from reactor.protocol import Protocol
from reactor.streams import Event

try:
    from wsproto.connection import Connection as Frames
    from wsproto.connection import ConnectionState, ConnectionType
    from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
    from wsproto.extensions import Extension, PerMessageDeflate
    from wsproto.frame_protocol import Opcode
except ImportError:
    raise missing_package("reactor.http.websocket", "wsproto", "web") from None

__all__ = ["WebSocket", "accept", "encode_message", "go_on"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

#: Messages of one connection in a tick, so that none starves the others.
MESSAGES_PER_TICK = 256

#: Parts of a message after which they are joined: small ones take many times their size.
PARTS = 1000

#: Messages that wait for `receive`; then reading is stopped.
WAITING = 32

#: Bytes that are decompressed at once: they may be a thousand times as long then.
_COMPRESSED_PIECE = 1024

# Status codes of a Close frame, RFC 6455, 7.4.1.
NORMAL, GOING_AWAY, NO_STATUS, ABNORMAL, TOO_BIG, INTERNAL = 1000, 1001, 1005, 1006, 1009, 1011

#: A message: text or bytes.
Text = str | bytes


class _State(Enum):
    """State of a WebSocket, from the upgrade to the end of the connection."""

    OPEN = "open"
    CLOSING = "closing"  # our Close frame is sent, that of the peer is awaited
    OVER = "over"  # the connection is closing, or has ended


def encode_message(message: Text) -> bytes:
    r"""Return a message as a frame, for `WebSocket.write` of any number of receivers.

    >>> encode_message("hello")
    b'\x81\x05hello'
    """
    return bytes(Frames(ConnectionType.SERVER).send(_event(message)))


def _event(message: Text) -> Message[Any]:
    if isinstance(message, str):
        return TextMessage(message)
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BytesMessage(bytes(message))
    raise TypeError(f"a message is text or bytes, not {message!r}")


class WebSocket(Outflow, Protocol):
    """A WebSocket connection. Made by `Request.websocket`.

    on_message: called with each message, text as str, binary as bytes; None: they wait for `receive`, and
        reading stops when there are many.
    on_drain: called without arguments when the queue has fallen to the low-water mark, after `send` has
        returned False.
    on_close: called with the reason once the connection has ended, None after a clean end; `code` and
        `reason` are then those of the peer. `HandedOver` says that it goes on in another process.
    on_hand_over: called when the connection is about to go to another process (`reactor.deploy`); returns the
        program's state of it as bytes, or None for "not now". There the handler's method
        `take_over(socket, state)` is called. None: it stays, and is closed when this process drains; so are
        those of coroutines, without `on_message`, and with compression.
    on_kept: called without arguments if that has failed after `on_hand_over`, and it goes on here.
    subprotocol: that was agreed on, or None. code: of the peer's Close frame; 1005 if that has none, 1006
        without such a frame. reason: its text.

    An exception in `on_message` resets the connection, and goes to the reactor's `on_error`. All methods are
    called on the thread that drives the reactor.

        from reactor import Reactor
        from reactor.http import HTTP, encode_message

        members = set()

        def broadcast(message):
            frame = encode_message(message)
            for each in members:
                each.write(frame)

        def join(request):
            socket = request.websocket()
            members.add(socket)
            socket.on_message = broadcast
            socket.on_close = lambda exc: members.discard(socket)

        async def echo(request):
            async for message in request.websocket():
                print(message)

        with Reactor() as reactor:
            reactor.listen("127.0.0.1:0", HTTP({"/chat": join, "/echo": echo}))
            reactor.call_soon(reactor.stop)
            reactor.run()
    """

    __slots__ = (
        "_arrived", "_close_timeout", "_events", "_frames", "_is_compressed", "_is_going_on", "_is_heard",
        "_is_held", "_is_offered", "_limit", "_messages", "_parts", "_path", "_ping", "_pong", "_scope",
        "_size", "_state", "_unread", "code", "on_hand_over", "on_kept", "on_message", "reason",
        "subprotocol",
    )  # fmt: skip

    _interruptible = ()  # an interrupt would lose messages

    def __init__(
        self,
        connection: Connection,
        scope: Any,
        extensions: list[Extension],
        *,
        path: str,
        subprotocol: str | None,
        max_message: int,
        ping: float | None,
        close_timeout: float,
    ) -> None:
        super().__init__(connection)
        self.on_message: Callable[[Any], object] | None = None
        self.on_hand_over: Callable[[], bytes | None] | None = None
        self.on_kept: Callable[[], object] | None = None
        self.subprotocol = subprotocol
        self.code = ABNORMAL
        self.reason = ""
        self._path = path  # of its request
        self._frames = Frames(ConnectionType.SERVER, extensions)
        self._is_compressed = bool(extensions)
        self._unread = b""  # received, and not decompressed yet
        self._events: Iterator[Any] | None = None  # those that wait, in the middle of what was received
        self._is_held = False  # reading is stopped, as messages wait
        self._is_going_on = False  # `_go_on` is scheduled
        self._is_offered = False  # `on_hand_over` was called, and how that has ended is not known
        self._parts: list[Any] = []  # of a message that is not complete
        self._size = 0
        self._limit = max_message
        self._messages: deque[Text] = deque()
        self._arrived = Event()
        self._pong: Ping | None = None  # the last ping, if there is no room for its answer
        self._ping = ping
        self._is_heard = True
        self._close_timeout = close_timeout
        self._scope = scope  # of the coroutine that handles it, which ends with the connection
        self._state = _State.OPEN

    def begin(self, rest: bytes) -> None:
        """Begin, with the bytes that were received after the request. Called by the server."""
        self.connection.set_timeouts(read=self._ping)
        if rest:
            self._feed(rest)
            self._hold(True)
            self._go_on_later()

    def begin_again(self, *, is_heard: bool, is_closing: bool) -> None:
        """Go on as in the process that has handed the connection over. Called by the server."""
        self._is_heard = is_heard
        if is_closing:
            self._frames.send(CloseConnection(NORMAL))  # which is sent already
            self._state = _State.CLOSING

    # Messages

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent: it is closing, or the connection has ended."""
        return self._state is not _State.OPEN

    def send(self, message: Text) -> bool:
        """Send a message: text, or bytes as a binary one.

        Returns False if more than the high-water mark is queued then, and when the connection is closing or
        closed, when the message is dropped; else True. Raises TypeError for anything else.
        """
        event = _event(message)
        if self._state is not _State.OPEN:
            return False
        return self.connection.write(bytes(self._frames.send(event)))

    def write(self, frame: bytes) -> bool:
        """Send what `encode_message` has returned. Returns what `send` returns."""
        return self._state is _State.OPEN and self.connection.write(frame)

    async def receive(self) -> Text:
        """Wait for a message, and return it. For coroutines, while `on_message` is None.

        Raises StreamClosed when the peer has closed or the connection has ended, and no message waits.
        """
        if self.on_message is not None:
            raise UsageError("messages go to on_message: receive is for a WebSocket without it")
        while not self._messages:
            if self._state is not _State.OPEN:
                raise StreamClosed(f"the WebSocket was closed with {self.code}")
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        if self._is_held and len(self._messages) <= WAITING // 2:
            self._go_on_later()
        return message

    async def __aiter__(self) -> AsyncIterator[Text]:
        try:
            while True:
                yield await self.receive()
        except StreamClosed:
            return

    def pause_reading(self) -> None:
        """Stop receiving until `resume_reading`; messages that were received already wait too."""
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        """Resume receiving."""
        self.connection.resume_reading()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake: send a Close frame, and wait for that of the peer.

        code: from 1000 to 4999, of RFC 6455, 7.4. reason: for the peer's program; at most 123 bytes are sent.
        The connection ends with `ReadTimeout` if none comes within `close_timeout`. No messages are received
        any more. Does nothing the second time. Raises ValueError for a code or a reason that can't be sent.
        """
        if not 1000 <= code <= 4999 or code in {1004, NO_STATUS, ABNORMAL, 1015}:
            raise ValueError(f"code must be from 1000 to 4999 and one that can be sent, not {code!r}")
        if self._state is not _State.OPEN:
            return
        frame = bytes(self._frames.send(CloseConnection(code, reason or None)))
        self._state = _State.CLOSING
        self.connection.write(frame)
        self.connection.set_timeouts(read=self._close_timeout)
        self.connection.resume_reading()
        self._go_on_later()

    # Callbacks of the reactor

    def data_received(self, data: bytes) -> None:
        """Read the frames that are complete now."""
        self._is_heard = True
        if self._state is _State.OVER:
            return
        self._feed(data)
        self._advance()

    def resume_writing(self) -> None:
        """Answer the last ping, and let the program go on."""
        if self._pong is not None:
            self._answer(self._pong)
            self._pong = None
        self.resume()

    def reading_resumed(self) -> None:
        """Go on with the messages that wait, and here, if the connection was to go to another process."""
        if self._is_offered and not is_frozen(self.connection):
            self._is_offered = False
            if self.on_kept is not None:
                self.on_kept()
        if self._is_held:
            self._go_on_later()

    def timed_out(self, exc: ReadTimeout) -> bool:
        """Send a ping; end the connection if not a byte has come since the last one."""
        if self._state is not _State.OPEN or not self._is_heard:
            return False
        self._is_heard = False
        self.connection.write(bytes(self._frames.send(Ping())))
        self.connection.set_timeouts(read=self._ping)
        return True

    def draining(self) -> bool:
        """Begin the closing handshake: this side goes away."""
        self.close(GOING_AWAY)
        return self._state is not _State.OVER

    def hand_over(self) -> bytes | None:
        """Return the state with that of the program; None if it stays in this process."""
        stays = self._scope is not None or self._is_compressed or self.on_message is None
        state = None if stays or self.on_hand_over is None else self.on_hand_over()
        if state is None:
            return None
        self._is_offered = True
        known = {
            "path": self._path,
            "subprotocol": self.subprotocol,
            "max_message": self._limit,
            "ping": self._ping,
            "close_timeout": self._close_timeout,
            "is_heard": self._is_heard,
            "is_closing": self._state is _State.CLOSING,
        }
        return json.dumps(known).encode() + b"\n" + state

    def buffered_input(self) -> bytes:
        """Return what was received and not passed on: bytes of which a new reader makes the same."""
        ping = b"" if self._pong is None else encode_frame(Opcode.PING, bytes(self._pong.payload))
        return ping + received_by(self._frames, self._parts)

    def restore_input(self, data: bytes) -> None:
        """Go on with that, when the connection is no longer frozen."""
        self._feed(data)
        self._hold(True)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the coroutine, and call `on_close`."""
        self._state = _State.OVER
        self._events = None
        self._arrived.set()
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.connection_lost(exc)
        self.lose(exc)

    # Reading

    def _feed(self, data: bytes) -> None:
        if self._is_compressed:
            self._unread += data
        else:
            self._frames.receive_data(data)

    def _advance(self) -> None:
        """Handle what is received, as far as the program takes it."""
        is_done = False
        for _ in range(MESSAGES_PER_TICK):
            if not self._has_room():
                break
            event = self._next_event()
            if event is None:
                is_done = True
                break
            self._handle(event)
        if self._state is _State.OVER:
            return
        self._hold(not is_done)
        if not is_done and self._has_room():
            self._go_on_later()

    def _has_room(self) -> bool:
        """Return whether the program takes another message."""
        if self._state is _State.OPEN:
            return self.connection.wants_input() and len(self._messages) < WAITING
        return self._state is _State.CLOSING

    def _next_event(self) -> Any:
        while True:
            if self._events is None:
                self._events = self._frames.events()
            event = next(self._events, None)
            if event is not None:
                return event
            self._events = None
            if not self._unread:
                return None
            self._frames.receive_data(self._unread[:_COMPRESSED_PIECE])
            self._unread = self._unread[_COMPRESSED_PIECE:]

    def _handle(self, event: Any) -> None:
        if isinstance(event, Message):
            self._take(event)
        elif isinstance(event, CloseConnection):
            self._closed_by_peer(event)
        elif isinstance(event, Ping):
            if self.connection.is_paused():
                self._pong = event  # the last one is enough: RFC 6455, 5.5.3
            else:
                self._answer(event)
        else:
            assert isinstance(event, Pong)  # it was heard, which is all

    def _answer(self, ping: Ping) -> None:
        if self._state is _State.OPEN:
            self.connection.write(bytes(self._frames.send(ping.response())))

    def _take(self, event: Message[Any]) -> None:
        """Join the parts of a message, and pass it on when it is complete."""
        self._size += len(event.data)
        if self._size > self._limit:
            self._fail(TOO_BIG, f"a message may have {self._limit} bytes")
            return
        if event.data or not self._parts:
            self._parts.append(event.data)
        if event.message_finished or len(self._parts) > PARTS:
            self._parts = [self._parts[0][:0].join(self._parts)]
        if not event.message_finished:
            return
        (message,), self._parts, self._size = self._parts, [], 0
        if self._state is not _State.OPEN:
            return
        if self.on_message is not None:
            self.on_message(message)
        else:
            self._messages.append(message)
            self._arrived.set()

    def _closed_by_peer(self, event: CloseConnection) -> None:
        state = self._frames.state
        if state in {ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED}:
            self.code, self.reason = int(event.code), event.reason or ""
            if state is ConnectionState.REMOTE_CLOSING:
                self.connection.write(bytes(self._frames.send(event.response())))
            self._end()
        else:  # not the peer's: its frames are invalid
            self._fail(int(event.code), event.reason or "")

    def _fail(self, code: int, reason: str) -> None:
        """Say what is wrong with the peer's frames, and read no more of them."""
        if self._state is _State.OPEN:
            self.connection.write(bytes(self._frames.send(CloseConnection(code, reason))))
        self._end()

    def _end(self) -> None:
        self._state = _State.OVER
        self._arrived.set()
        self.connection.close()

    def _hold(self, held: bool) -> None:
        if held is not self._is_held:
            self._is_held = held
            self.connection.hold_reading(held)

    def _go_on_later(self) -> None:
        if not self._is_going_on:
            self._is_going_on = True
            self.connection.reactor.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_going_on = False
        if self._state is _State.OVER:
            return
        with Step(self._interrupted):
            try:
                self._advance()
            except Exception as exc:
                self.connection.reactor.report(exc, "WebSocket.on_message", self.connection)
                self.connection.abort(exc)

    def _interrupted(self, exc: BaseException) -> None:
        interrupted(self.connection, exc)


def accept(
    server: Any,
    request: Any,
    *,
    origins: Collection[str] | None,
    subprotocols: Sequence[str],
    max_message: int,
    ping: float | None,
    close_timeout: float,
    compress: bool,
) -> WebSocket:
    """Answer the opening handshake in `request`, as `Request.websocket` says."""
    ping = None if ping is None else seconds("ping", ping)
    close_timeout = seconds("close_timeout", close_timeout)
    head: Head = request.head
    key = _key(head)
    _check_origin(head, origins)
    offered = [each.strip() for each in head.headers.get("sec-websocket-protocol", "").split(",")]
    subprotocol = next((each for each in subprotocols if each in offered), None)
    extensions, agreed = _negotiate(head) if compress else ([], "")
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Accept: {_accepted(key)}")
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if agreed:
        lines.append(f"Sec-WebSocket-Extensions: {agreed}")
    made = WebSocket(
        server.connection,
        request.scope,
        extensions,
        path=head.path,
        subprotocol=subprotocol,
        max_message=max_message,
        ping=ping,
        close_timeout=close_timeout,
    )
    made.begin(server.switch(request, "\r\n".join([*lines, "", ""]).encode(), made))
    return made


def go_on(
    connection: Connection,
    known: dict[str, Any],
    state: bytes,
    take_over: Callable[[WebSocket, bytes], object] | None,
) -> WebSocket:
    """Return the WebSocket of a connection that another process has handed over.

    known: what `WebSocket.hand_over` says of it. state: the program's. take_over: that of the handler; None:
    it has none, and the WebSocket is closed, as by a drain.
    """
    is_heard, is_closing = known.pop("is_heard"), known.pop("is_closing")
    made = WebSocket(connection, None, [], **known)
    made.begin_again(is_heard=is_heard, is_closing=is_closing)
    if take_over is not None:
        take_over(made, state)
    else:
        made.close(GOING_AWAY)
    return made


def _key(head: Head) -> str:
    """Return the key of an opening handshake (RFC 6455, 4.2.1). Raises HTTPError if it is none."""
    headers = head.headers
    is_upgrade = "websocket" in headers.tokens("upgrade") and "upgrade" in headers.tokens("connection")
    if head.method != "GET" or not head.is_http11 or not is_upgrade or head.length != 0:
        raise HTTPError(400, "a WebSocket is served here: send its opening handshake")
    if headers.get("sec-websocket-version") != "13":
        raise HTTPError(400, "WebSocket has version 13", (("Sec-WebSocket-Version", "13"),))
    key: str = headers.get("sec-websocket-key", "")
    try:
        size = len(base64.b64decode(key, validate=True))
    except binascii.Error:
        size = 0
    if size != 16:
        raise HTTPError(400, "Sec-WebSocket-Key is no base64 of 16 bytes")
    return key


def _accepted(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()  # noqa: S324 - RFC 6455


def _check_origin(head: Head, origins: Collection[str] | None) -> None:
    """Raise HTTPError with 403 for an origin that may not connect.

    A browser sends the cookies of this host with a handshake from any page, so that another site could use
    its visitor's session: cross-site WebSocket hijacking. It also sends Origin, which no page can forge.
    """
    origin = head.headers.get("origin")
    if origin is None:
        return  # no browser
    is_allowed = _is_same(origin, head.host) if origins is None else not {origin, "*"}.isdisjoint(origins)
    if not is_allowed:
        raise HTTPError(403, "WebSockets of this origin are not served")


def _is_same(origin: str, host: str) -> bool:
    """Return whether `origin` is that of a page of `host`; its scheme may be that of a proxy before us."""
    scheme, _, authority = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return port is not None and authority.removesuffix(port) == host.lower().removesuffix(port)


def _negotiate(head: Head) -> tuple[list[Extension], str]:
    """Return the extension that is agreed on, and its field (RFC 7692)."""
    for offer in head.headers.get("sec-websocket-extensions", "").split(","):
        if offer.partition(";")[0].strip() != PerMessageDeflate.name:
            continue
        extension = PerMessageDeflate()
        try:
            agreed = extension.accept(offer)
        except ValueError:
            continue
        if isinstance(agreed, str):
            return [extension], "; ".join(filter(None, (PerMessageDeflate.name, agreed)))
    return [], ""
