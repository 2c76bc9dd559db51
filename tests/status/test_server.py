"""The status page over real sockets: answers, refusals, deadlines, and that the program is left alone."""

import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from reactor import ListenError, Reactor, UsageError
from reactor.status import StatusPage, server
from reactor.status.snapshot import take_snapshot
from reactor.testing import Errors, Recorder
from tests.embed.test_embed import display, program_of
from tests.helpers import DEADLINE, Echo, connect, pair, spin
from tests.status.clients import connection_to, get, metrics, page_of

__all__ = ["display"]


@pytest.fixture
def served(descriptors, tmp_path):
    """A reactor with a listener and a status page, both on a thread; its address."""

    class Served:
        errors = Errors()
        reactor = Reactor(on_error=errors)
        page = StatusPage(reactor, checks={"disk": lambda: Served.disk}, name="shop")
        disk = None

        def listen(self, address="127.0.0.1:0", **options):
            return self.reactor.submit(lambda: self.page.listen(address, **options)).result(DEADLINE)

        def call(self, fn, *args, **options):
            return self.reactor.submit(fn, *args, **options).result(DEADLINE)

    made = Served()
    made.reactor.listen("127.0.0.1:0", Echo)
    with made.reactor, made.reactor.background(drain_timeout=0):
        made.address = made.listen().addresses[0]
        yield made
    assert made.errors.seen == []


def test_probes(served):
    assert get(served.address, "/live")[::2] == (200, "live\n")
    assert get(served.address, "/ready")[::2] == (200, "ready\n")


def test_check_that_fails_is_the_reason_for_which_it_is_not_ready(served):
    type(served).disk = "full"
    assert get(served.address, "/ready")[::2] == (503, "disk: full\n")
    assert metrics(served.address)["reactor_check_failing", "disk"] == 1
    type(served).disk = None


def test_listener_that_is_paused_is_the_reason_too(served):
    (listener,) = served.reactor.listeners()
    served.call(listener.pause)
    assert get(served.address, "/ready")[::2] == (503, f"{listener.addresses[0]} accepts nothing: paused\n")


def test_look_at_the_connections_may_take_several_ticks(served, monkeypatch):
    monkeypatch.setattr("reactor.open_sockets.DESCRIPTORS_PER_TICK", 4)
    pairs = [served.call(pair, served.reactor, Recorder()) for _ in range(20)]
    with page_of(served.address) as next_event:
        assert next_event()["state"]
        assert metrics(served.address)["reactor_connections",] == 20
        assert get(served.address, "/ready")[::2] == (200, "ready\n")
        assert "<title>shop</title>" in get(served.address)[2]
    for _, peer in pairs:
        peer.close()


def test_page_and_its_protection(served):
    status, headers, text = get(served.address)
    assert (status, "<title>shop</title>" in text) == (200, True)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_metrics_have_the_media_type_that_is_accepted(served):
    assert get(served.address, "/metrics")[1]["Content-Type"].startswith("text/plain; version=0.0.4")
    answer = get(served.address, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer[1]["Content-Type"].startswith("application/openmetrics-text")
    assert answer[2].endswith("# EOF\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/metrics", 405), ("DELETE", "/", 501), ("GET", "/nothing", 404), ("HEAD", "/metrics", 200),
     ("HEAD", "/events", 200), ("HEAD", "/", 200)],
)  # fmt: skip
def test_methods_and_paths(served, method, path, status):
    found, headers, text = get(served.address, path, method)
    assert found == status
    assert method != "HEAD" or text == ""
    assert status != 405 or headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:80", 200), ("app.localhost:9", 200), ("127.0.0.1:9100", 200),
        ("127.9.9.9", 200), ("[::1]:9100", 200), ("[::1]", 200), ("evil.example", 421),
        ("evil.example:80", 421), ("10.0.0.1", 421), ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ],
)  # fmt: skip
def test_names_of_other_hosts_are_refused(served, host, status):
    for path in ("/", "/metrics", "/ready", "/live"):
        assert get(served.address, path, Host=host)[0] == status


def test_unix_socket_and_its_file(served, tmp_path):
    path = tmp_path / "status"
    listener = served.listen(f"unix:{path}")
    assert get(listener.addresses[0], "/live")[0] == 200
    assert get(listener.addresses[0], "/live", Host="status.example")[0] == 200  # of a proxy in front of it
    served.call(served.page.close)
    assert not path.exists()


def test_address_that_others_reach_is_refused_unless_it_is_meant(served, caplog):
    for address in ("0.0.0.0:0", "[::]:0", ":0"):
        with pytest.raises(UsageError, match=r"would be open to all who reach .*--status-open"):
            served.listen(address)
    port = served.listen("0.0.0.0:0", open=True).addresses[0].port
    assert f"the status page on 0.0.0.0:{port} is open to all who reach it" in caplog.text
    assert get(f"127.0.0.1:{port}", "/live", Host="server.example")[0] == 200


def test_inherited_socket_is_judged_by_its_address(served):
    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("0.0.0.0", 0)) as open_:
        served.listen(here.dup())
        with pytest.raises(UsageError):
            served.listen(f"fd:{open_.fileno()}")
        assert get("{}:{}".format(*here.getsockname()), "/live")[0] == 200


@pytest.mark.parametrize("address", ["fd:9999", "nowhere.invalid:0"])
def test_address_that_there_is_not_is_one_error(served, address):
    with pytest.raises(ListenError, match=f"cannot listen on {address}: "):
        served.listen(address)


def test_open_page_gets_what_has_changed(served):
    (listener,) = served.reactor.listeners()
    with page_of(served.address) as next_event:
        first = next_event()
        assert set(first) == {"state", "now", "workers", "lag", "listeners", "refused", "closed"}
        with connect(served.reactor, listener.addresses[0]):
            while "<dd>1 <small>" not in (event := next_event()).get("now", ""):
                assert "state" not in event
    with page_of(served.address) as next_event:
        assert set(next_event()) == set(first)


def test_all_open_pages_get_the_same_event(served, monkeypatch):
    monkeypatch.setattr(server, "_BATCH", 2)
    with ExitStack() as opened:
        first, *others = [opened.enter_context(page_of(served.address)) for _ in range(5)]
        whole = first()
        latest = first()["now"]
        for other in others:
            assert set(other()) == set(whole)
            while other().get("now") != latest:
                pass


def test_page_that_comes_later_gets_all_figures_at_once(served, monkeypatch):
    monkeypatch.setattr(server, "_INTERVAL", 1000.0)
    with page_of(served.address) as first, page_of(served.address) as second:
        assert first() == second()


def test_refresh_shows_at_once_what_has_happened(served, monkeypatch):
    served.call(served.page.refresh)  # nobody looks
    monkeypatch.setattr(server, "_INTERVAL", 1000.0)
    with page_of(served.address) as next_event:
        next_event()
        type(served).disk = "full"
        served.call(served.page.refresh)
        served.call(served.page.refresh)
        assert "disk: full" in next_event()["state"]
    type(served).disk = None


def test_pages_that_are_gone_ask_for_nothing_more(served):
    with page_of(served.address) as next_event:
        next_event()
    pages = served.page._pages
    deadline = time.monotonic() + DEADLINE
    while served.call(lambda: pages._streams or pages._next):
        assert time.monotonic() < deadline
    assert served.call(lambda: pages._sections) == {}


def test_page_that_takes_nothing_is_ended(served, monkeypatch):
    monkeypatch.setattr(server, "_INTERVAL", 0.01)
    monkeypatch.setattr(server, "_event", lambda sections: b"data: " + b"x" * 500_000 + b"\n\n")
    with socket.create_connection((served.address.host, served.address.port), timeout=DEADLINE) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + DEADLINE
        while not served.call(lambda: served.page._reactor.stats().closed):
            assert time.monotonic() < deadline
        with pytest.raises(ConnectionResetError):
            while client.recv(1 << 20):
                pass


def test_slow_request_is_ended_by_its_deadline(served, monkeypatch):
    monkeypatch.setattr(server, "_HEAD_TIMEOUT", 0.2)
    address = served.listen().addresses[0]
    with socket.create_connection((address.host, address.port), timeout=DEADLINE) as client:
        client.sendall(b"GET /live HT")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_connections_are_limited_to_a_quarter_of_the_descriptors(served, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8, 8))
    address = served.listen().addresses[0]
    first, second, third = (connection_to(address) for _ in range(3))
    for each in (first, second):
        each.request("GET", "/live", headers={"Host": "localhost"})
        assert each.getresponse().read() == b"live\n"
    third.request("GET", "/live", headers={"Host": "localhost"})
    first.close()  # until then the third waits in the accept queue
    assert third.getresponse().read() == b"live\n"
    assert served.call(lambda: served.page._reactor.stats().accepted) == 3
    for each in (second, third):
        each.close()


def test_page_is_neither_in_the_statistics_nor_in_the_drain_of_the_program(served):
    busy, peer = served.call(pair, served.reactor, Recorder())
    served.call(busy.write, bytes(4 << 20))
    with page_of(served.address) as next_event:
        next_event()
        assert served.call(served.reactor.stats).open == 1
        served.reactor.drain(DEADLINE)
        while "Draining, not ready" not in next_event().get("state", ""):
            pass
        assert get(served.address, "/ready")[::2] == (503, "shop is draining\n")
        assert metrics(served.address)["reactor_state", "draining"] == 1
        peer.close()


def test_peers_of_the_program_are_served_before_the_page_s(tmp_path):
    order = []

    class Noting(Echo):
        def data_received(self, data):
            order.append("program")
            super().data_received(data)

    with Reactor() as reactor:
        page = StatusPage(reactor, checks={"page": lambda: order.append("page")})
        page.listen(f"unix:{tmp_path}/status")
        with pair(reactor, Noting())[1] as peer, socket.socket(socket.AF_UNIX) as asking:
            asking.connect(f"{tmp_path}/status")
            spin(reactor, lambda: page._reactor.stats().accepted)
            asking.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            peer.sendall(b"x")
            spin(reactor, lambda: len(order) == 2)
        assert order == ["program", "page"]


def test_drain_answers_what_was_asked_and_ends_pages():
    answers = []
    with Reactor() as reactor:
        page = StatusPage(reactor, collect=answers.append)
        address = page.listen("127.0.0.1:0").addresses[0]
        with reactor.background(drain_timeout=0):
            connection = connection_to(address)
            connection.request("GET", "/ready", headers={"Host": "localhost"})
            deadline = time.monotonic() + DEADLINE
            while not answers:
                assert time.monotonic() < deadline
            reactor.submit(page.drain, DEADLINE).result(DEADLINE)
            reactor.submit(lambda: answers[0](server.overview_of(take_snapshot(reactor)))).result(DEADLINE)
            assert connection.getresponse().read() == b"ready\n"
            while not reactor.submit(page._reactor.is_closed).result(DEADLINE):
                assert time.monotonic() < deadline
            connection.close()


def test_client_that_has_gone_gets_no_answer(served):
    answers = []
    page = served.call(lambda: StatusPage(served.reactor, collect=answers.append))
    address = served.call(page.listen, "127.0.0.1:0").addresses[0]
    for path in ("/", "/metrics", "/ready"):
        connection = connection_to(address)
        connection.request("GET", path, headers={"Host": "localhost"})
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    deadline = time.monotonic() + DEADLINE
    while not answers or served.call(page._reactor.connections):
        assert time.monotonic() < deadline
    served.call(lambda: answers[0](server.overview_of(take_snapshot(served.reactor))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reactor": None}, "reactor must be of type Reactor, not None"),
        ({"checks": [1]}, r"checks must be of type Mapping or None, not \[1\]"),
        ({"checks": {"disk": "full"}}, "check must be callable, not 'full'"),
        ({"name": 1}, "name must be of type str, not 1"),
    ],
)
def test_invalid_arguments_are_refused(reactor, options, message):
    with pytest.raises(TypeError, match=message):
        StatusPage(**{"reactor": reactor, **options})


def test_closed_reactor_is_refused(descriptors):
    with Reactor() as reactor:
        pass
    with pytest.raises(UsageError, match="closed"):
        StatusPage(reactor)


def test_close_is_idempotent_and_leaves_no_descriptor(reactor, descriptors):
    with Reactor() as other:
        page = StatusPage(other)
        page.listen("127.0.0.1:0")
        page.close()
        page.close()
        page.drain()


def test_events_of_a_page_are_json_in_one_event():
    event = server._event({"now": "<p>\n</p>"})
    assert event.startswith(b"retry: 1000\ndata: ")
    assert json.loads(event.split(b"data: ")[1]) == {"now": "<p>\n</p>"}


def test_how_to_of_a_tk_program(display, tmp_path):
    readme = (Path(server.__file__).parent / "README.md").read_text()
    _, _, text = readme.partition("\n## How to: the page in a Tk program\n")
    program = textwrap.dedent(re.search(r"(?:^    .*\n|^\n)+", text[text.index("\n    ") :], re.MULTILINE)[0])
    page, curl, xdotool = tmp_path / "page", program_of("curl", "curl"), program_of("xdotool", "xdotool")
    environment = {
        **os.environ,
        "DISPLAY": display,
        "BROWSER": f"{curl} --silent --fail --output {page} --write-out done %s &",
    }
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tk:
        try:
            search = [xdotool, "search", "--sync", "--onlyvisible", "--name", "^Echo$"]
            found = subprocess.run(search, env=environment, capture_output=True, check=True, timeout=DEADLINE)
            window = found.stdout.split()[-1].decode()
            click = [xdotool, "mousemove", "--sync", "--window", window, "20", "15", "click", "1"]
            subprocess.run(click, env=environment, check=True, timeout=DEADLINE)
            assert tk.stdout.read(4) == b"done"
            assert "<title>Tk and echo</title>" in page.read_text()
        finally:
            tk.kill()
        assert tk.stderr.read() == b""


@pytest.mark.parametrize("package", ["h11", "prometheus_client"])
def test_import_without_a_package_names_the_extra_that_has_all(package):
    program = f"import sys; sys.modules[{package!r}] = None\nfrom reactor.status import StatusPage"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    needed = f"reactor.status needs {package.replace('_', '-')}: pip install 'selectors-reactor[status]'"
    assert needed in done.stderr.splitlines()[-1]
