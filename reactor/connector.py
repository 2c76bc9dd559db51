"""The connecting side: addresses are tried one after the other until one answers."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from reactor.address import Address
from reactor.errors import ConnectError, ConnectTimeout
from reactor.listener import Factory, set_no_delay
from reactor.loop import Loop
from reactor.registry import EVENT_WRITE
from reactor.terms import Terms

__all__ = ["Connector", "FailureHandler"]

#: Is given the one error of a connector that did not connect.
FailureHandler = Callable[[ConnectError], object]

# What connect(2) on a non-blocking socket says when the answer comes later, here and on Windows. EAGAIN is
# not of them: a Unix socket says it for a full backlog, and nothing comes later.
_IN_PROGRESS = frozenset({errno.EINPROGRESS, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS)})


class Connector:
    """One `Reactor.connect` on its way. Called on the thread that drives the reactor."""

    def __init__(
        self,
        loop: Loop,
        address: Address,
        factory: Factory,
        *,
        terms: Terms,
        timeout: float,
        local_address: Address | None,
        on_failure: FailureHandler | None,
        resolver: ThreadPoolExecutor,
    ) -> None:
        self._loop = loop
        self._address = address
        self._factory = factory
        self._terms = terms
        self._timeout = timeout
        self._local_address = local_address
        self._on_failure = on_failure
        self._attempts: list[tuple[str, OSError]] = []
        self._places: list[tuple[socket.AddressFamily, Any]] = []
        self._sock: socket.socket | None = None
        self._sockaddr: Any = None
        self._done = False
        self._deadline = loop.call_later(timeout, self._time_out)
        if address.family is None:
            resolver.submit(self._resolve)
        else:
            loop.call_soon(self._resolved, address.resolve(), None)

    def __repr__(self) -> str:
        return f"<Connector {self._address}>"

    def cancel(self) -> None:
        """Give up, without a word; once connected or failed it does nothing."""
        self._end()

    def disown(self) -> socket.socket | None:
        """Return the socket of the attempt at hand: this is a child process, which may only close it."""
        sock, self._sock = self._sock, None
        return sock

    def is_done(self) -> bool:
        """Return whether it has connected, failed or been cancelled."""
        return self._done

    def _resolve(self) -> None:
        # On a thread of the resolver: getaddrinfo(3) may take seconds.
        try:
            places, problem = self._address.resolve(), None
        except OSError as exc:
            places, problem = [], exc
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolved, places, problem)

    def _resolved(self, places: list[tuple[socket.AddressFamily, Any]], problem: OSError | None) -> None:
        if problem is not None:
            self._attempts.append((str(self._address), problem))
        self._places = places
        self._try_next()

    def _try_next(self) -> None:
        while not self._done:
            if not self._places:
                self._fail(ConnectError)
                return
            family, self._sockaddr = self._places.pop(0)
            try:
                problem = self._start(family)
            except OSError as exc:
                self._attempt_failed(exc)
                continue
            if problem in _IN_PROGRESS:
                return
            if not problem:
                self._connected()
                return
            self._attempt_failed(OSError(problem, os.strerror(problem)))

    def _start(self, family: socket.AddressFamily) -> int:
        self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        set_no_delay(sock)
        if self._local_address is not None:
            sock.bind(self._local_address.resolve()[0][1])
        problem = sock.connect_ex(self._sockaddr)
        if problem in _IN_PROGRESS:
            self._loop.registry.register(sock.fileno(), EVENT_WRITE, self)
        return problem

    def on_event(self, events: int) -> None:
        """The attempt has succeeded or failed. The loop's call."""
        sock = self._sock
        assert sock is not None
        problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self._attempt_failed(OSError(problem, os.strerror(problem)))
            self._try_next()
        else:
            self._connected()

    def _attempt_failed(self, exc: OSError) -> None:
        self._attempts.append((str(Address.from_sockaddr(self._sockaddr)), exc))
        self._drop_socket()

    def _connected(self) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        self._unregister(sock)
        self._end()
        try:
            protocol = self._factory()
        except Exception as exc:
            sock.close()
            self._loop.report(exc, f"the protocol factory of {self}")
            return
        self._loop.counters.connected += 1
        try:
            self._terms.connection_type(self._loop, sock, protocol, self._terms, self._sockaddr).open()
        except OSError as exc:
            self._terms.on_gone(None, exc)
            self._sock = sock
            self._attempt_failed(exc)
            self._fail(ConnectError)

    def _time_out(self) -> None:
        if self._sock is not None:
            self._attempt_failed(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
        self._fail(ConnectTimeout)

    def _fail(self, kind: type[ConnectError]) -> None:
        tried = "; ".join(f"{where}: {exc.strerror or exc}" for where, exc in self._attempts)
        late = f"no answer within {self._timeout:g} s" if kind is ConnectTimeout else ""
        why = "; ".join(filter(None, (late, tried))) or "the name has no address"
        error = kind(f"cannot connect to {self._address}: {why}", tuple(self._attempts))
        self._end()
        if self._on_failure is None:
            self._loop.report(error, repr(self))
        else:
            self._loop.call(self._on_failure, error)

    def _end(self) -> None:
        self._done = True
        self._deadline.cancel()
        self._drop_socket()

    def _drop_socket(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._unregister(sock)
            sock.close()

    def _unregister(self, sock: socket.socket) -> None:
        if self._loop.registry.handler_of(sock.fileno()) is self:
            self._loop.registry.unregister(sock.fileno())
