"""Blocking handlers: `def handler(connection)` on a bounded number of worker threads.

The reactor accepts, keeps the limits and the deadlines, and holds who waits; a worker gets a duplicate of the
socket's descriptor, which blocks. Meanwhile the connection itself is not read from, so that nobody else does.

Over TLS the duplicate is made at once, for an `ssl.SSLSocket`: OpenSSL ties the state of a connection to a
descriptor. The reactor does the handshake on it without blocking, and a worker gets it after that.
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
import ssl
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from reactor.connection.connection import Connection, begin_blocking_handshake, fail, note_activity
from reactor.connection.handshake import PendingHandshake
from reactor.errors import ConnectionAborted, TLSError, TLSTruncated, UsageError, WriteTimeout
from reactor.loop.context import ContextExit
from reactor.loop.workers import Workers
from reactor.options import check_callable, seconds
from reactor.protocol import Protocol
from reactor.reactor import Reactor
from reactor.tls.secure_socket import Tls, words_of

__all__ = ["BlockingSocket", "BlockingTLSSocket", "Handler", "Pool"]

# Seconds, three years: what is longer is no timeout. The kernel counts in ticks, and some have 32 bits.
_LONGEST_TIMEOUT = 1e8

# Bytes that are sent in one go, after which the connection is known to be alive.
_CHUNK = 256 * 1024

# The same over TLS: a record, RFC 8446, 5.1. SSL_write(3) tells of all of what it is given, or of nothing.
_RECORD = 16 * 1024

# Waits without a descriptor of its own, where there is one that does.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)

#: What serves a connection, on a thread of its own as long as it runs. Its result is dropped.
Handler = Callable[["BlockingSocket"], object]


class Pool(ContextExit):
    """What `Reactor.listen` takes as its factory, for connections that `handler` serves.

    handler: called as `handler(connection)` with a `BlockingSocket`, over TLS a `BlockingTLSSocket`, on a
        worker thread. The connection is closed when it returns, after all was sent. What it raises resets the
        connection, and goes to the reactor's `on_error`, but for what the connection's own end raised in it.
    workers: handlers that run at once. Who finds none free waits, first come, first served; how many may, is
        for `Limits.max_connections`, which counts those that are served and those that wait, and
        `when_full` says what becomes of the others.

    One pool is for one reactor. As a context manager it is closed at the end. The threads don't keep the
    interpreter from its end. Over TLS the pool itself has to be the factory, and each connection has two
    descriptors from its beginning.
    Raises TypeError or ValueError, naming the parameter, for a value that can't be meant.
    """

    def __init__(self, handler: Handler, *, workers: int = 16) -> None:
        check_callable("handler", handler)
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise TypeError(f"workers must be a whole number of 1 or more, not {workers!r}")
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, not {workers}")
        self.name = getattr(handler, "__qualname__", repr(handler))
        self._handler = handler
        self._limit = workers
        self._workers = Workers(workers, "reactor-pool", daemon=True)
        self._waiting: dict[_Lent, None] = {}  # a queue of which any may leave
        self._served: set[_Lent] = set()

    def __call__(self) -> _Lent:
        """Return the protocol of a new connection."""
        return _Lent(self)

    def pending_handshake(
        self, owner: object, factory: Callable[[], Any], on_failed: Callable[[BaseException], None]
    ) -> PendingHandshake:
        """Return what stands in for a protocol of `factory` during the TLS handshake."""
        return _PendingTLSHandshake(owner, factory, on_failed)

    def __enter__(self) -> Self:
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        self.close()

    def close(self, timeout: float = 5.0) -> bool:
        """End what is served and what waits, and let the threads end; return whether they have.

        timeout: seconds that each has for it. On the reactor's thread, or after the reactor was closed.
        Raises ValueError for a timeout below 0 or NaN, TypeError for one that is no number.
        """
        timeout = seconds("timeout", timeout, zero=True)
        for lent in [*self._waiting, *self._served]:
            lent.connection.abort(ConnectionAborted("the pool was closed"))
            lent.end(ConnectionAborted("the pool was closed"))
        for lent in list(self._waiting):
            self.leave(lent)
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
        if lent in self._waiting:
            del self._waiting[lent]
            lent.take_back()

    def returned(self, lent: _Lent, problem: BaseException | None) -> None:
        """A worker is done with a connection, and raised `problem`. On the reactor's thread."""
        self._served.discard(lent)
        lent.finish(problem)
        self._assign()

    def _assign(self) -> None:
        while self._waiting and len(self._served) < self._limit:
            lent = next(iter(self._waiting))
            del self._waiting[lent]
            self._served.add(lent)
            try:
                lent.lend()
                self._workers.submit(partial(lent.serve, self._handler))
            except (OSError, RuntimeError) as exc:  # there is no descriptor for it, or no thread at all
                self._served.discard(lent)
                lent.finish(exc)


class _Lent(Protocol):
    """One connection, and the socket that a worker has of it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sock: BlockingSocket | None = None
        self.reason: BaseException | None = None  # why it has ended

    def connection_made(self, connection: Connection) -> None:
        """Wait for a worker.

        Raises UsageError, which ends the connection, if the connection itself does TLS: the worker would read
        and write around it. The same in memory, where there is no socket for it.
        """
        if connection.get_extra_info("ssl_object") is not None:
            raise UsageError("over TLS the Pool itself must be the factory: listen(..., pool, tls=...)")
        if not isinstance(connection.get_extra_info("socket"), socket.socket):
            raise UsageError(
                "a Pool's threads need a socket of the kernel: test it on a Reactor, over loopback"
            )
        self.connection = connection
        self.reactor: Reactor = connection.reactor
        connection.pause_reading()
        self._pool.admit(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Free the worker that blocks on it."""
        self._pool.leave(self)
        self.end(exc or ConnectionAborted("the connection was closed"))

    def draining(self) -> bool:
        """Return that it is busy: it waits for a worker, or has one."""
        return True

    def take_secured(self, sock: BlockingTLSSocket) -> None:
        """Have `sock`, whose handshake is done, for the worker."""
        self._sock = sock

    def lend(self) -> None:
        """Have the worker's socket ready. Raises OSError."""
        if self._sock is None:
            self._sock = BlockingSocket(fileno=_duplicate(self.connection))
        self._sock.lend(self, self.connection.get_timeouts().write)

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
            self._sock.finish()
        except BaseException as exc:
            problem = exc  # SystemExit and the like as well: a worker is not the program
        try:
            self.reactor.call_soon_threadsafe(self._pool.returned, self, problem)
        except UsageError:
            self.take_back()  # the reactor is closed, and the connection has ended with it

    def take_back(self) -> None:
        """Close the worker's socket."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.take_back()

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
        self.connection.abort(problem)


class _PendingTLSHandshake(PendingHandshake):
    """Stands in for a pool's protocol during a TLS handshake, which the worker's `ssl.SSLSocket` does."""

    __slots__ = ("_sock",)

    _sock: BlockingTLSSocket | None

    def begin_tls(self, connection: Connection, tls: Tls, on_established: Callable[[], None]) -> None:
        """Make the worker's socket, and begin its handshake."""
        self._sock = None
        try:
            self._sock = BlockingTLSSocket.of(connection, tls)
        except OSError as exc:  # no descriptor, or the peer has gone
            fail(connection, exc)
        else:
            begin_blocking_handshake(connection, self._sock)

    def make_protocol(self) -> Any:
        """Return the protocol, which has the socket now."""
        lent = super().make_protocol()
        lent.take_secured(self._sock)
        self._sock = None
        return lent

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the worker's socket, and tell of a handshake that failed."""
        if self._sock is not None:
            self._sock.take_back()
        super().connection_lost(exc)

    def draining(self) -> bool:
        """Return that it is busy."""
        return True


def _duplicate(connection: Connection) -> int:
    return os.dup(connection.get_extra_info("socket").fileno())


class BlockingSocket(socket.socket):
    """A connection as a blocking handler sees it: a socket, on which every method of one works.

    Each call that receives or sends puts off `Timeouts.idle`. Once the reactor has ended the connection, for
    a deadline or whatever else, it raises the reason; so does a call that blocks then.
    """

    _lent: _Lent

    def lend(self, lent: _Lent, write_timeout: float | None) -> None:
        """Block from now on. The pool's call.

        write_timeout: seconds that a call which sends waits for the peer to take something.
        """
        self._lent = lent
        self.setblocking(True)
        self._limit_writing(write_timeout)

    def _limit_writing(self, timeout: float | None) -> None:
        if timeout is not None and timeout <= _LONGEST_TIMEOUT:
            whole, rest = divmod(math.ceil(timeout * 1e6), 1_000_000)  # none at all would be no timeout
            value = struct.pack("@ll", whole, rest)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def finish(self) -> None:
        """Send what goes before TCP's own end: nothing. The pool's call, when the handler returned."""

    def take_back(self) -> None:
        """Close it, if the handler has not. The pool's call."""
        if self.fileno() != -1:
            os.close(self.detach())

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
            # Not what a subclass makes of it: an SSLSocket would forget TLS, and send in clear from then on.
            socket.socket.shutdown(self, socket.SHUT_RDWR)
        except OSError:
            pass  # it is not connected any more: then nothing blocks

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        lent = self._lent
        try:
            result = call(*args)
        except BlockingIOError as exc:
            if self.gettimeout() is not None:
                raise
            raise _taken_nothing() from exc
        except OSError as exc:
            if lent.reason is not None and lent.reason is not exc:
                raise lent.reason from exc
            raise
        if lent.reason is not None:
            raise lent.reason
        note_activity(lent.connection, lent.reactor.time())
        return result


def _taken_nothing() -> WriteTimeout:
    return WriteTimeout("the peer takes nothing of what is sent")


class BlockingTLSSocket(BlockingSocket, ssl.SSLSocket):
    """A connection over TLS as a blocking handler sees it: an `ssl.SSLSocket` whose handshake is done.

    `getpeercert`, `selected_alpn_protocol`, `context` and the like tell what it came to. Beside what a
    `BlockingSocket` raises, calls raise `TLSError` when TLS fails, and `TLSTruncated` when the peer's bytes
    end without its close_notify. Ours is sent when the handler returns, and not when it raises; to `close` it
    before that changes nothing for the peer. `Timeouts.write` is what the peer has for each record of 16 KiB.
    The `ssl` module can't end one direction alone: after `shutdown`, but for SHUT_RD, nothing can be received
    either.
    """

    _write_timeout: float | None = None
    _unusable: Exception | None = None  # what each call raises from now on

    @classmethod
    def of(cls, connection: Connection, tls: Tls) -> BlockingTLSSocket:
        """Return one for a connection in clear, on which the handshake is to be done. It does not block.

        Raises OSError if there is no descriptor, or the peer has gone.
        """
        with socket.socket(fileno=_duplicate(connection)) as plain:
            plain.setblocking(False)
            sock = tls.wrap_socket(plain)
        # The other way to a subclass, `SSLContext.sslsocket_class`, is for all that is made with the context.
        sock.__class__ = cls
        assert isinstance(sock, BlockingTLSSocket)
        return sock

    def finish(self) -> None:
        """Send close_notify when the kernel has room for it; the peer's is not waited for.

        Raises WriteTimeout. The pool's call, when the handler returned.
        """
        if self.fileno() != -1 and not isinstance(self._unusable, WriteTimeout):
            timeout = self.gettimeout()
            self.setblocking(False)
            try:
                self._notify()
            finally:
                self.settimeout(timeout)

    def _notify(self) -> None:
        while self.version() is not None:  # or the handler has unwrapped it
            try:
                super().unwrap()
            except ssl.SSLWantWriteError:
                self._wait_for_room()
            except OSError:
                return  # it is sent, and the peer's has not come; or there is nobody to send it to

    def _wait_for_room(self) -> None:
        with _Selector() as selector:
            selector.register(self, selectors.EVENT_WRITE)
            if not selector.select(self._write_timeout):
                raise _taken_nothing()

    def read(self, *args: Any) -> Any:
        """As `ssl.SSLSocket.read`."""
        return self._run(super().read, *args)

    def write(self, data: Any) -> int:
        """As `ssl.SSLSocket.write`, and a record at most."""
        return self.send(data)

    def send(self, data: Any, *flags: int) -> int:
        """As `ssl.SSLSocket.send`, and a record at most."""
        return self._run(self._send, memoryview(data).cast("B")[:_RECORD], *flags)  # type: ignore[no-any-return]

    def _send(self, record: memoryview, *flags: int) -> int:
        if self._write_timeout is None or self.gettimeout() is not None:
            return ssl.SSLSocket.send(self, record, *flags)
        self.settimeout(self._write_timeout)  # OpenSSL goes on after SO_SNDTIMEO
        try:
            return ssl.SSLSocket.send(self, record, *flags)
        except TimeoutError as exc:
            self._unusable = _taken_nothing()  # SSL_write(3) could be called for this very record only
            raise self._unusable from exc
        finally:
            self.settimeout(None)

    def unwrap(self) -> socket.socket:
        """As `ssl.SSLSocket.unwrap`: end TLS, wait for the peer to do so, and go on in clear."""
        return self._run(super().unwrap)  # type: ignore[no-any-return]

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown`; before our direction is ended, close_notify is sent.

        After that nothing can be received: each call raises UsageError.
        """
        if how != socket.SHUT_RD:
            self.finish()
            self._unusable = UsageError("shutdown has ended TLS: receive before, or call unwrap")
        socket.socket.shutdown(self, how)

    def _limit_writing(self, timeout: float | None) -> None:
        self._write_timeout = timeout

    def _real_close(self) -> None:
        # What `socket.close` does when no file of it is open either. TLS is still to be ended: `finish`.
        self._unusable = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        if self._unusable is not None:
            raise self._unusable
        try:
            return super()._run(call, *args)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise  # the handler has asked for it
        except ssl.SSLEOFError as exc:
            raise TLSTruncated("the peer ended the connection without a close_notify") from exc
        except ssl.SSLError as exc:
            raise TLSError(words_of(exc)) from exc
