"""A small HTTP/1.1 server on `h11`, for a page of whoever embeds a reactor."""

from reactor.http.request import Request
from reactor.http.response import Response
from reactor.http.server import HTTP, Handler
from reactor.http.streaming import EventStream, ResponseStream, encode_event
from reactor.http.syntax import Headers, HTTPError

__all__ = [
    "HTTP",
    "EventStream",
    "HTTPError",
    "Handler",
    "Headers",
    "Request",
    "Response",
    "ResponseStream",
    "encode_event",
]
