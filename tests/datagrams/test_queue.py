"""The send queue, beside a list."""

from hypothesis import given
from hypothesis import strategies as st

from reactor.datagrams.queue import RUN_BYTES, SEGMENTS, SendQueue

DATAGRAMS = st.lists(
    st.tuples(st.sampled_from([b"", b"a", b"bb", bytes(700), bytes(30_000)]), st.integers(1, 2)), max_size=150
)


def fill(datagrams):
    queue = SendQueue()
    for due, (data, address) in enumerate(datagrams):
        queue.append(data, address, float(due))
    return queue


@given(DATAGRAMS)
def test_runs_are_all_there_is_in_order(datagrams):
    queue, sent = fill(datagrams), []
    while queue:
        address, run = queue.first()[1], queue.run()
        assert 1 <= len(run) <= SEGMENTS
        assert len(run) == 1 or sum(map(len, run)) <= RUN_BYTES
        assert {len(data) for data in run[:-1]} <= {len(run[0])}
        assert len(run) == 1 or 0 < len(run[-1]) <= len(run[0])
        sent += [(data, address) for data in run]
        queue.remove(len(run))
        assert queue.size == sum(len(data) for data, _ in datagrams[len(sent) :])
    assert sent == datagrams


@given(DATAGRAMS, st.floats(0, 200))
def test_late_datagrams_are_removed_from_the_front(datagrams, now):
    queue = fill(datagrams)
    late = sum(due <= now for due in range(len(datagrams)))
    assert queue.remove_due(now) == late
    assert len(queue) == len(datagrams) - late
    assert queue.clear() == len(datagrams) - late
    assert (len(queue), queue.size) == (0, 0)
