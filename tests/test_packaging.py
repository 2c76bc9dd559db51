"""The package's metadata: its classifiers are what is tested, and each hint names an extra that exists."""

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def classifiers(prefix):
    return {name.removeprefix(prefix) for name in PROJECT["classifiers"] if name.startswith(prefix)}


def test_classified_versions_are_those_that_tox_tests():
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    tested = re.findall(r"\bpy3(\d+)\b", tox["tox"]["env_list"])
    assert classifiers("Programming Language :: Python :: 3.") == set(tested)
    assert PROJECT["requires-python"] == f">=3.{min(tested, key=int)}"


def test_classified_platform_is_the_tested_one():
    assert classifiers("Operating System :: ") == {"POSIX :: Linux"}
    assert classifiers("Programming Language :: Python :: Implementation :: ") == {"CPython"}


def hinted(folder):
    """Return the (what is installed, extra) pairs of the pip commands in the sources of `folder`."""
    texts = [path.read_text() for path in (ROOT / folder).rglob("*.py")]
    return {pair for text in texts for pair in re.findall(r"pip install (?:-e )?'([\w.-]+)\[(.+?)\]'", text)}


def test_hints_name_this_project_or_its_checkout():
    assert hinted("reactor") == {(PROJECT["name"], "{extra}"), (".", "{extra}")}


def test_hint_of_the_benchmarks_names_the_checkout():
    """The wheel has no benchmarks."""
    assert hinted("bench") == {(".", "bench")}
    assert "bench" in PROJECT["optional-dependencies"]


def test_host_modules_have_an_extra_of_their_name():
    named = {
        extra
        for path in (ROOT / "reactor" / "embed").glob("*.py")
        for extra in re.findall(r'missing_package\("reactor.embed.(\w+)"', path.read_text())
    }
    assert named == {"glib", "qt", "trio", "twisted"}
    assert named <= set(PROJECT["optional-dependencies"])


def test_benchmark_without_its_packages_is_one_line_with_the_command_that_installs_them():
    program = (
        "import sys; sys.modules['rich'] = None; from bench.__main__ import main; sys.exit(main(['echo']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "python -m bench: rich is missing: run pip install -e '.[bench]' in the directory that holds bench/\n"
    )
