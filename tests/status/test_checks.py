"""Checks: what they answer, and what they are refused for."""

import pytest

from reactor import Reactor
from reactor.status import add_check
from reactor.status.checks import failures


def test_failed_checks_have_their_reasons(reactor):
    add_check(reactor, "disk", lambda: None)
    add_check(reactor, "backplane", lambda: "no peer")
    assert failures(reactor) == (["disk", "backplane"], {"backplane": "no peer"})
    with Reactor() as other:
        assert failures(other) == ([], {})


def test_later_check_of_the_same_name_replaces_it(reactor):
    add_check(reactor, "disk", lambda: "full")
    add_check(reactor, "disk", lambda: None)
    assert failures(reactor) == (["disk"], {})


def test_check_that_raises_has_failed(reactor):
    add_check(reactor, "disk", lambda: 1 / 0)
    assert failures(reactor)[1] == {"disk": "the check raised ZeroDivisionError: division by zero"}


@pytest.mark.parametrize(
    ("name", "check", "message"),
    [
        (1, print, "name must be of type str, not 1"),
        ("disk", "full", "check must be callable, not 'full'"),
        ("", print, "name must have 1 to 100 characters, not 0"),
        ("x" * 101, print, "name must have 1 to 100 characters, not 101"),
    ],
)
def test_invalid_arguments_are_refused(reactor, name, check, message):
    with pytest.raises((TypeError, ValueError), match=message):
        add_check(reactor, name, check)
