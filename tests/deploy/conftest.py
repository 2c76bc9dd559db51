"""Fixtures of the tests of supervisors and workers."""

import pytest

from reactor.deploy.channel import Channel


@pytest.fixture
def ends(descriptors):
    """The two ends of a channel."""
    ends = Channel.pair()
    yield ends
    for end in ends:
        end.close()
