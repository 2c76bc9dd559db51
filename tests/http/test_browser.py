"""A real browser: pages, files, server-sent events, WebSockets, and the origins that it sends."""

from contextlib import closing

import pytest

from reactor.http import HTTP, Response
from tests.helpers import DEADLINE

PAGE = """\
<!DOCTYPE html><title>page</title><link rel="icon" href="data:,">
<script>
const next = (target, name) => new Promise(done => target.addEventListener(name, done, {once: true}));

async function events() {
    const source = new EventSource("/events"), first = await next(source, "message");
    const named = await next(source, "named");
    source.close();
    return [first.data, first.lastEventId, named.data];
}
async function again() {
    const source = new EventSource("/again"), ids = [];
    for (let n = 0; n < 2; n++) ids.push((await next(source, "message")).data);
    source.close();
    return ids;
}
async function socket(url) {
    const made = new WebSocket(url), seen = [];
    made.binaryType = "arraybuffer";
    try {
        await Promise.race([next(made, "open"), next(made, "close").then(() => Promise.reject())]);
    } catch { return "refused"; }
    made.send("é".repeat(70000));
    seen.push((await next(made, "message")).data.length);
    made.send(new Uint8Array([0, 255]));
    seen.push(new Uint8Array((await next(made, "message")).data).join());
    made.close(4000, "bye");
    seen.push((await next(made, "close")).code);
    return seen;
}
async function post() {
    const answer = await fetch("/post", {method: "POST", body: "x".repeat(200000)});
    return [answer.status, await answer.text()];
}
async function stream() {
    return (await (await fetch("/stream")).text()).length;
}
</script>
"""


async def stream(request):
    answer = request.start(content_type="text/plain")
    for _ in range(100):
        answer.write(b"x" * 10_000)
        await answer.drain()
    answer.end()


def events(request):
    made = request.events()
    made.send("one\ntwo", id="1")
    made.send("three", event="named")


def again(request):
    """Answer with the id of the last event, and let the browser connect again."""
    made = request.events()
    made.send(made.last_id or "none", id="7", retry=0.01)
    made.end()


@pytest.fixture
def site(reactor_server):
    closed = []

    def echo(request):
        socket = request.websocket(compress=request.path == "/compressed")
        socket.on_message = socket.send
        socket.on_close = lambda exc: closed.append((socket.code, socket.reason))

    def page(request):
        return Response(200, PAGE, content_type="text/html; charset=utf-8")

    server = reactor_server(
        HTTP(
            {
                "/": page,
                "/events": events,
                "/again": again,
                "/socket": echo,
                "/compressed": echo,
                "/stream": stream,
                "POST /post": lambda request: Response(200, str(len(request.body))),
            }
        )
    )
    return server.address.port, closed


def test_browser(browser, site):
    port, closed = site
    with closing(browser.new_page()) as page:
        page.set_default_timeout(DEADLINE * 1000)
        assert page.goto(f"http://127.0.0.1:{port}/").status == 200
        assert page.title() == "page"
        assert page.evaluate("post()") == [200, "200000"]
        assert page.evaluate("stream()") == 1_000_000
        assert page.evaluate("events()") == ["one\ntwo", "1", "three"]
        assert page.evaluate("again()") == ["none", "7"]
        for path in ("socket", "compressed"):
            url = f"ws://127.0.0.1:{port}/{path}"
            assert page.evaluate(f"socket('{url}')") == [70_000, "0,255", 4000]
        assert closed == [(4000, "bye")] * 2
        assert page.evaluate(f"socket('ws://localhost:{port}/socket')") == "refused"  # another origin
