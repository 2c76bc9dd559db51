"""`connect`: outgoing connections of tasks."""

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

    Both yield a `Stream`, which the task uses like its own. At the end of the block it is closed, after
    everything was sent; an exception that leaves the block resets it, so that half a request does not look
    complete. At the latest it ends with the handler of the task's connection: it is closed when that returns,
    and reset when that raises or the connection is lost.

    limit: as for `handler`. The others: as for `Reactor.connect`.
    In any task of `reactor.streams`, whose reactor it uses. The attempt is cancelled when the task's
    connection ends or a timeout expires. Raises ConnectError if no attempt succeeds, ConnectTimeout if that
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
    """An outgoing connection that `connect` returns, to be awaited or entered by `async with`.

    Raises UsageError when it is awaited a second time.

        from reactor import streams
        from reactor.apps.echo import Echo
        from reactor.testing import MemoryReactor, Recorder

        async def proxy(stream):
            async with streams.connect("10.0.0.1:7") as peer:
                await peer.send(b"hello")
                await stream.send(await peer.receive())

        with MemoryReactor() as reactor:
            reactor.listen("10.0.0.1:7", Echo)
            _, client = reactor.pair(streams.handler(proxy), Recorder)
            recorder = client.get_protocol()
            reactor.run_out()
        assert recorder.received == b"hello"
    """

    __slots__ = ("_address", "_connector", "_error", "_limit", "_options", "_stream")

    def __init__(self, address: AddressLike, limit: int, options: dict[str, Any]) -> None:
        super().__init__()
        self._address = address
        self._limit = limit
        self._options = options
        self._error: ConnectError | None = None
        self._stream: Outgoing | None = None

    def __await__(self) -> Generator[Any, None, Stream]:
        """Wait until the connection is established, and return its `Stream`."""
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
        """Implement `Place.park`."""
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
        """Implement `Place.unpark`."""
        self._connector.cancel()

    def connected(self, stream: Outgoing) -> None:
        """Resume the task with `stream`."""
        self._stream = stream
        stream.owner.depend(self)
        self.wake()

    def end(self, exc: BaseException | None) -> None:
        """Implement `Lease.end`."""
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
    """The stream of an outgoing connection that a task of the stream `owner` has made."""

    __slots__ = ("_lease", "owner")

    def __init__(self, lease: Connecting, owner: Stream, limit: int) -> None:
        super().__init__(None, limit)
        self._lease = lease
        self.owner = owner

    def connection_made(self, connection: Connection) -> None:
        """Resume the task that waits for it."""
        super().connection_made(connection)
        self._lease.connected(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the waits on this stream."""
        self.owner.release(self._lease)
        super().connection_lost(exc)

    def draining(self) -> bool:
        """Return True: it ends with its owner, whose `draining` decides."""
        return True

    def running_task(self) -> Task | None:
        """Return the task as `Stream.running_task` does, or a task of the owner."""
        return super().running_task() or self.owner.running_task()

    def _blamed(self, exc: ReactorError) -> ReactorError:
        self.owner.fault_elsewhere(exc)
        return exc
