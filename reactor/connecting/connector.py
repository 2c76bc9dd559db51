"""Connectors: from an address to a connection, once or with reconnecting."""

from __future__ import annotations

import errno
import socket
import weakref
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import attrs

from reactor.address import Address
from reactor.connecting.happy_eyeballs import Race, interleave
from reactor.connecting.state import IN_ROUND, SHOWN, ConnectorState, Event, Phase, after
from reactor.connection.closing import reset
from reactor.connection.connection import Connection, fail, open_connection
from reactor.connection.handshake import PendingHandshake, pending_handshake_of
from reactor.connection.interface import make_protocol
from reactor.connection.settings import Settings
from reactor.errors import ConnectError, ConnectTimeout, TLSHandshakeError, TLSHandshakeTimeout, UsageError
from reactor.loop.loop import Loop
from reactor.loop.timers import Handle
from reactor.options import Reconnect
from reactor.protocol import Factory

if TYPE_CHECKING:
    from reactor.framing.proxy_header import ProxyHeader
    from reactor.loop.workers import Workers

__all__ = [
    "Connector", "ConnectorState", "FailureHandler", "begin_connecting", "cancel_for_drain",
    "detach_connector", "keep_through_drain", "recover_connector",
]  # fmt: skip

T = TypeVar("T")
P = ParamSpec("P")

#: Called with the error of a round of attempts of which none succeeded.
FailureHandler = Callable[[ConnectError], object]


def _step(method: Callable[Concatenate[Connector, P], T]) -> Callable[Concatenate[Connector, P], T]:
    """Mark the connector as unfinished while `method` runs, so that an interrupt in it is noticed."""

    @wraps(method)
    def step(self: Connector, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._unfinished = True
        result = method(self, *args, **kwargs)
        self._unfinished = False
        return result

    return step


@attrs.define(eq=False, repr=False, kw_only=True)
class Connector:
    """Attempts to connect to one address, until one succeeds; again after that, if it reconnects.

    Made by `Reactor.connect`. Called on the thread that drives the reactor. Its state:

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

    # What it connects to, and from.
    _address: Address
    _local_address: Address | None
    _resolver: Workers  # threads for look-ups
    _loop: Loop = attrs.field(init=False)

    # The connections that it makes.
    _factory: Factory
    _settings: Settings
    _connection_type: type[Connection]
    _on_open: Callable[[], object]  # for the reactor, which counts them
    # The PROXY header that each begins with: for its two sockets, or the same for all.
    _proxy_header: Callable[[Any, Any], ProxyHeader] | None = None

    # How often it tries.
    _timeout: float = attrs.field(init=False)  # of a round, seconds
    _reconnect: Reconnect | None
    _on_failure: FailureHandler | None
    _outlasts_drain: bool = attrs.field(default=False, init=False)

    # Where it is.
    _phase: Phase = attrs.field(default=Phase.WAITING, init=False)
    _unfinished: bool = attrs.field(default=False, init=False)  # in a step, or an interrupt has ended it
    _failures: int = attrs.field(default=0, init=False)  # rounds in a row
    _unreported: ConnectError | None = attrs.field(default=None, init=False)  # of the last round
    _race: Race | None = attrs.field(default=None, init=False)
    _handshaking: Connection | None = attrs.field(default=None, init=False)
    _connection: weakref.ref[Connection] | None = attrs.field(default=None, init=False)
    _connected_at: float = attrs.field(default=0.0, init=False)
    _made: int = attrs.field(default=0, init=False)  # connections, by whose number the ended one is known

    # The round's timeout, or the next round.
    _timer: Handle | None = attrs.field(default=None, init=False)
    _delay: float = attrs.field(default=0.0, init=False)
    #: When the next round of attempts begins, in the reactor's `time()`; None unless it waits for it.
    next_attempt: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._loop = self._settings.loop
        self._timeout = self._settings.timeouts.connect
        if self._reconnect is not None:
            self._delay = self._reconnect.first

    def __repr__(self) -> str:
        return f"<Connector {self._address}>"

    @property
    def connection(self) -> Connection | None:
        """The connection, while it is open; over TLS only after the handshake."""
        found = None if self._connection is None else self._connection()
        return None if found is None or found.is_closing() else found

    @property
    def state(self) -> ConnectorState:
        """Its state: connected as long as `connection` is open, even if it was cancelled meanwhile."""
        if self.connection is not None:
            return ConnectorState.CONNECTED
        return ConnectorState.DONE if self.is_done() else SHOWN[self._phase]

    def cancel(self) -> None:
        """End all attempts, and don't connect again; a connection that was made stays open.

        `on_failure` is not called.
        """
        self._loop.lifetime.check_process()
        try:
            self._move(Event.CANCEL)
            self._end_round()
        except BaseException:
            self._move(Event.CANCEL)
            self._end_round()
            raise

    def is_done(self) -> bool:
        """Return whether it has connected, failed or been cancelled.

        One that reconnects is done when it has failed for the last time, or been cancelled.
        """
        if self._phase is Phase.CONNECTED:
            return self._reconnect is None
        return self._phase is Phase.DONE

    def _move(self, event: Event) -> None:
        self._phase = after(self._phase, event)

    # A round: look up, try, and connect or fail

    @_step
    def _begin(self) -> None:
        self._move(Event.BEGIN)
        self.next_attempt = self._connection = None
        self._timer = self._loop.scheduler.call_later(self._timeout, self._time_out)
        self._race = race = Race(self._loop, self._local_address, self._connected, self._lost)
        if self._address.family is not None:
            race.answer = self._loop.system.resolve(self._address), None
            self._loop.scheduler.call_soon(self._resolved, race)
            return
        try:
            self._resolver.submit(lambda: self._resolve(race))
        except RuntimeError as exc:  # the system allows no thread
            race.answer = [], OSError(errno.EAGAIN, str(exc))
            self._loop.scheduler.call_soon(self._resolved, race)

    def _resolve(self, race: Race) -> None:
        # On a thread of the resolver: getaddrinfo(3) may take seconds.
        if race is not self._race or self._loop.lifetime.closed:
            return
        try:
            race.answer = self._loop.system.resolve(self._address), None
        except OSError as exc:
            race.answer = [], exc
        try:
            self._loop.scheduler.call_soon_threadsafe(self._resolved, race)
        except UsageError:
            pass  # closed meanwhile

    @_step
    def _resolved(self, race: Race) -> None:
        if race is not self._race or self._phase is not Phase.RESOLVING or race.answer is None:
            return  # of a round that has ended
        places, problem = race.answer
        if problem is not None:
            self._fail(ConnectError, [(str(self._address), problem)])
        else:
            self._move(Event.RESOLVED)
            race.start(interleave(places))

    @_step
    def _connected(self, sock: socket.socket, sockaddr: Any) -> None:
        self._made += 1
        settings = self._settings
        if self._reconnect is not None:
            settings = attrs.evolve(settings, on_gone=partial(self._gone, self._made))
        try:
            if settings.tls is None:
                protocol = make_protocol(self._factory)
            else:
                pending = pending_handshake_of(self._factory)
                protocol = pending(self, self._arrive, partial(self._tls_failed, self._made, sockaddr))
        except Exception as exc:
            reset(sock)
            self._factory_failed(exc)
            self._loop.scheduler.report(exc, f"the protocol factory of {self}")
            return
        except BaseException:
            reset(sock)
            raise
        if self._phase is Phase.DONE:  # the factory has cancelled it
            reset(sock)
            return
        self._open(sock, protocol, settings, sockaddr)

    def _open(self, sock: socket.socket, protocol: Any, settings: Settings, sockaddr: Any) -> None:
        self._loop.counters.connected += 1
        self._on_open()
        connection = self._connection_type(settings, sock, protocol, sockaddr)
        try:
            if settings.tls is None:
                self._arrived(connection)
            else:
                self._handshaking = connection
                self._move(Event.ANSWERED)
            header = None if self._proxy_header is None else self._proxy_header(sock.getsockname(), sockaddr)
            open_connection(connection, b"" if header is None else header.encode())
        except OSError as exc:
            self._handshaking = self._connection = None
            reset(sock)
            self._settings.on_gone(None, exc)
            self._fail(ConnectError, [(str(Address.from_sockaddr(sockaddr)), exc)])
        except BaseException:
            if sock.fileno() >= 0 and self._loop.registry.owner_of(sock.fileno()) is None:
                self._handshaking = self._connection = None  # `open` has not begun
                reset(sock)
            raise

    @_step
    def _arrive(self) -> Any:
        """Return the protocol of the connection whose handshake is done."""
        assert self._handshaking is not None
        try:
            protocol = make_protocol(self._factory)
        except Exception as exc:
            self._handshaking = None  # the pending handshake ends it, for this reason
            self._factory_failed(exc)
            raise
        if self._phase is not Phase.DONE:  # the factory may have cancelled it
            connection, self._handshaking = self._handshaking, None
            self._arrived(connection)
        return protocol

    def _arrived(self, connection: Connection) -> None:
        self._end_round()
        self._connection = weakref.ref(connection)
        self._connected_at = self._loop.time()
        self._failures = 0
        self._move(Event.ARRIVED)

    def _factory_failed(self, exc: Exception) -> None:
        if self._phase is Phase.DONE:
            return
        if self._reconnect is None:  # the exception itself is reported, and is enough
            self._end_round()
            self._move(Event.GAVE_UP)
            return
        error = ConnectError(f"connected to {self._address}, and its factory raised {exc!r}")
        error.__cause__ = exc
        self._failed(error)

    @_step
    def _tls_failed(self, number: int, sockaddr: Any, exc: BaseException) -> None:
        if number != self._made or self._phase is not Phase.HANDSHAKING:
            return  # cancelled by this side
        problem = exc if isinstance(exc, OSError) else TLSHandshakeError(str(exc))
        self._fail(ConnectError, [(str(Address.from_sockaddr(sockaddr)), problem)])

    @_step
    def _time_out(self) -> None:
        if self._handshaking is not None:
            where = Address.from_sockaddr(self._handshaking.get_extra_info("peername"))
            problem = TLSHandshakeTimeout("the TLS handshake was not done")
            fail(self._handshaking, problem)
            self._fail(ConnectTimeout, [(str(where), problem)])
        else:
            self._fail(ConnectTimeout, self._outcome())

    @_step
    def _lost(self) -> None:
        self._fail(ConnectError, self._outcome())

    def _outcome(self) -> list[tuple[str, OSError]]:
        return [] if self._race is None else self._race.outcome()

    def _fail(self, kind: type[ConnectError], attempts: list[tuple[str, OSError]]) -> None:
        target = str(self._address)
        causes = [(where, exc.strerror or str(exc)) for where, exc in attempts]
        tried = "; ".join(cause if where == target else f"{where}: {cause}" for where, cause in causes)
        late = f"no answer within {self._timeout:g} s" if kind is ConnectTimeout else ""
        why = "; ".join(filter(None, (late, tried))) or "the name has no address"
        self._failed(kind(f"cannot connect to {target}: {why}", tuple(attempts)))

    def _failed(self, error: ConnectError) -> None:
        self._end_round()
        failures = self._failures + 1
        attempts = None if self._reconnect is None else self._reconnect.attempts
        last = self._reconnect is None or (attempts is not None and failures >= attempts)
        delay = 0.0 if last else self._spread_delay()
        if self._phase is Phase.DONE:
            return
        self._unreported = error
        if last:
            self._move(Event.GAVE_UP)
        else:
            self._wait(Event.FAILED, delay)
        self._failures = failures
        self._report_failure()

    def _report_failure(self) -> None:
        error, called = self._unreported, None
        if error is None:
            return
        handler = self._log_failure if self._on_failure is None else self._on_failure
        try:
            self._unreported = None
            handler(called := error)
        except Exception as exc:
            self._loop.scheduler.report(exc, f"on_failure of {self}")
        except BaseException:
            if called is None:
                self._unreported = error  # an interrupt: it was not called
            raise

    def _log_failure(self, error: ConnectError) -> None:
        if self.is_done():
            self._loop.scheduler.report(error, repr(self))
        else:
            key = ("connect", str(self._address))
            self._loop.scheduler.log.warning(key, "%s; it is tried again", error)

    def _end_round(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.next_attempt = None
        if self._race is not None:
            self._race.stop()
            self._race = None
        if self._handshaking is not None:
            self._handshaking.abort()
            self._handshaking = None

    # The next round

    def _spread_delay(self) -> float:
        assert self._reconnect is not None
        try:
            return self._reconnect.spread(self._delay)
        except Exception as exc:
            self._loop.scheduler.report(exc, f"Reconnect.random of {self}")
            return self._delay

    def _wait(self, event: Event, delay: float) -> None:
        assert self._reconnect is not None
        self._move(event)
        self.next_attempt = self._loop.time() + delay
        self._timer = self._loop.scheduler.call_at(self.next_attempt, self._begin)
        self._delay = min(2 * self._delay, self._reconnect.max_delay)

    def _gone(self, number: int, prefix: bytes | None, reason: BaseException | None) -> None:
        self._settings.on_gone(prefix, reason)
        if number == self._made and self._phase is Phase.CONNECTED:
            self._connect_again()

    def _connect_again(self) -> None:
        """Wait for the next round: the connection has ended. One that ended soon is no recovery."""
        assert self._reconnect is not None
        if self._loop.time() - self._connected_at >= self._delay:
            self._delay = self._reconnect.first
        delay = self._spread_delay()
        if self._phase is Phase.CONNECTED:
            self._wait(Event.LOST, delay)

    # After an interrupt

    def _recover(self) -> None:
        unfinished, self._unfinished = self._unfinished, False
        if self._phase in IN_ROUND:
            self._recover_round(unfinished)
        elif self._phase is Phase.CONNECTED:
            self._recover_connected(unfinished)
        elif self._phase is Phase.DONE:
            self._end_round()
        elif not self._is_timed():
            self._begin_at(self._loop.time() if self.next_attempt is None else self.next_attempt)
        if self._unreported is not None:
            self._loop.scheduler.call_soon(self._report_failure)

    def _recover_round(self, unfinished: bool) -> None:
        if self._phase is Phase.HANDSHAKING:
            whole = self._handshaking is not None and not self._handshaking.is_closing()
        else:
            whole = self._race is not None and not self._race.is_broken()
        if unfinished or not whole:
            self._begin_anew()
            return
        if self._race is not None and self._phase is Phase.RESOLVING and self._race.answer is not None:
            self._loop.scheduler.call_soon(self._resolved, self._race)
        if not self._is_timed():
            self._timer = self._loop.scheduler.call_soon(self._time_out)

    def _recover_connected(self, unfinished: bool) -> None:
        connection = None if self._connection is None else self._connection()
        protocol = None if connection is None else connection.get_protocol()
        if (unfinished and protocol is None) or isinstance(protocol, PendingHandshake):
            self._begin_anew()  # `connection_made` was not called, and won't be
        elif protocol is None and self._reconnect is not None:
            self._connect_again()

    def _begin_anew(self) -> None:
        self._end_round()
        self._unreported = None
        self._move(Event.INTERRUPTED)
        self._begin_at(self._loop.time())

    def _begin_at(self, when: float) -> None:
        self.next_attempt = when
        self._timer = self._loop.scheduler.call_at(when, self._begin)

    def _is_timed(self) -> bool:
        return self._timer is not None and not self._timer.cancelled()


# For the packages above


def begin_connecting(connector: Connector) -> None:
    """Begin the first round of attempts. Called once, by the maker."""
    try:
        connector._begin()
    except BaseException:
        connector.cancel()
        raise


def keep_through_drain(connector: Connector) -> None:
    """Keep the connector when the reactor drains: its connection serves another one that is busy."""
    connector._outlasts_drain = True


def cancel_for_drain(connector: Connector) -> None:
    """Cancel the connector, unless it was kept by `keep_through_drain`."""
    if not connector._outlasts_drain:
        connector.cancel()


def recover_connector(connector: Connector) -> None:
    """Go on after an interrupt anywhere; a round that was left half done begins anew."""
    connector._recover()


def detach_connector(connector: Connector) -> list[socket.socket]:
    """Detach after fork: stop using kernel objects shared with the parent. Returns the sockets under way."""
    return [] if connector._race is None else connector._race.sockets()
