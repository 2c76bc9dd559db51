"""WebSocket: handshakes, origins, messages and fragments, pings, the closing handshake, flow control."""

import contextlib
import json
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection as Frames
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from reactor import HandedOver, ReadTimeout, StreamClosed, UsageError
from reactor.deploy import Transfer
from reactor.http import HTTP, Response, WebSocket, encode_message
from reactor.http.websocket import PARTS
from reactor.testing import Errors, ManualClock, MemoryReactor, Recorder
from tests.deploy.chain import read, world
from tests.helpers import examples, spin
from tests.http.exchange import answer, client_of, get, hello
from tests.http.test_frames import FRAGMENTED, Reader, stream_of

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # that of RFC 6455, 1.3
FIELDS = ("Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13")


def handshake(*fields, path="/", key=KEY, host="localhost"):
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *FIELDS, f"Sec-WebSocket-Key: {key}", *fields, "", ""]
    return "\r\n".join(lines).encode()


class Browser:
    """The client's side of a WebSocket in memory."""

    def __init__(self, reactor, recorder, extensions=()):
        self.reactor, self.recorder = reactor, recorder
        self.frames = Frames(ConnectionType.CLIENT, list(extensions))
        self.taken = 0

    def head(self):
        return self.recorder.received.partition(b"\r\n\r\n")[0]

    def send(self, *events):
        for event in events:
            self.raw(bytes(self.frames.send(event)))

    def raw(self, data):
        self.recorder.connection.write(data)
        self.reactor.settle()

    def events(self):
        """The events since the last call."""
        data = self.recorder.received.partition(b"\r\n\r\n")[2]
        self.frames.receive_data(data[self.taken :])
        self.taken = len(data)
        return list(self.frames.events())


@contextlib.contextmanager
def browser_of(handler, *fields, on_error=None, rest=b"", extensions=(), memory=None):
    with client_of(handler, on_error, memory) as (reactor, recorder):
        recorder.connection.write(handshake(*fields) + rest)
        reactor.settle()
        yield Browser(reactor, recorder, extensions)


def echo(request, **options):
    socket_ = request.websocket(**options)
    socket_.on_message = socket_.send


def test_handshake_is_that_of_the_rfc():
    with browser_of(echo) as browser:
        assert browser.head() == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        )


NO_HANDSHAKES = {
    "plain request": get("/"),
    "POST": handshake().replace(b"GET", b"POST"),
    "HTTP/1.0": handshake().replace(b"1.1\r", b"1.0\r"),
    "no upgrade": handshake().replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    "no connection": handshake().replace(b", Upgrade", b""),
    "other version": handshake().replace(b": 13", b": 8"),
    "short key": handshake(key="dGhl"),
    "no key": handshake(key=""),
    "key in no base64": handshake(key="!" * 24),
    "a body": handshake("Content-Length: 1") + b"x",
}


@pytest.mark.parametrize("data", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES.keys())
def test_bad_handshake_is_refused(data):
    found = answer(echo, data)
    assert found.status == 400
    assert found.headers.get("sec-websocket-version") == ("13" if b": 8" in data else None)


@pytest.mark.parametrize(
    ("host", "origin", "origins", "status"),
    [
        ("example.org", None, None, 101), ("example.org", "http://example.org", None, 101),
        ("example.org", "https://example.org", None, 101),
        ("Example.org:80", "http://example.org", None, 101),
        ("example.org:8080", "http://example.org:8080", None, 101), ("example.org", "http://evil", None, 403),
        ("example.org", "http://example.org:8080", None, 403), ("example.org", "null", None, 403),
        ("example.org", "http://example.org.evil", None, 403), ("example.org", "file://", None, 403),
        ("example.org", "http://evil", ["http://other"], 403),
        ("example.org", "http://other", ["http://other"], 101),
        ("example.org", "http://example.org", ["http://other"], 403), ("example.org", "null", ["*"], 101),
    ],
)  # fmt: skip
def test_other_origins_are_refused(host, origin, origins, status):
    fields = [] if origin is None else [f"Origin: {origin}"]
    with client_of(lambda request: echo(request, origins=origins)) as (reactor, client):
        client.connection.write(handshake(*fields, host=host))
        reactor.settle()
        assert client.received.startswith(f"HTTP/1.1 {status} ".encode())


def test_subprotocol_is_our_first_of_theirs():
    chosen = []

    def choose(request):
        chosen.append(request.websocket(subprotocols=["b", "a"]).subprotocol)

    with browser_of(choose, "Sec-WebSocket-Protocol: x, a, b") as browser:
        assert b"\r\nSec-WebSocket-Protocol: b" in browser.head()
    with browser_of(choose, "Sec-WebSocket-Protocol: x") as browser:
        assert b"Protocol" not in browser.head().partition(b"\r\n")[2]
    assert chosen == ["b", None]


def test_messages_are_echoed():
    with browser_of(echo) as browser:
        for message in (TextMessage("é" * 1000), BytesMessage(b"\0\xff"), TextMessage("")):
            browser.send(message)
            (found,) = browser.events()
            assert (type(found), found.data) == (type(message), message.data)
        browser.send(BytesMessage(b"x" * 70_000))
        assert b"".join(each.data for each in browser.events()) == b"x" * 70_000


def test_frames_sent_with_the_handshake_are_read():
    with browser_of(echo, rest=bytes(Frames(ConnectionType.CLIENT).send(TextMessage("early")))) as browser:
        (found,) = browser.events()
        assert found.data == "early"


def test_upgrade_after_pipelined_requests():
    with client_of({"/": hello, "/socket": echo}) as (reactor, client):
        message = bytes(Frames(ConnectionType.CLIENT).send(TextMessage("early")))
        client.connection.write(get("/") * 200 + handshake(path="/socket") + message)
        reactor.settle()
        *before, head, frames = client.received.split(b"\r\n\r\n")
        assert len(before) == 200
        assert head.startswith(b"hello" + b"HTTP/1.1 101 ")
        assert frames == b"\x81\x05early"


MESSAGES = st.lists(st.one_of(st.text(max_size=30), st.binary(max_size=200)), max_size=6)


@given(MESSAGES, st.data())
@examples(100)
def test_fragments_and_pieces_make_the_same_messages(messages, data):
    client, sent = Frames(ConnectionType.CLIENT), b""
    for message in messages:
        kind = TextMessage if isinstance(message, str) else BytesMessage
        cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=3)))
        parts = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        for number, part in enumerate(parts):
            sent += client.send(kind(part, message_finished=number == len(parts) - 1))
            if data.draw(st.booleans()):
                sent += client.send(Ping(b"between"))
    received = []

    def take(request):
        request.websocket().on_message = received.append

    with browser_of(take) as browser:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
        for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
            browser.raw(sent[start:end])
    assert received == messages


def test_many_fragments_are_joined():
    received = []

    def take(request):
        request.websocket().on_message = received.append

    with browser_of(take) as browser:
        client = Frames(ConnectionType.CLIENT)
        for _ in range(5):
            parts = [client.send(BytesMessage(b"xy", message_finished=False)) for _ in range(PARTS // 2)]
            browser.raw(b"".join(map(bytes, parts)))
        browser.raw(bytes(client.send(BytesMessage(b"", message_finished=True))))
        assert received == [b"xy" * (PARTS // 2 * 5)]


def test_long_message_is_closed_with_1009():
    for finished in (True, False):
        with browser_of(lambda request: echo(request, max_message=10)) as browser:
            browser.send(TextMessage("x" * 10))
            assert browser.events()[0].data == "x" * 10
            browser.send(TextMessage("x" * 6, message_finished=False))
            browser.send(TextMessage("x" * 5, message_finished=finished))
            (found,) = browser.events()
            assert (found.code, found.reason) == (1009, "a message may have 10 bytes")
            assert "eof_received" in browser.recorder.names


BAD_FRAMES = {
    "not masked": (b"\x81\x02hi", 1002),
    "reserved bit": (b"\xc1\x80\0\0\0\0", 1002),
    "unknown opcode": (b"\x83\x80\0\0\0\0", 1002),
    "fragmented ping": (b"\x09\x80\0\0\0\0", 1002),
    "long ping": (b"\x89\xfe\x00\x80\0\0\0\0" + b"x" * 128, 1002),
    "continuation of nothing": (b"\x80\x80\0\0\0\0", 1002),
    "message in a message": (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),
    "no UTF-8": (b"\x81\x81\0\0\0\0\xff", 1007),
    "length in too many bytes": (b"\x81\xfe\x00\x01\0\0\0\0x", 1002),
    "close of one byte": (b"\x88\x81\0\0\0\0x", 1002),
}


@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_invalid_frame_fails_the_connection(data, code):
    closed = []

    def take(request):
        made = request.websocket()
        made.on_message = pytest.fail
        made.on_close = lambda exc: closed.append(made.code)

    with browser_of(take) as browser:
        browser.raw(data)
        (found,) = browser.events()
        assert found.code == code
        assert "eof_received" in browser.recorder.names
        assert closed == [1006]


@given(
    st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([each for each, _ in BAD_FRAMES.values()])))
)
@examples(100)
def test_no_bytes_bring_about_an_error_of_the_server(pieces):
    with browser_of(lambda request: echo(request, max_message=100)) as browser:
        for piece in pieces:
            if not browser.recorder.connection.is_closing():
                browser.raw(piece)
        assert browser.head().startswith(b"HTTP/1.1 101 ")


# Sending


def test_one_frame_serves_many():
    members = []

    def join(request):
        members.append(request.websocket())

    with MemoryReactor() as reactor:
        clients = [Recorder() for _ in range(3)]
        for each in clients:
            reactor.pair(HTTP(join), lambda each=each: each)
            each.connection.write(handshake())
        reactor.settle()
        frame = encode_message("hello")
        assert all(each.write(frame) for each in members)
        reactor.settle()
        for each in clients:
            (found,) = Browser(reactor, each).events()
            assert found.data == "hello"
            each.connection.abort()
        reactor.settle()
        assert not any(each.write(frame) or each.send("x") for each in members)


def test_what_is_no_message_is_refused():
    with pytest.raises(TypeError, match="a message is text or bytes, not 5"):
        encode_message(5)


def test_send_says_when_the_queue_is_full_and_when_it_is_drained():
    made, log = [], []

    def join(request):
        made.append(request.websocket())
        made[0].on_drain = lambda: log.append("drained")

    with browser_of(join) as browser:
        browser.recorder.connection.pause_reading()
        sent = 0
        while made[0].send("x" * 10_000):
            sent += 1
        browser.reactor.settle()
        assert log == []
        assert sent > 5
        browser.recorder.connection.resume_reading()
        browser.reactor.settle()
        assert log == ["drained"]
        assert made[0].send("more")


def test_paused_websocket_receives_nothing_not_even_what_has_arrived():
    made, received = [], []

    def join(request):
        socket_ = request.websocket(ping=None)
        made.append(socket_)

        def take(message):
            received.append(message)
            socket_.pause_reading()

        socket_.on_message = take

    with browser_of(join) as browser:
        client = Frames(ConnectionType.CLIENT)
        browser.raw(b"".join(bytes(client.send(TextMessage(str(number)))) for number in range(3)))
        for number in range(3):
            browser.reactor.advance(5)
            assert received == [str(each) for each in range(number + 1)]
            made[0].resume_reading()
            browser.reactor.settle()


def test_many_messages_take_several_ticks():
    received = []

    def join(request):
        request.websocket().on_message = received.append

    client = Frames(ConnectionType.CLIENT)
    with browser_of(join) as browser:
        browser.raw(b"".join(bytes(client.send(TextMessage(str(number)))) for number in range(1000)))
        assert received == [str(number) for number in range(1000)]


# Pings


def test_ping_is_answered():
    with browser_of(echo) as browser:
        browser.send(Ping(b"are you there"))
        assert browser.events() == [Pong(bytearray(b"are you there"))]


def test_peer_that_takes_no_pongs_gets_the_last_one():
    made = []

    def join(request):
        made.append(request.websocket())

    with browser_of(join) as browser:
        browser.recorder.connection.pause_reading()
        while made[0].send("x" * 10_000):
            pass
        for number in range(1000):
            browser.send(Ping(b"%d" % number))
        browser.recorder.connection.resume_reading()
        browser.reactor.settle()
        assert [each.payload for each in browser.events() if isinstance(each, Pong)] == [b"999"]


def test_silent_peer_is_pinged_and_ended():
    reasons = []

    def join(request):
        request.websocket(ping=20.0).on_close = reasons.append

    with browser_of(join) as browser:
        for _ in range(3):
            browser.reactor.advance(21.5)
            (found,) = browser.events()
            browser.send(found.response())
        browser.reactor.advance(19)
        assert reasons == []
        browser.reactor.advance(25)
        assert isinstance(reasons[0], ReadTimeout)
        assert browser.recorder.lost or "eof_received" in browser.recorder.names


def test_no_pings_if_none_are_asked_for():
    with browser_of(lambda request: echo(request, ping=None)) as browser:
        browser.reactor.advance(10_000)
        browser.send(TextMessage("still here"))
        assert browser.events()[0].data == "still here"


# Closing


def closing(log):
    def join(request):
        made = request.websocket()
        made.on_message = log.append
        made.on_close = lambda exc: log.append((exc, made.code, made.reason))
        log.append(made)

    return join


def test_peer_closes():
    log = []
    with browser_of(closing(log)) as browser:
        browser.send(CloseConnection(4000, "bye"))
        (found,) = browser.events()
        assert (found.code, found.reason) == (4000, "bye")
        assert log[1:] == [(None, 4000, "bye")]
        assert log[0].is_closed
        assert "eof_received" in browser.recorder.names


def test_peer_closes_without_a_code():
    log = []
    with browser_of(closing(log)) as browser:
        browser.raw(b"\x88\x80\0\0\0\0")
        assert log[1:] == [(None, 1005, "")]


def test_this_side_closes():
    log = []
    with browser_of(closing(log)) as browser:
        log[0].close(4001, "enough")
        log[0].close(1000)
        browser.reactor.settle()
        (found,) = browser.events()
        assert (found.code, found.reason) == (4001, "enough")
        assert "eof_received" not in browser.recorder.names
        client = Frames(ConnectionType.CLIENT)
        browser.raw(bytes(client.send(TextMessage("too late"))))
        browser.raw(bytes(client.send(CloseConnection(4001))))
        assert log[1:] == [(None, 4001, "")]
        assert not log[0].send("x")


def test_close_is_not_awaited_for_ever():
    log = []
    with browser_of(closing(log)) as browser:
        log[0].pause_reading()
        log[0].close()
        browser.reactor.advance(9)
        assert len(log) == 1
        browser.reactor.advance(2)
        ((exc, code, _),) = log[1:]
        assert isinstance(exc, ReadTimeout)
        assert code == 1006


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000])
def test_code_that_can_not_be_sent_is_refused(code):
    log = []
    with browser_of(closing(log)):
        with pytest.raises(ValueError, match="code must be from 1000 to 4999"):
            log[0].close(code)
        assert not log[0].is_closed


def test_reason_that_can_not_be_sent_leaves_the_websocket_open():
    log = []
    with browser_of(closing(log)) as browser:
        with pytest.raises(ValueError, match="surrogates not allowed"):
            log[0].close(4000, "\ud800")
        assert not log[0].is_closed
        log[0].close(4000, "é")
        browser.reactor.settle()
        (found,) = browser.events()
        assert (found.code, found.reason) == (4000, "é")


@pytest.mark.parametrize("how", ["write_eof", "abort"])
def test_peer_that_goes_without_a_word(how):
    log = []
    with browser_of(closing(log)) as browser:
        getattr(browser.recorder.connection, how)()
        browser.reactor.settle()
        ((exc, code, _),) = log[1:]
        assert code == 1006
        assert (exc is None) is (how == "write_eof")


def test_exception_in_on_message_resets_the_connection():
    def join(request):
        request.websocket().on_message = lambda message: 1 / 0

    errors = Errors()
    with browser_of(join, on_error=errors) as browser:
        browser.send(TextMessage("x"))
        assert isinstance(browser.recorder.reason, ConnectionResetError)
    assert isinstance(errors.take()[0], ZeroDivisionError)


def test_drain_says_that_this_side_goes_away():
    log, reports, recorder = [], [], Recorder()
    recorder.keep_open = True
    with MemoryReactor() as reactor:
        listener = reactor.listen("10.0.0.1:80", HTTP(closing(log)))
        reactor.connect("10.0.0.1:80", lambda: recorder)
        reactor.advance(1)
        recorder.connection.write(handshake())
        reactor.settle()
        browser = Browser(reactor, recorder)
        reactor.advance(10)
        listener.drain(30.0, reports.append)
        reactor.advance(1)
        (found,) = browser.events()
        assert found.code == 1001
        browser.send(found.response())
        reactor.advance(1)
        assert log[1:] == [(None, 1001, "")]
        recorder.connection.close()
        reactor.run_out()
        assert (reports[0].finished, reports[0].aborted) == (1, 0)


# Coroutines


def test_coroutine_receives_until_the_peer_closes():
    received = []

    async def chat(request):
        socket_ = request.websocket()
        async for message in socket_:
            received.append(message)
            socket_.send(message)
            await socket_.drain()
        received.append(socket_.code)
        with pytest.raises(StreamClosed):
            await socket_.receive()

    with browser_of(chat) as browser:
        browser.send(TextMessage("one"), BytesMessage(b"two"))
        assert [each.data for each in browser.events()] == ["one", b"two"]
        browser.send(CloseConnection(1000))
        browser.reactor.settle()
        assert received[:2] == ["one", b"two"]


def test_messages_wait_for_a_coroutine_and_are_bounded():
    received = []

    async def slow(request):
        async for message in request.websocket(ping=None):
            received.append(message)
            await request.sleep(1)

    client = Frames(ConnectionType.CLIENT)
    with browser_of(slow) as browser:
        for number in range(300):
            browser.raw(bytes(client.send(TextMessage(f"{number} " + "x" * 2000))))
        assert browser.recorder.connection.get_write_buffer_size() > 200_000
        browser.reactor.advance(301)
        assert [each.split()[0] for each in received] == [str(number) for number in range(300)]


def test_coroutine_that_returns_closes():
    async def greet(request):
        request.websocket().send("hello")
        await request.sleep(1)

    with browser_of(greet) as browser:
        browser.reactor.advance(2)
        first, second = browser.events()
        assert (first.data, second.code) == ("hello", 1000)


def test_coroutine_that_fails_closes_with_1011():
    async def fail(request):
        request.websocket()
        await request.sleep(1)
        raise LookupError("oops")

    errors = Errors()
    with browser_of(fail, on_error=errors) as browser:
        browser.reactor.advance(2)
        (found,) = browser.events()
        assert found.code == 1011
    assert isinstance(errors.take()[0], LookupError)


@pytest.mark.parametrize("ending", [LookupError, UsageError])
def test_callback_that_fails_after_the_upgrade_closes_with_1011(ending):
    def fail(request):
        request.websocket()
        if ending is LookupError:
            raise LookupError("oops")
        return Response(200)

    errors = Errors()
    with browser_of(fail, on_error=errors) as browser:
        (found,) = browser.events()
        assert found.code == 1011
    assert isinstance(errors.take()[0], ending)


def test_coroutine_is_cancelled_when_the_peer_goes():
    ended = []

    async def wait(request):
        request.websocket()
        try:
            await request.sleep(1000)
        finally:
            ended.append(True)

    with browser_of(wait) as browser:
        browser.recorder.connection.abort()
        browser.reactor.settle()
        assert ended == [True]


def test_receive_is_for_a_websocket_without_callback():
    errors = Errors()

    async def both(request):
        socket_ = request.websocket()
        socket_.on_message = socket_.send
        await socket_.receive()

    with browser_of(both, on_error=errors):
        assert isinstance(errors.take()[0], UsageError)


def test_request_is_upgraded_once():
    errors = Errors()

    def twice(request):
        request.websocket()
        request.websocket()

    with browser_of(twice, on_error=errors):
        assert "answered already" in str(errors.take()[0])


def test_handler_may_refuse():
    with browser_of(lambda request: Response(401)) as browser:
        assert browser.head().startswith(b"HTTP/1.1 401 ")
    assert answer({"/": hello}, handshake()).body == b"hello"


# Compression


def compressing(received):
    def join(request):
        made = request.websocket(compress=True, max_message=100_000)

        def take(message):
            received.append(message)
            made.send(message)

        made.on_message = take

    return join


def test_compression_is_agreed_on_if_asked_for():
    received, offer = [], "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    with browser_of(echo, offer) as browser:
        assert b"Extensions" not in browser.head()
    with browser_of(
        compressing(received), "Sec-WebSocket-Extensions: x, permessage-deflate; bad=1"
    ) as browser:
        assert b"permessage-deflate" in browser.head()
    wrong = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x"
    with browser_of(compressing(received), wrong) as browser:
        assert b"Extensions" not in browser.head()
    deflate = PerMessageDeflate()
    deflate.finalize("permessage-deflate")
    with browser_of(compressing(received), offer, extensions=[deflate]) as browser:
        assert b"permessage-deflate; client_max_window_bits=15" in browser.head()
        for _ in range(2):
            browser.send(TextMessage("x" * 50_000))
            assert "".join(each.data for each in browser.events()) == "x" * 50_000
    assert received == ["x" * 50_000] * 2


def test_bomb_is_closed_before_it_is_unpacked():
    received = []
    deflate = PerMessageDeflate()
    deflate.finalize("permessage-deflate")
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    with browser_of(compressing(received), offer, extensions=[deflate]) as browser:
        browser.send(BytesMessage(bytes(30_000_000)))
        assert browser.events()[-1].code == 1009
    assert received == []


def test_missing_wsproto_names_the_extra():
    program = (
        "import sys; sys.modules['wsproto'] = None; from reactor.http import HTTP; "
        "from reactor.http import WebSocket"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: reactor.http.websocket needs wsproto: pip install 'selectors-reactor[web]', "
        "or in a checkout pip install -e '.[web]'"
    )


def test_names_are_imported_when_they_are_used():
    module = sys.modules["reactor.http"]
    assert module.WebSocket is WebSocket
    with pytest.raises(AttributeError, match=r"module 'reactor.http' has no attribute 'nothing'"):
        _ = module.nothing


def test_over_loopback(reactor_server):
    server = reactor_server(HTTP(echo))
    with socket.create_connection((server.address.host, server.address.port)) as client:
        client.sendall(handshake())
        frames = Frames(ConnectionType.CLIENT)
        client.sendall(bytes(frames.send(TextMessage("hello"))))
        client.sendall(bytes(frames.send(CloseConnection(1000))))
        received = b""
        while data := client.recv(1000):
            received += data
    assert b"\x81\x05hello" in received


# Handing over


class Log:
    """A handler whose WebSockets are handed over, with what they have received as their state."""

    def __init__(self):
        self.kept = 0
        self.ends = []
        self.sockets = []

    def __call__(self, request):
        self.join(request.websocket(subprotocols=["log"], max_message=100_000), [])

    def take_over(self, socket_, state):
        self.join(socket_, json.loads(state))

    def join(self, socket_, heard):
        def received(message):
            heard.append(len(message))
            socket_.send(message)

        def kept():
            self.kept += 1

        self.sockets.append(socket_)
        socket_.on_message = received
        socket_.on_hand_over = lambda: json.dumps(heard).encode()
        socket_.on_kept = kept
        socket_.on_close = self.ends.append


class Peer(Reader):
    """A client of a WebSocket over a real socket, after its opening handshake."""

    def __init__(self, made, sock, *fields, path="/"):
        super().__init__([], ConnectionType.CLIENT)
        self.sock = sock
        sock.send(handshake(*fields, path=path))
        answer = bytearray()
        made.until(lambda: answer.extend(read(sock)) or b"\r\n\r\n" in answer)
        self.receive(bytes(answer.partition(b"\r\n\r\n")[2]))

    def hears(self, what):
        """Return whether `what` is among the events until now."""
        self.receive(read(self.sock) or b"")
        return what in self.heard


@examples(8)
@given(FRAGMENTED)
def test_websockets_go_over_at_every_byte(messages):
    data = stream_of(messages)
    places = range(0, len(data), 1 + len(data) // 40)
    logs = [Log(), Log()]
    with world(*map(HTTP, logs)) as made:
        peers = [Peer(made, client) for client in made.connect(len(places))]
        for peer, place in zip(peers, places, strict=True):
            peer.sock.send(data[:place])
        made.turn()  # some have received it, and some have not
        assert made.move() == [Transfer(moved=len(peers), kept=0)] * 2
        for peer, place in zip(peers, places, strict=True):
            peer.sock.send(data[place:])
        end = CloseConnection(4000, "done")
        made.until(lambda: all(peer.hears(end) for peer in peers))
        reader = Reader([])
        reader.receive(data)
        expected = [event.response() if isinstance(event, Ping) else event for event in reader.heard]
        assert [peer.heard for peer in peers] == [expected] * len(peers)
        assert [type(exc) for exc in logs[0].ends] == [HandedOver] * len(peers)
        made.until(lambda: logs[1].ends == [None] * len(peers))
        assert all(socket_.code == 4000 for socket_ in logs[1].sockets)


def test_a_websocket_goes_over_with_its_options_and_deadlines():
    clock, logs = ManualClock(), [Log(), Log()]
    with world(*map(HTTP, logs), clock=clock) as made:
        (client,) = made.connect()
        peer = Peer(made, client, "Sec-WebSocket-Protocol: log")
        clock.advance(15)  # of the 20 s until a ping
        made.move()
        (socket_,) = logs[1].sockets
        assert (socket_.subprotocol, socket_.is_closed) == ("log", False)
        clock.advance(6)
        made.until(lambda: peer.hears(Ping(b"")))
        clock.advance(15)
        client.send(bytes(peer.frames.send(BytesMessage(bytes(100_001)))))
        made.until(lambda: peer.heard[-1:] != [Ping(b"")] or peer.hears(None))
        assert peer.heard[-1] == CloseConnection(1009, "a message may have 100000 bytes")


def test_a_ping_that_waits_for_room_is_answered_there():
    with world(*map(HTTP, (Log(), Log()))) as made:
        (client,) = made.connect()
        peer = Peer(made, client)
        connection = made.only(0)
        connection.write(encode_message(bytes(1 << 18)))
        assert connection.is_paused()
        client.send(bytes(peer.frames.send(Ping(b"first"))))
        client.send(bytes(peer.frames.send(Ping(b"last"))))
        spin(made.reactors[0], lambda: connection.get_protocol()._pong == Ping(b"last"))
        made.move()
        made.until(lambda: peer.hears(Pong(b"last")))
        assert peer.heard == [bytes(1 << 18), Pong(b"last")]


def test_a_websocket_that_is_closing_goes_on_to_do_so():
    clock, logs = ManualClock(), [Log(), Log()]
    with world(*map(HTTP, logs), clock=clock) as made:
        first, second = (Peer(made, client) for client in made.connect(2))
        for socket_ in logs[0].sockets:
            socket_.close(4001, "bye")
        made.move()
        assert [socket_.is_closed for socket_ in logs[1].sockets] == [True, True]
        made.until(lambda: first.hears(CloseConnection(4001, "bye")))
        first.sock.send(bytes(first.frames.send(first.heard[0].response())))
        made.until(lambda: logs[1].ends == [None])
        clock.advance(11)
        made.until(lambda: len(logs[1].ends) == 2)
        assert isinstance(logs[1].ends[1], ReadTimeout)
        assert second.heard == []


def test_a_websocket_is_closed_where_the_next_version_can_not_go_on_with_it():
    with world(HTTP({"/": Log()}), HTTP({"/": echo})) as made:
        (client,) = made.connect()
        peer = Peer(made, client)
        made.move()
        made.until(lambda: peer.hears(CloseConnection(1001, "")))


async def listening(request):
    async for _ in request.websocket():
        pass


def compressed(request):
    log = Log()
    log.join(request.websocket(compress=True), [])


def busy(request):
    socket_ = request.websocket()
    Log().join(socket_, [])
    socket_.on_hand_over = lambda: None


@pytest.mark.parametrize("handler", [listening, compressed, busy, echo])
def test_a_websocket_stays_if_its_program_or_its_compression_can_not_leave(handler):
    with world(HTTP(handler), HTTP(Log())) as made:
        (client,) = made.connect()
        peer = Peer(made, client, "Sec-WebSocket-Extensions: permessage-deflate")
        assert made.move() == [Transfer(moved=0, kept=1), Transfer(moved=0, kept=0)]
        client.send(bytes(peer.frames.send(Ping(b"there?"))))
        made.until(lambda: peer.hears(Pong(b"there?")))


def test_a_websocket_is_informed_that_it_stays_after_all():
    log = Log()
    with world(HTTP(log), HTTP(Log())) as made:
        (client,) = made.connect()
        peer = Peer(made, client)
        part, rest = (bytes(peer.frames.send(BytesMessage(b"x" * 9, message_finished=end))) for end in (0, 1))
        client.send(part + rest[:8])
        made.turn()
        there = made.begin()[1]
        while not log.sockets[0]._is_offered:
            made.reactors[0].run_once(0)
        log.sockets[0].resume_reading()
        assert log.kept == 0
        there.cancel()
        made.until(lambda: len(made.transfers) == 2)
        assert log.kept == 1
        client.send(rest[8:])
        made.until(lambda: peer.hears(b"x" * 18))
