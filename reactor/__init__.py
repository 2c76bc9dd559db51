"""A TCP reactor on one `selectors.DefaultSelector`, driven by your program."""

from reactor.address import Address
from reactor.connection import Connection
from reactor.connector import Connector
from reactor.drain import Drained
from reactor.errors import (
    AddressError,
    CloseTimeout,
    ConnectError,
    ConnectionAborted,
    ConnectTimeout,
    DrainTimeout,
    IdleTimeout,
    ListenError,
    ReactorError,
    ReadTimeout,
    SlowConsumer,
    UsageError,
    WriteTimeout,
)
from reactor.listener import Listener
from reactor.options import Limits, Timeouts
from reactor.protocol import BufferedProtocol, Protocol
from reactor.server import Reactor
from reactor.stats import Histogram, Stats

__all__ = [
    "Address",
    "AddressError",
    "BufferedProtocol",
    "CloseTimeout",
    "ConnectError",
    "ConnectTimeout",
    "Connection",
    "ConnectionAborted",
    "Connector",
    "DrainTimeout",
    "Drained",
    "Histogram",
    "IdleTimeout",
    "Limits",
    "ListenError",
    "Listener",
    "Protocol",
    "Reactor",
    "ReactorError",
    "ReadTimeout",
    "SlowConsumer",
    "Stats",
    "Timeouts",
    "UsageError",
    "WriteTimeout",
]

__version__ = "0.1.0"
