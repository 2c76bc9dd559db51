"""The page's HTML: what it shows of an overview, escaped, and for readers of all kinds."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.loop.stats import LAG_BOUNDS
from reactor.status import page
from reactor.status.overview import Overview, Phase, Worker
from reactor.status.page import POLICY, Rates, render_page, render_sections
from reactor.status.snapshot import ListenerState
from tests.status.test_ledger import snapshot
from tests.status.test_metrics import WORKERS, two_workers, with_gauges

EVIL = "<script>alert(1)</script>&\"'"
VOID = {"meta", "link", "rect", "br"}


class Tree(HTMLParser):
    """Checks that tags are closed in order; collects the text, the tags and the attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.pieces, self.attributes = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.pieces.append(" ")

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.pieces.append(data)


def sections(found, before=None):
    return {name: Tree(html) for name, html in render_sections(found, Rates(found, before)).items()}


def evil():
    found = snapshot(7)
    fields = {
        "gauges": {"open": 1, "paused": 0, "queued_bytes": 0},
        "problems": {EVIL: EVIL},
        "listeners": [{"address": f"unix:{EVIL}", "connections": 1, "holds": [EVIL]}],
    }
    found = type(found).from_json({**found.to_json(), **fields})
    worker = Worker(index=0, pid=7, phase="serving", answers=True, snapshot=found)
    counters = {f"closed:{EVIL}": 1, f"refused:{EVIL}": 2}
    return Overview(phase=Phase.RUNNING, workers=[worker], target=1, by_worker={0: counters}, name=EVIL)


def test_whatever_others_have_named_is_escaped():
    html = render_page(evil(), Rates(evil(), None))
    assert "<script>alert" not in html
    assert "alert(1)" in Tree(html).text
    assert html.count("<script>") == html.count("</script>") == 1


def test_page_loads_nothing_from_elsewhere():
    html = render_page(two_workers(), Rates(two_workers(), None))
    targets = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert set(targets) == {"data:,", "#main"}
    assert "http" not in html
    assert set(re.findall(r"(\S+)-src ([^;]+)", POLICY)) >= {("default", "'none'"), ("connect", "'self'")}
    assert "unsafe" not in POLICY


def test_state_of_a_restart():
    shown = sections(two_workers())["state"]
    assert shown.text == (
        "State Restarting, not ready: 0 of 2 workers are replaced worker 1: no answer "
        "Worker 0, process 11, drains: 3 connections left"
    )
    assert ("progress", {"aria-label": "workers replaced", "max": "2", "value": "0"}) in shown.attributes


def test_state_of_a_worker_that_starts_and_of_one_that_drains_without_an_answer():
    workers = [with_gauges(1, 0), with_gauges(2, 1, "starting", False), with_gauges(3, 1, "draining", False)]
    found = Overview(phase=Phase.REPLACING, workers=workers, target=2, by_worker={})
    assert sections(found)["state"].text == (
        "State Replacing the supervisor, ready: 1 of 2 workers serves "
        "Worker 1, process 2, is starting Worker 1, process 3, drains"
    )


def test_process_alone():
    found = Overview(phase=Phase.RUNNING, workers=[with_gauges(9, 0)], target=None, by_worker={0: {}})
    shown = sections(found)
    assert shown["state"].text == "State Running, ready"
    assert "process 9 serving" in shown["workers"].text
    assert shown["refused"].text.startswith("Refused connections None.")


def test_figures_and_rates():
    def at(now, accepted):
        counters = {0: {"accepted": accepted, "bytes_sent": accepted * 1000, "refused:max_per_ip": accepted}}
        workers = [with_gauges(1, 0)]
        return Overview(phase=Phase.RUNNING, workers=workers, target=1, by_worker=counters, at=now)

    shown = sections(at(2.0, 5000), before=at(0.0, 1000))
    assert "Connections 3 1 paused" in shown["now"].text
    assert "New 2,000/s 5,000 in all" in shown["now"].text
    assert "Sent 2.0 MB/s 5.0 MB in all" in shown["now"].text
    assert "max_per_ip 5,000 2,000/s" in shown["refused"].text
    unknown = sections(at(2.0, 5000))
    assert "New – 5,000 in all" in unknown["now"].text  # noqa: RUF001 - the dash of the page
    assert "New – 5,000" in sections(at(20.0, 5000), before=at(0.0, 0))["now"].text  # noqa: RUF001


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds, text):
    assert page._duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (5e9, "5.0 GB"),
        (2.5e15, "2,500.0 TB"),
    ],
)
def test_sizes(size, text):
    assert page._bytes(size) == text


def test_lag_has_a_row_for_each_bucket_up_to_the_longest_tick():
    counters = {"lag:0": 999, "lag:6": 1}
    found = Overview(phase=Phase.RUNNING, workers=[], target=1, by_worker={0: counters})
    shown = sections(found)["lag"]
    assert "p50 ≤ 1 ms, p99 ≤ 1 ms, longest ≤ 100 ms" in shown.text
    assert "≤ 1 ms 999 99.90% ≤ 2 ms 0 0%" in shown.text
    assert shown.text.endswith("≤ 100 ms 1 0.10%")
    bars = [attributes["width"] for tag, attributes in shown.attributes if attributes.get("class") == "fill"]
    assert (bars[0], bars[1], len(bars)) == ("100.0", "0.0", 7)
    beyond = {f"lag:{len(LAG_BOUNDS)}": 5}
    found = Overview(phase=Phase.RUNNING, workers=[], target=1, by_worker={0: beyond})
    assert sections(found)["lag"].text.endswith("> 10 s 5 100%")


def test_tables_have_captions_scopes_and_roles():
    for name, shown in sections(two_workers()).items():
        if "table" in shown.tags:
            assert "caption" in shown.tags, name
            heads = [attributes for tag, attributes in shown.attributes if tag == "th"]
            assert {head["scope"] for head in heads} == {"col", "row"}
        assert shown.tags.count("h2") == 1
    spoken = [attributes for _, attributes in sections(two_workers())["state"].attributes]
    assert [attributes for attributes in spoken if attributes.get("role") == "status"]


TEXTS = st.text(max_size=20)
COUNTERS = st.dictionaries(
    st.sampled_from(["accepted", "bytes_sent", "lag:0", "lag:13"]) | TEXTS.map("closed:{}".format),
    st.integers(0, 1 << 60),
    max_size=5,
)


@given(
    st.sampled_from(Phase),
    st.lists(WORKERS, max_size=4, unique_by=lambda worker: worker.pid),
    st.none() | st.integers(1, 4),
    st.dictionaries(st.integers(0, 3), COUNTERS, max_size=3),
    st.lists(st.builds(ListenerState, TEXTS, st.integers(0, 9), st.lists(TEXTS, max_size=2)), max_size=2),
)
def test_any_overview_is_well_formed(phase, workers, target, by_worker, listeners):
    for worker in workers:
        worker.snapshot.listeners.extend(listeners)
    found = Overview(phase=phase, workers=workers, target=target, by_worker=by_worker, at=1.0)
    Tree(
        render_page(
            found, Rates(found, Overview(phase=phase, workers=[], target=target, by_worker={}, at=0.0))
        )
    )
