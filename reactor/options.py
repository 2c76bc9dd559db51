"""`Limits`, `Timeouts` and `Reconnect`, frozen and validated; and the validation of arguments."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import attrs

__all__ = ["Limits", "Reconnect", "Timeouts", "check_callable", "check_type", "number", "seconds"]


def check_callable(name: str, value: object, *, optional: bool = False) -> None:
    """Raise TypeError, naming the parameter, if `value` can't be called; `optional`: nor is None."""
    if not (callable(value) or (optional and value is None)):
        raise TypeError(f"{name} must be callable{' or None' if optional else ''}, not {value!r}")


def check_type(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    """Raise TypeError, naming the parameter, if `value` is no `kind`; `optional`: nor None."""
    if not (isinstance(value, kind) or (optional and value is None)):
        raise TypeError(
            f"{name} must be of type {kind.__name__}{' or None' if optional else ''}, not {value!r}"
        )


def number(name: str, value: object) -> float:
    """Return `value`, an int or a float, as a number that a float can be added to.

    An int beyond all floats becomes infinity. Raises TypeError for what is no number, a bool included, and
    ValueError for NaN; both name the parameter, `name`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if value != value:  # noqa: PLR0124 - NaN alone
        raise ValueError(f"{name} must be a number of seconds, not nan")
    try:
        float(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)
    return value


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return `value`, a duration in seconds; infinity stands for no deadline.

    zero: whether 0 can be meant. Raises TypeError and ValueError as `number` does, the latter for a negative
    duration too.
    """
    duration = number(name, value)
    if duration < 0 or not (duration or zero):
        least = "0 seconds or more" if zero else "more than 0 seconds"
        raise ValueError(f"{name} must be {least}, not {value!r}")
    return duration


def _count(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of 1 or more, not {value!r}")


def _size(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{attribute.name} must be a whole number of bytes, 0 or more, not {value!r}")


def _choice(*allowed: str) -> Callable[[Any, attrs.Attribute[Any], object], None]:
    def check(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            choices = " or ".join(map(repr, allowed))
            raise ValueError(f"{attribute.name} must be {choices}, not {value!r}")

    return check


def _optional(validator: Callable[[Any, attrs.Attribute[Any], Any], None], default: Any = None) -> Any:
    return attrs.field(default=default, validator=attrs.validators.optional(validator))


@attrs.frozen(kw_only=True)
class Limits:
    """What a listener and its connections may use. None: no limit.

    max_connections: connections of the listener open at once.
    max_per_ip: those of one IP address; further ones are accepted and closed at once. An IPv6 address
        counts by its /64, which one site has whole (RFC 6177). Unix sockets are not counted.
    when_full: what happens to newcomers at `max_connections`, and when the process is out of descriptors.
        "hold": the listener stops accepting, so that the kernel's backlog holds them, and goes on when
        one leaves. "refuse": they are accepted and closed at once.
    accept_batch: connections accepted in one tick and listening socket. nginx's `multi_accept off`
        takes 1, uvloop up to 250; 64 keeps a tick short and a burst cheap.
    high_water: bytes queued on a connection above which `pause_writing` is called (64 KiB, as asyncio).
    low_water: bytes queued at or below which `resume_writing` is called (a quarter, as asyncio).
    max_write_buffer: bytes queued on a connection after which another write aborts it with `SlowConsumer`.
        One write may be larger. 64 MiB, a thousand times the high-water mark, so that who heeds
        `pause_writing` never meets it; Redis allows a subscriber 32 MiB.
    read_rate, write_rate: bytes a second that are received and sent on a connection, with one second's
        worth at once after a rest.

    Raises ValueError, naming the field, for a value that can't be meant.
    """

    max_connections: int | None = _optional(_count)
    max_per_ip: int | None = _optional(_count)
    when_full: Literal["hold", "refuse"] = attrs.field(default="hold", validator=_choice("hold", "refuse"))
    accept_batch: int = attrs.field(default=64, validator=_count)
    high_water: int = attrs.field(default=64 * 1024, validator=_size)
    low_water: int = attrs.field(default=16 * 1024, validator=_size)
    max_write_buffer: int | None = _optional(_size, default=64 * 1024 * 1024)
    read_rate: int | None = _optional(_count)
    write_rate: int | None = _optional(_count)

    def __attrs_post_init__(self) -> None:
        if self.low_water > self.high_water:
            raise ValueError(f"low_water ({self.low_water}) must not be above high_water ({self.high_water})")
        if self.max_write_buffer is not None and self.high_water > self.max_write_buffer:
            raise ValueError(
                f"high_water ({self.high_water}) must not be above max_write_buffer ({self.max_write_buffer})"
            )


def _seconds(name: str, default: float) -> Any:
    return attrs.field(default=default, converter=partial(seconds, name))


def _optional_seconds(name: str, default: float | None = None) -> Any:
    return attrs.field(default=default, converter=attrs.converters.optional(partial(seconds, name)))


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long a connection may take over each part of its life, in seconds. None or infinity: for ever.

    connect: for all attempts to connect together, TLS's handshake included.
    handshake: for that alone (10 s, as Go's `net/http` has it).
    idle: without a byte in either direction.
    read: for the peer to send what it owes: from `connection_made`, or from `set_timeouts(read=...)`, until
        the protocol sets it anew or clears it. Bytes alone don't extend it, so that a peer can't hold a
        connection with one of them now and then (the slow-loris attack).
    write: while something is queued and the peer takes none of it (60 s, as nginx's `send_timeout`).
    close: for the peer to take what is queued when `close` is called, and to end its own direction.

    Each comes up to a sixteenth of the timeout late, and never early.
    Raises ValueError, naming the field, for a number that is not positive, TypeError for what is no number.
    """

    connect: float = _seconds("connect", 30.0)
    handshake: float = _seconds("handshake", 10.0)
    idle: float | None = _optional_seconds("idle")
    read: float | None = _optional_seconds("read")
    write: float | None = _optional_seconds("write", 60.0)
    close: float = _seconds("close", 30.0)


@attrs.frozen(kw_only=True)
class Reconnect:
    """When a connector connects again: after it failed, and after its connection has ended.

    first: seconds before the next attempt, which double each time, up to `most`. After a connection that
        stayed open for as long as the next delay, they begin anew.
    attempts: rounds in a row that may fail before it gives up; None for no bound.
    random: returns a number from 0 to 1. Each delay is shortened by up to a half of it, so that many
        clients of a server that was restarted don't come back at once ("equal jitter": M. Brooker,
        Exponential Backoff And Jitter, 2015).

    Raises ValueError, naming the field, for a value that can't be meant, TypeError for seconds that are no
    number.
    """

    first: float = _seconds("first", 0.5)
    most: float = _seconds("most", 60.0)
    attempts: int | None = _optional(_count)
    random: Callable[[], float] = random.random

    def __attrs_post_init__(self) -> None:
        check_callable("random", self.random)
        if self.first > self.most:
            raise ValueError(f"first ({self.first:g}) must not be above most ({self.most:g})")

    def spread(self, delay: float) -> float:
        """Return a delay of half of `delay` to all of it, in seconds.

        Raises ValueError if `random` returns anything else than a number from 0 to 1.
        """
        part = self.random()
        if not 0 <= part <= 1:
            raise ValueError(f"random must return a number from 0 to 1, not {part!r}")
        return delay * (1 + part) / 2
