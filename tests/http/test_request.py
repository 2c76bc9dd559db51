"""Requests: what was sent."""

from reactor.http import Response
from tests.http.exchange import answer, get, post


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
