"""A TCP reactor on one `selectors.DefaultSelector`, driven by your program."""

from reactor.address import Address
from reactor.connection import Connection
from reactor.connector import Connector
from reactor.errors import (
    AddressError,
    CloseTimeout,
    ConnectError,
    ConnectionAborted,
    ConnectTimeout,
    IdleTimeout,
    ListenError,
    ReactorError,
    UsageError,
)
from reactor.listener import Listener
from reactor.options import Limits, Timeouts
from reactor.protocol import BufferedProtocol, Protocol
from reactor.server import Reactor

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
    "IdleTimeout",
    "Limits",
    "ListenError",
    "Listener",
    "Protocol",
    "Reactor",
    "ReactorError",
    "Timeouts",
    "UsageError",
]

__version__ = "0.1.0"
