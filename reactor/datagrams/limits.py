"""`DatagramLimits`, the limits of an endpoint, and the meter behind its limits by client prefix."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs

from reactor.address import client_prefix, pack_sockaddr
from reactor.datagrams.control import MAPPED
from reactor.options import check_count, check_size, seconds

__all__ = ["DatagramLimits", "PrefixMeter"]

# Seconds over which the datagrams and bytes of a client prefix are counted.
_WINDOW = 1.0

#: Client prefixes that are counted one by one in a window; the others are counted as one. Who forges the
#: addresses of senders has as many as he likes.
PREFIXES = 65536


def _seconds(name: str, default: float) -> Any:
    return attrs.field(default=default, converter=partial(seconds, name))


def _optional_count() -> Any:
    return attrs.field(default=None, validator=attrs.validators.optional(check_count))


@attrs.frozen(kw_only=True)
class DatagramLimits:
    """Limits of a datagram endpoint.

    high_water: queued bytes above which `pause_writing` is called (64 KiB, as asyncio). It is also called
        when half of `max_queued_datagrams` are queued.
    low_water: queued bytes at or below which `resume_writing` is called (a quarter, as asyncio); no more than
        a quarter of `max_queued_datagrams` may be queued then either.
    max_queued_bytes, max_queued_datagrams: the bound of what the kernel did not take yet. A datagram beyond
        it is refused: `send` returns False. A protocol that obeys `pause_writing` does not reach it.
    queue_timeout: seconds after which a queued datagram is dropped. It would be of no use to its receiver
        later: a resolver asks again after 5 s (resolv.conf(5)). Infinity: never.
    batch: datagrams that are received, or sent from the queue, in one go; then others have their turn. It
        takes 2 ms at most, too.
    prefix_datagrams, prefix_bytes: what is accepted in a second from one client prefix, an IPv4 address or
        the /64 of an IPv6 address; None for no limit. The rest is dropped before the protocol sees it, so
        that nobody makes this side flood the owner of a forged address. Unix sockets have no prefix.

    Raises ValueError, naming the field, for a value out of range, TypeError for seconds that are no number.

    >>> DatagramLimits(prefix_datagrams=100).queue_timeout
    5.0
    >>> DatagramLimits(high_water=10, low_water=20)
    Traceback (most recent call last):
    ValueError: low_water (20) must not be above high_water (10)
    """

    high_water: int = attrs.field(default=64 * 1024, validator=check_size)
    low_water: int = attrs.field(default=16 * 1024, validator=check_size)
    max_queued_bytes: int = attrs.field(default=1024 * 1024, validator=check_size)
    max_queued_datagrams: int = attrs.field(default=1024, validator=check_count)
    queue_timeout: float = _seconds("queue_timeout", 5.0)
    batch: int = attrs.field(default=64, validator=check_count)
    prefix_datagrams: int | None = _optional_count()
    prefix_bytes: int | None = _optional_count()

    def __attrs_post_init__(self) -> None:
        if self.low_water > self.high_water:
            raise ValueError(f"low_water ({self.low_water}) must not be above high_water ({self.high_water})")
        if self.high_water > self.max_queued_bytes:
            raise ValueError(
                f"high_water ({self.high_water}) must not be above max_queued_bytes ({self.max_queued_bytes})"
            )


class PrefixMeter:
    """Counts the datagrams and bytes of each client prefix, in windows of a second.

    What passes in a window is never more than the limit; in a second that begins within one, never more than
    twice that. The table is dropped with the window, so its size is bounded by what arrives in a second, and
    by `prefixes`.

    datagrams, nbytes: the limits; None for none.
    """

    def __init__(
        self, datagrams: int | None, nbytes: int | None, now: float, prefixes: int = PREFIXES
    ) -> None:
        self._datagrams = datagrams
        self._nbytes = nbytes
        self._prefixes = prefixes
        self._end = now + _WINDOW
        self._seen: dict[Any, list[int]] = {}

    def admits(self, address: Any, size: int, now: float) -> bool:
        """Count a datagram of `size` bytes that has come from `address`; return whether it is within limits.

        now: the time, in the clock's seconds. What is not admitted does not count.
        """
        if not isinstance(address, tuple):
            return True
        if now >= self._end:
            self._seen = {}
            self._end = now + _WINDOW
        seen = self._seen.get(key := _prefix(address)) or self._begin(key)
        if self._datagrams is not None and seen[0] >= self._datagrams:
            return False
        if self._nbytes is not None and seen[1] + size > self._nbytes:
            return False
        seen[0] += 1
        seen[1] += size
        return True

    def _begin(self, key: Any) -> list[int]:
        if len(self._seen) >= self._prefixes:
            key = None  # the rest, as one
        return self._seen.setdefault(key, [0, 0])


def _prefix(address: Any) -> Any:
    """Return what stands for the client prefix: the text of an IPv4 address, which is quicker to get."""
    host = address[0]
    if ":" not in host:
        return host
    if host.startswith(MAPPED):
        return host[len(MAPPED) :]
    packed: Any = client_prefix(pack_sockaddr(address))
    return packed
