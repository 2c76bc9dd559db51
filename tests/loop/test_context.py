"""ContextExit: the end of a `with` block."""

import pytest

from reactor.loop.context import ContextExit


class Block(ContextExit):
    def __init__(self):
        self.left_with = []

    def __enter__(self):
        return self

    def _leave_block(self, exc):
        self.left_with.append(exc)


def test_block_that_ends_well_is_left_without_an_exception():
    with Block() as block:
        pass
    assert block.left_with == [None]


def test_exception_is_handed_on_and_not_swallowed():
    problem = ValueError("of the block")
    block = Block()
    with pytest.raises(ValueError, match="of the block"), block:
        raise problem
    assert block.left_with == [problem]


def test_class_without_an_end_can_t_be_made():
    with pytest.raises(TypeError, match="_leave_block"):
        ContextExit()
