"""A TCP reactor on one `selectors.DefaultSelector`, driven by your program."""

from reactor.address import Address
from reactor.connection import Connection
from reactor.connector import Connector, ConnectorState
from reactor.drain import Drained
from reactor.errors import (
    AddressError,
    CloseTimeout,
    ConnectError,
    ConnectionAborted,
    ConnectTimeout,
    DrainTimeout,
    EndOfStream,
    FrameTooLong,
    FramingError,
    IdleTimeout,
    IncompleteFrame,
    ListenError,
    MalformedFrame,
    ReactorError,
    ReadTimeout,
    SlowConsumer,
    StreamClosed,
    StreamTimeout,
    TLSContextError,
    TLSError,
    TLSHandshakeError,
    TLSHandshakeTimeout,
    TLSTruncated,
    UsageError,
    WriteTimeout,
)
from reactor.listener import Listener
from reactor.options import Limits, Reconnect, Timeouts
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
    "ConnectorState",
    "DrainTimeout",
    "Drained",
    "EndOfStream",
    "FrameTooLong",
    "FramingError",
    "Histogram",
    "IdleTimeout",
    "IncompleteFrame",
    "Limits",
    "ListenError",
    "Listener",
    "MalformedFrame",
    "Protocol",
    "Reactor",
    "ReactorError",
    "ReadTimeout",
    "Reconnect",
    "SlowConsumer",
    "Stats",
    "StreamClosed",
    "StreamTimeout",
    "TLSContextError",
    "TLSError",
    "TLSHandshakeError",
    "TLSHandshakeTimeout",
    "TLSTruncated",
    "Timeouts",
    "UsageError",
    "WriteTimeout",
]

__version__ = "0.1.0"
