"""Host drivers: what `attach` returns. The host's loop drives the reactor until it is detached."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Self

from reactor.errors import UsageError
from reactor.loop.context import ContextExit
from reactor.options import seconds
from reactor.reactor import Reactor

__all__ = ["BUDGET", "Attachment", "CallLater", "HostDriver", "Watch"]

#: Seconds of work after which the host handles its other events.
BUDGET = 0.002

#: Makes the host call a function whenever a descriptor is readable; returns a function that undoes it.
Watch = Callable[[int, Callable[..., None]], Callable[[], object]]

#: Makes the host call a function in some seconds; returns a function that undoes it.
CallLater = Callable[[float, Callable[[], None]], Callable[[], object]]


class HostDriver(ContextExit):
    """A reactor that its host drives, until `detach`, the end of a `with` block, or the reactor's own end.

    budget: seconds of work after which the host handles its other events, as for `run_once`.
    """

    def __init__(self, reactor: Reactor, budget: float) -> None:
        self._reactor = reactor
        self._budget = seconds("budget", budget, zero=True)
        self._detached = False
        reactor.attach_host(self.detach)
        try:
            self._begin()
        except BaseException:
            reactor.detach_host()
            raise

    def __enter__(self) -> Self:
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        self.detach()

    def detach(self) -> None:
        """End the host's driving of the reactor. More than once does nothing. On the host's thread.

        In a forked child the host is not changed: its selector is the parent's too.
        """
        if self._detached:
            return
        self._detached = True
        if self._reactor.detach_host():
            self._end()

    @abstractmethod
    def _begin(self) -> None:
        """Make the host call `run_once`. The reactor is attached."""

    @abstractmethod
    def _end(self) -> None:
        """Undo `_begin`."""


class Attachment(HostDriver):
    """A reactor whose descriptor its host watches.

    watch, call_later: the host's. The second is used where `timers_in_fileno` returns False.

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
        self._watch = watch
        self._host_call_later = call_later
        self._call_later: CallLater | None = None
        self._unwatch: Callable[[], object] | None = None
        self._cancel_later: Callable[[], object] | None = None
        self._stepping = False
        super().__init__(reactor, budget)

    def _begin(self) -> None:
        if not self._reactor.timers_in_fileno():
            self._call_later = self._host_call_later
        self._wait()

    def _step(self, *args: object) -> None:
        if self._stepping:
            # A callback of ours runs the host's loop, as a modal dialog does: until it has returned nothing
            # can be done, and the descriptor would be readable all the time.
            self._end()
            return
        self._stepping = True
        try:
            self._reactor.run_once(0, self._budget)
        except UsageError:
            self.detach()  # something else drives it: an error once, and not in every tick of the host's loop
            raise
        except BaseException:
            self._end()  # some hosts drop a callback that raised; `_wait` registers it again
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

    def _end(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        cancel_later, self._cancel_later = self._cancel_later, None
        for undo in (unwatch, cancel_later):
            if undo is not None:
                undo()
