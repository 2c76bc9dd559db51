"""The interface of datagram protocols: the methods that an endpoint calls, and how they are checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

__all__ = ["AnyDatagramProtocol", "error_handler", "ignore", "make_protocol"]

# The modules of base classes whose `error_received` does nothing.
_DOING_NOTHING = frozenset({"asyncio.protocols", "reactor.datagrams.protocol"})


class _Calls(Interface):
    def connection_made(self, endpoint: Any, /) -> object: ...
    def datagram_received(self, data: Any, address: Any, /) -> object: ...
    def pause_writing(self) -> object: ...
    def resume_writing(self) -> object: ...
    def connection_lost(self, exc: Any, /) -> object: ...


#: A datagram protocol for type checkers: a class with these methods, asyncio's own included.
AnyDatagramProtocol = _Calls


def make_protocol(factory: Callable[[], Any]) -> Any:
    """Return the protocol that `factory()` returns. Raises TypeError if that is no datagram protocol."""
    protocol = factory()
    if not hasattr(protocol, "datagram_received"):
        name = getattr(factory, "__qualname__", repr(factory))
        raise TypeError(
            f"the factory {name} returned {protocol!r}, which is no datagram protocol:"
            " it has no datagram_received"
        )
    return protocol


def error_handler(protocol: Any) -> Callable[[OSError, Any], object]:
    """Return `protocol.error_received`, to be called with the exception and the address.

    `ignore` is returned if there is none, or that of a base class, which does nothing.
    """
    received: Callable[..., object] | None = getattr(protocol, "error_received", None)
    if received is None or getattr(received, "__module__", None) in _DOING_NOTHING:
        return ignore
    try:
        inspect.signature(received).bind(None, None)
    except TypeError:
        taking_one = received
        return lambda exc, address: taking_one(exc)
    except ValueError:
        pass  # written in C, without a signature
    return received


def ignore(exc: OSError, address: Any) -> None:
    """Do nothing: the protocol has no `error_received` of its own."""
