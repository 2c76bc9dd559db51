"""What keeps what it is told, for a test to look at."""

from __future__ import annotations

from typing import Any

from reactor.connection.connection import Connection
from reactor.protocol import Protocol

__all__ = ["Errors", "Recorder"]


class Errors:
    """An `on_error` that keeps what it was told in `seen`: exception, callback and connection of each."""

    def __init__(self) -> None:
        self.seen: list[tuple[BaseException, str, Any]] = []

    def __call__(self, exc: BaseException, callback: str, connection: Any) -> None:
        """Keep it."""
        self.seen.append((exc, callback, connection))

    def take(self) -> tuple[BaseException, str, Any]:
        """Return the one error there is, and forget it. Raises ValueError if there is none, or more."""
        (only,) = self.seen
        self.seen.clear()
        return only


class Recorder(Protocol):
    """A protocol that keeps every call in `calls`, in order, as a tuple of its name and argument.

    keep_open: what `eof_received` returns.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.connection: Connection
        self.keep_open = False

    @property
    def names(self) -> list[str]:
        """The calls' names."""
        return [call[0] for call in self.calls]

    @property
    def received(self) -> bytes:
        """All bytes until now."""
        return b"".join(call[1] for call in self.calls if call[0] == "data_received")

    @property
    def lost(self) -> bool:
        """Whether it was told of the connection's end."""
        return "connection_lost" in self.names

    @property
    def reason(self) -> BaseException | None:
        """What `connection_lost` was told. Raises AssertionError unless that came exactly once, and last."""
        assert self.names.count("connection_lost") == 1, self.names
        assert self.names[-1] == "connection_lost", self.names
        reason: BaseException | None = self.calls[-1][1]
        return reason

    def connection_made(self, connection: Connection) -> None:
        """Keep it."""
        self.connection = connection
        self.calls.append(("connection_made", connection))

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.calls.append(("data_received", data))

    def eof_received(self) -> bool:
        """Keep it."""
        self.calls.append(("eof_received",))
        return self.keep_open

    def pause_writing(self) -> None:
        """Keep it."""
        self.calls.append(("pause_writing",))

    def resume_writing(self) -> None:
        """Keep it."""
        self.calls.append(("resume_writing",))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep it."""
        self.calls.append(("connection_lost", exc))
