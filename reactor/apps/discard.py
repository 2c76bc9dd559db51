"""Discard, RFC 863: what a client sends is thrown away."""

from __future__ import annotations

from reactor.protocol import Protocol

__all__ = ["Discard"]


class Discard(Protocol):
    """Receives, and does nothing with it."""

    __slots__ = ()
