"""The interface of protocols: the methods that a connection calls, and the check that they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

__all__ = ["AnyProtocol", "check_protocol", "make_protocol", "takes_buffers"]


class _Calls(Interface):
    def connection_made(self, connection: Any, /) -> object: ...
    def eof_received(self) -> object: ...
    def pause_writing(self) -> object: ...
    def resume_writing(self) -> object: ...
    def connection_lost(self, exc: Any, /) -> object: ...


class _TakesBytes(_Calls, Interface):
    def data_received(self, data: Any, /) -> object: ...


class _TakesBuffers(_Calls, Interface):
    def get_buffer(self, sizehint: int, /) -> Any: ...
    def buffer_updated(self, nbytes: int, /) -> object: ...


#: A protocol for type checkers: a class with the methods of one of the two, asyncio's own included.
AnyProtocol = _TakesBytes | _TakesBuffers


def make_protocol(factory: Callable[[], Any]) -> Any:
    """Return the protocol that `factory()` returns. Raises TypeError if that is not a protocol."""
    protocol = factory()
    if not hasattr(protocol, "data_received"):  # usual, and asked for each connection
        check_protocol(protocol, f"the factory {getattr(factory, '__qualname__', repr(factory))} returned")
    return protocol


def check_protocol(protocol: Any, source: str) -> None:
    """Raise TypeError if `protocol` has no method for received bytes. source: begins the message."""
    if not is_protocol(protocol):
        raise TypeError(
            f"{source} {protocol!r}, which is no protocol: it has neither data_received nor get_buffer"
        )


def is_protocol(protocol: Any) -> bool:
    """Return whether `protocol` has a method for received bytes."""
    return hasattr(protocol, "data_received") or hasattr(protocol, "get_buffer")


def takes_buffers(protocol: Any) -> bool:
    """Return whether `protocol` is a `BufferedProtocol`, which receives into its own buffer."""
    return not hasattr(protocol, "data_received")
