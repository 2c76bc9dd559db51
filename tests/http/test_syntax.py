"""The syntax of requests: what is refused, that nothing is smuggled, and that pieces change nothing."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.http import Headers, HTTPError
from reactor.http.syntax import MAX_FIELDS, REMEMBERED, RequestReader
from tests.helpers import examples
from tests.http.exchange import answers, exchange, get, mirror, post

HOST = b"Host: localhost\r\n"


def read(*pieces, known=None, max_head=16384):
    """The requests in the pieces, each as (head, body), or the status of the error that ends them."""
    reader = RequestReader(max_head, {} if known is None else known)
    found, head, body = [], None, b""
    for piece in pieces:
        reader.feed(piece)
        while True:
            try:
                if head is None:
                    head = reader.next_head()
                    if head is None:
                        break
                    if head.length != 0:
                        continue
                elif (part := reader.next_piece()) is None:
                    break
                elif part:
                    body += part
                    continue
            except HTTPError as exc:
                return [*found, exc.status]
            found.append((head, body))
            head, body = None, b""
    return found


def head_of(data):
    ((head, _),) = read(data)
    return head


def test_head_is_parsed():
    head = head_of(
        b"GET /a%20b/%C3%A9?x=1&y HTTP/1.1\r\nHost: h:1\r\nAccept: a\r\nX: \xe9 \r\nACCEPT: b\r\n\r\n"
    )
    assert (head.method, head.target) == ("GET", "/a%20b/%C3%A9?x=1&y")
    assert (head.path, head.query_string, head.host) == ("/a b/é", "x=1&y", "h:1")
    assert head.headers == {"host": "h:1", "accept": "a, b", "x": "é"}
    assert (head.length, head.keep_alive, head.is_http11, head.expects_continue) == (0, True, True, False)


def test_absolute_target_replaces_the_host():
    head = head_of(b"GET http://other:8000?q HTTP/1.1\r\nHost: ignored\r\n\r\n")
    assert (head.path, head.query_string, head.host) == ("/", "q", "other:8000")
    head = head_of(b"GET HTTPS://other/path HTTP/1.1\r\nHost: ignored\r\n\r\n")
    assert (head.path, head.host) == ("/path", "other")


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True), ("1.1", "close", False), ("1.1", "Upgrade, Close", False),
        ("1.0", None, False), ("1.0", "Keep-Alive", True), ("1.0", "keep-alive, close", False),
    ],
)  # fmt: skip
def test_connection_is_kept_by_version_and_field(version, connection, kept):
    fields = [] if connection is None else [f"Connection: {connection}"]
    assert head_of(get("/", *fields, version=version)).keep_alive is kept


def test_headers_are_a_mapping_in_any_case():
    headers = Headers([("Accept", "a"), ("Host", "h")])
    assert headers["ACCEPT"] == headers.get("accept") == "a"
    assert list(headers) == ["accept", "host"]
    assert len(headers) == 2
    assert "HOST" in headers
    assert repr(headers) == "Headers([('accept', 'a'), ('host', 'h')])"
    assert headers.tokens("accept") == ["a"]


GET_A = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = {
    "bare LF": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\n" + HOST + b"\n", 400),
    "bare LF before the end": (b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400),
    "bare CR in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "folded field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "folded by a tab": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", 400),
    "field without a colon": (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    "field without a name": (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "host with a slash": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host with user": (b"GET / HTTP/1.1\r\nHost: u@b\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "tab in the request line": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\n" + HOST + b"\r\n", 505),
    "http/1.1 in lower case": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "two empty lines first": (b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no absolute path": (b"GET path HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "ftp": (b"GET ftp://h/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "asterisk": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "absolute with user": (b"GET http://u@h/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "dot segments": (b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "escaped dot segments": (b"GET /a/%2e%2E/b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "escaped slash": (b"GET /a%2fb HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "escaped NUL": (b"GET /a%00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "escaped line break": (b"GET /a%0d%0a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "half an escape": (b"GET /a%4 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "not UTF-8": (b"GET /%ff HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a byte above ASCII": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "other expectation": (get("/", "Expect: 200-ok"), 417),
    "both lengths": (get("/", "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
    "both lengths, the other order": (get("/", "Transfer-Encoding: chunked", "Content-Length: 0"), 400),
    "two lengths": (get("/", "Content-Length: 3", "Content-Length: 4"), 400),
    "two lengths in one": (get("/", "Content-Length: 3, 4"), 400),
    "signed length": (get("/", "Content-Length: +3"), 400),
    "negative length": (get("/", "Content-Length: -3"), 400),
    "hexadecimal length": (get("/", "Content-Length: 0x3"), 400),
    "empty length": (get("/", "Content-Length:"), 400),
    "huge length": (get("/", f"Content-Length: {'9' * 30}"), 400),
    "length with an underscore": (get("/", "Content-Length: 1_0"), 400),
    "chunked in HTTP/1.0": (get("/", "Transfer-Encoding: chunked", version="1.0"), 400),
    "unknown coding": (get("/", "Transfer-Encoding: gzip"), 501),
    "two codings": (get("/", "Transfer-Encoding: gzip, chunked"), 501),
    "chunked twice": (get("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501),
    "chunked and more": (get("/", "Transfer-Encoding: chunked;x"), 501),
    "vertical tab before chunked": (
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        400,
    ),
    "many fields": (get("/", *["X: y"] * MAX_FIELDS), 431),
    "long head": (get("/", f"X: {'y' * 20000}"), 431),
    "long target": (b"GET /" + b"a" * 20000, 414),
    "long target with its end": (get("/" + "a" * 20000), 414),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_head_is_refused(data, status):
    assert read(data) == [status]
    assert read(*(data[at : at + 1] for at in range(len(data)))) == [status]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "missing mandatory Host: header"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n\r\n", "illegal request line"),
        (get("/", "<script>"), "illegal header line"),
        (get("/", "Content-Length: x"), "bad Content-Length"),
        (get("/", "Transfer-Encoding: chunked") + b"<script>\r\n", "illegal chunk header"),
        (get("/", "Transfer-Encoding: chunked") + b"1\r\nx<script>", "malformed chunk footer"),
    ],
)
def test_answer_says_what_is_wrong_and_quotes_nothing(data, text):
    found = answers(exchange(mirror, data))[0]
    assert (found.status, found.body.decode()) == (400, f"400 Bad Request: {text}\n")


BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "bare LF as the end": b"0\r\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare LFs in the trailer": b"0\r\nX: y\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "hexadecimal prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "too short": b"4\r\nhello\r\n0\r\n\r\n",
    "too long": b"6\r\nhello\r\n0\r\n\r\n",
    "huge": b"f" * 30 + b"\r\nhello\r\n0\r\n\r\n",
    "bad trailer": b"0\r\nX : y\r\n\r\n",
    "endless size": b"0" * 20000,
    "endless extension": b"5;" + b"x" * 20000,
    "long extension": b"5;" + b"x" * 10000 + b"\r\nhello\r\n0\r\n\r\n",
    "long trailer": b"0\r\n" + b"X:y\r\n" * 2000 + b"\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_bad_chunk_is_refused_and_nothing_after_it_is_read(body):
    data = get("/", "Transfer-Encoding: chunked", method="POST") + body
    (status,) = read(data)
    assert status in {400, 431}
    (status,) = read(*(data[at : at + 1] for at in range(len(data))))
    assert status in {400, 431}


def test_chunks_with_extensions_and_trailers_have_one_reading():
    body = b"5;a=b\r\nhello\r\n001 \r\n!\r\n0;x\r\nTrailer: y\r\nContent-Length: 100\r\n\r\n"
    found = read(get("/", "Transfer-Encoding: Chunked", method="POST") + body + get("/next"))
    assert [(head.path, data) for head, data in found] == [("/", b"hello!"), ("/next", b"")]
    assert "trailer" not in found[0][0].headers


def test_equal_lengths_are_one():
    found = read(get("/", "Content-Length: 3, 3", "Content-Length: 3", method="POST") + b"abc" + get("/next"))
    assert [(head.path, data) for head, data in found] == [("/", b"abc"), ("/next", b"")]


def test_one_empty_line_before_a_request_is_ignored():
    found = read(post(b"abc") + b"\r\n" + get("/next"), b"\r", b"\n", get("/last"))
    assert [head.path for head, _ in found] == ["/", "/next", "/last"]


def test_blocks_of_fields_are_remembered_and_bounded():
    known = {}
    for path in ("/one", "/two?x", "/three"):
        head = read(get(path, "X: y"), known=known)[0][0]
        assert (head.target, head.headers["x"], head.host, head.keep_alive) == (path, "y", "localhost", True)
        assert len(known) == 1
    assert not read(get("/", "X: y", version="1.0"), known=known)[0][0].keep_alive
    read(post(b"abc", "X: with-a-body"), get("/", f"X: {'y' * 2000}"), known=known)
    assert len(known) == 2
    for number in range(2 * REMEMBERED):
        read(get("/", f"X: {number}"), known=known)
        assert len(known) <= REMEMBERED


def test_host_of_a_target_is_not_remembered():
    known = {}
    assert read(get("http://other/"), known=known)[0][0].host == "other"
    assert read(get("/"), known=known)[0][0].host == "localhost"


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=REFUSED.keys())
def test_bad_head_is_refused_after_good_ones_too(number):
    known = {}
    assert len(read(get("/") + get("/", version="1.0") + GET_A, known=known)) == 3
    data, status = list(REFUSED.values())[number]
    assert read(data, known=known) == [status]


#: Parts of requests, good and bad, of which two servers might make different things.
PARTS = st.sampled_from(
    [
        b"POST / HTTP/1.1\r\n", b"GET /smuggled HTTP/1.1\r\n", HOST, b"Host: a\n", b"\r\n", b"\n", b"\r",
        b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length : 5\r\n", b"Content-Length:5\n",
        b"Content-Length: 5, 5\r\n", b"Content-Length: 5 5\r\n", b"content-length:\t5\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: xchunked\r\n", b"X: y\r\n", b" folded\r\n",
        b"0\r\n\r\n", b"0\n\r\n", b"0\r\n\n", b"5\r\nhello\r\n", b"5;e\r\nhello\r\n", b"5 ;\nx\r\nhello\r\n",
        b"5\r\nhelloX\n", b"hello", b"0\r\nX: y\r\n\r\n", b"FFFFFFFFFFFFFFFFFFFFF\r\n",
    ]
)  # fmt: skip


def reference(data):
    """The requests in `data` for a strict reader, each as (method, path, body), up to a doubt."""
    found = []
    while True:
        head, end, rest = data.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if not end or any(b"\n" in line or b"\r" in line for line in lines):
            return found
        words = lines[0].split(b" ")
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        values = dict(zip(names, (line.partition(b":")[2].strip() for line in lines[1:]), strict=True))
        if len(words) != 3 or any(b" " in name or not name for name in names) or names.count(b"host") != 1:
            return found
        coding, length = values.get(b"transfer-encoding"), values.get(b"content-length", b"0")
        if coding is not None and (coding != b"chunked" or b"content-length" in names):
            return found
        if names.count(b"transfer-encoding") > 1:
            return found
        if coding is None:
            numbers = {part.strip() for line in lines[1:] if line.lower().startswith(b"content-length:")
                       for part in line.partition(b":")[2].split(b",")} or {b"0"}  # fmt: skip
            if len(numbers) != 1 or not length or not numbers.copy().pop().isdigit():
                return found
            size = int(numbers.pop())
            if len(rest) < size:
                return found
            body, data = rest[:size], rest[size:]
        else:
            read_chunks = chunks(rest)
            if read_chunks is None:
                return found
            body, data = read_chunks
        found.append((words[0].decode(), words[1].decode(), body))


def chunks(data):
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        size, _, _ = line.partition(b";")
        size = size.rstrip(b" \t")
        if (
            not end
            or b"\n" in line
            or not size
            or len(size) > 20
            or set(size) - set(b"0123456789abcdefABCDEF")
        ):
            return None
        if not int(size, 16):
            break
        if data[int(size, 16) :][:2] != b"\r\n":
            return None
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end or b"\n" in line or b"\r" in line:
            return None
        if not line:
            return body, data
        if b":" not in line or b" " in line.partition(b":")[0] or line[:1] in b" \t:":
            return None


@given(st.lists(PARTS, max_size=14))
@examples(400)
def test_nothing_is_read_as_a_request_that_a_strict_reader_would_not(parts):
    data = b"POST / HTTP/1.1\r\n" + b"".join(parts)
    found = [(head.method, head.path, body) for head, body in (each for each in read(data) if each != 0
             and not isinstance(each, int))]  # fmt: skip
    assert found == reference(data)[: len(found)]


@given(st.lists(PARTS, max_size=14), st.data())
@examples(150)
def test_pieces_never_change_what_is_answered(parts, data):
    sent = b"POST / HTTP/1.1\r\n" + b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    whole = [(each.status, each.body) for each in answers(exchange(mirror, sent))]
    parted = [(each.status, each.body) for each in answers(exchange(mirror, *filter(None, pieces)))]
    assert parted == whole


REQUESTS = st.lists(
    st.one_of(
        st.integers(0, 3).map(lambda n: get(f"/{n}")),
        st.binary(max_size=40).map(post),
        st.lists(st.binary(min_size=1, max_size=20), max_size=4).map(
            lambda parts: (
                get("/chunks", "Transfer-Encoding: chunked", method="POST")
                + b"".join(b"%x;e\r\n%b\r\n" % (len(part), part) for part in parts)
                + b"0\r\n\r\n"
            )
        ),
    ),
    max_size=6,
)


@given(REQUESTS, st.data())
@examples(150)
def test_pipelined_requests_are_answered_in_order_however_they_are_cut(requests, data):
    sent = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    expected = [f"{head.method} {head.path} {len(body)} ".encode() + body for head, body in read(sent)]
    assert len(expected) == len(requests)
    found = answers(exchange(mirror, *filter(None, pieces)))
    assert [each.body for each in found] == expected
    assert {each.status for each in found} <= {200}


@given(
    st.lists(
        st.one_of(st.binary(max_size=40), PARTS, st.sampled_from([b"GET ", b"/", b" HTTP/1.1"])), max_size=8
    )
)
@examples(200)
def test_no_bytes_bring_about_an_error_of_the_server(pieces):
    for each in answers(exchange(mirror, *filter(None, pieces))):
        assert each.status == 200 or 400 <= each.status < 500 or each.status in {501, 505}


def test_missing_h11_names_the_extra():
    program = "import sys; sys.modules['h11'] = None; import reactor.http"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: reactor.http needs h11: pip install 'selectors-reactor[http]', "
        "or in a checkout pip install -e '.[http]'"
    )
