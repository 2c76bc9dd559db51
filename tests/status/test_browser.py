"""The page in a real browser: through deploys, with the keyboard alone, without scripts, narrow and dark."""

import re
import signal

import pytest
from playwright.sync_api import expect

from reactor import Protocol
from reactor.status import StatusPage
from tests.deploy.programs import GATE, held, serving
from tests.helpers import DEADLINE, client_of

#: The sections whose contents are wider than they are.
OVERFLOWING = """
    [...document.querySelectorAll("section")]
        .filter(section => section.scrollWidth > section.clientWidth).map(section => section.id)
"""


@pytest.fixture
def deployment(tmp_path):
    (tmp_path / "gated.py").write_text(GATE + "from reactor.apps.echo import Echo as Gated\n")
    with serving(tmp_path, "--status", "127.0.0.1:0", app="gated:Gated", workers=2) as deployment:
        deployment.page = deployment.wait_for(r"status page: (\S+)")[1]
        deployment.processes = deployment.workers(2)
        deployment.address = deployment.started(2)
        yield deployment
        if deployment.process.poll() is None:
            assert deployment.stop() == 0


@pytest.fixture
def open_page(browser, deployment):
    """Return a function that opens the page; the test fails for an error in it, or a request elsewhere."""
    contexts, problems = [], []

    def opened(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(DEADLINE * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend(elsewhere(request.url)))
        page.goto(deployment.page)
        return page

    def elsewhere(url):
        return [] if url.startswith((deployment.page, "data:,")) else [url]

    expect.set_options(timeout=DEADLINE * 1000)
    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def figure(page, name):
    return page.locator("#now div", has=page.get_by_text(name, exact=True)).locator("dd")


def test_figures_change_through_restarts_and_replacements(deployment, open_page, tmp_path):
    page = open_page()
    state = page.locator("#state .summary")
    expect(state).to_have_text("Running, ready: 2 of 2 workers serve")
    expect(figure(page, "Connections")).to_contain_text("0 ")
    with client_of(deployment.address) as client:
        client.sendall(b"x" * 1000)
        assert client.recv(1000)
        expect(figure(page, "Connections")).to_contain_text("1 ")
        expect(figure(page, "Received")).to_contain_text("1.0 kB in all")
        with held(tmp_path):
            deployment.signal(signal.SIGHUP)
            expect(state).to_have_text("Restarting, ready: 0 of 2 workers are replaced")
        new = deployment.workers(2)
        for pid in new.values():
            expect(page.locator("#workers")).to_contain_text(f"process {pid}")
        for pid in deployment.processes.values():
            expect(page.locator("#workers")).not_to_contain_text(f"process {pid}")
        expect(state).to_have_text("Running, ready: 2 of 2 workers serve")
        expect(figure(page, "New")).to_contain_text("1 in all")  # counted by a process that has ended
        with held(tmp_path):
            deployment.signal(signal.SIGUSR2)
            expect(state).to_have_text("Replacing the supervisor, ready: 2 of 2 workers serve")
        deployment.follow()
        for pid in new.values():
            expect(page.locator("#workers")).not_to_contain_text(f"process {pid}")
        expect(state).to_have_text("Running, ready: 2 of 2 workers serve")
        expect(figure(page, "New")).to_contain_text("1 in all")
        expect(figure(page, "Connections")).to_contain_text("1 ")
        client.sendall(b"y" * 1000)
        expect(figure(page, "Received")).to_contain_text("2.0 kB in all")


@pytest.mark.slow
def test_keyboard_is_enough(deployment, open_page):
    page = open_page()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the figures")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Tab")
    pause = page.get_by_role("button", name="Pause")
    expect(pause).to_be_focused()
    assert pause.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(pause).to_have_attribute("aria-pressed", "true")
    with client_of(deployment.address):
        page.wait_for_function("() => 'now' in waiting && waiting.now.includes('<dd>1 ')")
        expect(figure(page, "Connections")).to_contain_text("0 ")
        page.keyboard.press("Enter")
        expect(pause).to_have_attribute("aria-pressed", "false")
        expect(figure(page, "Connections")).to_contain_text("1 ")
        expect(pause).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.slow
def test_page_says_that_its_figures_are_old_and_goes_on_when_the_server_is_back(
    deployment, open_page, tmp_path
):
    page = open_page()
    expect(page.locator("#connection")).to_contain_text("Figures of")
    expect(figure(page, "New")).to_contain_text("/s")
    deployment.stop()
    lost = re.compile("^No connection: trying again. Figures of ")
    expect(page.locator("#connection")).to_have_text(lost)
    expect(page.locator("body")).to_have_class("stale")  # "Last known: " is before the state
    for _ in "pause", "resume":
        page.locator("#pause").click()
    expect(page.locator("#connection")).to_have_text(lost)
    address = deployment.page.removeprefix("http://").removesuffix("/")
    with serving(tmp_path, "--status", address, app="echo", workers=1) as another:
        (pid,) = another.workers(1).values()
        expect(page.locator("#workers")).to_contain_text(f"process {pid}")
        expect(page.locator("#connection")).to_have_text(re.compile(r"^\s*Figures of"))
        expect(page.locator("body")).to_have_class("")
        assert another.stop() == 0


@pytest.mark.slow
def test_page_says_that_a_server_is_silent_and_goes_on_when_it_is_heard_again(deployment, open_page):
    page = open_page()
    page.clock.install()
    page.reload()
    spoken = page.get_by_role("banner").get_by_role("status")
    expect(figure(page, "New")).to_contain_text("/s")
    expect(spoken).to_have_text("")
    deployment.signal(signal.SIGSTOP)
    try:
        page.clock.fast_forward(6000)
        expect(spoken).to_have_text("No connection: trying again.")
        expect(page.locator("body")).to_have_class("stale")
    finally:
        deployment.signal(signal.SIGCONT)
    expect(spoken).to_have_text("")
    expect(page.locator("body")).to_have_class("")


@pytest.mark.slow
def test_readers_find_headings_tables_and_the_state(open_page):
    page = open_page()
    expect(page.get_by_role("heading", level=1)).to_have_text("reactor serve gated:Gated")
    state = page.get_by_role("region", name="State")
    expect(state.get_by_role("status")).to_have_text("Running, ready: 2 of 2 workers serve")
    for width in (1280, 320):
        page.set_viewport_size({"width": width, "height": 800})
        for name in ("Workers", "Loop lag", "Listeners", "Refused connections", "Closed connections"):
            expect(page.get_by_role("region", name=name)).to_be_visible()
        workers = page.get_by_role("table", name="Processes that serve")
        assert workers.get_by_role("row").count() == 3
        assert workers.get_by_role("rowheader").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOWING) == []


@pytest.mark.slow
def test_long_names_are_wrapped(browser, reactor_server, tmp_path):
    server = reactor_server(Protocol)

    def serve():
        page = StatusPage(server.reactor, name="n" * 100, checks={"y" * 100: lambda: "x" * 100})
        server.reactor.listen(f"unix:{tmp_path}/" + "s" * (90 - len(str(tmp_path))), Protocol)
        return page.listen("127.0.0.1:0").addresses[0]

    address = server.reactor.submit(serve).result(DEADLINE)
    with browser.new_context(viewport={"width": 320, "height": 800}) as context:
        page = context.new_page()
        page.goto(f"http://{address}/")
        expect(page.locator("#state")).to_contain_text("y" * 100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate(OVERFLOWING) == []


@pytest.mark.slow
def test_page_shows_the_figures_without_its_script(open_page):
    page = open_page(java_script_enabled=False)
    expect(page.locator("#state .summary")).to_have_text("Running, ready: 2 of 2 workers serve")
    expect(page.get_by_role("button")).to_have_count(0)
    assert page.get_by_role("table", name="Processes that serve").get_by_role("row").count() == 3


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_color_schemes(open_page, scheme):
    page = open_page(color_scheme=scheme)
    colors = page.evaluate("""
        () => ["back", "card", "text", "soft", "accent", "good", "warn", "bad"].map(
            name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim())
    """)
    back, card, *texts = map(luminance, colors)
    assert (back < 0.1) is (scheme == "dark")
    for text in texts:
        for behind in (back, card):
            assert contrast(text, behind) >= 4.5  # WCAG 2.2, 1.4.3


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    bright, dark = max(one, other), min(one, other)
    return (bright + 0.05) / (dark + 0.05)
