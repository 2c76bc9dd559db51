"""The README: every Python block runs as printed, and its commands are the ones that CI runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_block_runs_as_printed(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_there_is_an_embedding_example():
    assert "run_once" in BLOCKS[0]


def test_ci_runs_the_test_command_that_the_readme_gives():
    commands = re.findall(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)
    assert commands[1] == "sh tests/run"
    assert "sh tests\\/run" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
