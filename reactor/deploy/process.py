"""Processes: run this program again, with a role in the deployment and a channel to the supervisor.

A process that forks goes on with the code that it has read. So a child is the same command, executed anew:
`sys.orig_argv` in the directory in which the program was started. Modules, certificates and this package
itself are read again, `setup` needs no name that could be imported, and what does not start harms nobody.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import attrs

from reactor.deploy.channel import Channel
from reactor.deploy.systemd import PRIVATE

__all__ = ["HANDLED", "Child", "Role", "is_child", "take_role"]

#: The environment variable with the role of a child.
_VARIABLE = "REACTOR_DEPLOY_ROLE"

#: The signals that a deployment handles. They are blocked in a child until it has its handlers.
HANDLED = frozenset({
    signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU
})  # fmt: skip


@attrs.frozen
class Role:
    """The part of a child in the deployment.

    kind: "worker" or "successor" (of the supervisor). fd: its end of the channel. index: of a worker.
    """

    kind: str
    fd: int
    index: int


def _starting_directory() -> str:
    """Return the current directory as the shell named it: a symbolic link in it may lead elsewhere later."""
    here = os.getcwd()
    named = os.environ.get("PWD", here)
    try:
        return named if os.path.samefile(named, here) else here
    except OSError:
        return here


_DIRECTORY = _starting_directory()
_ROLE = os.environ.pop(_VARIABLE, None)  # not for what this process starts itself


def is_child() -> bool:
    """Return whether a supervisor has started this process, and `take_role` has not been called."""
    return _ROLE is not None


def take_role() -> Role | None:
    """Return the role that this process was started with, once; None if it is no child of a supervisor."""
    global _ROLE
    text, _ROLE = _ROLE, None
    return None if text is None else Role(**json.loads(text))


@attrs.define(eq=False)
class Child:
    """A process that runs this program again.

    process: it. channel: the supervisor's end of the channel.
    """

    process: subprocess.Popen[bytes]
    channel: Channel

    @classmethod
    def start(cls, kind: str, index: int = 0) -> Child:
        """Run the program again. kind, index: its role. Raises OSError if the system allows no process."""
        channel, theirs = Channel.pair()
        role = Role(kind, theirs.fileno(), index)
        private = PRIVATE if kind == "worker" else ("LISTEN_PID", "WATCHDOG_PID")
        environment = {name: value for name, value in os.environ.items() if name not in private}
        environment[_VARIABLE] = json.dumps(attrs.asdict(role))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            process = subprocess.Popen(  # noqa: S603 - the command that runs already
                [sys.executable, *sys.orig_argv[1:]],
                env=environment,
                cwd=_DIRECTORY,
                pass_fds=[theirs.fileno()],
            )
        except OSError:
            channel.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(process, channel)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.process.pid

    def end(self) -> str | None:
        """Return how the process ended, for a message; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        if status >= 0:
            return f"exited with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"was killed by {name}"
