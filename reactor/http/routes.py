"""Which handler a request goes to, by its path and method. It does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from reactor.http.request import Request
from reactor.http.response import Response
from reactor.http.syntax import Head, HTTPError
from reactor.options import check_callable, size

if TYPE_CHECKING:  # a page without WebSockets does not need wsproto
    from reactor.http.websocket import WebSocket

__all__ = ["Handler", "Routes", "Streamed", "streamed"]

#: A handler: called with each request. Returns the response, or None to answer later; or is `async def`.
Handler = Callable[[Any], Response | Coroutine[Any, Any, Response | None] | None]

_METHODS = ("GET", "HEAD", "POST")


@attrs.frozen
class Streamed:
    """A handler that gets the body in pieces. max_body: bytes of the body; None for no limit."""

    handler: Handler
    max_body: int | None

    def __call__(self, request: Request) -> Response | Coroutine[Any, Any, Response | None] | None:
        """Call it."""
        return self.handler(request)


def streamed(handler: Handler, *, max_body: int | None = None) -> Handler:
    """Mark a handler: it is called with an `Upload` once the head is received, and gets the body in pieces.

    max_body: bytes of the body, before status 413; None for no limit. `HTTP(body_timeout=...)` is then the
        time in which something of it must come. Usable as a decorator.
    Raises TypeError if `handler` is not callable, ValueError for an invalid number.
    """
    check_callable("handler", handler)
    return Streamed(handler, None if max_body is None else size("max_body", max_body))


class Routes:
    """The handlers of a server. handler: one for all requests, or a mapping, as `HTTP` takes it."""

    def __init__(self, handler: Handler | Mapping[str, Handler]) -> None:
        self._routes: dict[str, dict[str, Handler]] = {}
        self._handler: Handler | None = None
        if isinstance(handler, Mapping):
            for key, each in handler.items():
                self._add_route(key, each)
        else:
            check_callable("handler", handler)
            self._handler = handler
        trees = [(path[:-1], route) for path, route in self._routes.items() if path.endswith("/*")]
        self._trees = sorted(trees, key=lambda tree: -len(tree[0]))
        self._methods = {*_METHODS, *(method for route in self._routes.values() for method in route)}

    def find(self, head: Head) -> Handler:
        """Return the handler for a request. Raises HTTPError: 404, 405 or 501."""
        if head.method not in self._methods:
            raise HTTPError(501, f"the method {head.method} is not implemented")
        if self._handler is not None:
            return self._handler
        route = self._routes.get(head.path) or self._tree(head.path)
        if route is None:
            raise HTTPError(404)
        handler = route.get(head.method)
        if handler is None:
            raise HTTPError(405, headers=(("Allow", ", ".join(sorted(route))),))
        return handler

    def take_over_of(self, path: str) -> Callable[[WebSocket, bytes], object] | None:
        """Return the method of the handler of `path` that takes its WebSockets over; None without one."""
        route = self._routes.get(path) or self._tree(path) or {}
        return getattr(self._handler or route.get("GET"), "take_over", None)

    def _tree(self, path: str) -> dict[str, Handler] | None:
        """Return the route of the longest tree that `path` is in."""
        return next((route for tree, route in self._trees if path.startswith(tree)), None)

    def _add_route(self, key: str, handler: Handler) -> None:
        check_callable(f"the handler of {key!r}", handler)
        method, space, path = key.rpartition(" ")
        if path[:1] != "/" or " " in method or bool(method) is not bool(space):
            raise ValueError(f"a key must be a path, or a method, a space and a path, not {key!r}")
        route = self._routes.setdefault(path, {})
        route[method or "GET"] = handler
        if method in {"", "GET"}:
            route.setdefault("HEAD", handler)
