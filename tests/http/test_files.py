"""Files as answers: types, conditions, ranges; nothing outside of the directory is opened."""

import errno
import os
import subprocess
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.http import HTTP, Response
from reactor.http.files import part_of
from reactor.http.server import SMALL_FILE
from reactor.testing import Errors
from tests.helpers import DEADLINE
from tests.http.exchange import GET, answer, answers, exchange, get, hello

BIG = bytes(range(256)) * (SMALL_FILE // 64)
MODIFIED = 1_700_000_000


@pytest.fixture
def root(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "public"
    (root / "sub").mkdir(parents=True)
    files = {
        "page.html": b"<p>", "index.html": b"index", "empty.txt": b"", "big.bin": BIG, "a.tar.gz": b"z",
        ".dot": b".", "sub/deep.json": b"{}", "noise": b"?", "x.css": b"c",
    }  # fmt: skip
    for name, content in files.items():
        (root / name).write_bytes(content)
        os.utime(root / name, (MODIFIED, MODIFIED))
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def ask(root, descriptors):
    def ask(path="/page.html", *fields, method="GET"):
        """The answer of the server of that directory."""

        def handle(request):
            return request.send_file(request.path, below=root)

        (found,) = answers(exchange({"/*": handle}, get(path, *fields, method=method)), method)
        return found

    return ask


def test_file_is_sent_with_its_type(ask):
    types = {
        "/page.html": "text/html; charset=utf-8", "/": "text/html; charset=utf-8",
        "/x.css": "text/css; charset=utf-8",
        "/empty.txt": "text/plain; charset=utf-8", "/big.bin": "application/octet-stream",
        "/sub/deep.json": "application/json", "/noise": "application/octet-stream",
        "/a.tar.gz": "application/gzip",
    }  # fmt: skip
    for path, kind in types.items():
        found = ask(path)
        assert (found.status, found.headers["content-type"]) == (200, kind)
        assert found.headers["last-modified"] == formatdate(MODIFIED, usegmt=True)
        assert found.headers["accept-ranges"] == "bytes"
    assert ask("/big.bin").body == BIG
    assert ask("/empty.txt").body == b""
    assert ask("/").body == b"index"
    head = ask("/big.bin", method="HEAD")
    assert (head.headers["content-length"], head.body) == (str(len(BIG)), b"")


@pytest.mark.parametrize(
    "path",
    ["/.dot", "/nothing", "/sub", "/sub/", "/link", "/up/secret", "/pipe", "//page.html", "/sub//deep.json",
     "/page.html/", "/page.html/x", "/..%5csecret", "/sub/.%2e"],
)  # fmt: skip
def test_what_is_no_file_of_the_directory_is_not_found(ask, path):
    assert ask(path).status in {400, 404}


@given(
    st.lists(
        st.sampled_from(["..", ".", "", "sub", "up", "link", "secret", "%2e%2e", "%2f", "\\"]), max_size=6
    )
)
def test_no_path_leads_outside(tmp_path_factory, names):
    base = tmp_path_factory.getbasetemp() / "outside"
    (base / "public" / "sub").mkdir(parents=True, exist_ok=True)
    (base / "secret").write_bytes(b"secret")
    if not (base / "public" / "up").is_symlink():
        (base / "public" / "up").symlink_to(base)

    def handle(request):
        return request.send_file(request.path, below=base / "public")

    found = answer(handle, get("/" + "/".join(names)))
    assert found.status in {400, 404}


def test_file_of_a_path_of_our_own(root, descriptors):
    def handle(request):
        request.send_file(root / "link", content_type="text/x", headers={"X": "y"})

    found = answer(handle, GET)
    assert (found.body, found.headers["content-type"], found.headers["x"]) == (b"secret", "text/x", "y")
    assert answer(lambda request: request.send_file(root / "nothing"), GET).status == 404
    assert answer(lambda request: request.send_file(root), GET).status == 404
    assert answer(lambda request: request.send_file(root / "pipe"), GET).status == 404


@pytest.mark.parametrize("size", [SMALL_FILE, SMALL_FILE + 1])
def test_file_that_shrinks_meanwhile_is_never_sent_short(tmp_path, descriptors, monkeypatch, size):
    path = tmp_path / "log"
    path.write_bytes(bytes(size))

    def part_and_truncate(*arguments):
        part = part_of(*arguments)
        os.truncate(path, 3)
        return part

    monkeypatch.setattr("reactor.http.request.part_of", part_and_truncate)
    errors = Errors()
    received = exchange(lambda request: request.send_file(path), GET, on_error=errors)
    assert isinstance(errors.take()[0], ValueError)
    statuses = [each.status for each in answers(received)]
    assert statuses == ([500] if size == SMALL_FILE else [])  # without an answer: the connection was reset


def test_lack_of_descriptors_is_no_missing_file(root, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("reactor.http.files.os.open", fail)
    for options in ({}, {"below": root}):
        errors = Errors()

        def handle(request, options=options):
            request.send_file("page.html", **options)

        assert answer(handle, GET, on_error=errors).status == 500
        assert errors.take()[0].errno == errno.EMFILE


def test_client_that_knows_the_file_gets_304(ask):
    first = ask("/big.bin")
    tag, modified = first.headers["etag"], first.headers["last-modified"]
    for field in (
        f"If-None-Match: {tag}", f'If-None-Match: "x", W/{tag}', "If-None-Match: *",
        f"If-Modified-Since: {modified}", f"If-Modified-Since: {formatdate(MODIFIED + 9, usegmt=True)}",
    ):  # fmt: skip
        found = ask("/big.bin", field)
        assert (found.status, found.body, found.headers["etag"]) == (304, b"", tag)
        assert "content-type" not in found.headers
    for fields in (
        ['If-None-Match: "x"'], [f"If-Modified-Since: {formatdate(MODIFIED - 9, usegmt=True)}"],
        ["If-Modified-Since: yesterday"], ['If-None-Match: "x"', f"If-Modified-Since: {modified}"],
    ):  # fmt: skip
        assert ask("/big.bin", *fields).status == 200


def test_precondition_that_fails_gets_412(ask):
    tag = ask("/big.bin").headers["etag"]
    before = formatdate(MODIFIED - 9, usegmt=True)
    assert ask("/big.bin", f"If-Match: {tag}").status == 200
    assert ask("/big.bin", "If-Match: *", f"If-Unmodified-Since: {before}").status == 200
    assert ask("/big.bin", 'If-Match: "x"').status == 412
    assert ask("/big.bin", f"If-Match: W/{tag}").status == 412
    assert ask("/big.bin", f"If-Unmodified-Since: {before}").status == 412


def test_condition_of_a_method_that_does_not_read_is_never_answered_with_304(root, ask):
    def handle(request):
        return request.send_file(root / "big.bin")

    first = ask("/big.bin")
    for field, status in (
        (f"If-None-Match: {first.headers['etag']}", 412),
        (f"If-Modified-Since: {first.headers['last-modified']}", 200),
    ):
        assert answer({"POST /": handle}, get("/", field, method="POST")).status == status


SIZE = len(BIG)


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9), ("bytes=100-", 206, 100, SIZE - 1), ("bytes=-7", 206, SIZE - 7, SIZE - 1),
        (f"bytes=5-{SIZE * 9}", 206, 5, SIZE - 1), (f"bytes=-{SIZE * 9}", 206, 0, SIZE - 1),
        (f"bytes={SIZE - 1}-", 206, SIZE - 1, SIZE - 1), ("bytes=0-0", 206, 0, 0),
        (f"bytes={SIZE}-", 416, 0, 0), ("bytes=-0", 416, 0, 0),
        ("bytes=9-5", 200, 0, 0), ("bytes=-", 200, 0, 0), ("bytes=0-1,3-4", 200, 0, 0),
        ("lines=0-1", 200, 0, 0),
        ("bytes=x", 200, 0, 0), (f"bytes={'9' * 30}-", 200, 0, 0), ("bytes= 0-9", 200, 0, 0),
    ],
)  # fmt: skip
def test_range(ask, asked, status, first, last):
    found = ask("/big.bin", f"Range: {asked}")
    assert found.status == status
    if status == 206:
        assert found.body == BIG[first : last + 1]
        assert found.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    elif status == 416:
        assert found.headers["content-range"] == f"bytes */{SIZE}"
    else:
        assert found.body == BIG


def test_range_holds_for_get_and_its_condition(ask):
    first = ask("/big.bin")
    tag, modified = first.headers["etag"], first.headers["last-modified"]
    assert ask("/big.bin", "Range: bytes=0-9", method="HEAD").status == 200
    for condition in (tag, modified):
        assert ask("/big.bin", "Range: bytes=0-9", f"If-Range: {condition}").status == 206
    for condition in ('"x"', f"W/{tag}", formatdate(MODIFIED - 9, usegmt=True), "nonsense"):
        assert ask("/big.bin", "Range: bytes=0-9", f"If-Range: {condition}").body == BIG


def test_files_are_pipelined(root, descriptors):
    def handle(request):
        request.send_file(request.path, below=root)

    found = answers(
        exchange(handle, get("/big.bin") + get("/nothing") + get("/sub/deep.json") + get("/big.bin"))
    )
    assert [each.status for each in found] == [200, 404, 200, 200]
    assert found[0].body == found[3].body == BIG


def test_trees_are_beside_paths():
    http = {
        "/": hello,
        "/a/*": lambda request: Response(200, "a"),
        "/a/b/*": lambda request: Response(200, "b"),
    }
    bodies = {"/": b"hello", "/a/x": b"a", "/a/b/c/d": b"b", "/a/": b"a", "/a/b": b"a"}
    for path, body in bodies.items():
        assert answer(http, get(path)).body == body
    assert answer(http, get("/ab")).status == 404
    assert answer(http, get("/a/x", method="POST")).status == 405


def test_curl_resumes_over_tls_and_in_clear(reactor_server, root, tmp_path, certificates):
    http = HTTP({"/*": lambda request: request.send_file(request.path, below=root)})
    for scheme, options in (("http", {}), ("https", {"tls": certificates.server()})):
        server = reactor_server(http, **options)
        target = tmp_path / f"got-{scheme}"
        target.write_bytes(BIG[:1000])
        words = ["curl", "-sSf", "-C", "-", "-o", str(target), "--cacert", certificates.file("ca.pem")]
        done = subprocess.run(
            [*words, f"{scheme}://localhost:{server.address.port}/big.bin"],
            capture_output=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stderr
        assert target.read_bytes() == BIG
