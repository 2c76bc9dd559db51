"""Metrics: both formats are valid, their figures those of the overview, and every alert names one of them."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

import reactor
from reactor.loop.stats import LAG_BOUNDS
from reactor.status.metrics import exposition
from reactor.status.overview import Overview, Phase, Worker
from tests.status.clients import samples
from tests.status.test_ledger import snapshot
from tests.status.test_overview import FULL, overview, worker

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
LAG = {"lag:0": 90, "lag:2": 9, f"lag:{len(LAG_BOUNDS)}": 1}


def shown(found):
    text, media_type = exposition(found)
    assert media_type == "text/plain; version=0.0.4; charset=utf-8"
    return samples(text.decode())


def with_gauges(pid, index, phase="serving", answers=True):
    found = snapshot(pid)
    gauges = {"open": 3, "paused": 1, "lingering": 0, "queued_bytes": 10}
    found = type(found).from_json({**found.to_json(), "gauges": gauges, "started": 5.0})
    return Worker(index=index, pid=pid, phase=phase, answers=answers, snapshot=found)


def two_workers():
    return Overview(
        phase=Phase.RESTARTING,
        workers=[with_gauges(10, 0), with_gauges(11, 0, "draining"), with_gauges(12, 1, answers=False)],
        target=2,
        by_worker={0: {"accepted": 5, "starts": 2, **LAG}, 1: {"accepted": 7, "refused:max_per_ip": 2, **LAG}},
    )


def test_sums_and_each_worker():
    found = shown(two_workers())
    assert found["reactor_connections_accepted_total",] == 12
    assert found["reactor_worker_connections_accepted_total", "0"] == 5
    assert found["reactor_worker_connections_accepted_total", "1"] == 7
    assert found["reactor_connections_refused_total", "max_per_ip"] == 2
    assert found["reactor_connections_refused_total", "max_connections"] == 0
    assert found["reactor_connections",] == found["reactor_worker_connections", "0"] == 6
    assert ("reactor_worker_connections", "1") not in found  # it does not answer
    assert found["reactor_worker_starts_total", "0"] == 2
    assert found["reactor_workers",] == 2
    assert found["reactor_worker_up", "10", "serving", "0"] == 1
    assert found["reactor_worker_up", "12", "serving", "1"] == 0
    assert found["reactor_worker_start_time_seconds", "11", "0"] == 5
    assert found["reactor_state", "restarting"] == 1
    assert found["reactor_state", "running"] == 0
    assert found["reactor_ready",] == 0


def test_lag_is_a_histogram():
    found = shown(two_workers())
    assert found["reactor_loop_lag_seconds_bucket", "0.001"] == 180
    assert found["reactor_loop_lag_seconds_bucket", "0.005"] == 198
    assert found["reactor_loop_lag_seconds_bucket", "10.0"] == 198
    assert found["reactor_loop_lag_seconds_bucket", "+Inf"] == 200
    assert found["reactor_worker_loop_lag_seconds_bucket", "+Inf", "0"] == 100


def test_listeners_and_checks_are_counted_by_processes():
    found = shown(overview(worker(0, listeners=[FULL]), worker(1, problems={"disk": "full"})))
    assert found["reactor_listener_connections", "127.0.0.1:80"] == 3
    assert found["reactor_listener_held", "127.0.0.1:80", "full"] == 1
    assert found["reactor_listener_held", "127.0.0.1:80", "paused"] == 0


def test_process_alone_has_no_metrics_of_workers():
    found = shown(Overview(phase=Phase.RUNNING, workers=[with_gauges(1, 0)], target=None, by_worker={0: LAG}))
    assert not [name for name, *_ in found if name.startswith("reactor_worker")]
    assert found["reactor_info", reactor.__version__] == 1


def test_openmetrics_is_chosen_by_accept():
    text, media_type = exposition(two_workers(), OPENMETRICS)
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")
    families = {family.name: family for family in openmetrics_families(text.decode())}
    assert families["reactor_loop_lag_seconds"].type == "histogram"
    assert families["reactor_connections_accepted"].type == "counter"


COUNTERS = st.dictionaries(
    st.sampled_from(["accepted", "closed:clean", 'closed:E"\\\n', "refused:é", "cpu_seconds", *LAG]),
    st.integers(0, 1 << 50),
    max_size=5,
)
WORKERS = st.builds(
    with_gauges,
    st.integers(1, 1 << 22),
    st.integers(0, 3),
    st.sampled_from(["starting", "serving", "draining"]),
    st.booleans(),
)


@given(
    st.sampled_from(Phase),
    st.lists(WORKERS, max_size=5, unique_by=lambda worker: worker.pid),
    st.none() | st.integers(1, 4),
    st.dictionaries(st.integers(0, 3), COUNTERS, max_size=4),
)
def test_any_overview_can_be_parsed(phase, workers, target, by_worker):
    found = Overview(phase=phase, workers=workers, target=target, by_worker=by_worker)
    assert list(openmetrics_families(exposition(found, OPENMETRICS)[0].decode()))
    figures = shown(found)
    total = sum(counters.get("accepted", 0) for counters in by_worker.values())
    assert figures["reactor_connections_accepted_total",] == total
    for name in ("closed:clean", 'closed:E"\\\n'):
        reason = name.removeprefix("closed:")
        counted = sum(counters.get(name, 0) for counters in by_worker.values())
        assert figures.get(("reactor_connections_closed_total", reason), 0) == counted


README = Path(reactor.__file__).parent / "deploy" / "README.md"


def test_alerts_of_the_readme_are_about_metrics_that_there_are():
    rules = README.read_text().partition("groups:")[2].partition("```")[0]
    expressions = re.findall(r"expr: (.*)", rules)
    assert len(expressions) >= 5
    text = exposition(two_workers())[0].decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    known = {sample[0] for sample in samples(text)} | families
    for expression in expressions:
        used = set(re.findall(r"\breactor_\w+", expression))
        assert used, expression
        assert used <= known, expression
