"""Requests: what was sent, and bodies that are received piece by piece."""

import pytest

from reactor.http import Response, streamed
from reactor.testing import Errors
from tests.http.exchange import GET, answer, answers, client_of, exchange, get, post


def test_request_has_what_was_sent():
    seen = []

    def look(request):
        seen.append((request.method, request.path, request.query, request.headers["x"], request.host))
        seen.append((request.body, str(request), request.peername is None))
        return Response(204)

    found = answer(look, post(b"body", "X: y", path="/p%20q?a=1&a=2&b"))
    assert (found.status, found.body, "content-length" in found.headers) == (204, b"", False)
    assert seen[0] == ("POST", "/p q", {"a": ["1", "2"], "b": [""]}, "y", "localhost")
    assert seen[1][:2] == (b"body", "<Request POST /p%20q?a=1&a=2&b>")


def test_query_with_too_many_fields_is_a_bad_request():
    assert answer(lambda request: Response(200, str(request.query)), get("/?" + "a&" * 1001)).status == 400


# Uploads


def chunked(*pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST")


@streamed
async def collect(request):
    pieces = [piece async for piece in request.pieces()]
    return Response(200, b"%d " % len(request.body) + b"".join(pieces))


def test_upload_by_coroutine():
    sent = post(b"hello") + CHUNKED + chunked(b"a", b"b" * 1000) + post(b"") + GET
    for pieces in ([sent], [sent[at : at + 1] for at in range(len(sent))]):
        found = answers(exchange(collect, *pieces, end=False), ended=False)
        assert [each.body for each in found] == [b"0 hello", b"0 a" + b"b" * 1000, b"0 ", b"0 "]


def test_upload_by_callback_is_paused():
    requests, pieces = [], []

    @streamed
    def take(request):
        requests.append(request)

        def on_piece(piece):
            pieces.append(piece)
            if piece:
                request.connection.pause_reading()
            else:
                request.respond(Response(200, b"".join(pieces)))

        request.on_piece = on_piece

    with client_of(take) as (reactor, client):
        client.connection.write(CHUNKED + chunked(b"one", b"two") + GET)
        for number in (1, 2):
            reactor.advance(100)
            assert len(pieces) == number
            requests[0].connection.resume_reading()
        reactor.settle()
        assert pieces[:3] == [b"one", b"two", b""]
        assert answers(client.received, ended=False)[0].body == b"onetwo"


def test_pieces_are_for_an_upload_without_callback():
    @streamed
    async def both(request):
        request.on_piece = print
        async for _ in request.pieces():
            pass

    errors = Errors()
    assert answer(both, post(b"x"), on_error=errors, end=False).status == 500
    assert "the pieces go to on_piece" in str(errors.take()[0])


def test_upload_that_is_not_taken_is_not_received():
    @streamed
    async def slow(request):
        size = 0
        async for piece in request.pieces():
            size += len(piece)
            await request.sleep(1)
        return Response(200, str(size))

    with client_of(slow) as (reactor, client):
        client.connection.write(post(b"x" * 2_000_000))
        reactor.settle()
        assert client.connection.get_write_buffer_size() > 1_500_000
        reactor.advance(200)
        assert answers(client.received, ended=False)[0].body == b"2000000"


def test_upload_is_bounded_if_asked_for():
    limited = streamed(collect.handler, max_body=5)
    assert answer(limited, post(b"12345")).status == 200
    assert answer(limited, post(b"123456"), end=False).status == 413
    assert answer(limited, CHUNKED + chunked(b"123", b"456"), end=False).status == 413
    assert answer(collect, post(b"x" * 3_000_000)).status == 200
    with pytest.raises(ValueError, match="max_body must be a whole number"):
        streamed(collect, max_body=-1)
    with pytest.raises(TypeError, match="handler must be callable"):
        streamed(5)


def test_answer_before_the_end_of_an_upload_is_the_last():
    refused = streamed(lambda request: Response(403, b"no"))
    found = answer(refused, get("/", "Content-Length: 100", method="POST") + b"abc", end=False)
    assert (found.status, found.headers["connection"]) == (403, "close")


def test_upload_begins_with_100_continue():
    ask = get("/", "Content-Length: 2", "Expect: 100-continue", method="POST")
    with client_of(collect) as (reactor, client):
        client.connection.write(ask)
        reactor.settle()
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.connection.write(b"ab")
        reactor.settle()
        assert client.received.endswith(b"0 ab")


@pytest.mark.parametrize("how", ["write_eof", "abort"])
def test_upload_that_is_broken_off_cancels_its_coroutine(how):
    ended = []

    @streamed
    async def take(request):
        try:
            async for _ in request.pieces():
                pass
        finally:
            ended.append(request)

    with client_of(take) as (reactor, client):
        client.connection.write(get("/", "Content-Length: 100", method="POST") + b"abc")
        reactor.settle()
        getattr(client.connection, how)()
        reactor.settle()
        assert len(ended) == 1
        assert client.received == b""


def test_bad_chunk_in_an_upload_is_refused():
    assert answer(collect, CHUNKED + b"3\r\nabcX", end=False).status == 400

    @streamed
    def begin(request):
        request.start(200).write(b"half")

    with client_of(begin) as (reactor, client):
        client.connection.write(CHUNKED + b"3\r\nabcX")
        reactor.settle()
        assert isinstance(client.reason, ConnectionResetError)


def test_upload_must_go_on():
    with client_of(collect, body_timeout=20.0) as (reactor, client):
        client.connection.write(get("/", "Content-Length: 1000", method="POST"))
        for _ in range(10):
            client.connection.write(b"x")
            reactor.advance(15)
        assert client.received == b""
        reactor.advance(30)
        assert answers(client.received)[0].status == 408


@pytest.mark.parametrize("size", [1, 100])
def test_exception_in_on_piece_resets_the_connection(size):
    @streamed
    def fail(request):
        request.on_piece = lambda piece: 1 / 0 if len(seen) == size - 1 else seen.append(piece)

    seen, errors = [], Errors()
    with client_of(fail, errors) as (reactor, client):
        client.connection.write(CHUNKED + chunked(*[b"x"] * 200))
        reactor.settle()
        assert isinstance(client.reason, ConnectionResetError)
    assert isinstance(errors.take()[0], ZeroDivisionError)


def test_exception_in_an_upload_names_its_handler():
    @streamed
    def fail_at_once(request):
        raise LookupError

    errors = Errors()
    assert answer(fail_at_once, post(b"x"), on_error=errors).status == 500
    assert "fail_at_once" in errors.take()[1]
