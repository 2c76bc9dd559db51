"""Responses: their heads, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.http import Response
from tests.http.exchange import GET, answer, exchange


def test_head_of_a_response():
    response = Response(201, "é\n", headers={"X-Y": "z"})
    assert response.body == "é\n".encode()
    assert repr(response) == "<Response 201, 3 bytes>"
    head, _, body = exchange(lambda request: response, GET).partition(b"\r\n\r\n")
    assert body == response.body
    *lines, date = head.split(b"\r\n")
    assert lines == [
        b"HTTP/1.1 201 Created", b"Content-Type: text/plain; charset=utf-8", b"X-Y: z", b"Content-Length: 3"
    ]  # fmt: skip
    assert re.fullmatch(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)


@pytest.mark.parametrize(
    ("body", "given_", "sent"),
    [
        (b"x", None, "application/octet-stream"), ("x", None, "text/plain; charset=utf-8"), (b"", None, None),
        (b"x", "image/png", "image/png"), ("x", "text/html", "text/html"),
    ],
)  # fmt: skip
def test_content_type(body, given_, sent):
    found = answer(lambda request: Response(200, body, content_type=given_), GET)
    assert found.headers.get("content-type") == sent


def test_redirect():
    found = answer(lambda request: Response.redirect("/there"), GET)
    assert (found.status, found.headers["location"]) == (303, "/there")
    assert answer(lambda request: Response.redirect("/there", 308), GET).status == 308


@pytest.mark.parametrize("status", [0, 100, 199, 600, "200", None])
def test_status_out_of_range_is_refused(status):
    with pytest.raises(ValueError, match="status must be from 200 to 599, not "):
        Response(status)


@pytest.mark.parametrize("status", [204, 304])
def test_body_that_the_status_excludes_is_refused(status):
    with pytest.raises(ValueError, match=f"a response with status {status} has no body"):
        Response(status, b"x")
    assert "content-length" not in answer(lambda request: Response(status), GET).headers


@pytest.mark.parametrize("name", ["Content-Length", "connection", "DATE", "Transfer-Encoding"])
def test_fields_of_the_server_are_refused(name):
    with pytest.raises(ValueError, match="is written by the server"):
        Response(200, headers={name: "x"})


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_field_splits_the_response(name, value):
    try:
        response = Response(200, b"body", headers=[(name, value)])
    except ValueError:
        return
    found = answer(lambda request: response, GET)
    assert found.body == b"body"
    assert found.headers[name.lower()].strip() == value.strip()
    assert set(found.headers) == {name.lower(), "content-type", "content-length", "date"}


@pytest.mark.parametrize("text", ["a\r\nX: y", "a\n", "a\r", "a\0", "日"])
def test_line_break_in_a_field_is_refused(text):
    with pytest.raises(ValueError, match="is no field"):
        Response(200, headers={"X": text})
    with pytest.raises(ValueError, match="is no field"):
        Response(200, b"x", content_type=text)
    with pytest.raises(ValueError, match="is no field"):
        Response.redirect(text)
