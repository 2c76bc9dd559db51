"""`StatusPage`: serves `/metrics`, `/live`, `/ready` and the page, on a reactor of its own.

That reactor is nested in the program's: its loop gets `_BUDGET` seconds at a time, after the program's own
peers were served. Its connections are neither in the program's statistics nor in its drain, so that the page
shows a drain to its end.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import resource
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from reactor.address import Address, AddressLike
from reactor.embed.attachment import Attachment
from reactor.errors import UsageError, missing_package
from reactor.listening.binding import cannot_listen
from reactor.listening.listener import Listener
from reactor.loop.system import KERNEL
from reactor.loop.timers import Handle
from reactor.options import Limits, Timeouts, check_type
from reactor.reactor import Reactor
from reactor.status.checks import Checks, add_check
from reactor.status.collector import FRESH, Collect, Collector
from reactor.status.overview import Overview, overview_of
from reactor.status.page import POLICY, Rates, render_page, render_sections
from reactor.status.snapshot import collect_snapshot

try:
    from reactor.http import HTTP, EventStream, HTTPError, Request, Response, encode_event
    from reactor.status.metrics import exposition
except ImportError as missing:
    package = (missing.name or "more").partition(".")[0].replace("_", "-")
    raise missing_package("reactor.status", package, "status") from missing

__all__ = ["StatusPage", "check_open"]

log = logging.getLogger("reactor")

# Seconds of work after which the program goes on. Its peers wait for so long beside an attack on the page.
_BUDGET = 0.00025

#: Connections of the status address: open pages, scrapes, and clients that are slow to ask. A quarter of the
#: process's descriptors at most.
_MOST_CONNECTIONS = 4096

#: Seconds for a request's head, for its answer to be taken, for the client's end after a refusal, and between
#: two requests of one connection.
_HEAD_TIMEOUT = 5.0
_WRITE_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 1.0
_KEEP_ALIVE = 30.0

#: Seconds between the figures of an open page.
_INTERVAL = 1.0

# Open pages that are sent figures in one go: more wait for the next tick.
_BATCH = 64

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE_HEADERS = {**_HEADERS, "Content-Security-Policy": POLICY}


class StatusPage:
    """The state of a reactor as metrics for Prometheus, probes, and a page that shows it live.

    reactor: whose connections are shown; it drives the page, too. checks: further conditions of `/ready`, as
        for `add_check`. name: the program's, for the page's title.
    collect: instead of `reactor`'s own figures, calls its argument with an `Overview`; for supervisors.
    It ends with `close`, or with the reactor. Raises TypeError for an argument of the wrong type, UsageError
    if the reactor is closed.

    | path | what it answers |
    |---|---|
    | `/` | the page |
    | `/events` | its figures, once a second, as server-sent events |
    | `/metrics` | the text format of Prometheus, or OpenMetrics if the client accepts that |
    | `/live` | 200: the loop runs |
    | `/ready` | 200, or 503 with the reasons: draining, accepting nothing, or a check has failed |

        from reactor import Reactor
        from reactor.apps.echo import Echo
        from reactor.status import StatusPage

        with Reactor() as reactor:
            reactor.listen("127.0.0.1:0", Echo)
            page = StatusPage(reactor, checks={"disk": lambda: None})
            listener = page.listen("127.0.0.1:0")
            reactor.call_later(0.01, reactor.stop)
            reactor.run()
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        checks: Checks | None = None,
        name: str = "reactor",
        collect: Collect | None = None,
    ) -> None:
        check_type("reactor", reactor, Reactor)
        check_type("checks", checks, Mapping, optional=True)
        check_type("name", name, str)
        for key, check in (checks or {}).items():
            add_check(reactor, key, check)
        self._program = reactor
        self._name = name
        self._reactor = Reactor(on_error=reactor.report)
        try:
            self._attachment = Attachment(
                self._reactor, _BUDGET, partial(_watch, reactor), partial(_call_later, reactor)
            )
        except BaseException:
            self._reactor.close()
            raise
        self._at_close = reactor.call_at_close(self.close)
        self._collector = Collector(collect or self._collect, self._reactor)
        self._pages = _Pages(self._reactor, self._collector)
        self._closed = False

    def listen(self, address: AddressLike | socket.socket, *, open: bool = False) -> Listener:  # noqa: A002
        """Serve on `address`; return the listener, with the real port in `addresses`.

        address: as for `Reactor.listen`: of the loopback interface, or of a Unix socket, whose file's
            permissions then say which users may look.
        open: serve on any other interface too; all who reach it can look, and a warning is logged.
        Raises UsageError for an address that others can reach, if `open` is False, and what `Reactor.listen`
        raises.
        """
        if not isinstance(address, socket.socket):
            address = Address.of(address)
        is_local = check_open(address, open)
        listener = self._reactor.listen(
            address,
            self._http(only_local_names=is_local),
            limits=Limits(max_connections=_most_connections(), high_water=1 << 20),
            timeouts=Timeouts(write=_WRITE_TIMEOUT, close=_CLOSE_TIMEOUT),
        )
        if not is_local:
            log.warning("the status page on %s is open to all who reach it", listener.addresses[0])
        return listener

    def _http(self, *, only_local_names: bool) -> HTTP:
        handlers = {
            "/": self._page,
            "/events": self._pages.add,
            "/metrics": self._metrics,
            "/live": lambda request: Response(200, "live\n", headers=_HEADERS),
            "/ready": self._ready,
        }

        def guarded(handler: Callable[[Request], Response | None]) -> Callable[[Request], Response | None]:
            def handle(request: Request) -> Response | None:
                if only_local_names and isinstance(request.peername, tuple):  # no site gets to a Unix socket
                    _check_host(request.host)
                return handler(request)

            return handle

        routes = {path: guarded(handler) for path, handler in handlers.items()}
        return HTTP(routes, max_body=0, head_timeout=_HEAD_TIMEOUT, keep_alive=_KEEP_ALIVE)

    def refresh(self) -> None:
        """Send new figures to the open pages at once: something has happened. On the reactor's thread."""
        self._pages.refresh()

    def drain(self, timeout: float = 1.0) -> None:
        """Answer what was asked, for `timeout` seconds at most, then close. Open pages connect again."""
        if not self._closed:
            self._pages.close()
            self._reactor.drain(timeout, on_done=lambda report: self._reactor.call_soon(self.close))

    def close(self) -> None:
        """Close its listeners and connections; more than once does nothing.

        On the thread that drives the reactor.
        """
        if not self._closed:
            self._closed = True
            self._at_close.cancel()
            self._pages.close()
            self._attachment.detach()
            self._reactor.close()

    # Answers

    def _collect(self, on_done: Callable[[Overview], object]) -> None:
        collect_snapshot(self._program, lambda snapshot: on_done(overview_of(snapshot, self._name)))

    def _page(self, request: Request) -> None:
        def answer(overview: Overview, rates: Rates) -> None:
            text = render_page(overview, rates)
            _respond(
                request, Response(200, text, content_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)
            )

        self._collector.ask(answer)

    def _metrics(self, request: Request) -> None:
        accept = request.headers.get("accept", "")

        def answer(overview: Overview, rates: Rates) -> None:
            text, content_type = exposition(overview, accept)
            _respond(request, Response(200, text, content_type=content_type, headers=_HEADERS))

        self._collector.ask(answer)

    def _ready(self, request: Request) -> None:
        def answer(overview: Overview, rates: Rates) -> None:
            problems = overview.problems()
            text = "".join(f"{problem}\n" for problem in problems) or "ready\n"
            _respond(request, Response(503 if problems else 200, text, headers=_HEADERS))

        self._collector.ask(answer)


def _respond(request: Request, response: Response) -> None:
    """Answer later than in the handler: the client may have gone."""
    if not request.connection.is_closing():
        request.respond(response)


class _Pages:
    """The open pages, which get the sections that have changed, once a second, while there is one."""

    def __init__(self, reactor: Reactor, collector: Collector) -> None:
        self._reactor = reactor
        self._collector = collector
        self._streams: dict[EventStream, None] = {}  # in the order in which they came
        self._sections: dict[str, str] = {}
        self._next: Handle | None = None
        self._refreshing = False

    def add(self, request: Request) -> Response | None:
        """Answer a page's request for its figures."""
        if request.method == "HEAD":
            return Response(200, content_type="text/event-stream", headers=_HEADERS)
        stream = request.events(_HEADERS_OF_EVENTS, ping=None)
        stream.on_close = lambda exc: self._remove(stream)
        self._streams[stream] = None
        if self._sections:
            stream.write(_event(self._sections))
        if self._next is None:
            self._next = self._reactor.call_soon(self._ask)
        return None

    def _remove(self, stream: EventStream) -> None:
        self._streams.pop(stream, None)
        if not self._streams:
            self._stop()

    def _stop(self) -> None:
        self._sections = {}
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def close(self) -> None:
        """End all streams."""
        self._stop()
        for stream in list(self._streams):
            stream.on_close = None
            stream.end()
        self._streams.clear()

    def refresh(self) -> None:
        """Show what has just happened, when what was collected before it is not taken for new any more."""
        if self._next is not None and not self._refreshing:
            self._refreshing = True
            self._reactor.call_later(FRESH, self._refresh)

    def _refresh(self) -> None:
        self._refreshing = False
        self._collector.ask(self._show)

    def _ask(self) -> None:
        self._next = self._reactor.call_later(_INTERVAL, self._ask)
        self._collector.ask(self._show)

    def _show(self, overview: Overview, rates: Rates) -> None:
        if self._next is None:
            return  # all have gone
        sections = render_sections(overview, rates)
        changed = {name: text for name, text in sections.items() if self._sections.get(name) != text}
        self._sections = sections
        self._send(_event(changed), list(self._streams))

    def _send(self, event: bytes, streams: list[EventStream]) -> None:
        for stream in streams[:_BATCH]:
            if not stream.is_closed and not stream.write(event):
                stream.connection.abort()  # it takes nothing, and gets all figures when it comes again
        if len(streams) > _BATCH:
            self._reactor.call_soon(self._send, event, streams[_BATCH:])


_HEADERS_OF_EVENTS = {"X-Content-Type-Options": "nosniff"}


def _event(sections: dict[str, str]) -> bytes:
    return encode_event(json.dumps(sections, separators=(",", ":")), retry=_INTERVAL)


# Whose page it is


def check_open(address: Address | socket.socket, is_open: bool) -> bool:
    """Return whether only processes of this machine can connect to `address`.

    Raises UsageError if others can and `is_open` is False, ListenError if it can't be listened on.
    """
    try:
        is_local = _is_local(address)
    except OSError as exc:  # there is no such name or descriptor
        raise cannot_listen(Address.of(address), exc) from exc
    if not is_local and not is_open:
        raise UsageError(
            f"the status page would be open to all who reach {address}: listen on 127.0.0.1 or unix:/path, "
            "or say that it may be, with open=True or --status-open"
        )
    return is_local


def _is_local(address: Address | socket.socket) -> bool:
    """Return whether only processes of this machine can connect to `address`."""
    if isinstance(address, socket.socket):
        return address.family == socket.AF_UNIX or _is_loopback(address.getsockname())
    if address.path is not None:
        return True
    if address.fd is not None:
        with KERNEL.listening_socket(os.dup(address.fd)) as inherited:
            return _is_local(inherited)
    return all(_is_loopback(sockaddr) for _, sockaddr in address.resolve(passive=True))


def _is_loopback(sockaddr: Any) -> bool:
    return ipaddress.ip_address(sockaddr[0].partition("%")[0]).is_loopback


def _check_host(host: str) -> None:
    """Refuse names that are not of the loopback interface, and so of another site's DNS.

    A site that somebody on this machine visits can let its own name resolve to 127.0.0.1, and would read this
    page as one of its own (DNS rebinding). The browser still says which name it asked for.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        is_local = ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        is_local = name in {"", "localhost"} or name.endswith(".localhost")
    if not is_local:
        raise HTTPError(
            421, "this page is for names of the loopback interface: ask for localhost or 127.0.0.1"
        )


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(_MOST_CONNECTIONS, soft // 4))


# The program's reactor as the host of the page's


def _watch(reactor: Reactor, fd: int, callback: Callable[..., None]) -> Callable[[], object]:
    """Call `callback` when `fd` is readable, after the program's events of that tick."""
    due: Handle | None = None

    def readable() -> None:
        nonlocal due
        due = reactor.call_soon(callback)

    def undo() -> None:
        reactor.remove_reader(fd)
        if due is not None:
            due.cancel()

    reactor.add_reader(fd, readable)
    return undo


def _call_later(reactor: Reactor, delay: float, callback: Callable[[], None]) -> Callable[[], object]:
    return reactor.call_later(delay, callback).cancel
