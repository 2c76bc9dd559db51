"""What drives a network in memory: ticks and turns until all is quiet, then on to the next thing due."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import repeat

from reactor.errors import UsageError
from reactor.testing.network import Driven, Network
from reactor.testing.selector import MemorySelector

__all__ = ["drive", "settle", "wait"]

#: Ticks at one time of the clock after which something is taken to spin.
_MOST_TICKS = 20_000

#: Times of the clock after which something is taken to go on for ever.
_MOST_TIMES = 100_000


def settle(network: Network, turn: Callable[[], int] = lambda: 0) -> None:
    """Run ticks, deliveries and the peers' `turn` until none of them does anything at this time.

    turn: lets every peer do what it can now, and returns how many did something.
    """
    for _ in range(_MOST_TICKS):
        if not _step(network, turn):
            return
    raise _spins(network)


def drive(network: Network, turn: Callable[[], int] = lambda: 0, until: float = math.inf) -> None:
    """Settle, and advance the clock to the next thing due, until nothing is, or not before `until`."""
    for _ in range(_MOST_TIMES) if until == math.inf else repeat(None):
        settle(network, turn)
        due = _next_due(network)
        if due is None or due > until:
            return
        _go_to(network, due)
    raise AssertionError(f"no end: {_MOST_TIMES} times at which something was due, until {network.clock.now}")


def wait(network: Network, selector: MemorySelector, timeout: float | None) -> None:
    """Let the others go on until `selector` has something, or for `timeout` seconds; None: for ever.

    Raises UsageError if it would wait for ever, for nothing is due.
    """
    until = math.inf if timeout is None else network.clock.now + timeout
    while not _settle_until_ready(network, selector):
        due = _next_due(network, selector)
        if due is None and timeout is None:
            raise UsageError("it waits for ever: nothing is due on the network, and nobody will call `stop`")
        if due is None or due > until:
            _go_to(network, until)
            return
        _go_to(network, due)


def _settle_until_ready(network: Network, selector: MemorySelector) -> bool:
    for _ in range(_MOST_TICKS):
        if selector.ready():
            return True
        if not _step(network, lambda: 0, selector):
            return bool(selector.ready())
    raise _spins(network)


def _step(network: Network, turn: Callable[[], int], waiting: MemorySelector | None = None) -> bool:
    """Let deliveries, peers and each reactor have a turn; return whether there may be more to do."""
    moved = network.run_due() + turn()
    for reactor in _others(network, waiting):
        if not reactor.is_closed():  # another one may just have done that
            moved += reactor.run_once(0)
    return bool(moved) or any(_is_busy(reactor) for reactor in _others(network, waiting))


def _others(network: Network, waiting: MemorySelector | None) -> list[Driven]:
    network.reactors = [reactor for reactor in network.reactors if not reactor.is_closed()]
    return [reactor for reactor in network.reactors if reactor.selector is not waiting]


def _is_busy(reactor: Driven) -> bool:
    return bool(reactor.selector.ready()) or reactor.next_timeout() == 0


def _next_due(network: Network, waiting: MemorySelector | None = None) -> float | None:
    left = [reactor.next_timeout() for reactor in _others(network, waiting)]
    times = [network.clock.now + seconds for seconds in left if seconds is not None]
    times += filter(None, [network.next_due()])
    return min(times, default=None)


def _go_to(network: Network, when: float) -> None:
    # A sum that is rounded down must not keep the clock from going on.
    network.clock.now = max(when, math.nextafter(network.clock.now, math.inf))


def _spins(network: Network) -> AssertionError:
    return AssertionError(f"something spins: {_MOST_TICKS} ticks at {network.clock()}")
