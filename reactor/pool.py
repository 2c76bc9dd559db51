"""Blocking handlers: `def handler(connection)` on a bounded number of worker threads.

The reactor accepts, keeps the limits and the deadlines, and holds who waits; a worker gets a duplicate of the
socket's descriptor, which blocks. Meanwhile the connection itself is not read from, so that nobody else does.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from reactor.connection import Connection
from reactor.errors import ConnectionAborted, UsageError, WriteTimeout
from reactor.protocol import Protocol
from reactor.server import Reactor
from reactor.workers import Workers

__all__ = ["BlockingSocket", "Handler", "Pool"]

# Bytes that are sent in one go, after which the connection is known to be alive.
_CHUNK = 256 * 1024

#: What serves a connection, on a thread of its own as long as it runs. Its result is dropped.
Handler = Callable[["BlockingSocket"], object]


class Pool:
    """What `Reactor.listen` takes as its factory, for connections that `handler` serves.

    handler: called as `handler(connection)` with a `BlockingSocket`, on a worker thread. The connection is
        closed when it returns, after all was sent. What it raises ends the connection, and goes to the
        reactor's `on_error`, but for what the connection's own end raised in it.
    workers: handlers that run at once. Who finds none free waits, first come, first served; how many may, is
        for `Limits.max_connections`, which counts those that are served and those that wait, and
        `when_full` says what becomes of the others.

    One pool is for one reactor. As a context manager it is closed at the end. The threads don't keep the
    interpreter from its end.
    """

    def __init__(self, handler: Handler, *, workers: int = 16) -> None:
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, not {workers}")
        self.name = getattr(handler, "__qualname__", repr(handler))
        self._handler = handler
        self._most = workers
        self._workers = Workers(workers, "reactor-pool", daemon=True)
        self._waiting: dict[_Lent, None] = {}  # a queue of which any may leave
        self._served: set[_Lent] = set()

    def __call__(self) -> _Lent:
        """Return the protocol of a new connection."""
        return _Lent(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float = 5.0) -> bool:
        """End what is served and what waits, and let the threads end; return whether they have.

        timeout: seconds that each has for it. On the reactor's thread, or after the reactor was closed.
        """
        for lent in [*self._waiting, *self._served]:
            lent.connection.abort(ConnectionAborted("the pool was closed"))
            lent.end(ConnectionAborted("the pool was closed"))
        self._waiting.clear()
        ended = self._workers.close(timeout)
        if ended:
            for lent in self._served:
                lent.take_back()
        return ended

    def admit(self, lent: _Lent) -> None:
        """Put a connection at the end of the queue."""
        self._waiting[lent] = None
        self._assign()

    def leave(self, lent: _Lent) -> None:
        """Take one out that is waiting, if it is."""
        self._waiting.pop(lent, None)

    def returned(self, lent: _Lent, problem: BaseException | None) -> None:
        """A worker is done with a connection, and raised `problem`. On the reactor's thread."""
        self._served.discard(lent)
        lent.finish(problem)
        self._assign()

    def _assign(self) -> None:
        while self._waiting and len(self._served) < self._most:
            lent = next(iter(self._waiting))
            del self._waiting[lent]
            self._served.add(lent)
            try:
                lent.lend()
            except OSError as exc:
                self.returned(lent, exc)  # no descriptor for it
            else:
                self._workers.submit(partial(lent.serve, self._handler))


class _Lent(Protocol):
    """One connection, and the socket that a worker has of it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sock: BlockingSocket | None = None
        self.reason: BaseException | None = None  # why it has ended

    def connection_made(self, connection: Connection) -> None:
        """Wait for a worker.

        Raises UsageError, which ends the connection, over TLS, because the worker would read and write around
        it, and in memory.
        """
        if connection.get_extra_info("ssl_object") is not None:
            raise UsageError("a Pool can't serve TLS connections: let a coroutine or a protocol do it")
        if not isinstance(connection.get_extra_info("socket"), socket.socket):
            raise UsageError(
                "a Pool's threads need a socket of the kernel: test it on a Reactor, over loopback"
            )
        self.connection = connection
        self.reactor: Reactor = connection.get_extra_info("reactor")
        connection.pause_reading()
        self._pool.admit(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Free the worker that blocks on it."""
        self._pool.leave(self)
        self.end(exc or ConnectionAborted("the connection was closed"))

    def draining(self) -> bool:
        """Return that it is busy: it waits for a worker, or has one."""
        return True

    def lend(self) -> None:
        """Make the worker's socket. Raises OSError."""
        self._sock = BlockingSocket(self)

    def end(self, reason: BaseException) -> None:
        """Let the worker's blocked call, and each further one, raise `reason`."""
        if self.reason is None:
            self.reason = reason
            if self._sock is not None:
                self._sock.wake()

    def serve(self, handler: Handler) -> None:
        """Run the handler. On the worker's thread."""
        problem: BaseException | None = None
        assert self._sock is not None
        try:
            handler(self._sock)
        except BaseException as exc:
            problem = exc  # SystemExit and the like as well: a worker is not the program
        try:
            self.reactor.call_soon_threadsafe(self._pool.returned, self, problem)
        except UsageError:
            self.take_back()  # the reactor is closed, and the connection has ended with it

    def take_back(self) -> None:
        """Close the worker's socket."""
        sock, self._sock = self._sock, None
        if sock is not None and sock.fileno() != -1:
            os.close(sock.detach())

    def finish(self, problem: BaseException | None) -> None:
        """Take the connection back, and end it. On the reactor's thread."""
        self.take_back()
        if self.reason is None:
            # It did not block for the worker alone: both descriptors are of one open file, open(2).
            os.set_blocking(self.connection.get_extra_info("socket").fileno(), False)
        if problem is None:
            self.connection.close()
            return
        if problem is not self.reason and not isinstance(problem, (ConnectionError, WriteTimeout)):
            self.reactor.report(problem, self._pool.name, self.connection)
        self.connection.fail(problem)


class BlockingSocket(socket.socket):
    """A connection as a blocking handler sees it: a socket, on which every method of one works.

    Each call that receives or sends puts off `Timeouts.idle`. Once the reactor has ended the connection, for
    a deadline or whatever else, it raises the reason; so does a call that blocks then.
    """

    def __init__(self, lent: _Lent) -> None:
        super().__init__(fileno=os.dup(lent.connection.get_extra_info("socket").fileno()))
        self._lent = lent
        self.setblocking(True)
        timeout = lent.connection.get_timeouts().write
        if timeout is not None:
            seconds = int(timeout)
            value = struct.pack("@ll", seconds, int((timeout - seconds) * 1e6))
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def recv(self, *args: Any) -> bytes:
        """As `socket.recv`."""
        return self._run(super().recv, *args)  # type: ignore[no-any-return]

    def recv_into(self, *args: Any) -> int:
        """As `socket.recv_into`."""
        return self._run(super().recv_into, *args)  # type: ignore[no-any-return]

    def send(self, *args: Any) -> int:
        """As `socket.send`."""
        return self._run(super().send, *args)  # type: ignore[no-any-return]

    def sendall(self, data: Any, *flags: int) -> None:
        """As `socket.sendall`."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest[:_CHUNK], *flags) :]

    def wake(self) -> None:
        """End what blocks on it. On the reactor's thread."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is not connected any more: then nothing blocks

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        lent = self._lent
        try:
            result = call(*args)
        except BlockingIOError as exc:
            if self.gettimeout() is not None:
                raise
            raise WriteTimeout("the peer takes nothing of what is sent") from exc
        except OSError as exc:
            if lent.reason is not None:
                raise lent.reason from exc
            raise
        if lent.reason is not None:
            raise lent.reason
        lent.connection.last_active = lent.reactor.time()
        return result
