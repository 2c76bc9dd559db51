"""Requests to a server in memory, and what it answers."""

import contextlib

import h11

from reactor.http import HTTP, Response
from reactor.testing import MemoryReactor, Recorder

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def get(path="/", *fields, method="GET", version="1.1"):
    """The bytes of a request without a body."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode()


def post(body, *fields, path="/"):
    return get(path, f"Content-Length: {len(body)}", *fields, method="POST") + body


def hello(request):
    return Response(200, b"hello")


def mirror(request):
    """Answer with what was understood."""
    return Response(200, f"{request.method} {request.path} {len(request.body)} ".encode() + request.body)


class Answer:
    """An answer: its status, fields by lower-case name, and body."""

    def __init__(self, head, body):
        self.status = head.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self.body = body

    def __repr__(self):
        return f"<{self.status} {self.body!r}>"


def answers(received, *methods, ended=True):
    """The answers in `received`, as a client reads them that has sent these methods, and GET after them.

    ended: the server has ended its direction. Nothing may be left over.
    """
    found = []
    methods = iter(methods)
    while received:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=next(methods, "GET"), target="/", headers=[("Host", "localhost")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        if ended:
            client.receive_data(b"")
        head, body = None, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.InformationalResponse), event
        found.append(Answer(head, body))
        received = client.trailing_data[0]
    return found


@contextlib.contextmanager
def client_of(handler, on_error=None, memory=None, reactor=None, **options):
    """A reactor in memory, and the recorder of a client that is connected to a server with `handler`.

    reactor: that of another client, or None for one of its own.
    """
    recorder = Recorder()
    recorder.keep_open = True
    made = MemoryReactor(on_error=on_error, **(memory or {})) if reactor is None else None
    with made or contextlib.nullcontext(reactor) as reactor:
        reactor.pair(HTTP(handler, **options), lambda: recorder)
        try:
            yield reactor, recorder
        finally:
            recorder.connection.abort()
            reactor.settle()


def exchange(handler, *pieces, on_error=None, end=True, **options):
    """Send the pieces one after the other, and the end of file; return what is received."""
    with client_of(handler, on_error, **options) as (reactor, recorder):
        for piece in pieces:
            recorder.connection.write(piece)
            reactor.settle()
        if end and not recorder.connection.is_closing():
            recorder.connection.write_eof()
        reactor.settle()
        return recorder.received


def answer(handler, *pieces, **options):
    """Send the pieces as `exchange` does; return the only answer."""
    (only,) = answers(exchange(handler, *pieces, **options))
    return only
