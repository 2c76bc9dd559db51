"""Connections that a task makes."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from types import TracebackType
from typing import Any

from reactor.address import AddressLike
from reactor.connecting.connector import keep_through_drain
from reactor.connection.connection import Connection
from reactor.errors import ConnectError, ReactorError, UsageError
from reactor.options import Limits, Timeouts
from reactor.streams.stream import LIMIT, Stream, check_limit
from reactor.streams.task import Task, Wait, suspend

__all__ = ["Connecting", "connect"]


def connect(
    address: AddressLike,
    *,
    limit: int = LIMIT,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    local_address: AddressLike | None = None,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    tls_session: ssl.SSLSession | None = None,
) -> Connecting:
    """Connect to `address`: `async with streams.connect(address) as peer`, or `peer = await ...`.

    Either gives a `Stream`, which the task uses as its own. At the end of the block it is closed, after all
    was sent; what comes out of the block as an exception resets it, so that half a request can't look whole.
    At the latest it ends with the handler of the task's connection: it is closed when that returns, and reset
    when that raises or the connection is lost.

    limit: as for `handler`. The others: as for `Reactor.connect`.
    In any task of `reactor.streams`, whose reactor it uses. The attempt is given up when the task's
    connection ends or a timeout passes. Raises ConnectError if no attempt succeeds, ConnectTimeout if that
    takes longer than `Timeouts.connect`; AddressError and UsageError as `Reactor.connect`; ValueError if
    `limit` is not positive.
    """
    check_limit(limit)
    options = {
        "limits": limits,
        "timeouts": timeouts,
        "local_address": local_address,
        "tls": tls,
        "server_hostname": server_hostname,
        "tls_session": tls_session,
    }
    return Connecting(address, limit, options)


class Connecting(Wait):
    """What `connect` returns: await it, or enter it with `async with`; once."""

    __slots__ = ("_address", "_connector", "_error", "_limit", "_options", "_stream")

    def __init__(self, address: AddressLike, limit: int, options: dict[str, Any]) -> None:
        super().__init__()
        self._address = address
        self._limit = limit
        self._options = options
        self._error: ConnectError | None = None
        self._stream: Outgoing | None = None

    def __await__(self) -> Generator[Any, None, Stream]:
        """Wait until the peer has answered."""
        if self.task is not None:
            raise UsageError("streams.connect was awaited before: call it again for another connection")
        yield from suspend(self)
        if self._stream is None:
            assert self._error is not None
            raise self._error
        return self._stream

    async def __aenter__(self) -> Stream:
        return await self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(exc)

    def park(self, task: Task) -> bool:
        """As `Place.park`."""
        super().park(task)
        self._connector = task.stream.reactor().connect(
            self._address,
            lambda: Outgoing(self, task.stream, self._limit),
            on_failure=self._failed,
            **self._options,
        )
        keep_through_drain(self._connector)
        return False

    def unpark(self) -> None:
        """As `Place.unpark`."""
        self._connector.cancel()

    def connected(self, stream: Outgoing) -> None:
        """Let the task go on with `stream`."""
        self._stream = stream
        stream.owner.depend(self)
        self.wake()

    def end(self, exc: BaseException | None) -> None:
        """As `Lease.end`."""
        assert self._stream is not None
        self._stream.owner.release(self)
        if exc is None:
            self._stream.connection.close()
        else:
            self._stream.connection.abort(exc)

    def _failed(self, error: ConnectError) -> None:
        self._error = error
        self.wake()


class Outgoing(Stream):
    """A stream to somewhere else, which a task of `owner` has made."""

    __slots__ = ("_lease", "owner")

    def __init__(self, lease: Connecting, owner: Stream, limit: int) -> None:
        super().__init__(None, limit)
        self._lease = lease
        self.owner = owner

    def connection_made(self, connection: Connection) -> None:
        """Hand it to the task that waits for it."""
        super().connection_made(connection)
        self._lease.connected(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what waits here."""
        self.owner.release(self._lease)
        super().connection_lost(exc)

    def draining(self) -> bool:
        """Return that it is at work: it ends with its owner, of which a drain asks the same."""
        return True

    def running_task(self) -> Task | None:
        """As `Stream.running_task`; a task of the owner's counts too."""
        return super().running_task() or self.owner.running_task()

    def _blamed(self, exc: ReactorError) -> ReactorError:
        self.owner.fault_elsewhere(exc)
        return exc
