"""The reactor in the loop of asyncio, uvloop or a notebook; calls between coroutines and the reactor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from reactor.embed.attachment import BUDGET, Attachment
from reactor.errors import UsageError
from reactor.reactor import Reactor

__all__ = ["attach", "call", "complete"]

T = TypeVar("T")
P = ParamSpec("P")


def attach(
    reactor: Reactor, loop: asyncio.AbstractEventLoop | None = None, *, budget: float = BUDGET
) -> Attachment:
    """Make `loop` drive `reactor`, on the loop's thread; None takes the running one.

    budget: seconds of work after which the loop handles its other events.
    Raises UsageError for a loop that can't watch descriptors, as the Proactor loop of Windows.

        import asyncio
        from reactor import Reactor
        from reactor.embed.asyncio import attach

        async def main():
            ended = asyncio.Event()
            with Reactor() as reactor, attach(reactor):
                reactor.call_later(0.01, ended.set)
                await ended.wait()

        asyncio.run(main())
    """
    host = asyncio.get_running_loop() if loop is None else loop

    def watch(fd: int, callback: Callable[..., None]) -> Callable[[], object]:
        try:
            host.add_reader(fd, callback)
        except NotImplementedError:
            raise UsageError(f"{host} can't watch descriptors: use reactor.embed.guest") from None
        return lambda: host.remove_reader(fd)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        return host.call_later(delay, callback).cancel

    return Attachment(reactor, budget, watch, call_later)


async def call(reactor: Reactor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `fn(*args, **kwargs)` on the thread that drives `reactor`, whichever that is; return its result.

    Awaited in asyncio's loop, on any thread. Raises what `fn` raises, CancelledError if the reactor is closed
    before `fn` runs, and UsageError if it is closed already.
    """
    return await asyncio.wrap_future(reactor.submit(fn, *args, **kwargs))


def complete(future: asyncio.Future[T], result: T | BaseException) -> None:
    """Set the result of `future`, from any thread; do nothing if it is done.

    For callbacks of a reactor. result: the value, or an exception for the future to raise.
    """
    future.get_loop().call_soon_threadsafe(_complete, future, result)


def _complete(future: asyncio.Future[Any], result: object) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
