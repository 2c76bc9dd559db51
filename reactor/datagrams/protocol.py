"""`DatagramProtocol`: the base class of a program's datagram protocols.

The reactor calls the methods in this order, and in no other:

    start -> connection_made -> [datagram_received | error_received]* -> connection_lost -> end

where `pause_writing` / `resume_writing` may be called alternately anywhere between `connection_made` and
`connection_lost`. All calls come on the thread that drives the reactor. None comes from within another call
of the same endpoint, except `pause_writing`, from within a `send`.

The names are those of `asyncio.DatagramProtocol`. Its `error_received` takes the exception alone; whether a
protocol's takes the address as well is seen from its signature, once, when it is made.

An exception that leaves a method is reported to the reactor's `on_error`, and the endpoint goes on with the
next datagram: one bad datagram of one peer must not end the service for all others. Only an exception of
`connection_made` ends it, as the protocol is not ready then.

`draining()` is optional: it is called a few times a second during a drain, and returns True as long as the
protocol has something to finish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactor.datagrams.control import DatagramInfo
from reactor.datagrams.endpoint import Endpoint
from reactor.datagrams.interface import AnyDatagramProtocol

__all__ = ["AnyDatagramProtocol", "DatagramFactory", "DatagramProtocol"]


#: A protocol factory: a class or function, called without arguments for each endpoint, for its protocol.
DatagramFactory = Callable[[], AnyDatagramProtocol]


class DatagramProtocol:
    """Base class of datagram protocols.

    >>> class Echo(DatagramProtocol):
    ...     def connection_made(self, endpoint):
    ...         self.endpoint = endpoint
    ...
    ...     def datagram_received(self, data, address, info=None):
    ...         self.endpoint.send(data, address)
    >>> from reactor.testing import DatagramRecorder, MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     server = reactor.bind_datagram("10.0.0.1:7", Echo)
    ...     client = reactor.connect_datagram("10.0.0.1:7", DatagramRecorder)
    ...     client.send(b"hello")
    ...     reactor.run_out()
    ...     client.get_protocol().received
    True
    [b'hello']
    """

    __slots__ = ()

    def connection_made(self, endpoint: Endpoint) -> None:
        """Called once, first: `endpoint` is open and can be sent from."""

    def datagram_received(self, data: bytes, address: Any, info: DatagramInfo | None = None) -> None:
        """Called with each datagram, which may be empty.

        address: the sender's socket address, to be given to `Endpoint.send`: a tuple of host and port (for
            IPv6 also flow and scope), or a Unix socket's path; None for a Unix socket without a name.
        info: passed only if the endpoint was made with `info=True`.
        """

    def error_received(self, exc: OSError, address: Any) -> None:
        """Called when a datagram could not be sent, or an ICMP message says that one did not arrive.

        exc: with the kernel's errno, as `ConnectionRefusedError` for a closed port. address: the one that it
        was sent to; None where the kernel does not say.
        """

    def pause_writing(self) -> None:
        """Called when more is queued than `DatagramLimits.high_water` allows: stop sending."""

    def resume_writing(self) -> None:
        """Called when the queue is at or below `DatagramLimits.low_water`, after `pause_writing`."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called once, last. `exc` is the reason of the end; None after `close`."""
