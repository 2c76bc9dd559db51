"""The reactor in a trio task."""

from __future__ import annotations

import math

from reactor.embed.attachment import BUDGET
from reactor.errors import missing_package
from reactor.options import seconds
from reactor.reactor import Reactor

try:
    import trio
except ImportError as exc:
    raise missing_package("reactor.embed.trio", "trio", "trio") from exc

__all__ = ["run"]


async def run(
    reactor: Reactor,
    *,
    budget: float = BUDGET,
    task_status: trio.TaskStatus[Reactor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Drive `reactor` until it is closed or this is cancelled: `nursery.start_soon(run, reactor)`.

    budget: seconds of work after which other tasks run. task_status: for `nursery.start`, which
    gets the reactor.

        import trio
        from reactor import Reactor
        from reactor.embed.trio import run

        async def main():
            with Reactor() as reactor:
                reactor.call_later(0.01, reactor.close)
                await run(reactor)

        trio.run(main)
    """
    seconds("budget", budget, zero=True)
    fd = reactor.fileno()
    reactor.attach_host(lambda: trio.lowlevel.notify_closing(fd))
    try:
        shows_timers = reactor.timers_in_fileno()
        task_status.started(reactor)
        while not reactor.is_closed():
            wait = None if shows_timers else reactor.next_timeout()
            with trio.move_on_after(math.inf if wait is None else wait):
                await trio.lowlevel.wait_readable(fd)
            reactor.run_once(0, budget)
    except trio.ClosedResourceError:
        pass  # by `notify_closing`
    finally:
        reactor.detach_host()
