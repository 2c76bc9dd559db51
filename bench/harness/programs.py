"""Servers: `python -m bench.harness.programs KIND NAME CORE [WORD]`.

NAME says what they do: echo and timed-echo (of `bench.harness.echoes`; WORD is the idle timeout), streams
(echo by a coroutine for each connection), lines (upper-cases each line, with a write for each), chat (each
line to all, under the name of guest1), threads (echo by a thread for each connection), embed (echo, in the
loop of the host that KIND says), frames (echo in steps; WORD is the budget of each, "none", or "clock",
which times a busy wait before each), wakes (called by another thread), timers (set, cancelled and run),
bulk and tls (echo; a first byte S asks for bytes without end, D for input to be dropped; WORD is the folder
of the certificate), datagrams (of `bench.harness.datagrams`, which has the WORDs), drain (closes all
connections when a line of input comes), http (a page; WORD is the seconds in which a head must be complete),
events (an event a second to each client). The port is printed as a line, and the process ends when its
standard input does.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.harness import echoes
from bench.harness.clients import run_first
from bench.harness.datagrams import DATAGRAM_SERVERS
from bench.harness.echoes import (
    fast_create,
    on_asyncio,
    on_uvloop,
    reactor_echo,
    serve_protocol,
    serve_reactor,
    until_stopped,
)
from bench.harness.pages import EVENTS, PAGES
from bench.harness.servers import BACKLOG, RECV_SIZE, announce, run_on

__all__ = ["PROGRAMS"]

BULK = bytes(64 * 1024)
FRAME = 1 / 60  # seconds
BUSY = 0.002  # seconds of a busy wait, as long as a step with a budget of 2 ms
WAKES = 1000
TIMERS = 100_000


def _reactor_streams() -> None:
    from reactor.streams import Stream, handler

    async def echo(stream: Stream) -> None:
        while data := await stream.receive(RECV_SIZE):
            await stream.send(data)

    serve_reactor(lambda _: handler(echo))


def _reactor_lines() -> None:
    from reactor.apps.lines import Upper

    serve_reactor(lambda _: Upper)


def _reactor_chat() -> None:
    from reactor.apps.chat import Hall

    serve_reactor(lambda _: Hall())


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

    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await until_stopped()


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

    await serve_protocol(Upper)


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

    await serve_protocol(Member)


def _reactor_threads() -> None:
    from reactor.compat import socketserver

    echoes.serve_threads(socketserver)


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
    await until_stopped()


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


def _reactor_bulk(folder: str = "") -> None:
    serve_reactor(lambda reactor: partial(_Bulk, reactor.call_soon), tls=_context(folder) if folder else None)


async def _asyncio_bulk(create: echoes.Create, folder: str = "") -> None:
    import asyncio

    class Bulk(_Bulk, asyncio.Protocol):
        __slots__ = ()

    factory = partial(Bulk, asyncio.get_running_loop().call_soon)
    await serve_protocol(factory, create, ssl=_context(folder) if folder else None)


def _asked(loop: Any, answer: Callable[[str], None]) -> None:
    """Call `answer` with each line of input, and stop the loop when there are no more."""

    def read() -> None:
        line = sys.stdin.readline()
        if line:
            answer(line.strip())
        else:
            loop.remove_reader(0)
            loop.stop()

    loop.add_reader(0, read)


def _print(figures: Any) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def _timers(loop: Any, run: Callable[[], object]) -> None:
    """Set timers and cancel them, or run them, as the line of input says; print the CPU seconds for each."""
    began = 0.0

    def answer(word: str) -> None:
        nonlocal began
        began = time.process_time()
        delays = [1 + i * 7919 % TIMERS / TIMERS for i in range(TIMERS)]
        if word == "cancel":
            for timer in [loop.call_later(60 * delay, finish) for delay in delays]:
                timer.cancel()
            loop.call_soon(finish)
        else:
            for delay in delays:
                loop.call_later(delay / 100, nothing)
            loop.call_later(0.03, finish)

    def nothing() -> None:
        pass

    def finish() -> None:
        _print((time.process_time() - began) / TIMERS)

    _asked(loop, answer)
    announce(0)
    run()


def _drain_reactor() -> None:
    from reactor import Reactor

    with Reactor() as reactor:
        listener = reactor.listen("127.0.0.1:0", reactor_echo(), backlog=BACKLOG)
        announce(listener.addresses[0].port or 0)
        began = 0.0

        def answer(_: str) -> None:
            nonlocal began
            began = time.perf_counter()
            reactor.drain(on_done=lambda _: _print(time.perf_counter() - began))

        _asked(reactor, answer)
        reactor.run()


async def _drain_asyncio() -> None:
    import asyncio

    transports: set[Any] = set()
    loop = asyncio.get_running_loop()
    began = 0.0

    class Echo(echoes.Echo):
        __slots__ = ()

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transports.add(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            transports.discard(self.transport)
            if began and not transports:
                _print(time.perf_counter() - began)

    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    ended = asyncio.Event()

    def read() -> None:
        nonlocal began
        if not sys.stdin.readline():
            ended.set()
            return
        began = time.perf_counter()
        server.close()
        for transport in list(transports):
            transport.close()

    loop.add_reader(0, read)
    await ended.wait()


def _loops(use: Callable[[Any, Callable[[], object]], None]) -> dict[str, Callable[..., None]]:
    """Return what runs `use(loop, run)` with each loop."""

    def on_reactor() -> None:
        from reactor import Reactor

        with Reactor() as reactor:
            use(reactor, reactor.run)

    def on_loop(loop: Any) -> None:
        use(loop, loop.run_forever)
        loop.close()

    def on_uv() -> None:
        import uvloop

        on_loop(uvloop.new_event_loop())

    def on_standard() -> None:
        import asyncio

        on_loop(asyncio.new_event_loop())

    return {"reactor": on_reactor, "uvloop": on_uv, "asyncio": on_standard}


_BULK: dict[str, Callable[..., None]] = {
    "reactor": _reactor_bulk,
    "uvloop": on_uvloop(partial(_asyncio_bulk, echoes.standard_create)),
    "asyncio": on_asyncio(partial(_asyncio_bulk, echoes.standard_create)),
    "aiofastnet": on_uvloop(partial(_asyncio_bulk, fast_create)),
}

PROGRAMS: dict[str, dict[str, Callable[..., None]]] = {
    "echo": echoes.ECHOES,
    "timed-echo": echoes.TIMED_ECHOES,
    "streams": {
        "reactor": _reactor_streams,
        "uvloop": on_uvloop(_asyncio_streams),
        "asyncio": on_asyncio(_asyncio_streams),
        "trio": echoes.ECHOES["trio"],
        "gevent": echoes.ECHOES["gevent"],
        "tornado": echoes.ECHOES["tornado"],
    },
    "lines": {
        "reactor": _reactor_lines,
        "uvloop": on_uvloop(_asyncio_lines),
        "asyncio": on_asyncio(_asyncio_lines),
    },
    "chat": {
        "reactor": _reactor_chat,
        "uvloop": on_uvloop(_asyncio_chat),
        "asyncio": on_asyncio(_asyncio_chat),
    },
    "bulk": _BULK,
    "datagrams": DATAGRAM_SERVERS,
    "tls": _BULK,
    "embed": {
        "reactor": echoes.ECHOES["reactor"],
        "nested": on_asyncio(_nested_embed),
        "nested in uvloop": on_uvloop(_nested_embed),
        "guest": on_asyncio(_guest_embed),
        "asyncio": echoes.ECHOES["asyncio"],
    },
    "frames": {"reactor": _reactor_frames},
    "wakes": _loops(_wakes),
    "timers": _loops(_timers),
    "drain": {
        "reactor": _drain_reactor,
        "uvloop": on_uvloop(_drain_asyncio),
        "asyncio": on_asyncio(_drain_asyncio),
    },
    "http": PAGES,
    "events": EVENTS,
    "threads": {"reactor": _reactor_threads, "socketserver": echoes.ECHOES["socketserver"]},
}


def main() -> None:
    """Run the server named on the command line."""
    _, kind, name, core, *words = sys.argv
    run_on(core, lambda: PROGRAMS[name][kind](*words))


if __name__ == "__main__":
    main()
