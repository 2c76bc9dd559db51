"""Discard, RFC 863: drops what it receives."""

from __future__ import annotations

from reactor.protocol import Protocol

__all__ = ["Discard"]


class Discard(Protocol):
    """Drops what it receives."""

    __slots__ = ()
