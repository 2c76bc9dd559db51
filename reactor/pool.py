"""A pool of worker threads for blocking handlers: `def handler(connection)`.

The reactor accepts, enforces limits and deadlines, and queues the connections that wait for a worker. The
worker gets a duplicate of the socket's descriptor, in blocking mode; the reactor does not read the connection
meanwhile.

Over TLS the duplicate is made at once, for an `ssl.SSLSocket`, because OpenSSL ties the state of a connection
to a descriptor. The reactor does the handshake on it without blocking, and then passes it to a worker.
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

from reactor.connection.connection import (
    Connection,
    begin_blocking_handshake,
    fail,
    lend_reading,
    note_activity,
)
from reactor.connection.handshake import PendingHandshake
from reactor.errors import ConnectionAborted, TLSError, TLSTruncated, UsageError, WriteTimeout
from reactor.loop.context import ContextExit
from reactor.loop.workers import Workers
from reactor.options import check_callable, seconds
from reactor.protocol import Protocol
from reactor.reactor import Reactor
from reactor.tls.secure_socket import Tls, words_of

__all__ = ["BlockingSocket", "BlockingTLSSocket", "Handler", "Pool"]

# Seconds, three years; a longer timeout counts as none. Some kernels count it in 32-bit ticks.
_LONGEST_TIMEOUT = 1e8

# Bytes per send(2) of `sendall`; each restarts the idle timeout.
_CHUNK = 256 * 1024

# The same over TLS: a record, RFC 8446, 5.1. SSL_write(3) reports progress only when all is written.
_RECORD = 16 * 1024

# A selector that needs no descriptor of its own, where there is one.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)

#: A blocking handler: serves one connection, on a worker thread that it occupies until it returns.
Handler = Callable[["BlockingSocket"], object]


class Pool(ContextExit):
    r"""A protocol factory for `Reactor.listen`: blocking handlers on worker threads serve its connections.

    handler: called as `handler(connection)` on a worker thread with a `BlockingSocket`, or over TLS a
        `BlockingTLSSocket`. When it returns, the connection is closed, after everything was sent. An
        exception resets the connection and goes to the reactor's `on_error`, unless it is the reason for
        which the connection itself has ended.
    workers: handlers that run at once. Further connections wait, first come, first served;
        `Limits.max_connections` counts those that are served and those that wait.

    A pool serves one reactor. As a context manager it is closed at the end. Its threads are daemons. Over
    TLS the pool itself must be the factory, and each connection has two descriptors from its start.
    Raises TypeError or ValueError, naming the parameter, for an invalid argument.

        import socket
        from reactor import Reactor
        from reactor.pool import Pool

        def upper(connection):
            with connection.makefile("rwb") as file:
                for line in file:
                    file.write(line.upper())

        with Reactor() as reactor, Pool(upper, workers=4) as pool, reactor.background():
            listener = reactor.submit(reactor.listen, "127.0.0.1:0", pool).result()
            with socket.create_connection(("127.0.0.1", listener.addresses[0].port)) as client:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
                assert client.recv(100) == b"HELLO\n"
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
        self._waiting: dict[_Lent, None] = {}  # a queue from which any may be removed
        self._served: set[_Lent] = set()

    def __call__(self) -> _Lent:
        """Return the protocol of a new connection."""
        return _Lent(self)

    def pending_handshake(
        self, owner: object, factory: Callable[[], Any], on_failed: Callable[[BaseException], None]
    ) -> PendingHandshake:
        """Return the placeholder for a protocol of `factory` during the TLS handshake."""
        return _PendingTLSHandshake(owner, factory, on_failed)

    def __enter__(self) -> Self:
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        self.close()

    def close(self, timeout: float = 5.0) -> bool:
        """Abort all connections of the pool, and end its threads; return whether all have ended.

        timeout: seconds to wait for each thread. Call it on the reactor's thread, or when that is closed.
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
        """Remove a connection from the queue, if it is there."""
        if lent in self._waiting:
            del self._waiting[lent]
            lent.take_back()

    def returned(self, lent: _Lent, problem: BaseException | None) -> None:
        """Take a connection back from a worker, whose handler raised `problem`. On the reactor's thread."""
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
            except (OSError, RuntimeError) as exc:  # out of descriptors, or of threads
                self._served.discard(lent)
                lent.finish(exc)


class _Lent(Protocol):
    """The protocol of a pool's connection, with the socket that is lent to a worker."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sock: BlockingSocket | None = None
        self.reason: BaseException | None = None  # why it has ended

    def connection_made(self, connection: Connection) -> None:
        """Queue the connection for a worker.

        Raises UsageError, which ends the connection, if the connection itself does TLS, which the worker's
        socket would bypass, and for a connection in memory, which has no kernel socket.
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
        """Leave the queue, or wake the worker that blocks on the socket."""
        self._pool.leave(self)
        self.end(exc or ConnectionAborted("the connection was closed"))

    def draining(self) -> bool:
        """Return True: it waits for a worker, or has one."""
        return True

    def take_secured(self, sock: BlockingTLSSocket) -> None:
        """Keep `sock`, whose handshake is complete, for the worker."""
        self._sock = sock

    def lend(self) -> None:
        """Prepare the worker's socket. Raises OSError."""
        if self._sock is None:
            self._sock = BlockingSocket(fileno=_duplicate(self.connection))
        lend_reading(self.connection)
        self._sock.lend(self, self.connection.get_timeouts().write)

    def end(self, reason: BaseException) -> None:
        """Make the worker's blocked call, and each further one, raise `reason`."""
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
            problem = exc  # SystemExit too: a worker thread does not end the program
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
        """Close or abort the connection, after the handler. On the reactor's thread."""
        self.take_back()
        sock = self.connection.get_extra_info("socket")
        if sock.fileno() != -1:  # the connection has not ended, of which `reason` comes a tick later
            # Both descriptors are of one open file description, and share its blocking mode: open(2).
            os.set_blocking(sock.fileno(), False)
        if problem is None:
            self.connection.close()
            return
        if problem is not self.reason and not isinstance(problem, (ConnectionError, WriteTimeout)):
            self.reactor.report(problem, self._pool.name, self.connection)
        self.connection.abort(problem)


class _PendingTLSHandshake(PendingHandshake):
    """The placeholder for a pool's protocol during the TLS handshake of the worker's `ssl.SSLSocket`."""

    __slots__ = ("_sock",)

    _sock: BlockingTLSSocket | None

    def begin_tls(self, connection: Connection, tls: Tls, on_established: Callable[[], None]) -> None:
        """Create the worker's socket, and begin its handshake."""
        self._sock = None
        try:
            self._sock = BlockingTLSSocket.of(connection, tls)
        except OSError as exc:  # out of descriptors, or the connection has ended
            fail(connection, exc)
        else:
            begin_blocking_handshake(connection, self._sock)

    def make_protocol(self) -> Any:
        """Return a new protocol of the factory, with the worker's socket."""
        lent = super().make_protocol()
        lent.take_secured(self._sock)
        self._sock = None
        return lent

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the worker's socket, and report a failed handshake."""
        if self._sock is not None:
            self._sock.take_back()
        super().connection_lost(exc)

    def draining(self) -> bool:
        """Return True: the handshake is incomplete."""
        return True


def _duplicate(connection: Connection) -> int:
    return os.dup(connection.get_extra_info("socket").fileno())


class BlockingSocket(socket.socket):
    """The blocking socket that a `Pool` passes to its handler; it has every method of `socket.socket`.

    Each call that receives or sends restarts `Timeouts.idle`. Once the reactor has ended the connection, by a
    deadline for example, a blocked call and each further one raise the reason.

        import socket
        from reactor import Reactor
        from reactor.pool import BlockingSocket, Pool

        def echo(connection: BlockingSocket):
            while data := connection.recv(4096):
                connection.sendall(data)

        with Reactor() as reactor, Pool(echo) as pool, reactor.background():
            listener = reactor.submit(reactor.listen, "127.0.0.1:0", pool).result()
            with socket.create_connection(("127.0.0.1", listener.addresses[0].port)) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
    """

    _lent: _Lent

    def lend(self, lent: _Lent, write_timeout: float | None) -> None:
        """Switch to blocking mode. Called by the pool.

        write_timeout: seconds after which a blocked send fails with `WriteTimeout`; None for never.
        """
        self._lent = lent
        self.setblocking(True)
        self._limit_writing(write_timeout)

    def _limit_writing(self, timeout: float | None) -> None:
        if timeout is not None and timeout <= _LONGEST_TIMEOUT:
            whole, rest = divmod(math.ceil(timeout * 1e6), 1_000_000)  # rounded up: 0 would be no timeout
            value = struct.pack("@ll", whole, rest)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def finish(self) -> None:
        """Do nothing; over TLS, send close_notify. Called by the pool when the handler has returned."""

    def take_back(self) -> None:
        """Close the socket, if the handler has not. Called by the pool."""
        if self.fileno() != -1:
            os.close(self.detach())

    def recv(self, *args: Any) -> bytes:
        """Receive as `socket.recv` does."""
        return self._run(super().recv, *args)  # type: ignore[no-any-return]

    def recv_into(self, *args: Any) -> int:
        """Receive as `socket.recv_into` does."""
        return self._run(super().recv_into, *args)  # type: ignore[no-any-return]

    def send(self, *args: Any) -> int:
        """Send as `socket.send` does."""
        return self._run(super().send, *args)  # type: ignore[no-any-return]

    def sendall(self, data: Any, *flags: int) -> None:
        """Send as `socket.sendall` does."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest[:_CHUNK], *flags) :]

    def getpeername(self) -> Any:
        """Return the peer's address as `socket.getpeername` does; behind a proxy that of its client."""
        lent = getattr(self, "_lent", None)  # `ssl` asks before it is lent
        if lent is None or lent.connection.get_extra_info("proxy") is None:
            return super().getpeername()
        return lent.connection.get_extra_info("peername")

    def wake(self) -> None:
        """Shut the socket down, which wakes a blocked call. On the reactor's thread."""
        try:
            # Not the method of `ssl.SSLSocket`, which would drop TLS, and send in clear from then on.
            socket.socket.shutdown(self, socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more: nothing blocks

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
    return WriteTimeout("the peer accepts none of the bytes sent")


class BlockingTLSSocket(BlockingSocket, ssl.SSLSocket):
    """The blocking TLS socket that a `Pool` passes to its handler: an `ssl.SSLSocket` after its handshake.

    `getpeercert`, `selected_alpn_protocol`, `context` and so on have the handshake's results. Beside the
    errors of a `BlockingSocket`, calls raise `TLSError` if TLS fails, and `TLSTruncated` if the peer's input
    ends without its close_notify. Our close_notify is sent when the handler returns, not when it raises;
    calling `close` earlier does not send it. `Timeouts.write` applies to each record of 16 KiB.
    The `ssl` module can't end one direction alone: after `shutdown`, except with SHUT_RD, nothing can be
    received either.

        import socket
        from reactor import Reactor
        from reactor.pool import BlockingTLSSocket, Pool
        from reactor.tls import client_context, server_context

        def greet(connection: BlockingTLSSocket):
            connection.sendall(b"over " + connection.version().encode())

        tls = server_context("cert.pem", "key.pem")
        with Reactor() as reactor, Pool(greet) as pool, reactor.background():
            listener = reactor.submit(reactor.listen, "127.0.0.1:0", pool, tls=tls).result()
            plain = socket.create_connection(("127.0.0.1", listener.addresses[0].port))
            with client_context("ca.pem").wrap_socket(plain, server_hostname="localhost") as client:
                assert client.recv(100) == b"over TLSv1.3"
    """

    _write_timeout: float | None = None
    _unusable: Exception | None = None  # raised by each call from now on

    @classmethod
    def of(cls, connection: Connection, tls: Tls) -> BlockingTLSSocket:
        """Return one for a connection in clear, in non-blocking mode, before its handshake.

        Raises OSError if the process is out of descriptors, or the connection has ended.
        """
        with socket.socket(fileno=_duplicate(connection)) as plain:
            plain.setblocking(False)
            sock = tls.wrap_socket(plain)
        # Not `SSLContext.sslsocket_class`, which would change every socket made with the context.
        sock.__class__ = cls
        assert isinstance(sock, BlockingTLSSocket)
        return sock

    def finish(self) -> None:
        """Send close_notify, waiting for room in the kernel, but not for the peer's close_notify.

        Raises WriteTimeout. Called by the pool when the handler has returned.
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
                return  # it is sent, and the peer's was not received; or the connection has ended

    def _wait_for_room(self) -> None:
        with _Selector() as selector:
            selector.register(self, selectors.EVENT_WRITE)
            if not selector.select(self._write_timeout):
                raise _taken_nothing()

    def read(self, *args: Any) -> Any:
        """Receive as `ssl.SSLSocket.read` does."""
        return self._run(super().read, *args)

    def write(self, data: Any) -> int:
        """Send as `ssl.SSLSocket.write` does, up to one record."""
        return self.send(data)

    def send(self, data: Any, *flags: int) -> int:
        """Send as `ssl.SSLSocket.send` does, up to one record."""
        return self._run(self._send, memoryview(data).cast("B")[:_RECORD], *flags)  # type: ignore[no-any-return]

    def _send(self, record: memoryview, *flags: int) -> int:
        if self._write_timeout is None or self.gettimeout() is not None:
            return ssl.SSLSocket.send(self, record, *flags)
        self.settimeout(self._write_timeout)  # OpenSSL retries after SO_SNDTIMEO
        try:
            return ssl.SSLSocket.send(self, record, *flags)
        except TimeoutError as exc:
            self._unusable = _taken_nothing()  # SSL_write(3) may only be repeated with the same record
            raise self._unusable from exc
        finally:
            self.settimeout(None)

    def unwrap(self) -> socket.socket:
        """End TLS, wait until the peer does so, and return the socket, as `ssl.SSLSocket.unwrap` does."""
        return self._run(super().unwrap)  # type: ignore[no-any-return]

    def shutdown(self, how: int) -> None:
        """Shut down as `socket.shutdown` does, and send close_notify before ending our direction.

        After that nothing can be received: each call raises UsageError.
        """
        if how != socket.SHUT_RD:
            self.finish()
            self._unusable = UsageError("shutdown has ended TLS: receive before, or call unwrap")
        socket.socket.shutdown(self, how)

    def _limit_writing(self, timeout: float | None) -> None:
        self._write_timeout = timeout

    def _real_close(self) -> None:
        # Called by `socket.close` when no file of it is open. The descriptor stays open for `finish`.
        self._unusable = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        if self._unusable is not None:
            raise self._unusable
        try:
            return super()._run(call, *args)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise  # the handler has set non-blocking mode
        except ssl.SSLEOFError as exc:
            raise TLSTruncated("the peer ended the connection without a close_notify") from exc
        except ssl.SSLError as exc:
            raise TLSError(words_of(exc)) from exc
