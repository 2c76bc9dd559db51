"""Processes: the same command again, with a role that only it has, from where the shell was."""

import signal
import subprocess
import sys

import pytest

from reactor.deploy.process import Child
from tests.deploy.programs import ROOT
from tests.helpers import DEADLINE

#: Starts itself as a worker, which says what it is; a child of that one is none.
PROGRAM = """
import os, signal, subprocess, sys
from reactor.deploy.process import Child, HANDLED, is_child, take_role
if len(sys.argv) > 2:
    print("grandchild", take_role(), flush=True)
elif is_child():
    role = take_role()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print(role.kind, role.index, take_role(), os.getcwd(), blocked == HANDLED, flush=True)
    subprocess.run([*sys.orig_argv, "grandchild"])
    os.kill(os.getpid(), signal.SIGKILL)
else:
    os.chdir("/")
    child = Child.start("worker", 3)
    child.process.wait()
    print(child.end(), signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
"""


@pytest.mark.parametrize("linked", [False, True])
def test_child_runs_the_program_again_with_its_role(tmp_path, linked):
    (tmp_path / "one").mkdir()
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "one")
    where = current if linked else tmp_path / "one"
    (where / "program.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": str(ROOT), "PWD": str(where)}
    done = subprocess.run(
        [sys.executable, "program.py", "x"],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"worker 3 None {tmp_path}/one True",
        "grandchild None",
        "was killed by SIGKILL set()",
    ]


def test_restart_follows_a_link_that_leads_elsewhere_now(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "program.py").write_text(
            "import os\nfrom reactor.deploy.process import Child, is_child\n"
            "if is_child():\n"
            f"    print('{name}', flush=True)\n"
            "else:\n"
            "    os.remove('../current')\n"
            "    os.symlink('two', '../current')\n"
            "    Child.start('worker').process.wait()\n"
        )
    (tmp_path / "current").symlink_to("one")
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path / "current",
        env={"PYTHONPATH": str(ROOT), "PWD": str(tmp_path / "current")},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.stdout, done.stderr) == ("two\n", "")


class Ended:
    def __init__(self, status):
        self.status = status

    def poll(self):
        return self.status


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, None),
        (0, "exited with status 0"),
        (2, "exited with status 2"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGRTMIN - 1, f"was killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_end_is_said_in_words(status, text):
    assert Child(Ended(status), None).end() == text
