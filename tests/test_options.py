"""Limits and timeouts: invalid values are refused by the constructor, by the field's name."""

import ipaddress
import math
import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, ProxyProtocol, Timeouts

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


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        ([], "trusted must name the proxies"),
        (
            ["10.0.0.1/8"],
            "trusted has '10.0.0.1/8', which is neither a network nor 'unix:': 10.0.0.1",
        ),
        (["example.org"], "trusted has 'example.org', which is neither a network nor 'unix:'"),
        ([10], "trusted has 10, which is neither a network nor 'unix:'"),
        (["unix:/run/s"], "trusted has 'unix:/run/s', which is neither a network nor 'unix:'"),
    ],
)
def test_value_that_is_no_network_is_refused_in_one_line(trusted, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        ProxyProtocol(trusted=trusted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trusted", ["10.0.0.0/8", 5, None])
def test_networks_must_be_a_sequence(trusted):
    with pytest.raises(TypeError, match=r"^trusted must be a sequence of networks, not"):
        ProxyProtocol(trusted=trusted)


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_timeout_of_a_header_must_be_positive(timeout):
    with pytest.raises(ValueError, match=r"^timeout must be (more than 0|a number of) seconds"):
        ProxyProtocol(trusted=["unix:"], timeout=timeout)


@pytest.mark.parametrize(
    ("sockaddr", "trusted"),
    [
        (("10.1.2.3", 5), True),
        (("11.1.2.3", 5), False),
        (("::ffff:10.1.2.3", 5, 0, 0), True),
        (("2001:db8::7", 5, 0, 0), True),
        (("2001:db8::8", 5, 0, 0), False),
        (("fe80::1%lo", 5, 0, 1), True),
        ("/run/s", False),
        ("", False),
    ],
)
def test_proxies_are_trusted_by_network(sockaddr, trusted):
    proxies = ProxyProtocol(trusted=["10.0.0.0/8", ipaddress.ip_address("2001:db8::7"), "fe80::/10"])
    assert proxies.trusts(sockaddr) is trusted
    mapped = ProxyProtocol(trusted=["::ffff:10.1.2.3"])  # as a log shows it
    assert mapped.trusts(sockaddr) is (sockaddr[:1] == ("::ffff:10.1.2.3",))
    assert ProxyProtocol(trusted=["unix:"]).trusts(sockaddr) is isinstance(sockaddr, str)
