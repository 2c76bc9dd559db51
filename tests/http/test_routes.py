"""Which handler a request goes to."""

import pytest

from reactor.http import HTTP
from tests.http.exchange import GET, answer, answers, exchange, get, hello, mirror

ROUTES = {"/": hello, "POST /job": mirror, "GET /job": hello, "PUT /put": mirror}


@pytest.mark.parametrize(
    ("request_", "status", "allow"),
    [
        (get("/"), 200, None), (get("/?a=b"), 200, None),
        (get("/nothing"), 404, None), (get("//"), 404, None),
        (get("/", method="POST"), 405, "GET, HEAD"), (get("/job", method="POST"), 200, None),
        (get("/put"), 405, "PUT"), (get("/put", method="PUT"), 200, None),
        (get("/", method="PUT"), 405, "GET, HEAD"),
        (get("/", method="DELETE"), 501, None), (get("*", method="OPTIONS"), 501, None),
        (get("localhost:1", method="CONNECT"), 501, None), (get("/", method="get"), 501, None),
    ],
)  # fmt: skip
def test_path_and_method_find_the_handler(request_, status, allow):
    found = answer(ROUTES, request_)
    assert found.status == status
    assert found.headers.get("allow") == allow


def test_head_is_answered_as_get_without_the_body():
    received = exchange(ROUTES, get("/", method="HEAD") + get("/nothing", method="HEAD") + GET)
    first, second, third = answers(received, "HEAD", "HEAD")
    assert (first.status, first.headers["content-length"], first.body) == (200, "5", b"")
    assert (second.status, second.body) == (404, b"")
    assert third.body == b"hello"


def test_one_handler_gets_every_path():
    assert answer(mirror, get("/any/path")).body == b"GET /any/path 0 "
    assert answer(mirror, get("/", method="DELETE")).status == 501


@pytest.mark.parametrize("key", ["", "path", "GET path", "GET  /", " /", "A B /"])
def test_invalid_route_is_refused(key):
    with pytest.raises(ValueError, match="a key must be a path, or a method, a space and a path, not "):
        HTTP({key: hello})


def test_handler_that_is_not_callable_is_refused():
    with pytest.raises(TypeError, match="handler must be callable, not 5"):
        HTTP(5)
    with pytest.raises(TypeError, match="the handler of '/' must be callable, not 5"):
        HTTP({"/": 5})
