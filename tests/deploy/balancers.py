"""Shared by the tests of HAProxy and of nginx: the configuration in the README, and started processes."""

import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import DEADLINE

README = Path(__file__).parent.parent.parent / "reactor" / "deploy" / "README.md"


def documented(language, replacements, number=0):
    """Return a configuration of the README, with other values in the places of its addresses and files.

    number: which of those in that language.
    """
    text = re.findall(
        rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )[number]
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{old} is not in the README's configuration once"
        text = text.replace(old, str(new))
    return text


@contextmanager
def processes():
    """Yield a function that starts a process; at the end each must still run, and is ended."""
    started = []

    def start(words, **options):
        started.append(subprocess.Popen(words, stderr=subprocess.PIPE, **options))

    yield start
    for process in started:
        ended = process.poll()
        process.terminate()
        _, output = process.communicate(timeout=DEADLINE)
        assert ended is None, output.decode()
