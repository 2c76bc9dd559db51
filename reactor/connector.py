"""The connecting side: from an address to a connection, once or again and again."""

from __future__ import annotations

import errno
import logging
import socket
import weakref
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import attrs

from reactor.address import Address
from reactor.connection import Connection
from reactor.errors import ConnectError, ConnectTimeout, TLSHandshakeError, TLSHandshakeTimeout, UsageError
from reactor.linger import reset
from reactor.listener import Factory
from reactor.loop import Loop
from reactor.options import Reconnect
from reactor.protocol import make_protocol
from reactor.race import Place, Race, interleave
from reactor.secured import newcomer_of
from reactor.terms import Terms
from reactor.timers import Handle
from reactor.workers import Workers

__all__ = ["Connector", "ConnectorState", "FailureHandler"]

#: Is given the one error of a round of attempts of which none succeeded.
FailureHandler = Callable[[ConnectError], object]


class ConnectorState(Enum):
    """Where a connector is."""

    CONNECTING = "connecting"  # looks the name up, or tries its addresses
    HANDSHAKING = "handshaking"  # over TLS
    CONNECTED = "connected"
    WAITING = "waiting"  # for the time of the next round of attempts
    DONE = "done"  # cancelled, failed for the last time, or its one connection has ended


class Connector:
    """One `Reactor.connect` on its way, or for good if it reconnects.

    Called on the thread that drives the reactor. `state`, `connection` and `next_attempt` say how far it is:

    >>> from reactor import Protocol, Reactor
    >>> with Reactor() as reactor:
    ...     listener = reactor.listen("127.0.0.1:0", Protocol)
    ...     connector = reactor.connect(listener.addresses[0], Protocol)
    ...     print(connector.state.value)
    ...     while connector.connection is None:
    ...         _ = reactor.run_once(1)
    ...     print(connector.state.value)
    connecting
    connected
    """

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
        resolver: Workers,
        reconnect: Reconnect | None,
    ) -> None:
        self._loop = loop
        self._address = address
        self._factory = factory
        self._terms = terms
        self._count_gone = terms.on_gone
        self._timeout = timeout
        self._local_address = local_address
        self._on_failure = on_failure
        self._resolver = resolver
        self._reconnect = reconnect
        self._delay = 0.0 if reconnect is None else reconnect.first
        self._failures = 0  # rounds in a row
        self._connected_at: float | None = None
        self._race: Race | None = None
        self._handshaking: Connection | None = None
        self._connection: weakref.ref[Connection] | None = None
        #: When the next round of attempts begins, in the reactor's `time()`; None unless it waits for it.
        self.next_attempt: float | None = None
        self._made = 0  # connections, whose number tells which of them has ended
        self._timed_out = False
        self._done = False
        #: Whether a drain lets it go on: it belongs to a connection that may still be at work.
        self.outlasts_drain = False
        self._timer: Handle
        self._begin()

    def __repr__(self) -> str:
        return f"<Connector {self._address}>"

    @property
    def connection(self) -> Connection | None:
        """The connection, while it is open; over TLS from the end of the handshake on."""
        found = None if self._connection is None else self._connection()
        return None if found is None or found.is_closing() else found

    @property
    def state(self) -> ConnectorState:
        """Where it is."""
        if self._handshaking is not None:
            return ConnectorState.HANDSHAKING
        if self._race is not None:
            return ConnectorState.CONNECTING
        if self.connection is not None:
            return ConnectorState.CONNECTED
        return ConnectorState.DONE if self._done else ConnectorState.WAITING

    def cancel(self) -> None:
        """Give up, without a word, and don't connect again; a connection that was made stays open."""
        self._loop.check_process()
        self._done = True
        self._end_round()

    def is_done(self) -> bool:
        """Return whether it has connected, failed or been cancelled.

        One that reconnects is done when it has failed for the last time, or been cancelled.
        """
        return self._done

    def disown(self) -> list[socket.socket]:
        """Return the sockets under way: this is a child process, which may do nothing but close them."""
        return [] if self._race is None else self._race.sockets()

    # A round: look up, try, and connect or fail

    def _begin(self) -> None:
        self._timer = self._loop.call_later(self._timeout, self._time_out)
        self.next_attempt = self._connected_at = None
        self._timed_out = False
        self._race = race = Race(self._loop, self._local_address, self._connected, self._lost)
        if self._address.family is None:
            try:
                self._resolver.submit(lambda: self._resolve(race))
            except RuntimeError as exc:  # the system allows no thread
                self._loop.call_soon(self._resolved, race, [], OSError(errno.EAGAIN, str(exc)))
        else:
            self._loop.call_soon(self._resolved, race, self._loop.system.resolve(self._address), None)

    def _resolve(self, race: Race) -> None:
        # On a thread of the resolver: getaddrinfo(3) may take seconds.
        if race is not self._race or self._loop.is_closed():
            return
        try:
            places, problem = self._loop.system.resolve(self._address), None
        except OSError as exc:
            places, problem = [], exc
        try:
            self._loop.call_soon_threadsafe(self._resolved, race, places, problem)
        except UsageError:
            pass  # closed meanwhile, and nobody waits for the answer

    def _resolved(self, race: Race, places: list[Place], problem: OSError | None) -> None:
        if race is not self._race:
            return  # of a round that has ended
        if problem is not None:
            self._fail(ConnectError, [(str(self._address), problem)])
        else:
            race.start(interleave(places))

    def _connected(self, sock: socket.socket, sockaddr: Any) -> None:
        self._race = None
        self._made += 1
        terms = self._terms
        if self._reconnect is not None:
            terms = attrs.evolve(terms, on_gone=partial(self._gone, self._made))
        try:
            if terms.tls is None:
                protocol = self._arrive()
            else:
                newcomer = newcomer_of(self._factory)
                protocol = newcomer(self, self._arrive, partial(self._tls_failed, self._made, sockaddr))
        except Exception as exc:
            reset(sock)
            self._loop.report(exc, f"the protocol factory of {self}")
            return
        self._loop.counters.connected += 1
        connection = terms.connection_type(self._loop, sock, protocol, terms, sockaddr)
        self._connection = weakref.ref(connection)
        if terms.tls is not None:
            self._handshaking = connection
        try:
            connection.open()
        except OSError as exc:
            self._handshaking = None
            reset(sock)
            self._count_gone(None, exc)
            self._fail(ConnectError, [(str(Address.from_sockaddr(sockaddr)), exc)])

    def _arrive(self) -> Any:
        """Return the protocol of the connection, which is there."""
        self._handshaking = None
        self._end_round()
        self._done = self._reconnect is None
        try:
            protocol = make_protocol(self._factory)
        except Exception as exc:
            if self._reconnect is not None:
                error = ConnectError(f"connected to {self._address}, and its factory raised {exc!r}")
                error.__cause__ = exc
                self._failed(error)
            raise
        self._connected_at = self._loop.time()
        self._failures = 0
        return protocol

    def _tls_failed(self, number: int, sockaddr: Any, exc: BaseException) -> None:
        if number != self._made or self._handshaking is None:
            return  # given up by this side
        self._handshaking = None
        problem = exc if isinstance(exc, OSError) else TLSHandshakeError(str(exc))
        kind = ConnectTimeout if self._timed_out else ConnectError
        self._fail(kind, [(str(Address.from_sockaddr(sockaddr)), problem)])

    def _time_out(self) -> None:
        if self._handshaking is not None:
            self._timed_out = True
            self._handshaking.fail(TLSHandshakeTimeout("the TLS handshake was not done"))
            return
        assert self._race is not None
        self._fail(ConnectTimeout, self._race.outcome())

    def _lost(self) -> None:
        assert self._race is not None
        self._fail(ConnectError, self._race.outcome())

    def _fail(self, kind: type[ConnectError], attempts: list[tuple[str, OSError]]) -> None:
        target = str(self._address)
        causes = [(where, exc.strerror or str(exc)) for where, exc in attempts]
        tried = "; ".join(cause if where == target else f"{where}: {cause}" for where, cause in causes)
        late = f"no answer within {self._timeout:g} s" if kind is ConnectTimeout else ""
        why = "; ".join(filter(None, (late, tried))) or "the name has no address"
        error = kind(f"cannot connect to {target}: {why}", tuple(attempts))
        self._end_round()
        self._failed(error)

    def _failed(self, error: ConnectError) -> None:
        self._failures += 1
        if self._reconnect is None or self._failures == self._reconnect.attempts:
            self._done = True
        self._wait()
        if self._on_failure is not None:
            self._loop.call(self._on_failure, error)
        elif self._done:
            self._loop.report(error, repr(self))
        else:
            key = ("connect", str(self._address))
            self._loop.log.log(logging.WARNING, key, "%s; it is tried again", error)

    def _end_round(self) -> None:
        self._timer.cancel()
        self.next_attempt = None
        race, self._race = self._race, None
        if race is not None:
            race.stop()
        connection, self._handshaking = self._handshaking, None
        if connection is not None:
            connection.abort()

    # The next round

    def _wait(self) -> None:
        if self._done or self._reconnect is None:
            return
        try:
            delay = self._reconnect.spread(self._delay)
        except Exception as exc:
            self._loop.report(exc, f"Reconnect.random of {self}")
            delay = self._delay
        self.next_attempt = self._loop.time() + delay
        self._timer = self._loop.call_at(self.next_attempt, self._begin)
        self._delay = min(2 * self._delay, self._reconnect.most)

    def _gone(self, number: int, site: bytes | None, reason: BaseException | None) -> None:
        # The connection has ended. One that ended soon does not count as recovery.
        self._count_gone(site, reason)
        if self._reconnect is None or self._connected_at is None or number != self._made:
            return  # its handshake failed, which was told
        if self._loop.time() - self._connected_at >= self._delay:
            self._delay = self._reconnect.first
        self._wait()
