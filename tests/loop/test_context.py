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


def test_block_without_an_exception_calls_exit_with_none():
    with Block() as block:
        pass
    assert block.left_with == [None]


def test_exception_is_passed_on_and_not_suppressed():
    problem = ValueError("of the block")
    block = Block()
    with pytest.raises(ValueError, match="of the block"), block:
        raise problem
    assert block.left_with == [problem]


def test_class_without_the_method_is_abstract():
    with pytest.raises(TypeError, match="_leave_block"):
        ContextExit()
