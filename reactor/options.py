"""Validated options of listeners and connectors (`Limits`, `Timeouts`, `Reconnect`), and argument checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = [
    "Limits", "ProxyProtocol", "Reconnect", "Timeouts", "check_callable", "check_count", "check_size",
    "check_type", "number", "seconds", "size",
]  # fmt: skip


def check_callable(name: str, value: object, *, optional: bool = False) -> None:
    """Raise TypeError, naming the parameter, if `value` is not callable; `optional`: None is accepted too."""
    if not (callable(value) or (optional and value is None)):
        raise TypeError(f"{name} must be callable{' or None' if optional else ''}, not {value!r}")


def check_type(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    """Raise TypeError, naming the parameter, if `value` is no `kind`; `optional`: None is accepted too."""
    if not (isinstance(value, kind) or (optional and value is None)):
        raise TypeError(
            f"{name} must be of type {kind.__name__}{' or None' if optional else ''}, not {value!r}"
        )


def number(name: str, value: object) -> float:
    """Return `value`, an int or a float, as a number that can be added to a float.

    An int beyond the range of floats becomes infinity. Raises TypeError for anything else, a bool included,
    and ValueError for NaN; both name the parameter, `name`.
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
    """Check and return `value`, a duration in seconds; infinity means no deadline.

    zero: whether 0 is accepted. Raises TypeError and ValueError as `number` does, the latter for a negative
    duration too.
    """
    duration = number(name, value)
    if duration < 0 or not (duration or zero):
        least = "0 seconds or more" if zero else "more than 0 seconds"
        raise ValueError(f"{name} must be {least}, not {value!r}")
    return duration


def size(name: str, value: object) -> int:
    """Check and return `value`, a whole number of bytes, 0 or more. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number of bytes, 0 or more, not {value!r}")
    return value


def check_count(instance: Any, attribute: Any, value: object) -> None:
    """Raise ValueError, naming the attrs field, if `value` is no whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of 1 or more, not {value!r}")


def check_size(instance: Any, attribute: Any, value: object) -> None:
    """Raise ValueError, naming the attrs field, if `value` is no whole number of 0 or more."""
    size(attribute.name, value)


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
    """Limits of a listener and of each of its connections. None means no limit.

    max_connections: connections of the listener that are open at once.
    max_per_ip: open connections of one client prefix: an IPv4 address, or the /64 of an IPv6 address, which
        one client controls as a whole (RFC 6177). Further ones are accepted and closed at once. Unix sockets
        are not counted, nor are connections whose PROXY header is awaited.
    when_full: what the listener does at `max_connections`, and when the process is out of descriptors.
        "hold": it stops accepting until a connection ends; new ones stay in the kernel's accept queue.
        "refuse": it accepts new connections and closes them at once.
    accept_batch: connections accepted per tick and listening socket. nginx's `multi_accept off`
        takes 1, uvloop up to 250; 64 keeps a tick short and a burst cheap.
    high_water: queued bytes of a connection above which `pause_writing` is called (64 KiB, as asyncio).
    low_water: queued bytes at or below which `resume_writing` is called (a quarter, as asyncio).
    max_write_buffer: queued bytes of a connection above which another write aborts it with `SlowConsumer`;
        one write may be larger. 64 MiB is a thousand times the high-water mark: a protocol that obeys
        `pause_writing` never reaches it. Redis allows a subscriber 32 MiB.
    read_rate, write_rate: bytes per second that a connection may receive and send. After a pause, one
        second's worth may pass at once.

    Raises ValueError, naming the field, for a value out of range.

    >>> Limits(max_connections=1000, when_full="refuse").high_water
    65536
    >>> Limits(high_water=10, low_water=20)
    Traceback (most recent call last):
    ValueError: low_water (20) must not be above high_water (10)
    """

    max_connections: int | None = _optional(check_count)
    max_per_ip: int | None = _optional(check_count)
    when_full: Literal["hold", "refuse"] = attrs.field(default="hold", validator=_choice("hold", "refuse"))
    accept_batch: int = attrs.field(default=64, validator=check_count)
    high_water: int = attrs.field(default=64 * 1024, validator=check_size)
    low_water: int = attrs.field(default=16 * 1024, validator=check_size)
    max_write_buffer: int | None = _optional(check_size, default=64 * 1024 * 1024)
    read_rate: int | None = _optional(check_count)
    write_rate: int | None = _optional(check_count)

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
    """Timeouts of a connection, in seconds. Infinity, or None where it is allowed, means no timeout.

    connect: all attempts to connect together, the TLS handshake included.
    handshake: the TLS handshake alone (10 s, as Go's `net/http`).
    idle: time without a byte in either direction; then `IdleTimeout`.
    read: the read deadline: the peer must complete a message within so many seconds of `connection_made`, or
        of `Connection.set_timeouts(read=...)`, which the protocol calls to restart or clear it; else
        `ReadTimeout`. Received bytes alone don't extend it, so that a peer can't keep a connection open by
        sending one byte now and then (the slow-loris attack).
    Neither counts while this side has stopped reading, by `pause_reading`, `hold_reading` or `read_rate`, nor
        `idle` while `write_rate` holds bytes back: then `read` goes on with what is left of it, `idle` anew.
    write: time in which the peer accepts none of the queued bytes (60 s, as nginx's `send_timeout`); then
        `WriteTimeout`.
    close: time for the peer to accept what is queued when `close` is called, and to end its own direction;
        then `CloseTimeout`. A hard bound, whatever `write_rate` holds back.

    Each fires up to a sixteenth of the timeout late, and never early.
    Raises ValueError, naming the field, for a number that is not positive, TypeError for anything but a
    number.

    >>> Timeouts(idle=300, read=30).write
    60.0
    >>> Timeouts(idle=0)
    Traceback (most recent call last):
    ValueError: idle must be more than 0 seconds, not 0
    """

    connect: float = _seconds("connect", 30.0)
    handshake: float = _seconds("handshake", 10.0)
    idle: float | None = _optional_seconds("idle")
    read: float | None = _optional_seconds("read")
    write: float | None = _optional_seconds("write", 60.0)
    close: float = _seconds("close", 30.0)


def _random() -> Callable[[], float]:
    import random  # noqa: PLC0415 - few programs reconnect

    return random.random


@attrs.frozen(kw_only=True)
class Reconnect:
    """Exponential backoff of a connector that reconnects: after a failure, and when its connection ends.

    first: seconds before the first retry. The delay doubles with each failure.
    max_delay: seconds of the longest delay. After a connection that stayed open for at least the next delay,
        the delays start from `first` again.
    attempts: consecutive failures after which it gives up; None for no limit.
    random: returns a number from 0 to 1. Each delay is shortened by up to half, so that the clients of
        a restarted server don't all return at the same moment ("equal jitter": M. Brooker, Exponential
        Backoff And Jitter, 2015).

    Raises ValueError, naming the field, for a value out of range, TypeError for seconds that are no number.

    >>> Reconnect(first=0.5, max_delay=30, attempts=10, random=lambda: 0.0).spread(8)
    4.0
    """

    first: float = _seconds("first", 0.5)
    max_delay: float = _seconds("max_delay", 60.0)
    attempts: int | None = _optional(check_count)
    random: Callable[[], float] = attrs.field(factory=_random)

    def __attrs_post_init__(self) -> None:
        check_callable("random", self.random)
        if self.first > self.max_delay:
            raise ValueError(f"first ({self.first:g}) must not be above max_delay ({self.max_delay:g})")

    def spread(self, delay: float) -> float:
        """Return `delay`, in seconds, shortened at random by up to half.

        Raises ValueError if `random` returns a number outside of 0 to 1.
        """
        part = self.random()
        if not 0 <= part <= 1:
            raise ValueError(f"random must return a number from 0 to 1, not {part!r}")
        return delay * (1 + part) / 2


#: The entry of `ProxyProtocol.trusted` for the peers of Unix sockets.
_UNIX = "unix:"


def _networks(value: Any) -> tuple[IPv4Network | IPv6Network | str, ...]:
    import ipaddress  # noqa: PLC0415 - few programs need it

    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"trusted must be a sequence of networks, not {value!r}")
    networks: list[IPv4Network | IPv6Network | str] = []
    for network in value:
        try:
            networks.append(network if network == _UNIX else ipaddress.ip_network(str(network)))
        except ValueError as exc:
            raise ValueError(
                f"trusted has {network!r}, which is neither a network nor {_UNIX!r}: {exc}; "
                "write 10.0.0.0/8, 2001:db8::/32 or an address"
            ) from None
    if not networks:
        raise ValueError("trusted must name the proxies: from others every connection is refused")
    return tuple(networks)


@lru_cache(maxsize=256)
def _forms(host: str) -> set[IPv4Address | IPv6Address]:
    """Return a peer's address, and the IPv4 address that it stands for; few proxies have all connections."""
    import ipaddress  # noqa: PLC0415 - loaded with the networks

    address = ipaddress.ip_address(host)
    return {address, getattr(address, "ipv4_mapped", None) or address}


@attrs.frozen(kw_only=True)
class ProxyProtocol:
    """Options of a listener behind proxies that speak the PROXY protocol, version 1 or 2.

    trusted: the networks of the proxies, as text ("10.0.0.0/8", "2001:db8::7") or of `ipaddress`; "unix:" for
        the peers of Unix sockets. Their connections must begin with a header; those of others are refused,
        because anybody could claim any address in it.
    timeout: seconds in which the header must be complete. The specification asks for 3 at least, so that one
        lost segment can be sent again.

    Raises ValueError, naming the field, for what is no network, and for a timeout out of range, TypeError for
    what is no sequence or no number.

    >>> ProxyProtocol(trusted=["192.0.2.0/24"]).trusts(("192.0.2.7", 40000))
    True
    """

    trusted: tuple[IPv4Network | IPv6Network | str, ...] = attrs.field(converter=_networks)
    timeout: float = _seconds("timeout", 5.0)

    def trusts(self, sockaddr: Any) -> bool:
        """Return whether a connection from `sockaddr`, a socket address, comes from a proxy."""
        if not isinstance(sockaddr, tuple):
            return _UNIX in self.trusted
        forms = _forms(sockaddr[0])
        return any(
            form in network for network in self.trusted if not isinstance(network, str) for form in forms
        )
