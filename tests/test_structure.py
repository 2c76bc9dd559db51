"""The tree: every module has a test file of its own, and the top level has the documented files."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


#: Test files that are not of one module: of several together, of a whole program, or of the project.
ACROSS = {
    "apps": {"test_chat_nodes"},
    "backplane": {"test_machine", "test_redis_server"},
    "compat": {"test_asyncore_programs", "test_stdlib"},
    "connecting": {"test_connector_tls", "test_reconnect"},
    "connection": {
        "test_asyncio_protocol", "test_callbacks_that_end", "test_chunks", "test_deadline_monitor",
        "test_faults", "test_machine",
        "test_start_tls", "test_tls_certificates", "test_tls_closing", "test_tls_limits",
    },
    "datagrams": {
        "test_asyncio_protocol", "test_examples", "test_hosts", "test_interrupts", "test_machine",
    },
    "deploy": {
        "test_datagrams", "test_handover_processes", "test_haproxy", "test_interrupts", "test_killed",
        "test_live", "test_nginx",
    },
    "http": {"test_browser"},
    "loop": {"test_fork"},
    "status": {"test_browser"},
    "streams": {"test_together"},
    "": {
        "test_arguments", "test_conftest", "test_docstrings", "test_init", "test_interrupts",
        "test_interrupts_calls", "test_packaging", "test_pool_tls", "test_promises", "test_readme",
        "test_seeds", "test_structure", "test_typing",
    },
}  # fmt: skip

#: Packages of small modules, which are tested together in a file of the package's name.
TOGETHER = {"apps", "embed", "framing", "streams", "testing"}


def stems(folder, pattern="*.py"):
    return {path.stem for path in folder.glob(pattern)} - {"__init__"}


def packages():
    return ["", *(path.parent.name for path in sorted((ROOT / "reactor").glob("*/__init__.py")))]


@pytest.mark.parametrize("package", packages())
def test_tests_mirror_the_tree(package):
    modules = {f"test_{stem.strip('_')}" for stem in stems(ROOT / "reactor" / package)}
    whole = {f"test_{package}"} if package in TOGETHER else set()
    tests = stems(ROOT / "tests" / package, "test_*.py")
    assert tests - modules - whole == ACROSS.get(package, set())
    assert (whole or modules) - tests == set()


def test_top_level_of_the_repository_has_the_documented_files():
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
