"""Handlers that are coroutines: their waits, and their end."""

import pytest

from reactor.http import Response
from reactor.testing import Errors
from tests.http.exchange import GET, answer, answers, client_of, get


def test_coroutine_waits_and_answers():
    async def wait(request):
        await request.sleep(5)
        with pytest.raises(TimeoutError), request.timeout(1):
            await request.sleep(10)
        return Response(200, b"waited")

    with client_of(wait) as (reactor, client):
        client.connection.write(GET + GET)
        reactor.advance(5.9)
        assert client.received == b""
        reactor.advance(0.2)
        assert len(answers(client.received, ended=False)) == 1
        reactor.advance(6.1)
        assert len(answers(client.received, ended=False)) == 2


@pytest.mark.parametrize("how", ["write_eof", "abort"])
def test_coroutine_is_cancelled_when_the_client_goes(how):
    ended = []

    async def wait(request):
        try:
            await request.sleep(1000)
        finally:
            ended.append(request)

    with client_of(wait) as (reactor, client):
        client.connection.write(GET)
        reactor.settle()
        getattr(client.connection, how)()
        reactor.settle()
        assert len(ended) == 1


def test_coroutines_that_go_on_after_their_answers_keep_apart():
    ended = []

    async def linger(request):
        seconds = float(request.path[1:])
        if seconds < 5:
            request.respond(Response(200, b"first"))
        else:
            stream = request.start(200)
        try:
            await request.sleep(seconds)
        finally:
            ended.append(seconds)
        if seconds < 5:
            raise LookupError("oops")
        stream.write(b"second")
        stream.end()

    errors = Errors()
    with client_of(linger, errors) as (reactor, client):
        client.connection.write(get("/1") + get("/5") + get("/2") + get("/100"))
        reactor.advance(6)
        assert [each.body for each in answers(client.received.rpartition(b"HTTP")[0])] == [
            b"first", b"second", b"first",
        ]  # fmt: skip
        client.connection.abort()
        reactor.settle()
        assert ended == [1, 5, 2, 100]
        assert isinstance(errors.take()[0], LookupError)


def test_waits_are_for_coroutines():
    def wait(request):
        request.sleep(1)

    errors = Errors()
    assert answer(wait, GET, on_error=errors).status == 500
    assert "only a handler that is a coroutine can wait" in str(errors.take()[0])
