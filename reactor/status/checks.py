"""Checks: what a program adds to a process's readiness, as a backplane that has lost its peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

from reactor.options import check_callable, check_type
from reactor.reactor import Reactor

__all__ = ["Check", "Checks", "add_check", "failures"]

#: Returns None, or why the process is not ready.
Check = Callable[[], "str | None"]

#: Checks by name.
Checks = Mapping[str, Check]

_checks: WeakKeyDictionary[Reactor, dict[str, Check]] = WeakKeyDictionary()


def add_check(reactor: Reactor, name: str, check: Check) -> None:
    """Make the readiness of this process depend on `check()`: None, or the reason why it is not ready.

    name: of what is checked, as "backplane"; another check of the same name replaces it. It is called on the
    thread that drives `reactor`, once a second while the status page is looked at, and must not block.
    In a worker of a `Supervisor`, call it in `setup`. Raises TypeError for arguments of the wrong type,
    ValueError for a name that is empty or longer than 100 characters.

    >>> with Reactor() as reactor:
    ...     add_check(reactor, "backplane", lambda: "no peer has answered for 5 s")
    """
    check_type("name", name, str)
    check_callable("check", check)
    if not 0 < len(name) <= 100:
        raise ValueError(f"name must have 1 to 100 characters, not {len(name)}")
    _checks.setdefault(reactor, {})[name] = check


def failures(reactor: Reactor) -> tuple[list[str], dict[str, str]]:
    """Call the checks; return the names of all, and the reasons of those that failed.

    A check that raises has failed, with the exception as its reason.
    """
    checks = _checks.get(reactor, {})
    answers = {name: _ask(check) for name, check in checks.items()}
    return list(checks), {name: answer for name, answer in answers.items() if answer is not None}


def _ask(check: Check) -> str | None:
    try:
        answer = check()
    except Exception as exc:
        return f"the check raised {type(exc).__name__}: {exc}"
    return answer if answer is None else str(answer)
