"""Every call that can fail, in every scenario, fails once with each error that it can give."""

from __future__ import annotations

import functools

import pytest

from tests.torture.faults import ERRNOS, Fault
from tests.torture.scenarios import SCENARIOS
from tests.torture.stage import Stage


def play(name: str, fault: Fault | None = None) -> list[str]:
    """Play a scenario, and return the names of the calls that were made."""
    stage = Stage(fault)
    try:
        SCENARIOS[name](stage)
        stage.finish()
    finally:
        stage.leave()
    return stage.network.calls


@functools.cache
def calls_of(name: str) -> tuple[str, ...]:
    return tuple(play(name))


def faults_of(name: str, call: str) -> list[Fault]:
    indices = [index for index, made in enumerate(calls_of(name)) if made == call]
    return [Fault(call, index, errno) for index in indices for errno in ERRNOS[call]]


CASES = [(name, call) for name in SCENARIOS for call in sorted(set(calls_of(name)))]


@pytest.mark.parametrize(("name", "call"), CASES)
def test_torture(name, call):
    for fault in faults_of(name, call):
        try:
            play(name, fault)
        except BaseException as exc:
            exc.add_note(f"in {name}: {fault}")
            raise


def test_every_call_that_can_fail_did():
    assert {call for _, call in CASES} == set(ERRNOS)
