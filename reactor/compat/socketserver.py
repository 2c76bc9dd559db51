"""`socketserver` on the reactor: `import reactor.compat.socketserver as socketserver` is the whole migration.

Every name of the standard module is here, and every class is a subclass of the standard one, or that one
itself. What is documented there holds. What differs:

- `serve_forever` waits without a poll; `shutdown` ends it at once, from any thread, a handler's own included.
  `service_actions` is called every `poll_interval` seconds if it was overridden, and after requests.
- Out of descriptors or memory, accepting pauses for 10 ms, growing to 1 s, and goes on by itself.
- `ThreadingMixIn` has a limit of `max_threads` threads; further requests wait for one, `max_waiting` of them,
  and the others in the accept queue. Threads are reused. `idle_timeout` frees those of silent peers.
- `ForkingMixIn` accepts no more while `max_children` are at work, and does not block meanwhile; their exits
  are noticed at once.
"""

from __future__ import annotations

import logging
import os
import socket
import socketserver as standard
import threading
from collections.abc import Callable
from functools import partial
from socketserver import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from typing import Any

from reactor.errors import ACCEPT_EXHAUSTED, UsageError
from reactor.loop.log import LimitedLog
from reactor.loop.workers import Workers
from reactor.reactor import Reactor

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
]

#: The limit of requests in one tick.
_BATCH = 64

_FIRST_BACKOFF, _LAST_BACKOFF = 0.01, 1.0

# Seconds between checks of the children where the system has no pidfd_open(2).
_CHECK_CHILDREN = 0.1


# Guards the few fields that several threads of a server share. They are class attributes to begin with, for a
# server may leave out our `__init__`, as xmlrpc.server does.
_lock = threading.Lock()


class BaseServer(standard.BaseServer):
    """As the standard one.

    For example:

        import socket
        from reactor.compat import socketserver

        class Server(socketserver.TCPServer):
            def service_actions(self):  # every `poll_interval` seconds
                self.shutdown()

        with Server(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
            server.serve_forever(poll_interval=0.01)
    """

    _sessions: tuple[_Session, ...] = ()
    _shutdown_asked = False
    _own_timeout: float | None = None

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Handle requests until `shutdown`. Several threads may do so at once.

        poll_interval: seconds between two calls of `service_actions`, where that was overridden.
        """
        session = _Session(self, self._has_room, 1 if self._listening_socket() is None else _BATCH)
        with Reactor(on_error=session.failed) as session.reactor:
            self._begin(session)
            try:
                session.run(poll_interval)
            finally:
                self._end(session)

    def shutdown(self) -> None:
        """Stop each `serve_forever` after the request that it is handling, and wait for that.

        On a thread that is in `serve_forever` it does not wait. If none is, the next one returns at once;
        where several threads serve, one that has not started yet is not stopped.
        """
        with _lock:
            sessions = self._sessions
            self._shutdown_asked = not sessions
        for session in sessions:
            session.stop()
        for session in sessions:
            if session.thread != threading.get_ident():
                session.ended.wait()

    def _begin(self, session: _Session) -> None:
        listening = self._listening_socket()
        with _lock:
            if listening is not None and not self._sessions:
                self._own_timeout = listening.gettimeout()
                listening.setblocking(False)  # another thread or process may be faster to accept
            self._sessions = (*self._sessions, session)
            if self._shutdown_asked:
                self._shutdown_asked = False
                session.stop()

    def _end(self, session: _Session) -> None:
        listening = self._listening_socket()
        with _lock:
            self._sessions = tuple(other for other in self._sessions if other is not session)
            if listening is not None and not self._sessions and listening.fileno() != -1:
                listening.settimeout(self._own_timeout)
        session.ended.set()

    def _listening_socket(self) -> socket.socket | None:
        found: socket.socket | None = getattr(self, "socket", None)
        return found if found is not None and found.type == socket.SOCK_STREAM else None

    def _session_here(self) -> _Session | None:
        here = threading.get_ident()
        return next((session for session in self._sessions if session.thread == here), None)

    def _has_room(self) -> bool:
        return True

    def _make_room(self) -> None:
        """Accept again where there was no room. From any thread."""
        for session in self._sessions:
            session.resume_soon()


class _Session:
    """One running `serve_forever`, on the thread that called it.

    has_room: returns whether the server may take another request. batch: the limit of requests in one tick.
    """

    reactor: Reactor

    def __init__(self, server: BaseServer, has_room: Callable[[], bool], batch: int) -> None:
        self.thread = threading.get_ident()
        self.ended = threading.Event()
        self._server: Any = server
        self._has_room = has_room
        self._batch = batch
        self._stopping = False
        self._paused = False  # nothing is accepted now: there is no room, or no descriptor
        self._backoff = _FIRST_BACKOFF
        self._problem: BaseException | None = None
        self._children: set[int] = set()  # their pidfds

    def run(self, poll_interval: float) -> None:
        """Serve until `stop`. Raises what `service_actions` and the like raise."""
        self._log = LimitedLog(self.reactor.call_later)
        self.reactor.add_reader(self._server, self._take)
        if type(self._server).service_actions is not standard.BaseServer.service_actions:
            self.reactor.call_soon(self._act, poll_interval)
        try:
            if not self._stopping:
                self.reactor.run()
        finally:
            self._log.flush()
            for ended in self._children:
                os.close(ended)
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """End it after the current request. From any thread."""
        self._stopping = True
        self.reactor.stop()

    def failed(self, exc: BaseException, callback: str, connection: Any) -> None:
        """End with `exc`. The reactor's `on_error`."""
        self._problem = exc
        self.stop()

    def resume_soon(self) -> None:
        """Accept again, if it was paused. From any thread."""
        if not self._paused:
            return
        try:
            self.reactor.call_soon_threadsafe(self._resume)
        except UsageError:
            pass  # its reactor is closed

    def watch_child(self, pid: int) -> None:
        """Call the server's `child_ended` when the child `pid` has ended."""
        try:
            ended = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux, or before 5.3
            self._check_child(pid)
        else:
            self._children.add(ended)
            self.reactor.add_reader(ended, self._collect, ended)

    def _collect(self, ended: int) -> None:
        self.reactor.remove_reader(ended)
        self._children.discard(ended)
        os.close(ended)
        self._server.child_ended()

    def _check_child(self, pid: int) -> None:
        self._server.child_ended()
        if pid in self._server.active_children:
            self.reactor.call_later(_CHECK_CHILDREN, self._check_child, pid)

    def _take(self) -> None:
        for _ in range(self._batch):
            if self._stopping or not self._take_one():
                return

    def _take_one(self) -> bool:
        """Take a request; return whether there may be another one now."""
        server = self._server
        if not self._has_room():
            self._pause()
            if self._has_room():  # there was room before the pause could be seen
                self._resume()
            return False
        try:
            request, client_address = server.get_request()
        except OSError as exc:
            if exc.errno in ACCEPT_EXHAUSTED:
                self._back_off(exc)
            return False
        self._backoff = _FIRST_BACKOFF
        self._handle(request, client_address)
        return True

    def _handle(self, request: Any, client_address: Any) -> None:
        server = self._server
        try:
            if server.verify_request(request, client_address):
                server.process_request(request, client_address)
            else:
                server.shutdown_request(request)
        except Exception:
            try:
                server.handle_error(request, client_address)
            finally:
                server.shutdown_request(request)
        except BaseException:
            server.shutdown_request(request)
            raise

    def _back_off(self, exc: OSError) -> None:
        message = "cannot accept on %s: %s; next attempt in %g s"
        key = ("accept", exc.errno)
        self._log.warning(key, message, self._server.server_address, exc, self._backoff)
        self._pause()
        self.reactor.call_later(self._backoff, self._resume)
        self._backoff = min(2 * self._backoff, _LAST_BACKOFF)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.reactor.remove_reader(self._server)

    def _resume(self) -> None:
        if self._paused and self._server.fileno() != -1:
            self._paused = False
            self.reactor.add_reader(self._server, self._take)

    def _act(self, poll_interval: float) -> None:
        self._server.service_actions()
        self.reactor.call_later(poll_interval, self._act, poll_interval)


class TCPServer(BaseServer, standard.TCPServer):
    r"""As the standard one.

    For example:

        import socket
        from threading import Thread
        from reactor.compat import socketserver

        class Upper(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline().upper())

        with socketserver.TCPServer(("127.0.0.1", 0), Upper) as server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            with socket.create_connection(server.server_address) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"HELLO\n"
            server.shutdown()
            thread.join()
    """


class UDPServer(TCPServer, standard.UDPServer):
    """As the standard one.

    For example:

        import socket
        from reactor.compat import socketserver

        class Upper(socketserver.DatagramRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.read().upper())

        with socketserver.UDPServer(("127.0.0.1", 0), Upper) as server:
            client = socket.socket(type=socket.SOCK_DGRAM)
            client.sendto(b"hello", server.server_address)
            server.handle_request()
            assert client.recv(100) == b"HELLO"
            client.close()
    """


class _Threads(list[threading.Thread]):
    """A snapshot of a server's threads."""

    def join(self) -> None:
        """Do nothing: the standard `server_close` calls it, and ours joins the threads afterwards."""


class ThreadingMixIn(standard.ThreadingMixIn):
    """As the standard one, with a bound on the threads.

    max_threads: the limit of requests handled at once. A warning is logged when another one comes; the next
        warning comes after half of the threads have been free.
    max_waiting: the limit of accepted requests that wait for a thread; more wait in the accept queue.
    idle_timeout: the timeout of the sockets that handlers get, seconds; None for none. A `recv` that waits
        longer for the peer raises TimeoutError, as does a `sendall` that takes longer altogether; what the
        handler does not catch goes to `handle_error`. A handler that sets a timeout of its own has that one.
        Datagram sockets have none.
    `daemon_threads` and `block_on_close` are the standard ones.

        from reactor.compat import socketserver

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            max_threads = 64
            idle_timeout = 30.0
            daemon_threads = True

        with Server(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
            assert server.server_address[1]
    """

    max_threads = 512
    max_waiting = 10_000
    idle_timeout: float | None = None

    _workers: Workers | None = None
    _busy_logged = False

    @property
    def _threads(self) -> _Threads:
        workers = self._workers
        return _Threads(() if workers is None else workers.threads())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle the request on a thread, when there is one.

        Raises RuntimeError if there is none and the system allows no new one.
        """
        if self.idle_timeout is not None and isinstance(request, socket.socket):
            request.settimeout(self.idle_timeout)
        with _lock:
            if self._workers is None:
                name, daemon = type(self).__name__, self.daemon_threads
                self._workers = Workers(self.max_threads, name, daemon=daemon, on_done=self._done)
            workers = self._workers
        if workers.unfinished() >= self.max_threads and not self._busy_logged:
            self._busy_logged = True
            message = "%s: all %d threads are busy, requests wait: see max_threads and idle_timeout"
            logging.getLogger("reactor").warning(message, type(self).__name__, self.max_threads)
        workers.submit(partial(self.process_request_thread, request, client_address))

    def server_close(self) -> None:
        """Close the server; wait for the threads unless they are daemons or `block_on_close` is False."""
        super().server_close()
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.close(None if self.block_on_close and not self.daemon_threads else 0)

    def _done(self) -> None:
        if self._busy_logged and self._busy() <= self.max_threads // 2:
            self._busy_logged = False
        self._make_room()  # type: ignore[attr-defined]

    def _busy(self) -> int:
        workers = self._workers
        return 0 if workers is None else workers.unfinished()

    def _has_room(self) -> bool:
        return self._busy() < self.max_threads + self.max_waiting


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """As the standard one."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """As the standard one."""


if hasattr(os, "fork"):

    class ForkingMixIn(standard.ForkingMixIn):
        """As the standard one; at `max_children` it waits without blocking.

        For example:

            from reactor.compat import socketserver

            class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
                max_children = 4

            with Server(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
                assert server.server_address[1]
        """

        def process_request(self, request: Any, client_address: Any) -> None:
            """Handle the request in a child process."""
            before = frozenset(self.active_children or ())
            super().process_request(request, client_address)
            session: _Session | None = self._session_here()  # type: ignore[attr-defined]
            for pid in frozenset(self.active_children or ()) - before:
                if session is not None:
                    session.watch_child(pid)

        def collect_children(self, *, blocking: bool = False) -> None:
            """Reap the children that have exited; wait for all if `blocking`."""
            for pid in tuple(self.active_children or ()):
                try:
                    ended, _ = os.waitpid(pid, 0 if blocking else os.WNOHANG)
                except ChildProcessError:
                    ended = pid  # it was reaped elsewhere
                if ended:
                    assert self.active_children is not None
                    self.active_children.discard(pid)

        def service_actions(self) -> None:
            """Do nothing: children are reaped when they exit."""

        def child_ended(self) -> None:
            """Reap it, and accept again if there was no room."""
            self.collect_children()
            self._make_room()  # type: ignore[attr-defined]

        def _has_room(self) -> bool:
            return len(self.active_children or ()) < self.max_children

    class ForkingTCPServer(ForkingMixIn, TCPServer):
        """As the standard one."""

    class ForkingUDPServer(ForkingMixIn, UDPServer):
        """As the standard one."""

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]


if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer, standard.UnixStreamServer):
        """As the standard one."""

    class UnixDatagramServer(UDPServer, standard.UnixDatagramServer):
        """As the standard one."""

    class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
        """As the standard one."""

    class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
        """As the standard one."""

    __all__ += [
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]

if hasattr(os, "fork") and hasattr(socket, "AF_UNIX"):

    class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
        """As the standard one, which Python has since 3.12."""

    class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
        """As the standard one, which Python has since 3.12."""

    __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]
