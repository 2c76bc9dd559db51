"""Every call that can fail, in every scenario, fails once with each error that it can give."""

from __future__ import annotations

import logging

import pytest

from tests.torture.faults import ERRNOS, Fault
from tests.torture.scenarios import SCENARIOS
from tests.torture.stage import Stage

pytestmark = pytest.mark.slow

REPORTED = 10  # failures that are reported of a scenario


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Keep what thousands of runs log out of the report of the one that fails."""
    caplog.set_level(logging.CRITICAL, "reactor")


def play(name: str, fault: Fault | None = None) -> list[str]:
    """Play a scenario, and return the names of the calls that were made."""
    stage = Stage(fault)
    try:
        SCENARIOS[name](stage)
        stage.finish()
    finally:
        stage.leave()
    return stage.network.calls


def failure_of(name: str, fault: Fault) -> Exception | None:
    """Play a scenario with a fault, and return what went wrong."""
    try:
        play(name, fault)
    except Exception as exc:
        exc.add_note(f"in {name}: {fault}")
        return exc
    return None


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault_in_every_scenario_does_no_harm(name):
    calls = enumerate(play(name))
    faults = [Fault(call, index, errno) for index, call in calls for errno in ERRNOS[call]]
    failures = [failure for fault in faults if (failure := failure_of(name, fault)) is not None]
    if failures:
        report = "; ".join(failure.__notes__[-1] for failure in failures[:REPORTED])
        raise ExceptionGroup(
            f"{len(failures)} of {len(faults)} faults did harm: {report}", failures[:REPORTED]
        )


def test_every_call_that_can_fail_is_made_to_fail():
    assert {call for name in SCENARIOS for call in play(name)} == set(ERRNOS)
