"""`Lifetime`: whether a loop is open, and the checks with which its methods begin."""

from __future__ import annotations

import os

import attrs

from reactor.errors import UsageError

__all__ = ["Lifetime"]


@attrs.define(eq=False, repr=False)
class Lifetime:
    """The state of a loop: open, being closed or closed, and whether this is a forked child's copy."""

    #: `close` has begun: nothing is added that it would have to end.
    closing: bool = attrs.field(default=False, init=False)
    #: `close` is complete.
    closed: bool = attrs.field(default=False, init=False)
    #: This is a copy in a forked child: its kernel objects are the parent's too.
    forked: bool = attrs.field(default=False, init=False)

    _pid: int = attrs.field(factory=os.getpid, init=False)

    def check_process(self) -> None:
        """Raise UsageError in a forked child of the process that made the loop."""
        if self.forked:
            raise UsageError(
                f"the reactor belongs to process {self._pid}, and this is a child of it: make a new one"
            )

    def check_open(self) -> None:
        """Raise UsageError if the loop is closed, or in a forked child."""
        if self.closed or self.forked:
            self.check_process()
            raise UsageError("the reactor is closed: make a new one")

    def check_lasting(self) -> None:
        """Raise UsageError if an object made now would outlive the loop, which is closed or being closed."""
        self.check_open()
        if self.closing:
            raise UsageError("the reactor is being closed: make a new one")
