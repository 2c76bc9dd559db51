"""Coroutine handlers: `async def handler(stream)`, driven by the reactor itself.

There is no task queue and no future. An `await` that has to wait yields the place where it waits (the
stream's input, the room in its queue, a point in time), the task is left there, and the event that ends
the wait resumes it straight from the loop: one resumption for each event.

What can be awaited in a task, which is a handler or what `Stream.start_soon` runs:

- the methods of its `Stream`, and of others of the same reactor; one task at a time reads from each;
- `connect(address)`: a `Stream` to somewhere else;
- what `Reactor.run_in_executor` and `submit` return; `wait(future)` for any `concurrent.futures.Future`;
- `Queue.put` and `get`, `Event.wait`;
- `gather` and `first`: several of all these at once;
- `async def` functions of these.

Each of these waits ends when the connection of the task ends, and when the time of a `with stream.timeout()`
is up. Awaitables of other loops, asyncio's for example, raise UsageError.
"""

from reactor.streams.group import first, gather
from reactor.streams.outgoing import Connecting, connect
from reactor.streams.stream import Handler, Stream, handler
from reactor.streams.sync import Event, Queue
from reactor.streams.task import wait

__all__ = [
    "Connecting",
    "Event",
    "Handler",
    "Queue",
    "Stream",
    "connect",
    "first",
    "gather",
    "handler",
    "wait",
]
