"""Lifetime: the checks of a loop that is being closed, is closed, or is a forked child's copy."""

import os

import pytest

from reactor import UsageError
from reactor.loop.lifetime import Lifetime


def refusals(lifetime):
    """Return the messages of the three checks, None for one that passes."""
    messages = []
    for check in (lifetime.check_process, lifetime.check_open, lifetime.check_lasting):
        try:
            check()
        except UsageError as exc:
            messages.append(str(exc))
        else:
            messages.append(None)
    return messages


CLOSING = "the reactor is being closed: make a new one"
CLOSED = "the reactor is closed: make a new one"


@pytest.mark.parametrize(
    ("closing", "closed", "expected"),
    [
        (False, False, [None, None, None]),
        (True, False, [None, None, CLOSING]),
        (True, True, [None, CLOSED, CLOSED]),
    ],
)
def test_closing_loop_refuses_only_what_would_outlive_it(closing, closed, expected):
    lifetime = Lifetime()
    lifetime.closing, lifetime.closed = closing, closed
    assert refusals(lifetime) == expected


@pytest.mark.parametrize("closed", [False, True])
def test_every_check_fails_in_a_child(closed):
    lifetime = Lifetime()
    lifetime.forked, lifetime.closed = True, closed
    foreign = f"the reactor belongs to process {os.getpid()}, and this is a child of it: make a new one"
    assert refusals(lifetime) == [foreign] * 3
