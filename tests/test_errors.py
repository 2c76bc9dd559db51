"""Errors: each is caught as our type and as the built-in type that programs know."""

import errno

import pytest

from reactor import errors


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.UsageError, RuntimeError),
        (errors.AddressError, ValueError),
        (errors.ListenError, OSError),
        (errors.ConnectError, ConnectionError),
        (errors.ConnectTimeout, TimeoutError),
        (errors.ConnectTimeout, errors.ConnectError),
        (errors.ConnectionAborted, ConnectionAbortedError),
        (errors.IdleTimeout, TimeoutError),
        (errors.CloseTimeout, TimeoutError),
    ],
)
def test_error_is_a_reactor_error_and_a_built_in_error(ours, builtin):
    made = ours("what happened")
    assert isinstance(made, errors.ReactorError)
    assert isinstance(made, builtin)
    assert str(made) == "what happened"


def test_connect_error_keeps_its_attempts():
    attempts = (("127.0.0.1:1", OSError("no")),)
    assert errors.ConnectError("failed", attempts).attempts == attempts


def test_accept_errors_are_either_ignored_or_backed_off():
    assert errno.ECONNABORTED in errors.ACCEPT_AGAIN
    assert errno.EMFILE in errors.ACCEPT_EXHAUSTED
    assert not errors.ACCEPT_AGAIN & errors.ACCEPT_EXHAUSTED
    assert errno.EAGAIN not in errors.ACCEPT_AGAIN | errors.ACCEPT_EXHAUSTED
