"""What `attach` returns: a reactor that is driven by its host's loop, until it is detached."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from reactor.errors import UsageError
from reactor.options import seconds
from reactor.reactor import Reactor

__all__ = ["BUDGET", "Attached", "Attachment", "CallLater", "Watch", "check_attachable"]

#: Seconds of work after which the host has its turn.
BUDGET = 0.002

#: Has the host call back whenever a descriptor is readable; returns how to undo that.
Watch = Callable[[int, Callable[..., None]], Callable[[], object]]

#: Has the host call back in some seconds; returns how to undo that.
CallLater = Callable[[float, Callable[[], None]], Callable[[], object]]


def check_attachable(reactor: Reactor, budget: float) -> None:
    """Raise UsageError if a host drives `reactor` already, ValueError or TypeError if `budget` is no time."""
    seconds("budget", budget, zero=True)
    reactor.check_unattached()


class Attached(ABC):
    """A reactor that its host drives, until `detach`, the end of a `with` block, or the reactor's own end.

    budget: seconds of work after which the host has its turn, as `run_once` says.
    """

    def __init__(self, reactor: Reactor, budget: float) -> None:
        self._reactor = reactor
        self._budget = budget
        self._detached = False
        self._at_close = reactor.call_at_close(self.detach)
        reactor.host = threading.get_ident()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Let the host drive the reactor no more. More than once does nothing. On the host's thread.

        In a forked child nothing of the host's is touched, for its selector is the parent's.
        """
        if self._detached:
            return
        self._detached = True
        self._at_close.cancel()
        if not self._reactor.is_disowned():
            self._reactor.host = None
            self._let_go()

    @abstractmethod
    def _let_go(self) -> None: ...


class Attachment(Attached):
    """A reactor whose descriptor its host watches.

    watch, call_later: the host's. The second is used where `timers_in_fileno` says no.

        import asyncio
        from reactor import Reactor
        from reactor.embed.asyncio import attach

        async def main():
            with Reactor() as reactor:
                attachment = attach(reactor)
                attachment.detach()
                reactor.run_once()  # the program drives it again

        asyncio.run(main())
    """

    def __init__(self, reactor: Reactor, budget: float, watch: Watch, call_later: CallLater) -> None:
        check_attachable(reactor, budget)
        self._watch = watch
        self._call_later = None if reactor.timers_in_fileno() else call_later
        self._unwatch: Callable[[], object] | None = watch(reactor.fileno(), self._step)
        self._cancel_later: Callable[[], object] | None = None
        self._stepping = False
        super().__init__(reactor, budget)
        self._wait()

    def _step(self, *args: object) -> None:
        if self._stepping:
            # A callback of ours runs the host's loop, as a modal dialog does: until it has returned there is
            # nothing that could be done, and the descriptor would be readable all the time.
            self._let_go()
            return
        self._stepping = True
        try:
            self._reactor.run_once(0, self._budget)
        except UsageError:
            self.detach()  # somebody else drives it: told once, and not in every turn of the host's loop
            raise
        except BaseException:
            self._let_go()  # some hosts watch no more what raised; `_wait` begins anew
            raise
        finally:
            self._stepping = False
            if not self._detached:
                self._wait()

    def _wait(self) -> None:
        if self._unwatch is None:
            self._unwatch = self._watch(self._reactor.fileno(), self._step)
        if self._call_later is not None:
            if self._cancel_later is not None:
                self._cancel_later()
            wait = self._reactor.next_timeout()
            self._cancel_later = None if wait is None else self._call_later(wait, self._step)

    def _let_go(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        cancel_later, self._cancel_later = self._cancel_later, None
        for undo in (unwatch, cancel_later):
            if undo is not None:
                undo()
