"""`Limits` and `Timeouts`: frozen values, validated when made, shared by a listener's connections."""

from __future__ import annotations

import math
from typing import Any

import attrs

__all__ = ["Limits", "Timeouts"]


def _count(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of 1 or more, not {value!r}")


def _size(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{attribute.name} must be a whole number of bytes, 0 or more, not {value!r}")


def _seconds(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ValueError(f"{attribute.name} must be more than 0 seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Limits:
    """What a listener and its connections may use.

    max_connections: connections open at once; at the limit the listener stops accepting, so that the
        kernel's backlog holds the newcomers, and goes on when one leaves. None: no limit.
    accept_batch: connections accepted in one tick and listening socket. nginx's `multi_accept off`
        takes 1, uvloop up to 250; 64 keeps a tick short and a burst cheap.
    high_water: bytes queued on a connection above which `pause_writing` is called (64 KiB, as asyncio).
    low_water: bytes queued at or below which `resume_writing` is called (a quarter, as asyncio).

    Raises ValueError, naming the field, for a value that can't be meant.
    """

    max_connections: int | None = attrs.field(default=None, validator=attrs.validators.optional(_count))
    accept_batch: int = attrs.field(default=64, validator=_count)
    high_water: int = attrs.field(default=64 * 1024, validator=_size)
    low_water: int = attrs.field(default=16 * 1024, validator=_size)

    def __attrs_post_init__(self) -> None:
        if self.low_water > self.high_water:
            raise ValueError(f"low_water ({self.low_water}) must not be above high_water ({self.high_water})")


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long a connection may take over each part of its life, in seconds.

    connect: for all attempts to connect together.
    idle: without a byte in either direction. None: for ever.
    close: for the peer to take what is queued when `close` is called.

    Raises ValueError, naming the field, for a value that is not a positive number.
    """

    connect: float = attrs.field(default=30.0, validator=_seconds)
    idle: float | None = attrs.field(default=None, validator=attrs.validators.optional(_seconds))
    close: float = attrs.field(default=30.0, validator=_seconds)
