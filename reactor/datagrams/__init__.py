"""Datagrams: UDP and Unix datagram sockets, with flow control, named errors and limits.

`Reactor.bind_datagram` and `Reactor.connect_datagram` return an `Endpoint`. Protocols have the methods of
asyncio's `DatagramProtocol`; one that only uses its transport runs unchanged.
"""

from reactor.datagrams.control import DatagramInfo
from reactor.datagrams.endpoint import Endpoint
from reactor.datagrams.limits import DatagramLimits
from reactor.datagrams.protocol import DatagramFactory, DatagramProtocol
from reactor.datagrams.state import EndpointState

__all__ = [
    "DatagramFactory",
    "DatagramInfo",
    "DatagramLimits",
    "DatagramProtocol",
    "Endpoint",
    "EndpointState",
]
