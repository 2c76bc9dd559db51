"""Checks of arguments: what can't be meant is refused at the call, by the parameter's name."""

from __future__ import annotations

import math

__all__ = ["number", "seconds"]


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
