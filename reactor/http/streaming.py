"""Answers that are sent while they are made: streams of bytes, and server-sent events."""

from __future__ import annotations

from collections.abc import Callable

from reactor.connection.connection import Connection, activity
from reactor.errors import UsageError
from reactor.loop.timers import Handle
from reactor.streams import Event

__all__ = ["EventStream", "Outflow", "ResponseStream", "encode_event"]

#: Bytes up to which a chunk is joined with its frame; a longer one is not copied.
_JOINED = 16 * 1024


class Outflow:
    """Base class of what is sent by and by: its flow control, and its end with the connection."""

    __slots__ = ("_drained", "connection", "on_close", "on_drain")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.on_drain: Callable[[], object] | None = None
        self.on_close: Callable[[BaseException | None], object] | None = None
        self._drained: Event | None = None  # for the coroutines that wait

    async def drain(self) -> None:
        """Wait until the queue is at the low-water mark, if it was above the high-water mark.

        In a coroutine that handles a request. Returns at once when the connection is closing.
        """
        while self.connection.is_paused() and not self.connection.is_closing():
            if self._drained is None:
                self._drained = Event()
            self._drained.clear()
            await self._drained.wait()

    def resume(self) -> None:
        """Call `on_drain`, and resume `drain`. Called by the server."""
        if self._drained is not None:
            self._drained.set()
        if self.on_drain is not None:
            self.on_drain()

    def lose(self, exc: BaseException | None) -> None:
        """Call `on_close`, and resume `drain`: the connection has ended. Called by the server."""
        if self._drained is not None:
            self._drained.set()
        if self.on_close is not None:
            self.on_close(exc)


class ResponseStream(Outflow):
    r"""The body of a response, sent piece by piece. Made by `Request.start`.

    on_drain: called without arguments when the queue has fallen to the low-water mark, after `write` has
        returned False. on_close: called with the reason if the connection ends before `end`; for HEAD, whose
        response has no body, with None in the next tick. Both may be set at any time.

        from reactor.http import HTTP
        from reactor.testing import MemoryReactor, Recorder

        async def count(request):
            stream = request.start(200, content_type="text/plain")
            for number in range(3):
                stream.write(b"%d " % number)
                await stream.drain()
            stream.end()

        with MemoryReactor() as reactor:
            _, client = reactor.pair(HTTP(count), Recorder)
            client.write(b"GET / HTTP/1.0\r\n\r\n")
            reactor.run_out()
            assert client.get_protocol() is None
    """

    __slots__ = ("_chunked", "_is_head", "_left", "_on_end")

    def __init__(
        self,
        connection: Connection,
        on_end: Callable[[], object],
        *,
        chunked: bool,
        length: int | None,
        is_head: bool,
    ) -> None:
        super().__init__(connection)
        self._on_end: Callable[[], object] | None = on_end  # None after the end
        self._chunked = chunked
        self._left = length  # bytes of the declared length; None: none was declared
        self._is_head = is_head

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent: it was ended, or the connection was."""
        return self._on_end is None

    def write(self, data: bytes) -> bool:
        """Send `data` after what was written before; an empty piece sends nothing.

        Returns False if more than the high-water mark is queued then: wait for `on_drain` or `drain`. Also
        when the connection has ended, and for HEAD, which has no body.
        Raises UsageError after `end`, and for more bytes than the declared length.
        """
        if self._on_end is None:
            if self._is_head or self.connection.is_closing():
                return False
            raise UsageError("write after end: the response is complete")
        if self._left is not None:
            if len(data) > self._left:
                raise UsageError(f"the response has {len(data) - self._left} bytes more than its length")
            self._left -= len(data)
        if self._is_head or not data:
            return not self._is_head
        if not self._chunked:
            return self.connection.write(data)
        if len(data) <= _JOINED:
            return self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        return self.connection.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def end(self) -> None:
        """Complete the response. Does nothing when the connection has ended, or the second time.

        Raises UsageError if fewer bytes than the declared length were written.
        """
        on_end = self._on_end
        if on_end is None:
            return
        if self._left and not self._is_head:
            raise UsageError(f"the response lacks {self._left} bytes of its length")
        self._on_end = None
        if self._chunked and not self._is_head:
            self.connection.write(b"0\r\n\r\n")
        on_end()

    def end_head(self) -> None:
        """Complete the response to HEAD. Called by the server."""
        on_end = self._on_end
        if on_end is not None:
            on_end()
            self.lose(None)

    def lose(self, exc: BaseException | None) -> None:
        """End with the connection. Called by the server."""
        if self._on_end is not None:
            self._on_end = None
            super().lose(exc)


def encode_event(
    data: str,
    *,
    event: str | None = None,
    id: str | None = None,  # noqa: A002
    retry: float | None = None,
) -> bytes:
    r"""Return a server-sent event as bytes, for `EventStream.write` of any number of streams.

    data: any text; its lines arrive as they are. event: the event's type; None for "message". id: what the
    browser sends as Last-Event-ID when it connects again. retry: seconds until it does.
    Raises ValueError for a line break in `event` or `id`, NUL in `id`, and a negative `retry`.

    >>> encode_event("one\ntwo", event="news")
    b'event: news\ndata: one\ndata: two\n\n'
    """
    lines = [] if event is None else [f"event: {_one_line('event', event)}"]
    if id is not None:
        lines.append(f"id: {_one_line('id', id)}")
    if retry is not None:
        if not 0 <= retry <= 1e9:
            raise ValueError(f"retry must be 0 seconds or more, not {retry!r}")
        lines.append(f"retry: {retry * 1000:.0f}")
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return "\n".join([*lines, "\n"]).encode()


def _one_line(name: str, text: str) -> str:
    if not {"\r", "\n", "\0"}.isdisjoint(text):
        raise ValueError(f"{name} must be one line, not {text!r}")
    return text


class EventStream(ResponseStream):
    r"""A stream of server-sent events (HTML Standard, 9.2). Made by `Request.events`.

    last_id: the id of the last event that the browser got, before it connected again; "" for none.

    The response ends with the connection and has no chunks, so that an event is encoded once for any number
    of receivers.

        from reactor.http import HTTP, encode_event
        from reactor.testing import MemoryReactor, Recorder

        receivers = set()

        def subscribe(request):
            events = request.events()
            receivers.add(events)
            events.on_close = lambda exc: receivers.discard(events)

        with MemoryReactor() as reactor:
            _, client = reactor.pair(HTTP({"/events": subscribe}), Recorder)
            client.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reactor.settle()
            event = encode_event("42")
            for each in receivers:
                each.write(event)
            reactor.settle()
            assert client.get_protocol().received.endswith(b"data: 42\n\n")
            client.close()
            reactor.run_out()
            assert not receivers
    """

    __slots__ = ("_every", "_timer", "last_id")

    def __init__(
        self,
        connection: Connection,
        on_end: Callable[[], object],
        *,
        last_id: str,
        ping: float | None,
        is_head: bool,
    ) -> None:
        super().__init__(connection, on_end, chunked=False, length=None, is_head=is_head)
        self.last_id = last_id
        self._every = ping
        self._timer: Handle | None = None
        if ping is not None:
            self._timer = connection.reactor.call_later(ping, self._ping)

    def send(
        self,
        data: str,
        *,
        event: str | None = None,
        id: str | None = None,  # noqa: A002
        retry: float | None = None,
    ) -> bool:
        """Send an event; the arguments are those of `encode_event`. Returns what `write` returns.

        False says that the browser takes less than it is sent: leave events out until `on_drain`.
        """
        return self.write(encode_event(data, event=event, id=id, retry=retry))

    def end(self) -> None:
        """End the stream. The browser connects again, unless it is answered with status 204 then."""
        self._stop()
        super().end()

    def lose(self, exc: BaseException | None) -> None:
        """End with the connection. Called by the server."""
        self._stop()
        super().lose(exc)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ping(self) -> None:
        """Send a comment after silence, so that a peer that has vanished is noticed."""
        assert self._every is not None
        reactor = self.connection.reactor
        left = activity(self.connection) + self._every - reactor.time()
        if left <= 0:
            self.write(b":\n\n")
            left = self._every
        self._timer = reactor.call_later(left, self._ping)
