"""The page: an `Overview` as HTML. It is rendered here alone, and changed in the browser by its sections.

A page that is open gets the sections that have changed, as JSON, once a second: its script puts what differs
in place. So it shows the same without a script, at the time at which it was loaded.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.resources import files

from reactor.loop.stats import LAG_BOUNDS, Histogram
from reactor.status.overview import Overview, Phase, Worker
from reactor.status.snapshot import Counters, labelled

__all__ = ["POLICY", "Rates", "render_page", "render_sections"]

_TEMPLATE = files("reactor.status").joinpath("page.html").read_text(encoding="utf-8")


def _source(tag: str) -> str:
    """Return the hash of the template's inline style or script, as CSP takes it."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", _TEMPLATE, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return f"'sha256-{digest}'"


#: Content-Security-Policy: nothing but the page's own style and script, and its events. W3C CSP 3.
POLICY = (
    f"default-src 'none'; style-src {_source('style')}; script-src {_source('script')}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Buckets of the lag that are always shown; further ones if they have ticks.
_BUCKETS = 5

_UNKNOWN = "–"  # noqa: RUF001 - a dash for a figure that is not known yet

_SENTENCES = {
    Phase.STARTING: "Starting",
    Phase.RUNNING: "Running",
    Phase.RESTARTING: "Restarting",
    Phase.REPLACING: "Replacing the supervisor",
    Phase.DRAINING: "Draining",
}


class Rates:
    """Changes per second from one overview to the next.

    before: None, or one that is too long ago, and no rate is known.
    """

    _LONGEST = 5.0  # seconds: longer ago it is an average of what nobody has watched

    def __init__(self, now: Overview, before: Overview | None) -> None:
        self._now = now
        self._before = before
        passed = 0.0 if before is None else now.at - before.at
        self._passed = passed if 0 < passed <= self._LONGEST else 0.0

    def total(self, *names: str) -> float | None:
        """Return the rate of some counters, together, of all workers together."""
        return self._rate(self._now.totals(), None if self._before is None else self._before.totals(), names)

    def of(self, index: int, *names: str) -> float | None:
        """Return the same of one worker."""
        before = None if self._before is None else self._before.by_worker.get(index, {})
        return self._rate(self._now.by_worker.get(index, {}), before, names)

    def _rate(
        self, now: Mapping[str, float], before: Mapping[str, float] | None, names: Iterable[str]
    ) -> float | None:
        if before is None or not self._passed:
            return None
        return sum(max(0, now.get(name, 0) - before.get(name, 0)) for name in names) / self._passed


def render_page(overview: Overview, rates: Rates) -> str:
    """Return the whole page."""
    sections = "\n".join(render_sections(overview, rates).values())
    updated = time.strftime("%H:%M:%S UTC", time.gmtime())
    return (
        _TEMPLATE.replace("{title}", escape(overview.name))
        .replace("<!-- updated -->", updated)
        .replace("<!-- sections -->", sections)
    )


def render_sections(overview: Overview, rates: Rates) -> dict[str, str]:
    """Return the sections by their ids, each as one HTML element."""
    totals = overview.totals()
    return {
        "state": _state(overview),
        "now": _section("now", "Now", _figures(overview, rates, totals)),
        "workers": _section("workers", "Workers", _workers(overview, rates)),
        "lag": _section("lag", "Loop lag", _lag(totals)),
        "listeners": _section("listeners", "Listeners", _listeners(overview)),
        "refused": _section("refused", "Refused connections", _reasons("refused", rates, totals)),
        "closed": _section("closed", "Closed connections", _reasons("closed", rates, totals)),
    }


def _section(name: str, title: str, body: str) -> str:
    heading = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{body}</section>'


# The state: what changes here is read out by a screen reader, so that nothing stands here that always changes


def _state(overview: Overview) -> str:
    problems = overview.problems()
    kind = "failing" if problems else "serving" if overview.phase is Phase.RUNNING else "changing"
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    listed = f'<ul class="problems">{lines}</ul>' if problems else ""
    spoken = f'<div role="status"><p class="summary">{_summary(overview, bool(problems))}</p>{listed}</div>'
    title = '<h2 id="state-title">State</h2>'
    return (
        f'<section id="state" class="{kind}" aria-labelledby="state-title">'
        f"{title}{spoken}{_progress(overview)}</section>"
    )


def _summary(overview: Overview, has_problems: bool) -> str:
    ready = "not ready" if has_problems else "ready"
    sentence = _SENTENCES[overview.phase]
    if overview.target is None:
        return f"{sentence}, {ready}"
    if overview.phase is Phase.RESTARTING:
        return f"{sentence}, {ready}: {overview.replaced} of {overview.target} workers are replaced"
    serving = len({worker.index for worker in overview.workers if worker.phase == "serving"})
    verb = "serves" if serving == 1 else "serve"
    return f"{sentence}, {ready}: {serving} of {_many(overview.target, 'worker')} {verb}"


def _progress(overview: Overview) -> str:
    """Return what a deploy is at: the processes that start and that drain."""
    moving = [worker for worker in overview.workers if worker.phase != "serving"]
    bar = ""
    if overview.phase is Phase.RESTARTING:
        bar = (
            f'<progress aria-label="workers replaced" max="{overview.target}" '
            f'value="{overview.replaced}"></progress>'
        )
    lines = "".join(f"<li>{_step(worker, overview)}</li>" for worker in moving)
    return bar + (f"<ul>{lines}</ul>" if lines else "")


def _step(worker: Worker, overview: Overview) -> str:
    name = (
        f"Process {worker.pid}" if overview.target is None else f"Worker {worker.index}, process {worker.pid}"
    )
    if worker.phase == "starting":
        return f"{name}, is starting"
    left = None if worker.current is None else worker.current.gauges["open"]
    return f"{name}, drains" + ("" if left is None else f": {_many(left, 'connection')} left")


# Figures


def _figures(overview: Overview, rates: Rates, totals: Counters) -> str:

    def in_all(name: str, text: Callable[[float], str]) -> str:
        return f"{text(totals.get(name, 0))} in all"

    figures = [
        ("Connections", f"{overview.gauge('open'):,}", f"{overview.gauge('paused'):,} paused"),
        ("New", _rate(rates.total("accepted", "connected")), in_all("accepted", _count)),
        ("Received", _bytes_rate(rates.total("bytes_received")), in_all("bytes_received", _bytes)),
        ("Sent", _bytes_rate(rates.total("bytes_sent")), in_all("bytes_sent", _bytes)),
        ("Queued", _bytes(overview.gauge("queued_bytes")), "to be sent"),
        ("CPU", _share(rates.total("cpu_seconds")), in_all("cpu_seconds", _duration)),
        ("Events", _rate(rates.total("events")), in_all("events", _count)),
        ("Errors", _rate(rates.total("handler_errors")), in_all("handler_errors", _count)),
    ]
    parts = "".join(
        f"<div><dt>{name}</dt><dd>{figure} <small>{note}</small></dd></div>" for name, figure, note in figures
    )
    return f"<dl>{parts}</dl>"


def _workers(overview: Overview, rates: Rates) -> str:
    columns = [
        ("Worker", False), ("State", True), ("Up", False), ("Connections", False), ("New", False),
        ("Received", False), ("Sent", False), ("CPU", False), ("Lag p99", False), ("Errors", False),
    ]  # fmt: skip
    rows = [_worker_row(worker, overview, rates) for worker in overview.workers]
    caption = "Processes that serve. Rates and counters are of all processes that a worker has had."
    return _table(caption, columns, rows, cards=True)


def _worker_row(worker: Worker, overview: Overview, rates: Rates) -> list[str]:
    name = f"process {worker.pid}" if overview.target is None else f"{worker.index}, process {worker.pid}"
    now, index = worker.current, worker.index
    state = f'<span class="{_KINDS[worker.phase]}">{worker.phase}</span>'
    if worker.phase != "starting" and now is None:
        state = '<span class="bad">no answer</span>'
    if now is None:
        return [name, state, *[_UNKNOWN] * 8]
    counters = overview.by_worker.get(index, {})
    return [
        name,
        state,
        _duration(time.time() - now.started),
        f"{now.gauges['open']:,}",
        _rate(rates.of(index, "accepted", "connected")),
        _bytes_rate(rates.of(index, "bytes_received")),
        _bytes_rate(rates.of(index, "bytes_sent")),
        _share(rates.of(index, "cpu_seconds")),
        _quantile(_histogram(counters), 0.99),
        f"{int(counters.get('handler_errors', 0)):,}",
    ]


_KINDS = {"starting": "warn", "serving": "good", "draining": "warn"}


def _listeners(overview: Overview) -> str:
    rows = []
    listeners = [listener for snapshot in overview.current() for listener in snapshot.listeners]
    for address in dict.fromkeys(listener.address for listener in listeners):
        same = [listener for listener in listeners if listener.address == address]
        holds = sorted({hold for listener in same for hold in listener.holds})
        state = (
            f'<span class="bad">{escape(", ".join(holds))}</span>'
            if holds
            else '<span class="good">accepts</span>'
        )
        rows.append([escape(address), state, f"{sum(listener.connections for listener in same):,}"])
    if not rows:
        return '<p class="none">Nothing is listened on.</p>'
    columns = [("Address", False), ("State", True), ("Connections", False)]
    return _table("What is listened on, and whether it accepts", columns, rows, cards=True)


def _reasons(name: str, rates: Rates, totals: Counters) -> str:
    counts = sorted(labelled(totals, name).items(), key=lambda entry: (-entry[1], entry[0]))
    rows = [
        [escape(reason), f"{int(count):,}", _rate(rates.total(f"{name}:{reason}"))]
        for reason, count in counts
    ]
    captions = {
        "refused": "Accepted and closed at once, by reason, since the start",
        "closed": "Ended, by reason, since the start",
    }
    return _table(captions[name], [("Reason", False), ("Total", False), ("Rate", False)], rows)


# The histogram


def _histogram(counters: Counters) -> Histogram:
    ticks = labelled(counters, "lag")
    return Histogram(LAG_BOUNDS, tuple(int(ticks.get(str(at), 0)) for at in range(len(LAG_BOUNDS) + 1)))


def _lag(totals: Counters) -> str:
    lag = _histogram(totals)
    last = max((at for at, count in enumerate(lag.counts) if count), default=0)
    shown = lag.counts[: max(_BUCKETS, last + 1)]
    total, longest = lag.total(), max(shown)
    rows = [
        [_bound(at), _bar(count, longest), f"{count:,}", _part(count, total)]
        for at, count in enumerate(shown)
    ]
    columns = [("Tick", False), ("Bars", True), ("Ticks", False), ("Share", False)]
    caption = (
        f"How long other events waited for a tick, since the start: p50 {_quantile(lag, 0.5)}, "
        f"p99 {_quantile(lag, 0.99)}, longest {_quantile(lag, 1)}. Bars are logarithmic."
    )
    return _table(caption, columns, rows)


def _bound(bucket: int) -> str:
    if bucket == len(LAG_BOUNDS):
        return f"&gt; {_seconds(LAG_BOUNDS[-1])}"
    return f"≤ {_seconds(LAG_BOUNDS[bucket])}"


def _bar(count: int, longest: int) -> str:
    width = 100 * math.log(count + 1) / math.log(longest + 1) if longest else 0
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="back" width="100" height="10"/>'
        f'<rect class="fill" width="{width:.1f}" height="10"/></svg>'
    )


def _quantile(lag: Histogram, fraction: float) -> str:
    if not lag.total():
        return _UNKNOWN
    bound = lag.quantile(fraction)
    return f"&gt; {_seconds(LAG_BOUNDS[-1])}" if math.isinf(bound) else f"≤ {_seconds(bound)}"


# Tables and numbers


def _table(
    caption: str, columns: list[tuple[str, bool]], rows: list[list[str]], *, cards: bool = False
) -> str:
    """Return a table. columns: titles, and whether they hold text. rows: cells, as HTML, after a heading.

    cards: rows become cards on a narrow screen. The roles say what display: grid would take from it.
    """
    if not rows:
        return f'<p class="none">None. <small>{caption}.</small></p>'
    heads = "".join(
        f'<th scope="col" role="columnheader"{_TEXT if text else ""}>{title}</th>' for title, text in columns
    )
    body = "".join(f'<tr role="row">{_cells(columns, row)}</tr>' for row in rows)
    return (
        f'<table role="table"{" class=cards" if cards else ""}><caption>{caption}</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


_TEXT = ' class="text"'


def _cells(columns: list[tuple[str, bool]], row: list[str]) -> str:
    first, *others = row
    cells = "".join(
        f'<td role="cell" data-label="{title}"{_kind(cell, text)}><span>{cell}</span></td>'
        for (title, text), cell in zip(columns[1:], others, strict=True)
    )
    return f'<th scope="row" role="rowheader">{first}</th>{cells}'


def _kind(cell: str, text: bool) -> str:
    if cell.startswith("<svg"):
        return ' class="bar"'
    return _TEXT if text else ""


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _count(count: float) -> str:
    return f"{count:,.0f}"


def _rate(rate: float | None) -> str:
    if rate is None:
        return _UNKNOWN
    return f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _bytes_rate(rate: float | None) -> str:
    return _UNKNOWN if rate is None else f"{_bytes(rate)}/s"


def _share(share: float | None) -> str:
    return _UNKNOWN if share is None else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _part(count: int, total: int) -> str:
    if not total or count in {0, total}:
        return f"{100 if count else 0}%"
    return "&lt; 0.01%" if count < total / 10_000 else f"{min(count / total, 0.9999):.2%}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"
