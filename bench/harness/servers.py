"""Echo servers: `python -m bench.harness.servers KIND MODE`.

KIND is reactor, asyncio, uvloop, bare, or timed (this project with slow-callback detection on). MODE is plain
(echo), timeout (echo with an idle timeout on every connection; the peers, which have none built in, cancel
and set a timer for each message, as their users do) or untimed (as plain; the name that the idle benchmark
uses).

The port is printed as a line, and the process ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
from collections.abc import Callable
from typing import Any

from bench.harness import missing
from bench.harness.clients import raise_descriptor_limit

IDLE_TIMEOUT = 60.0  # seconds; longer than a measurement, so that it is armed and never fires
BACKLOG = 4096
RECV_SIZE = 65536


def reactor_echo() -> Callable[[], Any]:
    """Return a protocol of this project that echoes."""
    from reactor import Connection, Protocol

    class Echo(Protocol):
        __slots__ = ("connection",)

        def connection_made(self, connection: Connection) -> None:
            self.connection = connection

        def data_received(self, data: bytes) -> None:
            self.connection.write(data)

    return Echo


def serve_reactor(mode: str, slow_callback: float | None = None) -> None:
    """Serve with this project."""
    from reactor import Reactor, Timeouts

    timeouts = Timeouts(idle=IDLE_TIMEOUT if mode == "timeout" else None)
    with Reactor(slow_callback=slow_callback) as reactor:
        listener = reactor.listen("127.0.0.1:0", reactor_echo(), timeouts=timeouts, backlog=BACKLOG)
        announce(listener.addresses[0].port or 0)
        reactor.add_reader(0, reactor.stop)
        reactor.run()


def serve_timed(mode: str) -> None:
    """Serve with this project and its detection of slow callbacks."""
    serve_reactor(mode, slow_callback=0.1)


def serve_asyncio(mode: str) -> None:
    """Serve with asyncio's own loop."""
    import asyncio

    asyncio.run(_serve_protocol(mode))


def serve_uvloop(mode: str) -> None:
    """Serve with uvloop."""
    import uvloop

    uvloop.run(_serve_protocol(mode))


async def _serve_protocol(mode: str) -> None:
    import asyncio

    loop = asyncio.get_running_loop()

    class Echo(asyncio.Protocol):
        __slots__ = ("transport",)

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    class TimedEcho(asyncio.Protocol):
        __slots__ = ("timer", "transport")

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.timer = loop.call_later(IDLE_TIMEOUT, transport.abort)

        def data_received(self, data: bytes) -> None:
            self.timer.cancel()
            self.timer = loop.call_later(IDLE_TIMEOUT, self.transport.abort)
            self.transport.write(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.timer.cancel()

    factory = TimedEcho if mode == "timeout" else Echo
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    done = loop.create_future()
    loop.add_reader(0, done.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await done


def serve_bare(mode: str) -> None:
    """Serve with a selector, and nothing between it and the sockets."""
    selector = selectors.DefaultSelector()
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setblocking(False)
    selector.register(listening, selectors.EVENT_READ, "listening")
    selector.register(0, selectors.EVENT_READ, "input")
    announce(listening.getsockname()[1])
    while True:
        for key, _ in selector.select():
            if key.data is None:
                _echo_once(selector, key.fileobj)
            elif key.data == "listening":
                client, _ = listening.accept()
                client.setblocking(False)
                selector.register(client, selectors.EVENT_READ)
            else:
                return


def _echo_once(selector: selectors.BaseSelector, client: Any) -> None:
    try:
        data = client.recv(RECV_SIZE)
    except ConnectionResetError:
        data = b""
    if data:
        client.send(data)
    else:
        selector.unregister(client)
        client.close()


def warm_up_allocator() -> None:
    """Free one large block, as every program of some size has done.

    Until then glibc gets each of asyncio's 256 KiB receive buffers from mmap(2), and asyncio runs at a
    quarter of its speed: mallopt(3), M_MMAP_THRESHOLD.
    """
    large = bytes(1 << 20)
    del large


def announce(port: int) -> None:
    """Print the port: connections are accepted from now on."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


SERVERS = {
    "reactor": serve_reactor,
    "uvloop": serve_uvloop,
    "asyncio": serve_asyncio,
    "bare": serve_bare,
    "timed": serve_timed,
}


def run_on(core: str, serve: Callable[[], None]) -> None:
    """Serve on the core of this number, or on "any"."""
    if hasattr(os, "sched_setaffinity") and core != "any":
        os.sched_setaffinity(0, {int(core)})
    raise_descriptor_limit()
    warm_up_allocator()
    try:
        serve()
    except ImportError as exc:
        sys.exit(missing(exc))


def main() -> None:
    """Run the server named on the command line."""
    _, kind, mode, core = sys.argv
    run_on(core, lambda: SERVERS[kind](mode))


if __name__ == "__main__":
    main()
