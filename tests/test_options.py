"""Limits and timeouts: invalid values are refused by the constructor, by the field's name."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Timeouts

NOT_COUNTS = [0, -1, 1.5, True, "1", float("nan")]
NOT_SIZES = [-1, 1.5, True, "1"]
NOT_SECONDS = [0, -1, float("nan"), -float("inf"), -(10**400)]


COUNTS = ["max_connections", "max_per_ip", "accept_batch", "read_rate", "write_rate"]


@pytest.mark.parametrize("value", NOT_COUNTS)
@pytest.mark.parametrize("field", COUNTS)
def test_counts_must_be_positive_integers(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be a whole number of 1 or more, not"):
        Limits(**{field: value})


@pytest.mark.parametrize("value", NOT_SIZES)
@pytest.mark.parametrize("field", ["high_water", "low_water", "max_write_buffer"])
def test_sizes_must_be_integers_of_0_or_more(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be a whole number of bytes, 0 or more, not"):
        Limits(**{field: value})


def test_low_water_is_not_above_high_water():
    with pytest.raises(ValueError, match=r"^low_water \(2\) must not be above high_water \(1\)$"):
        Limits(low_water=2, high_water=1)


def test_high_water_is_not_above_max_write_buffer():
    with pytest.raises(ValueError, match=r"^high_water \(65536\) must not be above max_write_buffer \(10\)$"):
        Limits(max_write_buffer=10)


@pytest.mark.parametrize("value", ["", "wait", None, 1])
def test_when_full_is_hold_or_refuse(value):
    with pytest.raises(ValueError, match=f"^when_full must be 'hold' or 'refuse', not {value!r}$"):
        Limits(when_full=value)


@pytest.mark.parametrize("value", NOT_SECONDS)
@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Timeouts)])
def test_seconds_must_be_positive(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be (more than 0|a number of) seconds, not"):
        Timeouts(**{field: value})


@pytest.mark.parametrize("value", [True, "1", 1j])
@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Timeouts)])
def test_seconds_must_be_a_number(field, value):
    with pytest.raises(TypeError, match=f"^{field} must be a number of seconds, not {value!r}"):
        Timeouts(**{field: value})


@given(st.floats(min_value=0, exclude_min=True) | st.integers(1, 10**308))
def test_any_positive_number_of_seconds_is_accepted(seconds):
    assert Timeouts(idle=seconds).idle == seconds


def test_integer_beyond_floats_is_infinite():
    assert Timeouts(idle=10**400).idle == float("inf")


def test_none_means_no_limit():
    optional = ["max_connections", "max_per_ip", "max_write_buffer", "read_rate", "write_rate"]
    assert set(attrs.asdict(Limits(**dict.fromkeys(optional))).values()) == {"hold", 64, 65536, 16384, None}
    assert Timeouts(idle=None, read=None, write=None).write is None


@pytest.mark.parametrize("options", [Limits(), Timeouts()])
def test_options_are_values(options):
    assert options == type(options)()
    assert hash(options) == hash(type(options)())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options.close = 1
