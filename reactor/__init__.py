"""A TCP reactor on one `selectors.DefaultSelector`, driven by your program."""

from reactor.address import Address
from reactor.connecting.connector import Connector, ConnectorState
from reactor.connection.connection import Connection
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
    HandedOver,
    HandoverError,
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
from reactor.listening.drain import Drained
from reactor.listening.listener import Listener
from reactor.loop.stats import Histogram, Stats
from reactor.options import Limits, Reconnect, Timeouts
from reactor.protocol import BufferedProtocol, Protocol
from reactor.reactor import Reactor

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
    "HandedOver",
    "HandoverError",
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
