"""Coroutine handlers: `async def handler(stream)`, driven by the reactor itself.

There is no task queue and no future. An `await` that has to wait yields the place where it waits (the
stream's input, the room in its queue, a point in time), the task is left there, and the event that ends
the wait resumes it straight from the loop: one resumption for each event.

Only awaits of this module can be waited for here; asyncio's need its own loop.
"""

from __future__ import annotations

import ssl
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, cast

from reactor.connection import Connection
from reactor.errors import EndOfStream, FrameTooLong, ReactorError, StreamClosed, StreamTimeout, UsageError
from reactor.protocol import Protocol
from reactor.server import Reactor

__all__ = ["Handler", "Stream", "handler"]

#: What serves a connection. Its result is dropped.
Handler = Callable[["Stream"], Coroutine[Any, Any, object]]

#: Bytes that are received before anybody asks for them; then reading is paused. asyncio's figure as well.
_LIMIT = 64 * 1024


def handler(fn: Handler, *, limit: int = _LIMIT) -> Callable[[], Stream]:
    """Return what `Reactor.listen` and `connect` take, for connections that `fn` serves.

    fn: called as `await fn(stream)` for each connection, which is closed when it returns, after all was
        sent; so it is when what it raises tells of the peer (a `ReactorError` that is no `UsageError`), with
        that as the reason. Anything else ends the connection at once and goes to the reactor's `on_error`.
    limit: bytes that may wait to be received before the peer is held back.
    Raises ValueError if `limit` is not positive.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 byte, not {limit}")
    return lambda: Stream(fn, limit)


@types.coroutine
def _nothing() -> Generator[Any, None, None]:
    yield from ()


# An await that does not wait: a generator that has run out can be awaited again and again, in 20 ns.
_DONE = _nothing()
list(cast("Generator[Any]", _DONE))


class Stream(Protocol):
    """One connection as a coroutine sees it. Its methods are called from coroutines that it drives.

    connection: the `Connection`, for all that is no await.

    Each await raises `StreamClosed` once the connection has ended; its cause is the reason.
    """

    __slots__ = (
        "_at", "_buffer", "_children", "_ended", "_fn", "_held", "_limit", "_lost", "_main",
        "_paused", "_reader", "_reason", "_writers", "connection",
    )  # fmt: skip

    connection: Connection

    def __init__(self, fn: Handler, limit: int) -> None:
        self._fn = fn
        self._limit = limit
        self._buffer: bytes | bytearray = b""
        self._at = 0  # of the first byte in the buffer that was not given out
        self._ended = False  # the peer's input
        self._lost = False
        self._reason: BaseException | None = None
        self._held = False  # reading is paused, because nobody asks for what is there
        self._paused = False  # above the high-water mark
        self._reader: _Task | None = None
        self._writers: tuple[_Room, ...] = ()
        self._main: _Task | None = None
        self._children: tuple[_Task, ...] = ()

    # What the reactor calls

    def connection_made(self, connection: Connection) -> None:
        """Start the handler."""
        self.connection = connection
        self._main = _Task(self, self._fn(self))
        self._main.step()

    def data_received(self, data: bytes) -> None:
        """Hand it to the task that waits for input, or keep it."""
        task = self._reader
        if task is None or self._buffer:
            self._keep(data)
            return
        try:
            place = task.send(data)
        except BaseException as exc:
            self._reader = None
            task.stop(exc)
            return
        if (
            place is not self
        ):  # what is usual costs nothing: it waits for input again, and is the reader still
            self._reader = None
            task.wait_at(place)
            self._hold_back()

    def eof_received(self) -> bool:
        """Tell the task that waits for input; the handler may go on sending."""
        self._ended = True
        self._step_reader()
        return True

    def pause_writing(self) -> None:
        """Let `send` wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """Let those go on that wait to send."""
        self._paused = False
        self._wake_writers()

    def handshake_completed(self) -> None:
        """Let the one go on that waits for it."""
        self._wake_writers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what waits here, and what belongs here."""
        self._ended = self._lost = True
        self._reason = exc
        self._buffer, self._at = b"", 0
        waiting = (self._reader, *(room.task for room in self._writers), self._main, *self._children)
        for task in dict.fromkeys(waiting):
            if task is not None:
                task.throw(self._closed())

    def draining(self) -> bool:
        """Return whether the handler is at work: it does not wait for a message of which nothing has come."""
        return self._reader is None or bool(self._buffer) or self._reader.is_running()

    # Receiving

    @types.coroutine
    def receive(self, n: int = _LIMIT) -> Generator[_Place, bytes | None, bytes]:
        """Wait for input, and return at most `n` bytes of it; b"" at its end."""
        while not self._buffer:
            if self._ended:
                self._check_open()
                return b""
            data = yield self
            if data is not None:
                if len(data) <= n:
                    return data
                self._buffer = data
        return self._take(n)

    @types.coroutine
    def receive_exactly(self, n: int) -> Generator[_Place, bytes | None, bytes]:
        """Wait for `n` bytes, and return them.

        Raises EndOfStream if the input ends before; its `partial` holds what came.
        """
        while len(self._buffer) - self._at < n:
            self._check_not_ended()
            self._buffer = (yield self) or self._buffer
        return self._take(n)

    @types.coroutine
    def receive_until(self, delimiter: bytes, limit: int = _LIMIT) -> Generator[_Place, bytes | None, bytes]:
        """Wait for `delimiter`, and return what stands before it; the delimiter itself is dropped.

        limit: bytes before the delimiter; FrameTooLong is raised if there are more. EndOfStream is raised
        if the input ends before; its `partial` holds what came.
        """
        searched = 0
        while True:
            found = self._buffer.find(delimiter, self._at + searched)
            size = (len(self._buffer) if found < 0 else found) - self._at
            searched = max(0, size + 1 - len(delimiter))
            if (searched if found < 0 else size) > limit:
                raise FrameTooLong(f"no {delimiter!r} within {limit} bytes")
            if found >= 0:
                data = self._take(size)
                self._skip(len(delimiter))
                return data
            self._check_not_ended()
            self._buffer = (yield self) or self._buffer

    def lines(self, limit: int = _LIMIT) -> AsyncIterator[bytes]:
        """Return the lines of the input for `async for`, each without its end: LF, or CR and LF.

        What follows the last end is a line too. limit: bytes of a line, its CR included; FrameTooLong is
        raised for a longer one.
        """
        return _Lines(self, limit)

    # Sending

    def send(self, data: bytes | bytearray | memoryview) -> Awaitable[None]:
        """Send `data`; if then more than the high-water mark is queued, wait for the low-water mark.

        Raises UsageError after `send_eof`.
        """
        if self.connection.write(data):
            return _DONE
        return self._sent()

    def send_eof(self) -> Awaitable[None]:
        """Send our end of file after all that was sent; the peer may go on."""
        self._check_open()
        self.connection.write_eof()
        return _DONE

    @types.coroutine
    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool | None = None,
        server_hostname: str | None = None,
    ) -> Generator[_Place, None, None]:
        """Go on over TLS, as `Connection.start_tls` does, and wait until both sides have come to terms.

        What has come and was not received belongs to the peer's handshake; clear text ends the connection.
        """
        self._check_open()
        early = bytes(memoryview(self._buffer)[self._at :])
        self.connection.start_tls(
            context, server_side=server_side, server_hostname=server_hostname, early=early
        )
        self._skip(len(early))
        self._read_on()
        while self.connection.get_extra_info("ssl_object").version() is None:
            yield _Room(self)
            self._check_open()

    @types.coroutine
    def _sent(self) -> Generator[_Place, None, None]:
        if self.connection.is_closing():
            raise self._closed()
        while self._paused:
            yield _Room(self)
            self._check_open()

    # Time, and other tasks

    @types.coroutine
    def sleep(self, seconds: float) -> Generator[_Place, None, None]:
        """Wait for `seconds`; never less."""
        self._check_open()
        yield _Sleep(self._reactor(), seconds)

    def timeout(self, seconds: float) -> _Timeout:
        """Return a context manager whose body may take `seconds`; then StreamTimeout is raised.

        It ends the await at which the task waits, and comes out of the `with`. For the tasks of this
        stream; may be nested.
        """
        for task in (self._main, *self._children):
            if task is not None and task.is_running():
                return _Timeout(task, self._reactor(), seconds)
        raise UsageError("timeout is for the tasks of its own stream: call it within one")

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run `await fn(*args)` beside the handler, until the connection ends at the latest.

        What it raises is treated as what the handler raises.
        """
        self._check_open()
        task = _Task(self, fn(*args))
        self._children = (*self._children, task)
        self._reactor().call_soon(task.begin)

    # Inside

    def _reactor(self) -> Reactor:
        return self.connection.get_extra_info("reactor")  # type: ignore[no-any-return]

    def _keep(self, data: bytes) -> None:
        if not self._buffer:
            self._buffer = data
        else:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(memoryview(self._buffer)[self._at :])
            elif self._at:
                del self._buffer[: self._at]
            self._at = 0
            self._buffer += data
        self._step_reader()
        self._hold_back()

    def _step_reader(self) -> None:
        task, self._reader = self._reader, None
        if task is not None:
            task.step()

    def _hold_back(self) -> None:
        if self._reader is None and len(self._buffer) - self._at > self._limit and not self._held:
            self._held = True
            self.connection.pause_reading()

    def _take(self, n: int) -> bytes:
        with memoryview(self._buffer) as view:
            data = bytes(view[self._at : self._at + n])
        self._skip(len(data))
        return data

    def _skip(self, n: int) -> None:
        self._at += n
        if self._at == len(self._buffer):
            self._buffer, self._at = b"", 0

    def _check_not_ended(self) -> None:
        self._check_open()
        if self._ended:
            partial = self._take(len(self._buffer))
            raise EndOfStream(f"the input ended after {len(partial)} bytes of what was waited for", partial)

    def _check_open(self) -> None:
        if self._lost:
            raise self._closed()

    def _closed(self) -> StreamClosed:
        why = "" if self._reason is None else f": {self._reason}"
        exc = StreamClosed(f"{self.connection} has ended{why}")
        exc.__cause__ = self._reason
        return exc

    def _park(self, task: _Task) -> None:
        self._reader = task
        self._read_on()

    def _read_on(self) -> None:
        if self._held:
            self._held = False
            self.connection.resume_reading()

    def _wake_writers(self) -> None:
        for room in self._writers:
            self._reactor().call_soon(room.wake)

    def _unpark(self) -> None:
        self._reader = None

    def _task_ended(self, task: _Task, exc: BaseException) -> None:
        if task is self._main:
            self._main = None
        else:
            self._children = tuple(other for other in self._children if other is not task)
        if isinstance(exc, (StopIteration, StreamClosed)):
            if self._main is None:
                self.connection.close()
            return
        if isinstance(exc, ReactorError) and not isinstance(exc, UsageError):
            self.connection.close(reason=exc)
            return
        if isinstance(exc, Exception):
            self._reactor().report(exc, task.name, self.connection)
        self.connection.fail(exc)


class _Lines(AsyncIterator[bytes]):
    __slots__ = ("_limit", "_stream")

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __anext__(self) -> bytes:
        try:
            line = await self._stream.receive_until(b"\n", self._limit)
        except EndOfStream as end:
            if not end.partial:
                raise StopAsyncIteration from None
            return end.partial
        return line.removesuffix(b"\r")


class _Task:
    """A coroutine, and the place where it waits: None until it has begun, and when it is done."""

    __slots__ = ("coroutine", "place", "send", "stream")

    def __init__(self, stream: Stream, coroutine: Awaitable[object]) -> None:
        if not isinstance(coroutine, (Coroutine, Generator)):  # the latter: an await of this module
            raise UsageError(f"{coroutine!r} can't be run as a task: give an `async def` function")
        self.stream = stream
        self.coroutine: Coroutine[Any, Any, object] | Generator[Any, Any, object] = coroutine
        self.send = coroutine.send
        self.place: _Place | None = None

    @property
    def name(self) -> str:
        """What it runs."""
        return getattr(self.coroutine, "__qualname__", "task")

    def is_running(self) -> bool:
        """Return whether this is called from within it."""
        running: bool = getattr(self.coroutine, "cr_running", False) or getattr(
            self.coroutine, "gi_running", False
        )
        return running

    def begin(self) -> None:
        """Run to the first wait, unless the connection has ended before."""
        if self.stream._lost:
            self.coroutine.close()
        else:
            self.step()

    def step(self) -> None:
        """Go on to the next wait."""
        self._go_on(self.send, None)

    def wake(self, place: _Place) -> None:
        """Go on, if the wait is still the one at `place`."""
        if self.place is place:
            place._unpark()
            self.step()

    def throw(self, exc: BaseException) -> None:
        """End the wait with `exc`."""
        if self.place is not None:
            self.place._unpark()
            self._go_on(self.coroutine.throw, exc)

    def _go_on(self, how: Callable[[Any], Any], what: Any) -> None:
        try:
            place = how(what)
        except BaseException as exc:
            self.stop(exc)
        else:
            self.wait_at(place)

    def wait_at(self, place: Any) -> None:
        """Leave it at `place`; if that can't be, the await raises UsageError."""
        if not isinstance(place, _PLACES):
            told = f"{place!r} can't be waited for here: the reactor drives this, not asyncio"
        elif isinstance(place, Stream) and place._reader is not None:
            told = "another task waits for this stream's input: only one can have it"
        else:
            self.place = place
            place._park(self)
            return
        self._go_on(self.coroutine.throw, UsageError(told))

    def stop(self, exc: BaseException) -> None:
        """Take note that it has returned, or raised `exc`."""
        self.place = None
        self.stream._task_ended(self, exc)
        if not isinstance(exc, Exception):
            raise exc


class _Room:
    """Room in a stream's queue, or the end of its handshake."""

    __slots__ = ("_stream", "task")

    task: _Task

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def wake(self) -> None:
        self.task.wake(self)

    def _park(self, task: _Task) -> None:
        self.task = task
        self._stream._writers = (*self._stream._writers, self)

    def _unpark(self) -> None:
        self._stream._writers = tuple(other for other in self._stream._writers if other is not self)


class _Sleep:
    """A point in time."""

    __slots__ = ("_reactor", "_seconds", "_timer")

    def __init__(self, reactor: Reactor, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds

    def _park(self, task: _Task) -> None:
        self._timer = self._reactor.call_later(self._seconds, task.wake, self)

    def _unpark(self) -> None:
        self._timer.cancel()


_Place = Stream | _Room | _Sleep
_PLACES = (Stream, _Room, _Sleep)


class _TimeIsUp(BaseException):
    """Ends the waits of a `with stream.timeout()`; not for handlers to catch."""


class _Timeout:
    __slots__ = ("_reactor", "_seconds", "_task", "_timer", "_up")

    def __init__(self, task: _Task, reactor: Reactor, seconds: float) -> None:
        self._task = task
        self._reactor = reactor
        self._seconds = seconds
        self._up: _TimeIsUp | None = None

    def __enter__(self) -> None:
        self._timer = self._reactor.call_later(self._seconds, self._expire)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if exc is not None and exc is self._up:
            raise StreamTimeout(f"not done within {self._seconds:g} s") from None

    def _expire(self) -> None:
        self._up = _TimeIsUp()
        self._task.throw(self._up)
