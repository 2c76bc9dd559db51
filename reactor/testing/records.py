"""`Errors`, `Recorder`, `DatagramRecorder`: an `on_error` and protocols that record calls for a test."""

from __future__ import annotations

from typing import Any

from reactor.connection.connection import Connection
from reactor.datagrams import DatagramInfo, DatagramProtocol, Endpoint
from reactor.protocol import Protocol

__all__ = ["DatagramRecorder", "Errors", "Recorder"]


class Errors:
    """An `on_error` that records its calls in `seen`, each as (exception, callback's name, connection).

    >>> from reactor import Reactor
    >>> errors = Errors()
    >>> with Reactor(on_error=errors) as reactor:
    ...     _ = reactor.call_soon(int, "x")
    ...     _ = reactor.run_once()
    >>> errors.take()[0]
    ValueError("invalid literal for int() with base 10: 'x'")
    """

    def __init__(self) -> None:
        self.seen: list[tuple[BaseException, str, Any]] = []

    def __call__(self, exc: BaseException, callback: str, connection: Any) -> None:
        """Record the call."""
        self.seen.append((exc, callback, connection))

    def take(self) -> tuple[BaseException, str, Any]:
        """Remove and return the only error. Raises ValueError if there is none, or more than one."""
        (only,) = self.seen
        self.seen.clear()
        return only


class _Recorded:
    """Calls of a protocol, which are recorded in `calls`, each as a tuple of name and arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    @property
    def names(self) -> list[str]:
        """The names of the calls, in order."""
        return [call[0] for call in self.calls]

    @property
    def lost(self) -> bool:
        """Whether `connection_lost` was called."""
        return "connection_lost" in self.names

    @property
    def reason(self) -> BaseException | None:
        """The argument of `connection_lost`. Raises AssertionError unless that was called once, and last."""
        assert self.names.count("connection_lost") == 1, self.names
        assert self.names[-1] == "connection_lost", self.names
        reason: BaseException | None = self.calls[-1][1]
        return reason

    def pause_writing(self) -> None:
        """Record the call."""
        self.calls.append(("pause_writing",))

    def resume_writing(self) -> None:
        """Record the call."""
        self.calls.append(("resume_writing",))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Record the call."""
        self.calls.append(("connection_lost", exc))


class Recorder(_Recorded, Protocol):
    """A protocol that records its calls in `calls`, each as a tuple of name and argument.

    keep_open: the result of `eof_received`.

    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     server, client = reactor.pair(Recorder, Recorder)
    ...     recorder = server.get_protocol()
    ...     _ = client.write(b"hello")
    ...     client.close()
    ...     reactor.run_out()
    >>> recorder.names
    ['connection_made', 'data_received', 'eof_received', 'connection_lost']
    >>> recorder.received
    b'hello'
    """

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection
        self.keep_open = False

    @property
    def received(self) -> bytes:
        """All bytes received so far."""
        return b"".join(call[1] for call in self.calls if call[0] == "data_received")

    def connection_made(self, connection: Connection) -> None:
        """Record the call."""
        self.connection = connection
        self.calls.append(("connection_made", connection))

    def data_received(self, data: bytes) -> None:
        """Record the call."""
        self.calls.append(("data_received", data))

    def eof_received(self) -> bool:
        """Record the call."""
        self.calls.append(("eof_received",))
        return self.keep_open


class DatagramRecorder(_Recorded, DatagramProtocol):
    """A datagram protocol that records its calls in `calls`, each as a tuple of name and arguments.

    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     server = reactor.bind_datagram("10.0.0.1:53", DatagramRecorder)
    ...     client = reactor.bind_datagram("10.0.0.1:54", DatagramRecorder)
    ...     _ = client.send(b"hello", server.address)
    ...     reactor.run_out()
    ...     server.get_protocol().calls[1:]
    [('datagram_received', b'hello', ('10.0.0.1', 54))]
    """

    def __init__(self) -> None:
        super().__init__()
        self.endpoint: Endpoint

    @property
    def received(self) -> list[bytes]:
        """All datagrams received so far."""
        return [call[1] for call in self.calls if call[0] == "datagram_received"]

    @property
    def errors(self) -> list[tuple[OSError, Any]]:
        """The arguments of each `error_received`."""
        return [(call[1], call[2]) for call in self.calls if call[0] == "error_received"]

    def connection_made(self, endpoint: Endpoint) -> None:
        """Record the call."""
        self.endpoint = endpoint
        self.calls.append(("connection_made", endpoint))

    def datagram_received(self, data: bytes, address: Any, info: DatagramInfo | None = None) -> None:
        """Record the call; `info` only if there is one."""
        self.calls.append(("datagram_received", data, address, *([] if info is None else [info])))

    def error_received(self, exc: OSError, address: Any) -> None:
        """Record the call."""
        self.calls.append(("error_received", exc, address))
