"""Answers that are sent piece by piece: framing, flow control, ends; server-sent events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import UsageError
from reactor.http import Response, encode_event
from reactor.testing import Errors
from tests.http.exchange import GET, answer, answers, client_of, exchange, get


def parts(request):
    stream = request.start(200, {"X": "y"}, content_type="text/plain")
    for part in (b"one", b"", b"two" * 10_000):
        stream.write(part)
    stream.end()


def test_stream_is_chunked():
    first, second = answers(exchange(parts, GET + GET))
    assert first.body == second.body == b"one" + b"two" * 10_000
    assert first.headers["transfer-encoding"] == "chunked"
    assert first.headers["x"] == "y"


def test_stream_to_an_old_client_ends_with_the_connection():
    found = answer(parts, get("/", "Connection: keep-alive", version="1.0") + GET, end=False)
    assert found.headers["connection"] == "close"
    assert found.body == b"one" + b"two" * 10_000


def test_head_of_a_stream_has_no_body():
    first, second = answers(exchange(parts, get("/", method="HEAD") + GET), "HEAD")
    assert (first.status, first.body) == (200, b"")
    assert second.body.startswith(b"one")


def test_head_of_a_stream_does_not_wait_for_the_handler():
    lost = []

    def wait(request):
        stream = request.start(200)
        stream.on_close = lost.append
        assert not stream.write(b"this waits for on_drain")

    received = exchange(wait, get(method="HEAD") + get(method="HEAD"), end=False)
    assert len(answers(received, "HEAD", "HEAD", ended=False)) == 2
    assert lost == [None, None]


def test_stream_of_known_length():
    def write(request):
        stream = request.start(200, length=5)
        with pytest.raises(UsageError, match="has 1 bytes more than its length"):
            stream.write(b"123456")
        stream.write(b"123")
        with pytest.raises(UsageError, match="lacks 2 bytes of its length"):
            stream.end()
        stream.write(b"45")
        stream.end()
        stream.end()
        assert stream.is_closed
        with pytest.raises(UsageError, match="write after end"):
            stream.write(b"x")

    first, second = answers(exchange(write, GET + GET))
    assert first.body == second.body == b"12345"
    assert first.headers["content-length"] == "5"


def test_flow_control_by_callback():
    log = []

    def pour(request):
        stream = request.start(200)

        def more():
            log.append("more")
            while stream.write(b"x" * 10_000):
                pass
            if len(log) == 5:
                stream.on_drain = None
                stream.end()

        stream.on_drain = more
        more()

    with client_of(pour) as (reactor, client):
        client.connection.write(GET)
        reactor.settle()
        (found,) = answers(client.received, ended=False)
        assert len(found.body) > 5 * 64 * 1024
        assert len(log) == 5


def test_flow_control_by_coroutine():
    async def pour(request):
        stream = request.start(200)
        for _ in range(100):
            stream.write(b"x" * 10_000)
            await stream.drain()
            assert request.connection.get_write_buffer_size() <= 80_000
        stream.end()

    with client_of(pour) as (reactor, client):
        client.connection.pause_reading()
        client.connection.write(GET)
        reactor.settle()
        client.connection.resume_reading()
        reactor.settle()
        (found,) = answers(client.received, ended=False)
        assert len(found.body) == 1_000_000


def test_stream_ends_when_the_client_goes():
    streams, reasons = [], []

    def begin(request):
        stream = request.start(200)
        stream.on_close = reasons.append
        streams.append(stream)

    with client_of(begin) as (reactor, client):
        client.connection.write(GET)
        reactor.settle()
        client.connection.abort()
        reactor.settle()
        (reason,) = reasons
        assert isinstance(reason, ConnectionError)
        assert streams[0].is_closed
        assert streams[0].write(b"x") is False
        streams[0].end()
    assert len(reasons) == 1


def test_coroutine_that_fails_in_its_answer_resets_the_connection():
    async def fail(request):
        request.start(200).write(b"half")
        await request.sleep(1)
        raise LookupError("oops")

    errors = Errors()
    with client_of(fail, errors) as (reactor, client):
        client.connection.write(GET)
        reactor.advance(2)
        assert isinstance(client.reason, ConnectionResetError)
    assert isinstance(errors.take()[0], LookupError)


def test_answer_begins_once():
    def twice(request):
        stream = request.start(200)
        with pytest.raises(UsageError, match="answered already"):
            request.start(200)
        with pytest.raises(UsageError, match="answered already"):
            request.events()
        stream.end()

    assert answer(twice, GET).status == 200


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"status": 204}, "a response with status 204 has no body"),
        ({"status": 304, "length": 5}, "a response with status 304 has no body"),
        ({"length": -5}, "length must be a whole number of bytes"),
        ({"headers": {"A": "b\r\nC: d"}}, "is no field"),
        ({"content_type": "a\r\nb: c"}, "is no field"),
    ],
)  # fmt: skip
def test_head_that_would_mislead_the_client_is_not_sent(arguments, cause):
    def begin(request):
        with pytest.raises(ValueError, match=cause):
            request.start(**arguments)
        return Response(200, b"instead")

    assert answer(begin, GET).body == b"instead"


# Server-sent events


def parsed(text):
    """The events in `text`, each as (type, data, id), as a browser understands them: HTML, 9.2.6."""
    events, last_id = [], ""
    for block in text.split("\n\n")[:-1]:
        kind, data = "message", []
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                last_id = value
        if data:
            events.append((kind, "\n".join(data), last_id))
    return events


@given(st.text(), st.text(max_size=5), st.text(max_size=5))
def test_event_arrives_as_it_is(data, kind, number):
    try:
        encoded = encode_event(data, event=kind or None, id=number, retry=1.5)
    except ValueError:
        assert {"\r", "\n", "\0"} & set(kind + number)
        return
    except UnicodeEncodeError:
        return
    (found,) = parsed(encoded.decode())
    assert found == (kind or "message", data.replace("\r\n", "\n").replace("\r", "\n"), number)
    assert b"retry: 1500\n" in encoded


def test_invalid_event_is_refused():
    with pytest.raises(ValueError, match="retry must be 0 seconds or more"):
        encode_event("", retry=-1)
    with pytest.raises(ValueError, match="event must be one line"):
        encode_event("", event="a\nb")


def test_events():
    seen = []

    def subscribe(request):
        events = request.events({"X": "y"})
        seen.append(events.last_id)
        assert events.send("one", event="news", id="1")
        events.write(encode_event("two"))
        events.end()

    found = answer(subscribe, get("/", "Last-Event-ID: 7"), end=False)
    assert seen == ["7"]
    assert parsed(found.body.decode()) == [("news", "one", "1"), ("message", "two", "1")]
    assert found.headers["content-type"] == "text/event-stream"
    assert found.headers["cache-control"] == "no-store"
    assert (found.headers["x"], found.headers["connection"]) == ("y", "close")


@pytest.mark.parametrize("how", ["write_eof", "close", "abort"])
def test_events_end_when_the_browser_goes(how):
    lost = []

    def subscribe(request):
        request.events().on_close = lost.append

    with client_of(subscribe) as (reactor, client):
        client.connection.write(GET)
        reactor.settle()
        getattr(client.connection, how)()
        reactor.settle()
        assert len(lost) == 1
        reactor.run_out()


def test_head_of_events_ends_them():
    lost = []

    def subscribe(request):
        events = request.events()
        events.on_close = lost.append
        assert not events.send("nothing")

    (found,) = answers(exchange({"/": subscribe}, get("/", method="HEAD"), end=False), "HEAD")
    assert (found.headers["content-type"], found.body) == ("text/event-stream", b"")
    assert lost == [None]


def test_pings_without_a_pause_are_refused():
    def subscribe(request):
        with pytest.raises(ValueError, match="ping must be more than 0 seconds"):
            request.events(ping=0)
        return Response(200)

    assert answer(subscribe, GET).status == 200


def test_silent_events_are_kept_alive():
    streams = []
    with client_of(lambda request: streams.append(request.events(ping=10.0))) as (reactor, client):
        client.connection.write(GET)
        reactor.advance(9)
        streams[0].write(encode_event("x"))
        reactor.advance(9.5)
        assert b"\n:\n\n" not in client.received
        reactor.advance(11)
        assert client.received.endswith(b"data: x\n\n:\n\n:\n\n")
        streams[0].end()
        reactor.advance(100)
        assert client.received.endswith(b"data: x\n\n:\n\n:\n\n")


def test_receiver_that_takes_nothing_is_noticed():
    results = []

    async def flood(request):
        events = request.events(ping=None)
        while events.send("x" * 1000):
            pass
        results.append(request.connection.get_write_buffer_size())
        await events.drain()
        results.append(request.connection.get_write_buffer_size())
        events.end()

    with client_of(flood) as (reactor, client):
        client.connection.pause_reading()
        client.connection.write(GET)
        reactor.settle()
        assert len(results) == 1
        client.connection.resume_reading()
        reactor.settle()
        assert results[1] <= 16 * 1024 < results[0]
