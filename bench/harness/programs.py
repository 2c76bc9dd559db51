"""Servers built on the loop: `python -m bench.harness.programs KIND NAME CORE [WORD]`.

NAME says what they do: streams (echo by a coroutine for each connection), lines (upper-cases each line, with
a write for each), chat (each line to all, under the name of guest1), threads (echo by a thread for each
connection), embed (echo, in the loop of the host that KIND says), frames (echo in steps; WORD is the budget
of each, "none", or "clock", which times a busy wait before each), wakes (called by another thread), tls
(echo; a first byte S asks for bytes without end, D for input to be dropped; WORD is the folder of the
certificate). Announces itself and ends as `bench.harness.servers` do.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bench.harness.clients import run_first
from bench.harness.servers import BACKLOG, RECV_SIZE, announce, reactor_echo, run_on

__all__ = ["PROGRAMS"]

BULK = bytes(64 * 1024)
FRAME = 1 / 60  # seconds
BUSY = 0.002  # seconds of a busy wait, as long as a step with a budget of 2 ms
WAKES = 1000


def _reactor_serves(factory: Callable[[], Any]) -> None:
    from reactor import Reactor

    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", factory, backlog=BACKLOG)
        announce(listener.addresses[0].port or 0)
        reactor.add_reader(0, reactor.stop)
        reactor.run()


def _reactor_streams() -> None:
    from reactor.streams import Stream, handler

    async def echo(stream: Stream) -> None:
        while data := await stream.receive(RECV_SIZE):
            await stream.send(data)

    _reactor_serves(handler(echo))


def _reactor_lines() -> None:
    from reactor.apps.lines import Upper

    _reactor_serves(Upper)


def _reactor_chat() -> None:
    from reactor.apps.chat import Hall

    _reactor_serves(Hall())


async def _asyncio_serves(listen: Callable[[], Awaitable[Any]]) -> None:
    server = await listen()
    announce(server.sockets[0].getsockname()[1])
    await _until_stopped()


async def _until_stopped() -> None:
    import asyncio

    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)
    await ended.wait()


async def _asyncio_streams() -> None:
    import asyncio

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(RECV_SIZE):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    await _asyncio_serves(lambda: asyncio.start_server(echo, "127.0.0.1", 0, backlog=BACKLOG))


async def _asyncio_protocol(factory: Callable[[], Any]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    await _asyncio_serves(lambda: loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG))


async def _asyncio_lines() -> None:
    import asyncio

    class Upper(asyncio.Protocol):
        __slots__ = ("begun", "transport")

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.begun = b""

        def data_received(self, data: bytes) -> None:
            *lines, self.begun = (self.begun + data).split(b"\n")
            for line in lines:
                self.transport.write(line.upper() + b"\n")

    await _asyncio_protocol(Upper)


async def _asyncio_chat() -> None:
    import asyncio

    members = set()

    class Member(asyncio.Protocol):
        __slots__ = ("begun", "transport")

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.begun = b""
            members.add(transport)

        def data_received(self, data: bytes) -> None:
            *lines, self.begun = (self.begun + data).split(b"\r\n")
            for line in lines:
                said = b"guest1: %s\r\n" % line
                for transport in members:
                    transport.write(said)

        def connection_lost(self, exc: Exception | None) -> None:
            members.discard(self.transport)

    await _asyncio_protocol(Member)


def _on_asyncio(main: Callable[..., Any]) -> Callable[..., None]:
    def serve(*words: str) -> None:
        import asyncio

        asyncio.run(main(*words))

    return serve


def _on_uvloop(main: Callable[..., Any]) -> Callable[..., None]:
    def serve(*words: str) -> None:
        import uvloop

        uvloop.run(main(*words))

    return serve


def _trio_streams() -> None:
    import trio

    async def echo(stream: trio.SocketStream) -> None:
        try:
            while data := await stream.receive_some(RECV_SIZE):
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
        announce(listener.socket.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            await trio.lowlevel.wait_readable(0)
            nursery.cancel_scope.cancel()

    trio.run(main)


def _threads(module: Any) -> None:
    class Echo(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            try:
                while data := self.request.recv(RECV_SIZE):
                    self.request.sendall(data)
            except ConnectionError:
                pass

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        daemon_threads = True
        request_queue_size = BACKLOG

    with Server(("127.0.0.1", 0), Echo) as server:
        announce(server.server_address[1])
        threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
        server.serve_forever()


def _reactor_threads() -> None:
    from reactor.compat import socketserver

    _threads(socketserver)


def _standard_threads() -> None:
    import socketserver

    _threads(socketserver)


class _Bulk:
    """Echoes, unless the first byte asks for something else; for this project's connections and asyncio's."""

    __slots__ = ("call_soon", "mode", "transport")

    def __init__(self, call_soon: Callable[..., Any]) -> None:
        self.call_soon = call_soon
        self.mode = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.mode:
            self.mode = data[:1]
            if self.mode == b"S":
                self.pour()
        if self.mode not in {b"S", b"D", b"P"}:
            self.transport.write(data)

    def pour(self) -> None:
        if self.mode == b"S" and not self.transport.is_closing():
            self.transport.write(BULK)
            self.call_soon(self.pour)

    def pause_writing(self) -> None:
        self.mode = b"P" if self.mode == b"S" else self.mode

    def resume_writing(self) -> None:
        if self.mode == b"P":
            self.mode = b"S"
            self.pour()

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: BaseException | None) -> None:
        self.mode = b"D"


def _context(folder: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
    return context


def _reactor_tls(folder: str) -> None:
    from reactor import Reactor

    with Reactor() as reactor:
        factory = partial(_Bulk, reactor.call_soon)
        listener = reactor.listen("127.0.0.1:0", factory, backlog=BACKLOG, tls=_context(folder))
        announce(listener.addresses[0].port or 0)
        reactor.add_reader(0, reactor.stop)
        reactor.run()


async def _nested_embed() -> None:
    from reactor import Reactor
    from reactor.embed.asyncio import attach

    with Reactor() as reactor, attach(reactor):
        await _embedded(reactor)


async def _guest_embed() -> None:
    import asyncio

    from reactor import Reactor
    from reactor.embed.guest import attach

    run_soon = asyncio.get_running_loop().call_soon_threadsafe
    with Reactor() as reactor, attach(reactor, run_soon):
        await _embedded(reactor)


async def _embedded(reactor: Any) -> None:
    listener = reactor.listen("127.0.0.1:0", reactor_echo(), backlog=BACKLOG)
    announce(listener.addresses[0].port)
    await _until_stopped()


def _reactor_frames(budget: str) -> None:
    """Serve echo within the frames of a game; a line of input is answered with the seconds of each step."""
    from reactor import Reactor

    run_first()
    steps: list[float] = []

    def report() -> None:
        if sys.stdin.readline():
            sys.stdout.write(json.dumps(steps) + "\n")
            sys.stdout.flush()
            steps.clear()
        else:
            reactor.close()

    def wait_busily() -> None:
        until = time.perf_counter() + BUSY
        while time.perf_counter() < until:
            pass

    with Reactor() as reactor:
        slice_seconds = float(budget) if budget not in {"none", "clock"} else None
        run = partial(reactor.run_once, 0, slice_seconds)
        step, then = (wait_busily, run) if budget == "clock" else (run, None)
        listener = reactor.listen("127.0.0.1:0", reactor_echo(), backlog=BACKLOG)
        announce(listener.addresses[0].port or 0)
        reactor.add_reader(0, report)
        due = time.perf_counter()
        while not reactor.is_closed():
            began = time.perf_counter()
            step()
            steps.append(time.perf_counter() - began)
            if then is not None:
                then()
            due = max(due + FRAME, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))


def _wakes(loop: Any, run: Callable[[], object]) -> None:
    """Wake `loop` from another thread over and over; print the seconds from each call to its callback."""
    took: list[float] = []
    came = threading.Event()

    def callback(asked: float) -> None:
        took.append(time.perf_counter() - asked)
        came.set()

    def wake() -> None:
        for _ in range(WAKES):
            time.sleep(0.0002)  # until the loop waits again
            came.clear()
            loop.call_soon_threadsafe(callback, time.perf_counter())
            came.wait()
        loop.call_soon_threadsafe(loop.stop)

    announce(0)
    while sys.stdin.readline():
        thread = threading.Thread(target=wake)
        thread.start()
        run()
        thread.join()
        sys.stdout.write(json.dumps(took) + "\n")
        sys.stdout.flush()
        took.clear()


def _reactor_wakes() -> None:
    from reactor import Reactor

    with Reactor() as reactor:
        _wakes(reactor, reactor.run)


def _loop_wakes(new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    _wakes(loop, loop.run_forever)
    loop.close()


def _asyncio_wakes() -> None:
    import asyncio

    _loop_wakes(asyncio.new_event_loop)


def _uvloop_wakes() -> None:
    import uvloop

    _loop_wakes(uvloop.new_event_loop)


async def _asyncio_tls(folder: str) -> None:
    import asyncio

    class Bulk(_Bulk, asyncio.Protocol):
        __slots__ = ()

    loop = asyncio.get_running_loop()
    context = _context(folder)

    def listen() -> Awaitable[asyncio.Server]:
        factory = partial(Bulk, loop.call_soon)
        return loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG, ssl=context)

    await _asyncio_serves(listen)


PROGRAMS: dict[str, dict[str, Callable[..., None]]] = {
    "streams": {
        "reactor": _reactor_streams,
        "uvloop": _on_uvloop(_asyncio_streams),
        "asyncio": _on_asyncio(_asyncio_streams),
        "trio": _trio_streams,
    },
    "lines": {
        "reactor": _reactor_lines,
        "uvloop": _on_uvloop(_asyncio_lines),
        "asyncio": _on_asyncio(_asyncio_lines),
    },
    "chat": {
        "reactor": _reactor_chat,
        "uvloop": _on_uvloop(_asyncio_chat),
        "asyncio": _on_asyncio(_asyncio_chat),
    },
    "tls": {
        "reactor": _reactor_tls,
        "uvloop": _on_uvloop(_asyncio_tls),
        "asyncio": _on_asyncio(_asyncio_tls),
    },
    "embed": {
        "nested": _on_asyncio(_nested_embed),
        "nested in uvloop": _on_uvloop(_nested_embed),
        "guest": _on_asyncio(_guest_embed),
    },
    "frames": {"reactor": _reactor_frames},
    "wakes": {"reactor": _reactor_wakes, "asyncio": _asyncio_wakes, "uvloop": _uvloop_wakes},
    "threads": {"reactor": _reactor_threads, "socketserver": _standard_threads},
}


def main() -> None:
    """Run the server named on the command line."""
    _, kind, name, core, *words = sys.argv
    run_on(core, lambda: PROGRAMS[name][kind](*words))


if __name__ == "__main__":
    main()
