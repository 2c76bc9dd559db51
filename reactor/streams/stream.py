"""`Stream`: the coroutine interface of one connection, and the handler that serves it."""

from __future__ import annotations

import ssl
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, cast
from typing import Protocol as Interface

from reactor import options
from reactor.connection.connection import Connection
from reactor.errors import EndOfStream, FrameTooLong, ReactorError, StreamClosed, UsageError
from reactor.protocol import Protocol
from reactor.reactor import Reactor
from reactor.streams.task import Place, Sleep, Task, Timeout, Wait, is_mistake, suspend

__all__ = ["LIMIT", "Handler", "Lease", "Stream", "check_limit", "handler"]

#: A coroutine handler: serves one connection. Its result is ignored.
Handler = Callable[["Stream"], Coroutine[Any, Any, object]]

#: Bytes that are buffered without a task waiting for them; then reading is paused. asyncio has the same.
LIMIT = 64 * 1024


class Lease(Interface):
    """An outgoing connection of a task, which ends with the task's stream."""

    def end(self, exc: BaseException | None) -> None:
        """Close it; if there is an `exc`, reset it with that as the reason."""


def handler(fn: Handler, *, limit: int = LIMIT) -> Callable[[], Stream]:
    """Return a protocol factory for `Reactor.listen` and `connect` whose connections `fn` serves.

    fn: called as `await fn(stream)` for each connection. When it returns, the connection is closed, after
        everything was sent; also when it raises a `ReactorError` about this peer's input or `StreamTimeout`,
        which is then the reason. Any other exception resets the connection, so that half an answer does not
        look complete, and goes to the reactor's `on_error`, unless it is the failure of another connection.
    limit: bytes that are buffered without a task waiting for them; then reading is paused.
    Raises ValueError if `limit` is not positive, TypeError if `fn` is not callable.
    """
    check_limit(limit)
    options.check_callable("fn", fn)
    return lambda: Stream(fn, limit)


def check_limit(limit: int) -> None:
    """Raise ValueError if `limit` is not positive."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1 byte, not {limit}")


@types.coroutine
def _nothing() -> Generator[Any, None, None]:
    yield from ()


# An await that does not wait: an exhausted generator can be awaited again and again, in 20 ns.
_DONE = _nothing()
list(cast("Generator[Any]", _DONE))


class Stream(Protocol):
    r"""The coroutine interface of one connection: a protocol whose input and flow control are awaited.

    connection: the `Connection`, for everything else.

    Its methods are called in tasks: the handler, and coroutines started by `start_soon`. Tasks of other
    streams of the same reactor may call them too, unless the method says otherwise. One task at a time may
    receive; any number may send, and the bytes of one `send` stay together.
    Each await raises `StreamClosed` once the connection has ended; its `__cause__` is the reason.

        from reactor import streams
        from reactor.testing import MemoryReactor, Recorder

        async def shout(stream):
            async for line in stream.lines():
                await stream.send(line.upper() + b"!")

        with MemoryReactor() as reactor:
            _, client = reactor.pair(streams.handler(shout), Recorder)
            client.write(b"hello\n")
            reactor.settle()
            assert client.get_protocol().received == b"HELLO!"
            client.close()
    """

    __slots__ = (
        "_at", "_buffer", "_dependents", "_ended", "_fn", "_held", "_limit", "_lost", "_main",
        "_paused", "_reader", "_reason", "connection", "writers",
    )  # fmt: skip

    # An interrupt ends a task, and would lose bytes in the lines of this class: it ends the connection.
    _interruptible = ()

    connection: Connection

    def __init__(self, fn: Handler | None, limit: int) -> None:
        self._fn = fn
        self._limit = limit
        self._buffer: bytes | bytearray = b""
        self._at = 0  # offset of the first byte in the buffer that no task has received
        self._ended = False  # the peer's end of file was received
        self._lost = False
        self._reason: BaseException | None = None  # of the end; before it, the argument of `fault_elsewhere`
        self._held = False  # reading is paused, because the buffer is full
        self._paused = False  # above the high-water mark
        self._reader: Task | None = None
        self.writers: tuple[_Room, ...] = ()  # the waits for room in the queue, which enter themselves
        self._main: Task | None = None
        self._dependents: tuple[Task | Lease, ...] = ()

    # Callbacks of the reactor

    def connection_made(self, connection: Connection) -> None:
        """Start the handler."""
        self.connection = connection
        if self._fn is not None:
            self._main = Task(self, self._fn(self))
            self._main.step()

    def data_received(self, data: bytes) -> None:
        """Resume the task that waits for input with `data`, or buffer it."""
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
        if place is not self:  # the usual case: it waits for input again, and is still the reader
            self._reader = None
            task.wait_at(place)
            self._hold_back()

    def eof_received(self) -> bool:
        """Resume the task that waits for input; the handler may go on sending."""
        self._ended = True
        self._step_reader()
        return True

    def pause_writing(self) -> None:
        """Make `send` wait from now on."""
        self._paused = True

    def resume_writing(self) -> None:
        """Resume the tasks that wait in `send`."""
        self._paused = False
        self._wake_writers()

    def handshake_completed(self) -> None:
        """Resume the task that waits in `start_tls`."""
        self._wake_writers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End all waits on this stream, its tasks, and their outgoing connections."""
        self._ended = self._lost = True
        self._reason = exc
        self._buffer, self._at = b"", 0
        tasks = (each for each in self._dependents if isinstance(each, Task))
        waiting = (self._reader, *(room.task for room in self.writers), self._main, *tasks)
        for task in dict.fromkeys(waiting):
            if task is not None:
                task.throw(self.closed())
        self._end_leases(self.closed())

    def draining(self) -> bool:
        """Return False only if a task waits for input and none has come: then the stream is idle."""
        return self._reader is None or bool(self._buffer) or self._reader.is_running()

    # Receiving

    @types.coroutine
    def receive(self, n: int = LIMIT) -> Generator[Place, bytes | None, bytes]:
        """Wait for input, and return up to `n` bytes of it; b"" at the end of file."""
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
    def receive_exactly(self, n: int) -> Generator[Place, bytes | None, bytes]:
        """Wait for exactly `n` bytes, and return them.

        Raises EndOfStream if the input ends earlier; its `partial` holds the bytes that came.
        """
        while len(self._buffer) - self._at < n:
            self._check_not_ended()
            self._buffer = (yield self) or self._buffer
        return self._take(n)

    @types.coroutine
    def receive_until(self, delimiter: bytes, limit: int = LIMIT) -> Generator[Place, bytes | None, bytes]:
        """Wait for `delimiter`, and return the bytes before it; the delimiter itself is dropped.

        limit: bytes before the delimiter. Raises FrameTooLong if there are more, EndOfStream if the input
        ends earlier; its `partial` holds the bytes that came.
        """
        searched = 0
        while True:
            found = self._buffer.find(delimiter, self._at + searched)
            size = (len(self._buffer) if found < 0 else found) - self._at
            searched = max(0, size + 1 - len(delimiter))
            if (searched if found < 0 else size) > limit:
                raise self._blamed(FrameTooLong(f"no {delimiter!r} within {limit} bytes"))
            if found >= 0:
                data = self._take(size)
                self._skip(len(delimiter))
                return data
            self._check_not_ended()
            self._buffer = (yield self) or self._buffer

    def lines(self, limit: int = LIMIT) -> AsyncIterator[bytes]:
        """Return an asynchronous iterator over the lines of the input, without their LF or CR LF.

        Bytes after the last line end are a line too. limit: bytes of a line, its CR included; a longer one
        raises FrameTooLong.
        """
        return _Lines(self, limit)

    # Sending

    def send(self, data: bytes | bytearray | memoryview) -> Awaitable[None]:
        """Send `data`; if more than the high-water mark is queued then, wait for the low-water mark.

        Raises UsageError after `send_eof`.
        """
        if self.connection.write(data):
            return _DONE
        return self._sent()

    def send_eof(self) -> Awaitable[None]:
        """Half-close: send our end of file after everything that was sent; the peer may go on sending."""
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
    ) -> Generator[Place, None, None]:
        """Upgrade to TLS, as `Connection.start_tls` does, and wait until the handshake is complete.

        Buffered input belongs to the peer's handshake; if it is clear text, the connection ends.
        """
        self._check_open()
        early = bytes(memoryview(self._buffer)[self._at :])
        self.connection.start_tls(
            context, server_side=server_side, server_hostname=server_hostname, early=early
        )
        self._skip(len(early))
        self._read_on()
        while self.connection.get_extra_info("ssl_object").version() is None:
            yield from suspend(_Room(self))
            self._check_open()

    @types.coroutine
    def _sent(self) -> Generator[Place, None, None]:
        if self.connection.is_closing():
            raise self.closed()
        while self._paused:
            yield from suspend(_Room(self))
            self._check_open()

    # Time, and other tasks

    @types.coroutine
    def sleep(self, seconds: float) -> Generator[Place, None, None]:
        """Wait for at least `seconds`; for ever if that is infinity.

        Raises ValueError for a number below 0 or NaN, TypeError for anything but a number.
        """
        duration = options.seconds("seconds", seconds, zero=True)
        self._check_open()
        yield from suspend(Sleep(duration))

    def timeout(self, seconds: float) -> Timeout:
        """Return a context manager that raises StreamTimeout if its body takes longer than `seconds`.

        It ends the await at which the task waits, whatever that is, and leaves the `with` as StreamTimeout.
        It can be nested. It is for tasks of this stream, and, if `connect` has made the stream, for those of
        the stream whose task has made it. Raises UsageError elsewhere, ValueError for a number below 0 or
        NaN, TypeError for anything but a number.
        """
        duration = options.seconds("seconds", seconds, zero=True)
        task = self.running_task()
        if task is None:
            raise UsageError("timeout is for the tasks of its own stream: call it within one")
        return Timeout(task, duration)

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task that runs `await fn(*args)` beside the handler; it ends with the connection.

        Its exceptions are treated like those of the handler.
        """
        self._check_open()
        task = Task(self, fn(*args))
        self.depend(task)
        self.reactor().call_soon(task.begin)

    # For its tasks

    def reactor(self) -> Reactor:
        """Return the reactor that drives its tasks."""
        return self.connection.reactor  # type: ignore[no-any-return]

    def is_lost(self) -> bool:
        """Return whether the connection has ended."""
        return self._lost

    def closed(self) -> StreamClosed:
        """Return the exception that an await raises after the end."""
        reason = self._reason if self._lost else None
        why = "" if reason is None else f": {reason}"
        exc = StreamClosed(f"{self.connection} has ended{why}")
        exc.__cause__ = reason
        return exc

    def running_task(self) -> Task | None:
        """Return the task of this stream that is running now, or None."""
        for each in (self._main, *self._dependents):
            if isinstance(each, Task) and each.is_running():
                return each
        return None

    def depend(self, *dependents: Task | Lease) -> None:
        """End each of `dependents` when the connection ends, until `release`."""
        self._dependents = (*self._dependents, *dependents)

    def release(self, *dependents: Task | Lease) -> None:
        """Undo `depend`."""
        gone = set(dependents)
        self._dependents = tuple(each for each in self._dependents if each not in gone)

    def fault_elsewhere(self, exc: BaseException) -> None:
        """Remember that `exc`, if a task raises it, is not the fault of this connection's peer."""
        if not self._lost:
            self._reason = exc

    def park(self, task: Task) -> bool:
        """Make `task` the reader: the task that waits for input. Raises UsageError if there is one."""
        if self._reader is not None:
            raise UsageError("another task waits for this stream's input: only one can have it")
        self._reader = task
        self._read_on()
        return False

    def unpark(self) -> None:
        """Remove the reader."""
        self._reader = None

    def task_ended(self, task: Task, exc: BaseException) -> None:
        """End the connection if `task` was the handler, or failed. exc: StopIteration if it returned."""
        is_main = task is self._main
        if is_main:
            self._main = None
        else:
            self.release(task)
        if isinstance(exc, StopIteration):
            if is_main:
                self._end_leases(None)
                self.connection.close()
        elif not (isinstance(exc, StreamClosed) and self.connection.is_closing()):
            self._end_leases(exc)
            self._fail(task, exc)

    # Inside

    def _end_leases(self, exc: BaseException | None) -> None:
        for each in self._dependents:
            if not isinstance(each, Task):
                each.end(exc)

    def _fail(self, task: Task, exc: BaseException) -> None:
        mistake = is_mistake(exc)
        if mistake:
            self.reactor().report(exc, task.name, self.connection)
        elsewhere = isinstance(exc, ConnectionError) or exc is self._reason
        if isinstance(exc, ReactorError) and not (mistake or elsewhere):
            self.connection.close(reason=exc)
        else:
            self.connection.abort(exc)

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
            problem = f"the input ended after {len(partial)} bytes of what was waited for"
            raise self._blamed(EndOfStream(problem, partial))

    def _blamed(self, exc: ReactorError) -> ReactorError:
        """Return `exc`, which is the fault of this connection's peer."""
        return exc

    def _check_open(self) -> None:
        if self._lost:
            raise self.closed()

    def _read_on(self) -> None:
        if self._held:
            self._held = False
            self.connection.resume_reading()

    def _wake_writers(self) -> None:
        for room in self.writers:
            self.reactor().call_soon(room.wake)


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


class _Room(Wait):
    """A wait for room in a stream's send queue, or for the end of its handshake."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def park(self, task: Task) -> bool:
        """Implement `Place.park`."""
        self._stream.writers = (*self._stream.writers, self)
        return super().park(task)

    def unpark(self) -> None:
        """Implement `Place.unpark`."""
        self._stream.writers = tuple(other for other in self._stream.writers if other is not self)
