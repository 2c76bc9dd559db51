"""Standard input and output as descriptors; how `connect` uses them is in its own tests."""

import os

import pytest

from reactor.cli.arguments import CommandFailed
from reactor.cli.terminal import write_output


def test_output_that_fails_is_told_in_one_line():
    before = os.dup(1)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    try:
        with pytest.raises(CommandFailed, match="cannot write to standard output: No space left on device"):
            write_output(b"x")
    finally:
        os.dup2(before, 1)
        os.close(full)
        os.close(before)
