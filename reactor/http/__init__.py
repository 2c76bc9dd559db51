"""A small HTTP/1.1 server on `h11`, with WebSocket on `wsproto`, for a page of whoever embeds a reactor."""

from reactor.http.request import Request, Upload
from reactor.http.response import Response
from reactor.http.routes import Handler, streamed
from reactor.http.server import HTTP
from reactor.http.streaming import EventStream, ResponseStream, encode_event
from reactor.http.syntax import Headers, HTTPError

TYPE_CHECKING = False
if TYPE_CHECKING:  # imported when they are first used, because they need the extra `web`
    from reactor.http.websocket import WebSocket, encode_message

__all__ = [
    "HTTP",
    "EventStream",
    "HTTPError",
    "Handler",
    "Headers",
    "Request",
    "Response",
    "ResponseStream",
    "Upload",
    "WebSocket",
    "encode_event",
    "encode_message",
    "streamed",
]


def __getattr__(name: str) -> object:
    if name not in {"WebSocket", "encode_message"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reactor.http import websocket  # noqa: PLC0415

    return getattr(websocket, name)
