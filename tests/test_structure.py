"""The house: every module has a test file of its own, and the top level holds what it should."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_module_has_its_test_file():
    modules = {path.stem.strip("_") for path in (ROOT / "reactor").iterdir() if path.suffix == ".py"}
    packages = {path.parent.name for path in (ROOT / "reactor").glob("*/__init__.py")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert (modules | packages) - tests == set()


def test_top_level_is_what_the_readme_promises():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # an unpacked release, not a checkout
        names = {path.name for path in ROOT.iterdir()}
        assert {"pyproject.toml", "README.md", "reactor", "tests", "bench", "tox.ini"} <= names
        return
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert names == {
        ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md",
        "bench", "pyproject.toml", "reactor", "tests", "tox.ini",
    }  # fmt: skip
