"""The package: its public names, and what importing it costs."""

import subprocess
import sys

import reactor


def test_public_names_are_there_and_sorted():
    assert reactor.__all__ == sorted(reactor.__all__)
    assert all(hasattr(reactor, name) for name in reactor.__all__)


def test_import_takes_nothing_but_attrs_and_the_standard_library():
    program = "import sys, reactor; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"reactor", "attr", "attrs"}
    # What the environment itself loads at start, by .pth files, is there without the import as well.
    bare = subprocess.run(
        [sys.executable, "-c", program.replace(", reactor", "")], capture_output=True, text=True, check=True
    )
    assert foreign - set(bare.stdout.split()) == set()
    assert "asyncio" not in done.stdout.split()


def test_import_loads_nothing_that_only_the_command_line_needs():
    program = "import sys, reactor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "reactor.loop.log" in loaded
    assert loaded & {"argparse", "logging.handlers", "reactor.cli", "reactor.apps"} == set()
