"""`python -m reactor` is the command line."""

import subprocess
import sys


def test_module_runs_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "reactor", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m reactor ")
    assert "serve" in done.stdout
    assert "connect" in done.stdout
