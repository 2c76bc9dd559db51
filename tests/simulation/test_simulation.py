"""Many seeds of a simulated server with its peers: what goes wrong with a seed, does so again.

SIMULATION_SEEDS is how many seeds are run, and SIMULATION_FROM the first of them.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter

import attrs
import pytest

from reactor.errors import (
    CloseTimeout,
    ConnectionAborted,
    DrainTimeout,
    IdleTimeout,
    ReadTimeout,
    SlowConsumer,
    WriteTimeout,
)
from tests.simulation.served import Broken
from tests.simulation.world import World

pytestmark = pytest.mark.slow

FIXED = range(1, 201)
FIRST = int(os.environ.get("SIMULATION_FROM", FIXED.start))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SIMULATION_SEEDS", len(FIXED))))
AT_ONCE = 20

#: Seeds that found something once, with what that was.
FOUND = {
    44710: "a look for input took the error of a reset, and what came after it was an end of file",
    1063: "a callback raises after its answer has found the connection reset: counted, and no reason",
    50551: "who adopts a socket whose peer has gone closes it, and that close may fail",
}

DAY = 86400.0


@attrs.frozen
class Report:
    """What is kept of a run. failure: what came out of it, or a telling of what was wrong in it."""

    failure: BaseException | None
    digest: str
    days: float
    clean: int
    reasons: Counter[type]


def simulate(seed):
    """Run a world to its end, however that is, and report."""
    world = World(seed)
    failure = None
    try:
        world.run()
        assert world.complaints == []
    except Exception as exc:
        exc.add_note(f"seed {seed}: again with SIMULATION_FROM={seed} SIMULATION_SEEDS=1")
        failure = exc
    days = (world.clock.now - world.began) / DAY
    return Report(failure, world.digest(), days, world.clean, world.reasons)


report_of = functools.cache(simulate)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Keep what thousands of runs log out of the report of the one that fails."""
    caplog.set_level(logging.CRITICAL, "reactor")


@pytest.mark.parametrize("first", SEEDS[::AT_ONCE])
def test_simulation(first):
    for seed in range(first, min(first + AT_ONCE, SEEDS.stop)):
        failure = report_of(seed).failure
        if failure is not None:
            raise failure


@pytest.mark.parametrize("seed", FOUND)
def test_seed_that_found_a_fault_passes(seed):
    failure = report_of(seed).failure
    if failure is not None:
        raise failure


def test_seed_replays_exactly():
    for seed in SEEDS[:50]:
        assert simulate(seed).digest == report_of(seed).digest, f"seed {seed} went another way"


def test_seeds_cover_all_events():
    reports = [report_of(seed) for seed in FIXED]
    reasons = sum((report.reasons for report in reports), Counter())
    assert sum(report.days for report in reports) > 100
    assert sum(report.clean for report in reports) > 300
    assert set(reasons) >= {
        type(None),
        Broken,
        BrokenPipeError,
        CloseTimeout,
        ConnectionAborted,
        ConnectionResetError,
        DrainTimeout,
        IdleTimeout,
        ReadTimeout,
        SlowConsumer,
        WriteTimeout,
    }
