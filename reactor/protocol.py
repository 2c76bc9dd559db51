"""What a user subclasses.

The calls come in this order, and in no other:

    start -> connection_made -> [data* -> [eof_received]] -> connection_lost -> end

where `data` is `data_received` (or, for a `BufferedProtocol`, `get_buffer` and `buffer_updated`),
and `pause_writing` / `resume_writing` may come in turn, in pairs, anywhere between `connection_made`
and `connection_lost`. All calls come on the thread that drives the reactor, and none comes from
inside another call of the same connection, but for `pause_writing`, which a `write` may make, and for what
a change of the water marks calls for.

A protocol may also have a method `draining()`: while a drain is on it is asked a few times a second, and
returns True as long as it has something to finish. One that has none is asked nothing. And one that keeps
what it has received, as `FramedProtocol` does, may have a method `reading_resumed()`, which
`Connection.resume_reading` calls.

The names and the order are those of asyncio's protocols (PEP 3156), so a class written for them that
talks to nothing but its transport needs no change.

An exception that leaves a method is reported to the reactor's `on_error`, and resets the connection, so that
the peer can't take half an answer for the whole; it is the reason that `connection_lost` is given.
"""

from __future__ import annotations

from collections.abc import Callable

from reactor.connection.connection import Connection
from reactor.connection.interface import AnyProtocol

__all__ = ["AnyProtocol", "BufferedProtocol", "Factory", "Protocol"]

#: Makes the protocol of a connection: a protocol class, or a function.
Factory = Callable[[], AnyProtocol]


class _Base:
    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Told once, first: `connection` is open and may be written to."""

    def handshake_completed(self) -> None:
        """What `Connection.start_tls` began is done: from now on TLS is spoken."""

    def eof_received(self) -> bool | None:
        """The peer has sent its last byte. Return True to keep the write side open; else it is closed."""

    def pause_writing(self) -> None:
        """More than the high-water mark is queued: stop writing."""

    def resume_writing(self) -> None:
        """The queue is down to the low-water mark: writing may go on."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Told once, last. `exc` is the reason; None is a clean end."""


class Protocol(_Base):
    """A protocol that is handed the bytes as they come."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """`data` arrived; at least one byte."""


class BufferedProtocol(_Base):
    """A protocol whose own buffer is filled by recv_into(2), so that large input is never copied."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        """Return a writable buffer of at least one byte; `sizehint` bytes would do well."""
        raise TypeError(f"{type(self).__name__} must define get_buffer")

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` bytes, 1 or more, now stand at the start of the buffer."""
