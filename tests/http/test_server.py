"""The server: answers, errors, pipelining, deadlines, drains; from callbacks and coroutines."""

import http.client
import re
import subprocess

import pytest

from reactor import Timeouts, UsageError
from reactor.deploy import Transfer
from reactor.http import HTTP, HTTPError, Response
from reactor.testing import Errors, ManualClock, MemoryReactor, Recorder
from tests.deploy.chain import read, world
from tests.helpers import DEADLINE, spin
from tests.http.exchange import GET, answer, answers, client_of, exchange, get, hello, mirror, post

# Requests and answers


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="max_body must be a whole number of bytes, 0 or more, not -1"):
        HTTP(hello, max_body=-1)
    with pytest.raises(ValueError, match="head_timeout must be more than 0 seconds"):
        HTTP(hello, head_timeout=0)


def test_version_and_connection_decide_whether_the_connection_is_kept():
    assert "connection" not in answer(hello, GET).headers
    first, second = answers(exchange(hello, get("/", "Connection: keep-alive", version="1.0") + GET))
    assert first.headers["connection"] == "keep-alive"
    assert second.body == b"hello"
    for last in (get("/", "Connection: close"), get("/", version="1.0")):
        assert answer(hello, last + GET, end=False).headers["connection"] == "close"


def test_expectation_is_met_when_the_body_is_wanted():
    ask = get("/", "Content-Length: 2", "Expect: 100-continue", method="POST")
    with client_of({"POST /": mirror}) as (reactor, client):
        client.connection.write(ask)
        reactor.settle()
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.connection.write(b"ab")
        reactor.settle()
        (found,) = answers(client.received, "POST", ended=False)
        assert found.body == b"POST / 2 ab"
    assert not exchange({"POST /": mirror}, ask + b"ab").startswith(b"HTTP/1.1 100")
    assert exchange({"/": mirror}, ask, end=False).startswith(b"HTTP/1.1 405")
    assert exchange({"POST /": mirror}, ask, end=False, max_body=1).startswith(b"HTTP/1.1 413")


def test_body_is_bounded():
    chunked = get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    assert answer(mirror, post(b"abcde") + b"", max_body=5).status == 200
    for data in (post(b"abcdef"), chunked):
        found = answer(mirror, data + GET, max_body=5, end=False)
        assert (found.status, found.headers["connection"]) == (413, "close")


def test_head_is_bounded():
    assert answer(hello, get("/", "X: " + "y" * 400), max_head=500).status == 200
    assert answer(hello, get("/", "X: " + "y" * 500), max_head=500, end=False).status == 431
    assert answer(hello, get("/" + "y" * 500), max_head=500, end=False).status == 414


def test_head_is_bounded_after_others_of_its_kind():
    found = answers(exchange(hello, GET, GET, get("/" + "y" * 20_000), end=False))
    assert [each.status for each in found] == [200, 200, 414]


def test_bad_path_is_refused_after_others_of_its_kind():
    found = answers(exchange(hello, GET, GET, get("/../secret"), end=False))
    assert [each.status for each in found] == [200, 200, 400]


def test_bad_request_is_the_last():
    first, second = answers(exchange(hello, GET + b"GET / HTTP/1.1\nHost: a\n\n" + GET, end=False))
    assert first.status == 200
    assert (second.status, second.headers["connection"]) == (400, "close")
    assert second.body == b"400 Bad Request: lines end with CR and LF\n"
    assert "date" in second.headers


def test_unread_body_of_a_refused_request_is_no_request():
    found = answer({"/": hello}, get("/nothing", "Content-Length: 999", method="POST") + GET, end=False)
    assert (found.status, found.headers["connection"]) == (404, "close")


def test_end_of_file_in_a_request_is_answered():
    assert answer(hello, b"GET / HT").status == 400
    assert answer(hello, get("/", "Content-Length: 9", method="POST") + b"abc").status == 400
    assert exchange(hello) == b""


@pytest.mark.parametrize("kind", ["callback", "coroutine"])
def test_exception_is_answered_without_its_text(kind):
    errors = Errors()

    def fail(request):
        raise LookupError("secret")

    async def fail_later(request):
        await request.sleep(0)
        raise LookupError("secret")

    with client_of(fail if kind == "callback" else fail_later, errors) as (reactor, client):
        client.connection.write(GET)
        reactor.advance(1)
        (found,) = answers(client.received, ended=False)
    assert (found.status, found.body) == (500, b"500 Internal Server Error\n")
    exc, where, _ = errors.take()
    assert isinstance(exc, LookupError)
    assert "fail" in where


def test_http_error_is_answered_and_not_reported():
    def refuse(request):
        raise HTTPError(429, "later", (("Retry-After", "5"),))

    first, second = answers(exchange(refuse, GET + GET))
    assert (first.status, first.body) == (429, b"429 Too Many Requests: later\n")
    assert first.headers["retry-after"] == "5"
    assert second.status == 429


@pytest.mark.parametrize("error", [HTTPError(700), HTTPError(404, headers=(("A", "b\r\nC: d"),))])
def test_http_error_that_can_t_be_sent_is_reported_and_answered_with_500(error):
    def refuse(request):
        raise error

    errors = Errors()
    assert answer(refuse, GET, on_error=errors).status == 500
    assert type(errors.take()[0]) is ValueError


@pytest.mark.parametrize("result", ["text", b"", 0, object()])
def test_result_that_is_no_response_is_an_error(result):
    errors = Errors()
    assert answer(lambda request: result, GET, on_error=errors).status == 500
    assert "a handler returns a Response or None, not " in str(errors.take()[0])


def test_request_is_answered_once():
    errors = Errors()

    def twice(request):
        assert request.respond(Response(200, b"first"))
        return Response(200, b"second")

    assert answer(twice, GET, on_error=errors).body == b"first"
    assert isinstance(errors.take()[0], UsageError)


# Later, and one after the other


def test_callback_may_answer_later_and_others_wait():
    requests = []
    with client_of(requests.append) as (reactor, client):
        client.connection.write(get("/1") + get("/2"))
        reactor.settle()
        (first,) = requests
        assert first.respond(Response(200, b"1"))
        reactor.settle()
        assert requests[1].respond(Response(200, b"2"))
        reactor.settle()
        assert [each.body for each in answers(client.received, ended=False)] == [b"1", b"2"]
        with pytest.raises(UsageError, match="answered already"):
            first.respond(Response(200))
        client.connection.write(get("/3"))
        reactor.settle()
        client.connection.abort()
        reactor.settle()
        assert requests[2].respond(Response(200)) is False


def test_answer_comes_after_the_clients_end_of_file():
    requests = []
    with client_of(requests.append) as (reactor, client):
        client.connection.write(GET)
        client.connection.write_eof()
        reactor.settle()
        requests[0].respond(Response(200, b"late"))
        reactor.settle()
        assert answers(client.received)[0].body == b"late"
        assert "eof_received" in client.names


@pytest.mark.parametrize(
    ("request_", "is_half_closed"),
    [
        (get("/", "Connection: close"), False),
        (get("/", version="1.0"), False),
        (GET, True),
        (GET + b"?", False),
    ],
)
def test_last_answer_may_take_longer_than_a_close(request_, is_half_closed):
    body = b"x" * 300_000
    with client_of(lambda request: Response(200, body)) as (reactor, client):
        client.connection.pause_reading()
        client.connection.write(request_)
        if is_half_closed:
            client.connection.write_eof()
        reactor.advance(Timeouts().close + 10)  # less than `Timeouts.write`
        client.connection.resume_reading()
        reactor.settle()
        assert answers(client.received)[0].body == body


@pytest.mark.parametrize(("rest", "status"), [(get("/2"), 200), (get("/2")[:-1], 400)])
def test_end_of_file_may_come_just_before_what_waits_is_read(rest, status):
    requests = []

    def handle(request):
        if request.path == "/1":
            requests.append(request)
            return None
        if request.path == "/trigger":  # in the tick in which the end of file comes
            requests[0].respond(Response(200, b"1"))
        return Response(200, b"2")

    with client_of(handle) as (reactor, other), client_of(handle, reactor=reactor) as (_, client):
        client.connection.write(get("/1") + rest)
        reactor.settle()
        other.connection.write(get("/trigger"))
        client.connection.write_eof()
        reactor.settle()
        assert [each.status for each in answers(client.received)] == [200, status]


def test_many_pipelined_requests_take_several_ticks_and_are_bounded():
    with client_of(hello) as (reactor, client):
        client.connection.write(GET * 1000)
        reactor.settle()
        assert len(answers(client.received, ended=False)) == 1000


def test_client_that_reads_no_answers_is_not_read_from():
    count = []

    def big(request):
        count.append(1)
        return Response(200, b"x" * 100_000)

    with client_of(big) as (reactor, client):
        client.connection.pause_reading()
        for _ in range(150):
            client.connection.write(get("/", "X: " + "y" * 3000))
            reactor.settle()
        assert len(count) < 10
        assert client.connection.get_write_buffer_size() > 100_000
        client.connection.resume_reading()
        reactor.settle()
        assert len(count) == 150


def test_requests_that_wait_are_bounded():
    requests = []
    with client_of(requests.append) as (reactor, client):
        for _ in range(100):
            client.connection.write(get("/", "X: " + "y" * 5000))
            reactor.settle()
        assert client.connection.get_write_buffer_size() > 200_000
        for number in range(100):
            requests[number].respond(Response(200, b"%d" % number))
            reactor.settle()
        assert [each.body for each in answers(client.received, ended=False)] == [
            b"%d" % n for n in range(100)
        ]


# Deadlines


def test_slow_head_is_answered_with_408():
    with client_of(hello, head_timeout=10.0) as (reactor, client):
        start = reactor.clock()
        for byte in GET[:-1]:
            client.connection.write(bytes([byte]))
            reactor.advance(0.5)
            if client.received:
                break
        (found,) = answers(client.received)
        assert (found.status, found.headers["connection"]) == (408, "close")
        assert start + 10 <= reactor.clock() <= start + 11.2


def test_slow_second_head_is_answered_with_408():
    with client_of(hello, head_timeout=10.0) as (reactor, client):
        client.connection.write(GET)
        reactor.advance(30)
        client.connection.write(GET[:5])
        reactor.advance(9.9)
        assert len(answers(client.received, ended=False)) == 1
        reactor.advance(1.2)
        assert [each.status for each in answers(client.received)] == [200, 408]


def test_slow_body_is_answered_with_408():
    with client_of(hello, head_timeout=1.0, body_timeout=20.0) as (reactor, client):
        client.connection.write(get("/", "Content-Length: 100", method="POST"))
        for _ in range(19):
            client.connection.write(b"x")
            reactor.advance(1)
        assert client.received == b""
        reactor.advance(3)
        assert answers(client.received)[0].status == 408


def test_silent_connection_is_closed_without_an_answer():
    with client_of(hello, head_timeout=10.0) as (reactor, client):
        reactor.advance(9.9)
        assert "eof_received" not in client.names
        reactor.advance(1.2)
        assert "eof_received" in client.names
        assert client.received == b""


def test_idle_connection_is_closed_after_keep_alive():
    with client_of(hello, head_timeout=10.0, keep_alive=50.0) as (reactor, client):
        for _ in range(5):
            client.connection.write(GET)
            reactor.advance(40)
        assert "eof_received" not in client.names
        reactor.advance(15)
        assert "eof_received" in client.names
        assert len(answers(client.received)) == 5


def test_long_answer_has_no_deadline():
    async def wait(request):
        await request.sleep(1000)
        return Response(200, b"done")

    with client_of(wait) as (reactor, client):
        client.connection.write(GET)
        reactor.advance(1001)
        assert answers(client.received, ended=False)[0].body == b"done"


def test_timeouts_of_the_listener_hold_too():
    recorder = Recorder()
    with MemoryReactor() as reactor:
        reactor.listen("10.0.0.1:80", HTTP(hello), timeouts=Timeouts(idle=5.0))
        reactor.connect("10.0.0.1:80", lambda: recorder)
        reactor.advance(6)
        assert recorder.lost


# Drains


def test_drain_closes_idle_connections_and_completes_answers():
    requests, reports = [], []
    clients = [Recorder() for _ in range(3)]
    with MemoryReactor() as reactor:
        reactor.listen("10.0.0.1:80", HTTP({"/": hello, "/later": requests.append}))
        for each in clients:
            reactor.connect("10.0.0.1:80", lambda each=each: each)
        reactor.advance(1)
        for each, data in zip(clients, (GET, get("/later"), GET[:10]), strict=True):
            each.connection.write(data)
        reactor.advance(20)
        (listener,) = reactor.listeners()
        clients[2].connection.write(GET[:10])
        listener.drain(30.0, reports.append)
        reactor.advance(1)
        assert [each.lost for each in clients] == [True, False, True]
        requests[0].respond(Response(200, b"late"))
        reactor.advance(1)
        (found,) = answers(clients[1].received)
        assert (found.body, found.headers["connection"]) == (b"late", "close")
        assert reports[0].aborted == 0


def test_drain_ends_streams_of_events():
    lost, reports, client = [], [], Recorder()

    def subscribe(request):
        request.events(ping=None).on_close = lost.append

    with MemoryReactor() as reactor:
        listener = reactor.listen("10.0.0.1:80", HTTP(subscribe))
        reactor.connect("10.0.0.1:80", lambda: client)
        reactor.advance(1)
        client.connection.write(GET)
        reactor.advance(20)
        listener.drain(30.0, reports.append)
        reactor.advance(1)
        assert lost == [None]
        assert (reports[0].finished, reports[0].aborted) == (1, 0)


# Interrupts


@pytest.mark.parametrize("kind", ["callback", "pipelined", "coroutine", "later"])
def test_interrupt_ends_its_connection_alone(kind):
    def stop(request):
        if request.path == "/stop":
            raise KeyboardInterrupt
        return Response(200, b"served")

    async def stop_later(request):
        if kind == "later":
            await request.sleep(0)
        return stop(request)

    other = Recorder()
    with client_of(stop if kind in {"callback", "pipelined"} else stop_later) as (reactor, client):
        client.connection.write(GET * 100 * (kind == "pipelined") + get("/stop"))
        with pytest.raises(KeyboardInterrupt):
            reactor.advance(1)
        reactor.advance(1)
        assert client.lost
        reactor.pair(HTTP(stop), lambda: other)
        other.connection.write(GET)
        reactor.settle()
        assert answers(other.received, ended=False)[0].body == b"served"
        other.connection.abort()
        reactor.settle()


# Real clients


@pytest.fixture
def served(reactor_server):
    async def slow(request):
        await request.sleep(0.01)
        return Response(200, b"slow")

    return reactor_server(HTTP({"/": hello, "POST /": mirror, "/slow": slow}))


def url(server, path="/"):
    return f"http://127.0.0.1:{server.address.port}{path}"


def test_http_client_of_the_standard_library(served):
    connection = http.client.HTTPConnection(served.address.host, served.address.port, timeout=DEADLINE)
    for _ in range(3):
        for method, path, body, expected in [
            ("GET", "/", None, b"hello"), ("HEAD", "/", None, b""), ("GET", "/slow", None, b"slow"),
            ("POST", "/", b"x" * 100_000, b"POST / 100000 " + b"x" * 100_000),
            ("POST", "/", iter([b"a", b"b"]), b"POST / 2 ab"),
        ]:  # fmt: skip
            connection.request(method, path, body)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, expected)
    connection.close()


def run(*words):
    done = subprocess.run(words, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(served, tmp_path):
    (tmp_path / "body").write_bytes(b"x" * 50_000)
    body = f"@{tmp_path / 'body'}"
    assert run("curl", "-sS", url(served), url(served, "/slow")) == b"helloslow"
    assert b"Content-Length: 5\r\n" in run("curl", "-sSI", url(served))
    assert run("curl", "-sS", "--data-binary", body, url(served)).startswith(b"POST / 50000 xxx")
    chunked = ("-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue")
    assert run("curl", "-sS", *chunked, "--data-binary", body, url(served)).startswith(b"POST / 50000 xxx")
    assert b" 400 " in run("curl", "-sSi", "-H", "Content-Length: 1x", url(served))


def test_ab(served):
    for options in ([], ["-k"]):
        report = run("ab", "-q", *options, "-n", "200", "-c", "10", url(served)).decode()
        assert re.search(r"Complete requests: +200\n", report)
        assert re.search(r"Failed requests: +0\n", report)


def test_wrk(served):
    report = run("wrk", "-t1", "-c16", "-d1s", url(served)).decode()
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+)", report)
    assert errors is None or errors.groups() == ("0", "0", "0")  # what is slow is no error of ours
    assert "Non-2xx" not in report
    assert int(re.search(r"(\d+) requests in", report)[1]) > 0


# Handing over


def answered(made, clients, count):
    """What each client has received, once it has that many answers."""
    heard = [bytearray() for _ in clients]

    def enough():
        for client, received in zip(clients, heard, strict=True):
            received.extend(read(client))
        return all(received.count(b"HTTP/1.1 ") == count for received in heard)

    made.until(enough)
    return [answers(bytes(received), ended=False) for received in heard]


def test_connections_go_over_at_every_byte_but_within_a_body():
    data = get("/first") + b"\r\n" + get("/second", "X: " + "y" * 50) + post(b"third", path="/last")
    body = len(data) - len(b"third")
    handled = []

    def handle(request):
        handled.append(request.path)
        return mirror(request)

    with world(HTTP(handle), HTTP(handle)) as made:
        clients = made.connect(len(data))
        for place, client in enumerate(clients):
            client.send(data[:place])
        ends = [data.index(b"\r\n\r\n", start) + 4 for start in (0, data.index(b"/second"))]
        whole = sum(place >= end for place in range(len(data)) for end in ends)
        spin(made.reactors[0], lambda: len(handled) == whole)
        assert made.move()[0] == Transfer(moved=body, kept=len(b"third"))
        made.reactors[0].drain(10.0)
        for place, client in enumerate(clients):
            client.send(data[place:])
        for place, found in enumerate(answered(made, clients, 3)):
            assert [each.body for each in found] == [
                b"GET /first 0 ", b"GET /second 0 ", b"POST /last 5 third",
            ]  # fmt: skip
            assert [each.headers.get("connection") for each in found[:2]] == [None, None]
            assert found[2].headers.get("connection") == ("close" if place >= body else None)
    assert sorted(handled) == sorted(["/first", "/second", "/last"] * len(data))


def test_requests_that_wait_for_room_go_over_and_are_handled_once():
    handled = []

    def handle(request):
        handled.append(request.path)
        return Response(200, bytes(30_000))

    with world(HTTP(handle), HTTP(handle)) as made:
        clients = made.connect()
        clients[0].send(b"".join(get(f"/{number}") for number in range(9)))
        spin(made.reactors[0], lambda: handled and made.only(0).is_paused())
        before = len(handled)
        assert made.move()[0] == Transfer(moved=1, kept=0)
        received = bytearray()
        made.until(lambda: received.extend(read(clients[0])) or received.count(b"\0") == 270_000)
        assert len(answers(bytes(received), ended=False)) == 9
        assert handled == [f"/{number}" for number in range(9)]
        assert 0 < before < 9


@pytest.mark.parametrize("drains", [False, True])
def test_connection_within_an_answer_stays_for_that_one(drains):
    waiting = []
    with world(HTTP(waiting.append), HTTP(hello)) as made:
        (client,) = made.connect()
        client.send(GET)
        spin(made.reactors[0], lambda: waiting)
        assert made.move()[0] == Transfer(moved=0, kept=1)
        if drains:
            made.reactors[0].drain(10.0)
            made.turn()
        waiting[0].respond(Response(200, b"late"))
        (found,) = answered(made, [client], 1)[0]
        assert (found.body, found.headers["connection"]) == (b"late", "close")
        client.close()
        made.until(lambda: not made.reactors[0].connections())


def test_coroutine_that_goes_on_after_its_answer_ends_with_the_handover():
    ends = []

    async def goes_on(request):
        request.respond(Response(200, b"early"))
        try:
            await request.sleep(1000)
        finally:
            ends.append(True)

    with world(HTTP(goes_on), HTTP(hello)) as made:
        clients = made.connect()
        clients[0].send(GET)
        answered(made, clients, 1)
        assert made.move()[0] == Transfer(moved=1, kept=0)
        assert ends == [True]
        clients[0].send(GET)
        assert answered(made, clients, 1)[0][0].body == b"hello"


def test_deadlines_of_a_connection_that_was_handed_over_go_on():
    clock, options = ManualClock(), {"head_timeout": 10.0, "keep_alive": 30.0}
    with world(HTTP(hello, **options), HTTP(hello, **options), clock=clock) as made:
        fresh, slow, idle = clients = made.connect(3)
        idle.send(GET)
        slow.send(GET[:10])
        answered(made, [idle], 1)
        clock.advance(7)
        assert made.move()[0] == Transfer(moved=3, kept=0)
        clock.advance(4)
        made.until(lambda: len(made.by_peer(1)) == 1)
        assert (fresh.recv(100), slow.recv(100)[:12]) == (b"", b"HTTP/1.1 408")
        idle.send(GET)
        assert len(answered(made, clients[2:], 1)[0]) == 1
        clock.advance(31)
        made.turn()
        clock.advance(31)
        made.until(lambda: not made.by_peer(1))


def test_connection_whose_transfer_fails_goes_on_with_the_requests_that_came():
    with world(HTTP(mirror), HTTP(mirror)) as made:
        clients = made.connect()
        clients[0].send(GET[:9])
        made.turn()
        _, there = made.begin()
        there.cancel()
        made.until(lambda: len(made.transfers) == 2)
        clients[0].send(GET[9:] + post(b"more"))
        assert [each.body for each in answered(made, clients, 2)[0]] == [b"GET / 0 ", b"POST / 4 more"]
