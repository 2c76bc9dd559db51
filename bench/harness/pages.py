"""Servers of one page of 1 KiB, and `wrk` as their load.

The peers are as their documentation has it: h11 in an `asyncio.Protocol` that parses and serialises with it,
as h11's example servers do, on uvloop and asyncio; aiohttp, whose parser is C (llhttp), on both too.
"""

from __future__ import annotations

import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from bench.harness.clients import BrokenServerError, open_connections, run_first
from bench.harness.echoes import on_asyncio, on_uvloop, serve_protocol, serve_reactor, until_stopped
from bench.harness.measure import Server
from bench.harness.metrics import CPU, RATE
from bench.harness.servers import BACKLOG, announce
from bench.results.schema import Metric

__all__ = ["BROWSER", "EVENTS", "PAGES", "get_pages", "receive_events"]

PAGE = b"x" * 1024

CORE = Metric("server's CPU", "1", "lower")

_WAIT = 10.0  # seconds

#: A browser's request, without its request line.
BROWSER = {
    "Host": "127.0.0.1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cookie": "session=0123456789abcdef0123456789abcdef",
    "Sec-Fetch-Site": "same-origin",
    "Cache-Control": "max-age=0",
}
_SCRIPT = """\
local number = 0
{fields}
request = function()
    number = number + 1
    {change}
    return wrk.format("GET", path)
end
"""


# Servers


def _reactor(head_timeout: str = "10", first: str = "") -> None:
    """Serve the page. first: not empty to run as a real-time process, where that is allowed."""
    from reactor.http import HTTP, Request, Response

    if first:
        run_first()

    def page(request: Request) -> Response:
        return Response(200, PAGE, content_type="text/plain")

    http = HTTP({"/": page}, head_timeout=float(head_timeout))
    serve_reactor(lambda _: http)


def _reactor_coroutine() -> None:
    from reactor.http import HTTP, Request, Response

    async def page(request: Request) -> Response:
        return Response(200, PAGE, content_type="text/plain")

    http = HTTP({"/": page})
    serve_reactor(lambda _: http)


def _reactor_events() -> None:
    """Send each receiver an event of 1 KiB a second."""
    from reactor.http import HTTP, EventStream, Request, encode_event

    receivers: set[EventStream] = set()

    def subscribe(request: Request) -> None:
        events = request.events()
        receivers.add(events)
        events.on_close = lambda _: receivers.discard(events)

    def tick(reactor: Any) -> None:
        event = encode_event(PAGE.decode())
        for events in receivers:
            events.write(event)
        reactor.call_later(1.0, tick, reactor)

    def make(reactor: Any) -> HTTP:
        tick(reactor)
        return HTTP({"/": subscribe})

    serve_reactor(make)


async def _h11(_: str = "") -> None:
    import asyncio

    import h11

    class Page(asyncio.Protocol):
        __slots__ = ("parser", "transport")

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.parser = h11.Connection(h11.SERVER)

        def data_received(self, data: bytes) -> None:
            self.parser.receive_data(data)
            while True:
                event = self.parser.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.ConnectionClosed):
                    self.transport.close()
                    return
                if isinstance(event, h11.EndOfMessage):
                    self.answer()
                    self.parser.start_next_cycle()

        def answer(self) -> None:
            headers = [
                ("Content-Type", "text/plain"),
                ("Content-Length", str(len(PAGE))),
                ("Date", formatdate(usegmt=True)),
            ]
            head = self.parser.send(h11.Response(status_code=200, headers=headers))
            body = self.parser.send(h11.Data(data=PAGE))
            end = self.parser.send(h11.EndOfMessage())
            self.transport.write(b"".join([head, body, end]))

    await serve_protocol(Page)


async def _aiohttp(_: str = "") -> None:
    from aiohttp import web

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=PAGE, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
    await site.start()
    announce(runner.addresses[0][1])
    await until_stopped()
    await runner.cleanup()


PAGES: dict[str, Callable[..., None]] = {
    "reactor": _reactor,
    "reactor-coroutine": _reactor_coroutine,
    "uvloop": on_uvloop(_h11),
    "asyncio": on_asyncio(_h11),
    "aiohttp": on_asyncio(_aiohttp),
    "aiohttp-uvloop": on_uvloop(_aiohttp),
}


EVENTS: dict[str, Callable[..., None]] = {"reactor": _reactor_events}


# The load

#: What differs from one request to the next, in wrk's language.
CHANGES = {
    "nothing": 'path = "/"',
    "path": 'path = "/?n=" .. number',
    "fields": 'path = "/"; wrk.headers["X-Request-Id"] = number',
}


def get_pages(
    connections: int, seconds: int, fields: dict[str, str], change: str, server: Server
) -> dict[Metric, float]:
    """Get the page again and again. change: a key of `CHANGES`."""
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in fields.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT.format(fields=lines, change=CHANGES[change]))
        script.flush()
        _wrk(server, connections, 1, script.name)  # warm
        with server.usage() as used:
            requests, took = _wrk(server, connections, seconds, script.name)
    return {CPU: used.cpu / requests, RATE: requests / took, **used.shares(took)}


def _wrk(server: Server, connections: int, seconds: int, script: str) -> tuple[int, float]:
    words = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-s",
        script,
        f"http://127.0.0.1:{server.port}/",
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BrokenServerError("wrk is not installed: apt-get install wrk") from None
    failed = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+)", done.stdout)
    counted = re.search(r"(\d+) requests in ([\d.]+)(m?s)", done.stdout)
    if counted is None or "Non-2xx" in done.stdout or (failed and any(map(int, failed.groups()))):
        raise BrokenServerError(f"wrk says: {done.stdout}{done.stderr}")
    return int(counted[1]), float(counted[2]) * (0.001 if counted[3] == "ms" else 1)


def receive_events(receivers: int, seconds: int, server: Server) -> dict[Metric, float]:
    """Receive an event a second on many connections; the server's CPU time is what is measured.

    seconds: how many events each receives, after its first one.
    """
    with open_connections(server.port, receivers) as opened, selectors.DefaultSelector() as selector:
        for each in opened:
            each.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            selector.register(each, selectors.EVENT_READ)
        _receive(selector, receivers)
        started = time.perf_counter()
        with server.usage() as used:
            _receive(selector, receivers * seconds)
        took = time.perf_counter() - started
    return {CORE: used.cpu / took}


def _receive(selector: selectors.BaseSelector, events: int) -> None:
    """Receive as many bytes as `events` have, on all connections together."""
    missing = events * len(PAGE)
    while missing > 0:
        ready = selector.select(_WAIT)
        if not ready:
            raise BrokenServerError(f"no event for {_WAIT:g} s")
        for key, _ in ready:
            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            if not data:
                raise BrokenServerError("the server closed a connection")
            missing -= len(data)
