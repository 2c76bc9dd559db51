"""Coroutine handlers, `async def handler(stream)`, that the reactor itself drives.

There is no task queue and no future. An `await` that must wait suspends the task at a place (the stream's
input, room in its send queue, a point in time), and the event that ends the wait resumes the task directly
from the loop: one resumption for each event.

A task is a handler, or a coroutine started by `Stream.start_soon`. It can await:

- the methods of its `Stream`, and of other streams of the same reactor; one task at a time reads from each;
- `connect(address)`: a `Stream` to another host;
- the results of `Reactor.run_in_executor` and `submit`; `wait(future)` for any `concurrent.futures.Future`;
- `Queue.put` and `get`, `Event.wait`;
- `gather` and `first`: several of all these at once;
- `async def` functions of these.

Each wait ends when the connection of the task ends, and when a `with stream.timeout()` around it expires.
Awaitables of other loops, as of asyncio, raise UsageError.
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
