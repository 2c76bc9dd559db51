"""The driver of a network in memory: runs ticks until nothing happens, then advances the clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import repeat

from reactor.errors import UsageError
from reactor.testing.network import Driven, Network
from reactor.testing.selector import MemorySelector

__all__ = ["drive", "settle", "wait"]

#: Limit of the ticks at one time of the clock; beyond it there is a busy loop.
_TICK_LIMIT = 20_000

#: Limit of the clock's times in one call; beyond it the run would not end.
_TIME_LIMIT = 100_000


def settle(network: Network, run_peers: Callable[[], int] = lambda: 0) -> None:
    """Run ticks, deliveries and `run_peers` until none of them does anything more at this time.

    run_peers: runs peers that are not reactors; returns how many of them did something.
    """
    for _ in range(_TICK_LIMIT):
        if not _step(network, run_peers):
            return
    raise _spins(network)


def drive(network: Network, run_peers: Callable[[], int] = lambda: 0, until: float = math.inf) -> None:
    """Settle, and advance the clock to the next due event, until there is none up to the time `until`."""
    for _ in range(_TIME_LIMIT) if until == math.inf else repeat(None):
        settle(network, run_peers)
        due = _next_due(network)
        if due is None or due > until:
            return
        _go_to(network, due)
    raise AssertionError(f"no end: something was due at {_TIME_LIMIT} times, until {network.clock.now}")


def wait(network: Network, selector: MemorySelector, timeout: float | None) -> None:
    """Drive the other reactors until `selector` has an event, or for `timeout` seconds; None: without limit.

    Raises UsageError if it would wait for ever because nothing is due.
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
    for _ in range(_TICK_LIMIT):
        if selector.ready():
            return True
        if not _step(network, lambda: 0, selector):
            return bool(selector.ready())
    raise _spins(network)


def _step(network: Network, run_peers: Callable[[], int], waiting: MemorySelector | None = None) -> bool:
    """Run deliveries, peers, and one tick of each reactor; return whether there may be more to do."""
    moved = network.run_due() + run_peers()
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
    return AssertionError(f"something spins: {_TICK_LIMIT} ticks at {network.clock()}")
