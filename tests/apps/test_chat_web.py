"""The page of the chat: the same rooms as for lines, in memory and in a real browser."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from reactor.apps.chat import Hall
from reactor.apps.chat_web import chat_page
from reactor.deploy import Transfer
from reactor.testing import MemoryReactor, Recorder
from tests.deploy.chain import world
from tests.deploy.programs import serving
from tests.helpers import DEADLINE
from tests.http.exchange import answers, get
from tests.http.test_websocket import Browser, Peer, handshake

# In memory


class Page(Browser):
    """A page in memory."""

    def say(self, *lines):
        self.send(*(TextMessage(line) for line in lines))

    def hear(self):
        """Return what was received since the last call, decoded."""
        return [json.loads(event.data) for event in self.events() if isinstance(event, TextMessage)]

    def texts(self):
        """Return the texts of it, of lines with the name in front."""
        heard = [each for each in self.hear() if each["kind"] != "state"]
        return [f"{each['name']}: {each['text']}" if "name" in each else each["text"] for each in heard]


@pytest.fixture
def memory():
    with MemoryReactor() as memory:
        memory.hall = Hall()
        memory.page = chat_page(memory.hall)
        yield memory


def requested(memory, data, factory=None):
    recorder = Recorder()
    recorder.keep_open = True
    memory.pair(factory or memory.page, lambda: recorder)
    recorder.connection.write(data)
    memory.settle()
    return recorder


def opened(memory, path="/socket"):
    return Page(memory, requested(memory, handshake(path=path)))


def lines_of(recorder):
    return recorder.received.decode().splitlines()


def test_page_is_whole_and_allows_nothing_else(memory):
    (answer,) = answers(requested(memory, get()).received, ended=False)
    text = answer.body.decode()
    assert answer.status == 200
    assert "no-referrer" in answer.headers["referrer-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == (
        "'none'", "'self'", "'none'",
    )  # fmt: skip
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert "innerHTML" not in text
    assert not re.search(r"https?://", text)


class Unlabelled(html.parser.HTMLParser):
    """Finds controls without a name for a screen reader."""

    def __init__(self, text):
        super().__init__()
        self.labels, self.inputs = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "label":
            self.labels.add(dict(attributes)["for"])
        elif tag == "input":
            self.inputs.add(dict(attributes)["id"])


def test_every_input_of_the_page_has_a_label(memory):
    (answer,) = answers(requested(memory, get()).received, ended=False)
    found = Unlabelled(answer.body.decode())
    assert found.inputs == found.labels == {"line", "name", "where"}


def test_page_and_lines_are_in_one_room(memory):
    lines = requested(memory, b"/nick ann\r\nhello\r\n", memory.hall)
    page = opened(memory)
    heard = page.hear()
    assert heard[0] | {"at": 0} == {"kind": "notice", "at": 0, "text": heard[0]["text"]}
    assert heard[0]["text"].startswith("you are guest2; /nick NAME")
    assert heard[1] == {"kind": "state", "name": "guest2", "room": "lobby", "guest": True}
    assert [(each["kind"], each.get("name"), each["text"]) for each in heard[2:]] == [
        ("said", "ann", "hello"),
        ("notice", None, "guest2 has joined lobby"),
    ]
    page.say("/nick bob", "<b>hi</b>", "/who")
    assert page.hear()[-1]["text"] == "in lobby: ann, bob"
    assert lines_of(lines)[-2:] == ["* guest2 is now bob", "bob: <b>hi</b>"]
    lines.connection.write(b"welcome\r\n")
    memory.settle()
    (said,) = page.hear()
    assert (said["kind"], said["name"], said["text"]) == ("said", "ann", "welcome")
    page.send(CloseConnection(1001))
    assert lines_of(lines)[-1] == "* bob has left"


class Visitor(Peer):
    """A page over a real socket."""

    def says(self, line):
        self.sock.send(bytes(self.frames.send(TextMessage(line))))

    def has_heard(self, text):
        self.hears(None)
        return text in [json.loads(each).get("text") for each in self.heard]


def test_pages_go_over_to_another_process_with_name_and_room_or_stay(monkeypatch):
    halls, announced, leave = [Hall(), Hall()], [], Hall.leave
    monkeypatch.setattr(
        Hall, "leave", lambda self, member, why: [announced.append(why), leave(self, member, why)]
    )
    with world(*map(chat_page, halls)) as made:
        ann, bob = (Visitor(made, client, path="/socket?room=garden") for client in made.connect(2))
        ann.says("/nick ann")
        made.until(lambda: bob.has_heard("guest1 is now ann"))
        _, there = made.begin()
        there.cancel()  # the transfer fails
        made.until(lambda: len(made.transfers) == 2)
        ann.says("still here")
        made.until(lambda: bob.has_heard("still here"))
        assert made.move() == [Transfer(moved=2, kept=0)] * 2
        assert (list(halls[0].names), list(halls[1].names)) == ([], ["ann", "guest2"])
        ann.says("over there")
        made.until(lambda: bob.has_heard("over there"))
        bob.says("/who")
        made.until(lambda: bob.has_heard("in garden: ann, guest2"))
        assert not any(ann.has_heard(f"{name} has left") for name in ("ann", "guest2"))
        bob.sock.close()
        made.until(lambda: ann.has_heard("guest2 has left"))
        assert announced == [None, None, "has left"]


def test_page_is_informed_when_it_loses_its_name_to_another(memory):
    page = opened(memory)
    page.say("/nick ann")
    (member,) = memory.hall.names.values()
    page.hear()
    memory.hall.replace_name(member, "ann")
    memory.settle()
    notice, state = page.hear()
    assert (notice["text"], state["name"]) == ("ann is taken: you are guest2", "guest2")


def test_page_is_informed_of_its_name_and_room(memory):
    page = opened(memory, "/socket?room=garden")
    assert page.hear()[1]["room"] == "garden"
    page.say("/nick ann", "/join lobby")
    states = [each for each in page.hear() if each["kind"] == "state"]
    assert states == [
        {"kind": "state", "name": "ann", "room": "garden", "guest": False},
        {"kind": "state", "name": "ann", "room": "lobby", "guest": False},
    ]


@pytest.mark.parametrize("room", ["", "no%20name", "x" * 21, "%0a"])
def test_room_that_is_none_is_the_lobby(memory, room):
    assert opened(memory, f"/socket?room={room}").hear()[1]["room"] == "lobby"


def test_line_of_several_lines_is_one(memory):
    page = opened(memory)
    page.hear()
    page.say("a\n* b\r\nc\x1b")
    assert page.texts() == ["guest1: a * b c"]


def test_page_of_another_site_is_refused(memory):
    fields = "Origin: https://evil.example"
    (answer,) = answers(requested(memory, handshake(fields, path="/socket")).received, ended=False)
    assert answer.status == 403
    assert memory.hall.names == {}


@pytest.mark.parametrize(("event", "code"), [(TextMessage("x" * 1025), 1009), (BytesMessage(b"hello"), 1003)])
def test_what_is_no_line_closes_the_socket(memory, event, code):
    page = opened(memory)
    page.send(event)
    (closed,) = (each for each in page.events() if isinstance(each, CloseConnection))
    assert closed.code == code
    page.raw(bytes(page.frames.send(closed.response())))
    assert memory.hall.names == {}


def test_flood_of_lines_does_not_stop_the_loop(memory):
    loud = opened(memory)
    other = requested(memory, b"", memory.hall)
    loud.recorder.connection.write(b"".join(bytes(loud.frames.send(TextMessage("x"))) for _ in range(3000)))
    memory.run_once(0)
    other.connection.write(b"/who\r\n")
    for _ in range(30):
        memory.run_once(0)
    assert "* in lobby: guest1, guest2" in lines_of(other)
    assert lines_of(other).count("guest1: x") < 400
    memory.settle()
    assert lines_of(other).count("guest1: x") == 3000


def test_page_that_reads_nothing_slows_the_speaker_and_is_disconnected(memory):
    page = opened(memory)
    page.recorder.connection.pause_reading()
    speaker = requested(memory, b"".join(b"%0999d\r\n" % number for number in range(2000)), memory.hall)
    peak = 0
    for _ in range(45):
        memory.advance(1)
        queued = [m.connection.get_write_buffer_size() for m in memory.hall.names.values()]
        peak = max(peak, *queued)
    assert peak < 1 << 20
    assert "* guest1 was disconnected" in lines_of(speaker)


# In a browser


@contextmanager
def chat(folder, web="127.0.0.1:0"):
    """Serve the chat; yield the deployment, with its `address` for lines, and that of its `page`."""
    with serving(folder, "--web", web, app="chat", workers=1) as deployment:
        deployment.workers(1)
        deployment.address, web = (deployment.wait_for(r"listening on (\S+)")[1] for _ in range(2))
        deployment.page = f"http://{web}/"
        yield deployment
        assert deployment.stop() == 0


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page; the test fails for an error in it, or a request elsewhere."""
    contexts, problems = [], []
    expect.set_options(timeout=DEADLINE * 1000)

    def opened(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(DEADLINE * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.extend([said.text] if "policy" in said.text.lower() else []))
        page.on("request", lambda asked: problems.extend(elsewhere(asked.url, url.partition("#")[0])))
        page.goto(url)
        expect(page.get_by_role("status").first).to_have_text("Connected")
        return page

    def elsewhere(asked, url):
        return [] if asked.startswith((url, "data:,")) else [asked]

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.mark.slow
def test_page_without_scripts_says_what_it_needs_and_not_that_it_connects(browser, tmp_path):
    with chat(tmp_path) as deployment, browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(deployment.page)
        needed = "This page needs JavaScript. The same rooms are open to telnet and nc."
        assert page.get_by_role("status").first.inner_text() == needed


@contextmanager
def telnet(address):
    """Run telnet; yield a function that types a line, and returns what is on the screen up to `until`."""
    program = shutil.which("telnet")
    assert program, "telnet is missing: install the package telnet"
    command = [program, *address.rsplit(":", 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        screen = b""

        def typed(line, until):
            nonlocal screen
            process.stdin.write(f"{line}\n".encode() if line else b"")
            while until.encode() not in screen:
                more = process.stdout.read(65536)
                assert more, screen
                screen += more
            seen, screen = screen, b""
            return seen.decode()

        yield typed
        process.kill()


def last(page):
    """The locator of the last message."""
    return page.get_by_role("log").locator("p").last


def test_chromium_and_telnet_are_in_one_room_with_the_keyboard_alone(tmp_path, open_page):
    with chat(tmp_path) as deployment, telnet(deployment.address) as typed:
        typed("/nick ann", until="is now ann")
        page = open_page(deployment.page)
        expect(page.get_by_role("log")).to_contain_text("has joined lobby")
        page.keyboard.type("Hello, <i>world</i>")  # the line has the focus
        page.keyboard.press("Enter")
        assert "Hello, <i>world</i>" in typed("", until="</i>")
        expect(last(page)).to_contain_text("Hello, <i>world</i>")
        typed("hello, browser", until="ann: hello, browser")
        expect(last(page)).to_contain_text("hello, browser")
        page.get_by_text("Name, room").focus()
        for key in ("Enter", "Tab", "b", "o", "b", "Enter"):
            page.keyboard.press(key)
        assert "is now bob" in typed("", until="is now bob")
        expect(page.locator("#me")).to_have_text("You are bob")
        expect(page.get_by_label("Your line")).to_be_focused()
        page.keyboard.type("/join garden\n")
        expect(page.get_by_role("heading")).to_have_text("Room garden")
        assert "bob went to garden" in typed("/join garden", until="ann has joined garden")
        page.get_by_role("button", name="Who is here?").press("Enter")
        expect(last(page)).to_contain_text("in garden: ann, bob")
        assert page.url == f"{deployment.page}#garden"
        assert page.title() == "garden \N{EN DASH} chat"


def test_page_notices_no_restart_but_an_end_and_comes_back_as_it_was(tmp_path, open_page):
    with chat(tmp_path) as deployment:
        address = deployment.page.removeprefix("http://").removesuffix("/")
        page = open_page(f"{deployment.page}#garden")
        page.clock.install()
        page.reload()
        expect(page.get_by_role("status").first).to_have_text("Connected")
        page.get_by_label("Your line").fill("/nick ann")
        page.keyboard.press("Enter")
        expect(page.locator("#me")).to_have_text("You are ann")
        page.keyboard.type("before the restart\n")
        expect(last(page)).to_contain_text("before the restart")
        deployment.signal(signal.SIGHUP)
        deployment.wait_for_all(2, "connections: .* handed over, 0 kept")
        page.keyboard.type("after the restart\n")
        expect(last(page)).to_contain_text("after the restart")
        page.keyboard.type("/who\n")
        expect(last(page)).to_contain_text("in garden: ann")
        expect(page.get_by_role("log")).not_to_contain_text("disconnected")
    expect(page.get_by_role("status").first).to_contain_text("Disconnected: the next try is in")
    page.clock.pause_at(time.time() + 1)  # no try of its own from now on
    expect(page.get_by_role("status").first).to_contain_text("Disconnected: the next try is in")
    page.keyboard.type("lost?\n")
    expect(page.locator("#hint")).to_have_text("Not sent: the page is disconnected.")
    expect(page.get_by_label("Your line")).to_have_value("lost?")
    with chat(tmp_path, web=address):
        page.get_by_role("button", name="Connect now").click()
        page.clock.resume()
        expect(page.get_by_role("status").first).to_have_text("Connected")
        page.keyboard.press("Enter")
        expect(last(page)).to_contain_text("lost?")
        text = page.get_by_role("log").inner_text()
        assert [text.count(line) for line in ("before the restart", "after the restart", "lost?")] == [
            1,
            1,
            1,
        ]
        page.close()


def test_page_asks_for_its_name_again_while_the_server_thinks_that_it_is_still_there(tmp_path, open_page):
    with chat(tmp_path) as deployment, telnet(deployment.address) as typed:
        typed("/nick ann", until="is now ann")
        page = open_page(deployment.page)
        page.evaluate("sessionStorage.setItem('name', 'ann')")
        page.clock.install()
        page.reload()
        expect(last(page)).to_contain_text("ann is taken")
        typed("/nick eve", until="is now eve")
        expect(last(page)).to_contain_text("ann is now eve")
        page.clock.fast_forward(20_000)
        expect(page.locator("#me")).to_have_text("You are ann")
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_readable_on_a_phone(tmp_path, open_page, scheme):
    with chat(tmp_path) as deployment:
        page = open_page(deployment.page, viewport={"width": 320, "height": 560}, color_scheme=scheme)
        page.get_by_text("Name, room").click()
        for number in range(30):
            page.get_by_label("Your line").fill(f"{number} {'unbreakable' * 20}")
            page.keyboard.press("Enter")
        expect(last(page)).to_contain_text("29 ")
        expect(last(page)).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("document.documentElement.scrollHeight") <= 560
        for locator in (page.get_by_role("button", name="Send"), page.get_by_label("Your line")):
            expect(locator).to_be_in_viewport()
            assert locator.bounding_box()["height"] >= 44
        log = page.get_by_role("log", name="Messages")
        log.evaluate("each => { each.scrollTop = 0; }")
        page.get_by_label("Your line").press("Tab")
        expect(page.get_by_role("button", name="New messages below")).to_be_hidden()
        page.close()
