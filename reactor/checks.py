"""Checks of arguments: what can't be meant is refused at the call, by the parameter's name."""

from __future__ import annotations

import math

__all__ = ["check_callable", "check_type", "number", "seconds"]


def check_callable(name: str, value: object, *, optional: bool = False) -> None:
    """Raise TypeError, naming the parameter, if `value` can't be called; `optional`: nor is None."""
    if not (callable(value) or (optional and value is None)):
        raise TypeError(f"{name} must be callable{' or None' if optional else ''}, not {value!r}")


def check_type(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    """Raise TypeError, naming the parameter, if `value` is no `kind`; `optional`: nor None."""
    if not (isinstance(value, kind) or (optional and value is None)):
        raise TypeError(
            f"{name} must be of type {kind.__name__}{' or None' if optional else ''}, not {value!r}"
        )


def number(name: str, value: object) -> float:
    """Return `value`, an int or a float, as a number that a float can be added to.

    An int beyond all floats becomes infinity. Raises TypeError for what is no number, a bool included, and
    ValueError for NaN; both name the parameter, `name`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if value != value:  # noqa: PLR0124 - NaN alone
        raise ValueError(f"{name} must be a number of seconds, not nan")
    try:
        float(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)
    return value


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return `value`, a duration in seconds; infinity stands for no deadline.

    zero: whether 0 can be meant. Raises TypeError and ValueError as `number` does, the latter for a negative
    duration too.
    """
    duration = number(name, value)
    if duration < 0 or not (duration or zero):
        least = "0 seconds or more" if zero else "more than 0 seconds"
        raise ValueError(f"{name} must be {least}, not {value!r}")
    return duration
