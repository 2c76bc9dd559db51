"""What drives a simulated world: ticks and turns until all is quiet, then on to the next thing due."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import repeat

from reactor.server import Reactor
from reactor.testing.clock import ManualClock
from reactor.testing.network import Network
from reactor.testing.selector import MemorySelector

__all__ = ["drive", "settle"]

#: Ticks at one time of the clock after which something is taken to spin.
_MOST_TICKS = 20_000

#: Times of the clock after which something is taken to go on for ever.
_MOST_TIMES = 100_000


def settle(reactor: Reactor, network: Network, turn: Callable[[], int] = lambda: 0) -> None:
    """Run ticks, deliveries and the peers' `turn` until none of them does anything at this time.

    turn: lets every peer do what it can now, and returns how many did something.
    """
    selector = reactor.registry.selector
    assert isinstance(selector, MemorySelector)
    for _ in range(_MOST_TICKS):
        if reactor.is_closed():
            return
        moved = network.run_due() + turn()
        moved += reactor.run_once(0)
        if not moved and not selector.ready() and reactor.next_timeout() != 0:
            return
    raise AssertionError(f"something spins: {_MOST_TICKS} ticks at {network.clock()}")


def drive(
    reactor: Reactor,
    clock: ManualClock,
    network: Network,
    turn: Callable[[], int] = lambda: 0,
    until: float = math.inf,
) -> None:
    """Settle, and advance the clock to the next thing due, until nothing is, or not before `until`."""
    for _ in range(_MOST_TIMES) if until == math.inf else repeat(None):
        settle(reactor, network, turn)
        if reactor.is_closed():
            return
        due = [when for when in (network.next_due(), _timer_due(reactor, clock)) if when is not None]
        if not due or min(due) > until:
            return
        # A sum that is rounded down must not keep the clock from going on.
        clock.now = max(min(due), math.nextafter(clock.now, math.inf))
    raise AssertionError(f"no end: {_MOST_TIMES} times at which something was due, until {clock.now}")


def _timer_due(reactor: Reactor, clock: ManualClock) -> float | None:
    left = reactor.next_timeout()
    return None if left is None else clock.now + left
