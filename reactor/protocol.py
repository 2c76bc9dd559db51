"""`Protocol` and `BufferedProtocol`: the base classes of a program's protocols.

The reactor calls their methods in this order, and in no other:

    start -> connection_made -> [data* -> [eof_received]] -> connection_lost -> end

where `data` is `data_received` (or, for a `BufferedProtocol`, `get_buffer` and `buffer_updated`),
and `pause_writing` / `resume_writing` may be called alternately anywhere between `connection_made`
and `connection_lost`. All calls come on the thread that drives the reactor. None comes from within
another call of the same connection, except `pause_writing`, from within a `write`, and both of them, from
within `set_write_buffer_limits`.

A connection can go on in another process (`reactor.deploy`) if its protocol has `hand_over()`, which returns
its state as bytes, and its factory `take_over(connection, state)`, which returns the protocol there and is
called instead of `connection_made`:

    here:   ... -> hand_over -> [buffered_input] -> connection_lost with HandedOver -> end
                                                 -> as before, if the transfer has failed
    there:  start -> take_over -> [pause_writing] -> [restore_input] -> [data* -> ...

`buffered_input()` and `restore_input(data)` are for a protocol that buffers what it has received, as
`FramedProtocol` does.

Three more methods are optional. `draining()` is called a few times a second during a drain, and returns True
as long as the protocol has something to finish; without it, a connection with nothing queued or unread is
idle. `reading_resumed()` is called by `Connection.resume_reading`, for a protocol that buffers what it has
received, as `FramedProtocol` does. `timed_out(exc)` is called when the read deadline has passed, with the
`ReadTimeout`, and returns True to keep the connection: to set another deadline, or to answer and `close`.

The names and the order are those of asyncio's protocols (PEP 3156), so a class written for asyncio that
only uses its transport works unchanged.

An exception that leaves a method is reported to the reactor's `on_error`, and resets the connection, so that
the peer can't mistake half an answer for all of it; `connection_lost` receives it as the reason.
"""

from __future__ import annotations

from collections.abc import Callable

from reactor.connection.connection import Connection
from reactor.connection.interface import AnyProtocol

__all__ = ["AnyProtocol", "BufferedProtocol", "Factory", "Protocol"]

#: A protocol factory: a class or function, called without arguments for each connection, for its protocol.
Factory = Callable[[], AnyProtocol]


class _Base:
    __slots__ = ()

    def connection_made(self, connection: Connection) -> None:
        """Called once, first: `connection` is open and can be written to."""

    def handshake_completed(self) -> None:
        """Called when the handshake that `Connection.start_tls` began is complete."""

    def eof_received(self) -> bool | None:
        """Called at the peer's end of file. Return True to go on writing; else the connection is closed."""

    def pause_writing(self) -> None:
        """Called when more than `Limits.high_water` bytes are queued: stop writing."""

    def resume_writing(self) -> None:
        """Called when at most `Limits.low_water` bytes are queued, after `pause_writing`: go on writing."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called once, last. `exc` is the reason of the end; None after a clean one."""


class Protocol(_Base):
    """Base class of protocols that receive bytes objects.

    >>> class Echo(Protocol):
    ...     def connection_made(self, connection):
    ...         self.connection = connection
    ...
    ...     def data_received(self, data):
    ...         self.connection.write(data)
    >>> from reactor.testing import MemoryReactor, Recorder
    >>> with MemoryReactor() as reactor:
    ...     _, client = reactor.pair(Echo, Recorder)
    ...     client.write(b"hello")
    ...     reactor.settle()
    ...     client.get_protocol().received
    ...     client.close()
    True
    b'hello'
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Called with each piece of input: `data` has at least one byte."""


class BufferedProtocol(_Base):
    """Base class of protocols that receive into a buffer of their own, so that large input is not copied.

    >>> class Upload(BufferedProtocol):
    ...     def __init__(self):
    ...         self.buffer = bytearray(4)
    ...
    ...     def get_buffer(self, sizehint):
    ...         return self.buffer
    ...
    ...     def buffer_updated(self, nbytes):
    ...         print(bytes(self.buffer[:nbytes]))
    >>> from reactor.testing import MemoryReactor, Recorder
    >>> with MemoryReactor() as reactor:
    ...     _, client = reactor.pair(Upload, Recorder)
    ...     _ = client.write(b"filled")
    ...     reactor.settle()
    ...     client.close()
    b'fill'
    b'ed'
    """

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        """Return a writable buffer of at least one byte to receive into; `sizehint` bytes are a good size."""
        raise TypeError(f"{type(self).__name__} must define get_buffer")

    def buffer_updated(self, nbytes: int) -> None:
        """Called when `nbytes` bytes, 1 or more, were received into the start of the buffer."""
