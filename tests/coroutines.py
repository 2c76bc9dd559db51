"""Coroutine handlers in tests: a recorded run, its client, and a manual clock."""

import contextlib
import socket
import struct

from reactor import Reactor, Timeouts
from reactor.streams import handler
from reactor.testing import Errors, ManualClock
from tests.helpers import connect, spin

BIG = bytes(range(256)) * 4096 * 4  # 4 MiB
#: So that the kernel never accepts `BIG` at once, however large its buffers may grow.
SMALL_BUFFER = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)]


class HandlerRun:
    """A handler that records its stream, and its result or exception."""

    def __init__(self, fn):
        self.fn = fn
        self.seen = []
        self.stream = None

    async def __call__(self, stream):
        self.stream = stream
        try:
            self.seen.append(await self.fn(stream))
        except BaseException as exc:
            self.seen.append(exc)
            raise

    @property
    def result(self):
        (only,) = self.seen
        return only


@contextlib.contextmanager
def client_of(reactor, fn, *, limit=65536, **options):
    """Serve with `fn`; yield its run and a connected client."""
    run = HandlerRun(fn)
    listener = reactor.listen("127.0.0.1:0", handler(run, limit=limit), options=SMALL_BUFFER, **options)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: run.stream is not None)
        yield run, client


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def timed(fn):
    """Return a reactor on a manual clock, the peer of `fn`, its run, and a function to advance the clock."""
    clock = ManualClock()
    run = HandlerRun(fn)
    errors = Errors()
    reactor = Reactor(clock=clock, on_error=errors)
    ours, theirs = socket.socketpair()
    reactor.adopt(ours, handler(run), timeouts=Timeouts(write=None))

    def go(seconds):
        clock.advance(seconds)
        reactor.run_once(0)
        reactor.run_once(0)

    return reactor, theirs, run, go
