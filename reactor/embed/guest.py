"""The reactor in a loop that only accepts callbacks, from any thread.

A helper thread waits for `reactor.fileno()`; every callback runs on the host's thread. While there is work,
the next tick is scheduled on the host's loop at once, and the helper waits.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable
from queue import SimpleQueue

from reactor.embed.attachment import BUDGET, HostDriver
from reactor.errors import UsageError
from reactor.loop.wakeup import Wakeup
from reactor.options import check_callable
from reactor.reactor import Reactor

__all__ = ["Guest", "attach"]


def attach(
    reactor: Reactor,
    run_sync_soon_threadsafe: Callable[[Callable[[], None]], object],
    *,
    budget: float = BUDGET,
) -> Guest:
    """Drive `reactor` on the thread of a host that runs the callback of `run_sync_soon_threadsafe(callback)`.

    That is called on the host's thread and on another, and must not block. budget: seconds of work after
    which the host handles its other events. To be called on the host's thread.
    Raises UsageError if the reactor's selector has no descriptor, TypeError for what can't be called.

        from queue import SimpleQueue
        from reactor import Reactor
        from reactor.embed.guest import attach

        callbacks = SimpleQueue()
        with Reactor() as reactor, attach(reactor, callbacks.put):
            reactor.call_later(0.01, callbacks.put, None)
            while callback := callbacks.get():  # the host's loop
                callback()
    """
    check_callable("run_sync_soon_threadsafe", run_sync_soon_threadsafe)
    return Guest(reactor, run_sync_soon_threadsafe, budget)


class Guest(HostDriver):
    """A reactor that its host drives by callbacks, which a helper thread schedules.

    from queue import SimpleQueue
    from reactor import Reactor
    from reactor.embed.guest import attach

    callbacks = SimpleQueue()
    with Reactor() as reactor:
        guest = attach(reactor, callbacks.put)
        callbacks.get()()  # the host's loop
        guest.detach()
    """

    def __init__(
        self, reactor: Reactor, run_soon: Callable[[Callable[[], None]], object], budget: float
    ) -> None:
        self._run_soon = run_soon
        self._waits: SimpleQueue[float | None] = SimpleQueue()
        super().__init__(reactor, budget)

    def _begin(self) -> None:
        watched = self._reactor.fileno()
        self._shows_timers = self._reactor.timers_in_fileno()
        self._wakeup = Wakeup(lambda handle: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(watched, selectors.EVENT_READ)
        self._selector.register(self._wakeup.fileno(), selectors.EVENT_READ)
        self._helper = threading.Thread(target=self._help, name="reactor-guest", daemon=True)
        self._helper.start()
        self._run_soon(self._step)

    def _end(self) -> None:
        self._wakeup.wake()
        self._waits.put(None)
        self._helper.join()
        self._selector.close()
        self._wakeup.close()

    def _step(self) -> None:
        if self._detached:
            return
        busy = 1  # an interrupt may leave something to do
        try:
            busy = self._reactor.run_once(0, self._budget)
        except UsageError:
            self.detach()  # something else drives it
            raise
        finally:
            self._go_on(busy)

    def _go_on(self, busy: int) -> None:
        if self._detached:
            return
        if busy:
            self._run_soon(self._step)
        else:
            self._waits.put(None if self._shows_timers else self._reactor.next_timeout())

    def _help(self) -> None:
        while True:
            wait = self._waits.get()
            if self._detached:
                return
            self._selector.select(wait)
            if self._detached:
                return
            self._run_soon(self._step)
