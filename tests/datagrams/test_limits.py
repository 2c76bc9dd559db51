"""The limits of an endpoint, and the meter of client prefixes beside a model."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.datagrams import DatagramLimits
from reactor.datagrams.limits import PREFIXES, PrefixMeter


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ValueError, "batch must be a whole number of 1 or more, not 0"),
        ({"high_water": -1}, ValueError, "high_water must be a whole number of bytes, 0 or more, not -1"),
        ({"queue_timeout": 0}, ValueError, "queue_timeout must be more than 0 seconds, not 0"),
        ({"queue_timeout": None}, TypeError, "queue_timeout must be a number of seconds, not None"),
        ({"prefix_bytes": 1.5}, ValueError, "prefix_bytes must be a whole number of 1 or more, not 1.5"),
        ({"low_water": 100_000}, ValueError, r"low_water \(100000\) must not be above high_water"),
        ({"max_queued_bytes": 10}, ValueError, r"high_water \(65536\) must not be above max_queued_bytes"),
    ],
)
def test_invalid_limits_are_named(options, error, message):
    with pytest.raises(error, match=message):
        DatagramLimits(**options)


ADDRESSES = {
    ("192.0.2.1", 1): "a",
    ("192.0.2.1", 2): "a",
    ("192.0.2.2", 1): "b",
    ("::ffff:192.0.2.1", 1, 0, 0): "a",
    ("2001:db8::1", 1, 0, 0): "c",
    ("2001:db8::2", 1, 0, 0): "c",
    ("2001:db8:0:1::1", 1, 0, 0): "d",
}


@given(
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 100),
    st.lists(st.tuples(st.sampled_from(list(ADDRESSES)), st.integers(0, 60), st.floats(0, 0.3))),
)
def test_meter_agrees_with_a_model(datagrams, nbytes, arrivals):
    meter, now, begun = PrefixMeter(datagrams, nbytes, 0.0), 0.0, 0.0
    numbers, sizes = Counter(), Counter()
    for address, size, later in arrivals:
        now += later
        if now >= begun + 1:
            numbers, sizes, begun = Counter(), Counter(), now
        prefix = ADDRESSES[address]
        fits = (datagrams is None or numbers[prefix] < datagrams) and (
            nbytes is None or sizes[prefix] + size <= nbytes
        )
        assert meter.admits(address, size, now) is fits
        numbers[prefix] += fits
        sizes[prefix] += size * fits


@pytest.mark.parametrize("address", [None, "/a/path", b"\0abstract"])
def test_unix_sockets_are_not_counted(address):
    meter = PrefixMeter(1, 1, 0.0)
    assert [meter.admits(address, 100, 0.0) for _ in range(3)] == [True] * 3


def test_forged_addresses_beyond_the_table_share_one_count():
    meter = PrefixMeter(2, None, 0.0, prefixes=3)
    known = [(f"192.0.2.{number}", 1) for number in range(3)]
    assert all(meter.admits(address, 1, 0.0) for address in known)
    forged = [meter.admits((f"198.51.100.{number}", 1), 1, 0.0) for number in range(10)]
    assert forged == [True, True] + [False] * 8
    assert all(meter.admits(address, 1, 0.0) for address in known)
    assert meter.admits(("198.51.100.9", 1), 1, 1.0)
    assert PREFIXES > 3
