"""The token bucket: it allows no more than its rate, and always something after its wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.connection.rates import TokenBucket


@given(
    rate=st.integers(1, 10**7),
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_bucket_allows_the_rate_and_one_second_s_worth(rate, steps):
    now = start = 1000.0
    bucket = TokenBucket(rate, now)
    passed = 0
    for seconds, part in steps:
        now += seconds
        nbytes = int(bucket.available(now) * part)
        bucket.take(nbytes)
        passed += nbytes
        assert passed <= rate * (now - start + 1) + 1e-6 * passed
        assert 0 <= bucket.wait() <= 1


@given(rate=st.integers(1, 10**7))
def test_bucket_allows_something_after_its_wait(rate):
    bucket = TokenBucket(rate, 0.0)
    bucket.take(bucket.available(0.0))
    assert bucket.available(0.0) == 0
    assert bucket.wait() == pytest.approx(max(0.1, 1 / rate))
    assert bucket.available(bucket.wait() + 1e-6) >= max(1, rate // 10 - 1)


@given(rate=st.integers(1, 10**7), too_many=st.integers(1, 10**8))
def test_overdraft_is_subtracted_from_later_allowances(rate, too_many):
    bucket = TokenBucket(rate, 0.0)
    assert bucket.wait() == 0
    bucket.take(rate + too_many)
    assert bucket.available(0.0) == 0
    assert bucket.wait() * rate == pytest.approx(max(rate / 1000, too_many + max(1, rate / 10)))


@given(rate=st.integers(1, 1000), start=st.floats(0, 10**6))
def test_waits_come_to_an_end_however_the_clock_rounds(rate, start):
    now, bucket = start, TokenBucket(rate, start)
    for _ in range(20):
        bucket.take(bucket.available(now))
        now += bucket.wait()
        if not bucket.available(now):
            now += bucket.wait()
        assert bucket.available(now)
