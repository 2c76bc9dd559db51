"""An event loop for TCP, UDP and Unix sockets on one `selectors.DefaultSelector`, driven by your program."""

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
    ProxyHeaderError,
    ProxyHeaderTimeout,
    ReactorError,
    ReadTimeout,
    SlowConsumer,
    StreamClosed,
    StreamTimeout,
    SupervisorError,
    TLSContextError,
    TLSError,
    TLSHandshakeError,
    TLSHandshakeTimeout,
    TLSTruncated,
    UsageError,
    WriteTimeout,
)

# All other modules are imported when a name of theirs is first used (PEP 562): a program that takes a framer
# or a TLS context from this package waits neither for the loop nor for attrs. `typing` is not imported for
# its constant, because that takes as long as the rest of this import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from reactor.address import Address
    from reactor.connecting.connector import Connector, ConnectorState
    from reactor.connection.connection import Connection
    from reactor.listening.drain import Drained
    from reactor.listening.listener import Listener
    from reactor.loop.stats import Histogram, Stats
    from reactor.options import Limits, ProxyProtocol, Reconnect, Timeouts
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
    "ProxyHeaderError",
    "ProxyHeaderTimeout",
    "ProxyProtocol",
    "Reactor",
    "ReactorError",
    "ReadTimeout",
    "Reconnect",
    "SlowConsumer",
    "Stats",
    "StreamClosed",
    "StreamTimeout",
    "SupervisorError",
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

if not TYPE_CHECKING:  # for a type checker, every name would be in a module that has `__getattr__`
    _MODULE_OF = {
        "Address": "reactor.address",
        "BufferedProtocol": "reactor.protocol",
        "Connection": "reactor.connection.connection",
        "Connector": "reactor.connecting.connector",
        "ConnectorState": "reactor.connecting.connector",
        "Drained": "reactor.listening.drain",
        "Histogram": "reactor.loop.stats",
        "Limits": "reactor.options",
        "Listener": "reactor.listening.listener",
        "Protocol": "reactor.protocol",
        "ProxyProtocol": "reactor.options",
        "Reactor": "reactor.reactor",
        "Reconnect": "reactor.options",
        "Stats": "reactor.loop.stats",
        "Timeouts": "reactor.options",
    }

    def __getattr__(name: str) -> object:
        """Import the module that defines the public name `name`, and return the name's value."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 - not needed without a first use

        value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        """Return the module's names, those that are not imported yet included."""
        return sorted({*globals(), *__all__})
