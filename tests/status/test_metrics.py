"""Metrics: both formats are valid, their figures those of the overview, and every alert names one of them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

import reactor
from reactor.loop.stats import LAG_BOUNDS
from reactor.status.metrics import exposition
from reactor.status.overview import Overview, Phase, Worker
from tests.helpers import DEADLINE
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
        by_worker={
            0: {"accepted": 5, "starts": 2, "datagrams_sent": 3, "datagrams_dropped:kernel": 4, **LAG},
            1: {"accepted": 7, "refused:max_per_ip": 2, **LAG},
        },
    )


def test_sums_and_each_worker():
    found = shown(two_workers())
    assert found["reactor_connections_accepted_total",] == 12
    assert found["reactor_worker_connections_accepted_total", "0"] == 5
    assert found["reactor_worker_connections_accepted_total", "1"] == 7
    assert found["reactor_connections_refused_total", "max_per_ip"] == 2
    assert found["reactor_connections_refused_total", "max_connections"] == 0
    assert found["reactor_datagrams_sent_total",] == 3
    assert found["reactor_datagrams_dropped_total", "kernel"] == 4
    assert found["reactor_datagrams_refused_total", "prefix"] == 0
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


def configuration():
    """Return the files of the README, by their names."""
    blocks = re.findall(r"```yaml\n# /etc/prometheus/(\S+)\n(.*?)```", README.read_text(), re.DOTALL)
    return dict(blocks)


def test_alerts_of_the_readme_are_about_metrics_that_there_are():
    expressions = re.findall(r"expr: (.*)", configuration()["reactor.rules.yml"])
    failing = overview(worker(0, listeners=[FULL], problems={"disk": "full"}))
    known = {name for found in (two_workers(), failing) for name, *_ in shown(found)} | {"up"}
    for expression in expressions:
        used = set(re.findall(r"\b(?:reactor_\w+|up\b)", expression))
        assert used, expression
        assert used <= known, expression


# Each alert, with a series that fires it, one that does not, and its text.
# In a series "1x9" is 1 and nine times more of it, "0+1x9" rises from 0 to 9.
ALERTS = {
    "ReactorGone": ('up{job="reactor", $}', "0x9", "1x9", "a does not answer"),
    "ReactorNotReady": ("reactor_ready{$}", "0x9", "1 0 1 1 0 1 1 0 1 1", "a is not ready: /ready says why"),
    "ReactorCheckFails": (
        'reactor_check_failing{check="backplane", $}', "2x9", "0x9", "backplane of a fails in 2 processes"
    ),
    "ReactorRefusing": (
        'reactor_connections_refused_total{reason="max_per_ip", $}', "0+1x19", "5x19",
        "a refuses connections: max_per_ip",
    ),
    "ReactorFull": (
        'reactor_listener_held{address=":9", reason="full", $}', "1x9", "0x9", ":9 of a accepts nothing: full"
    ),
    "ReactorLagging": (
        'reactor_loop_lag_seconds_bucket{le="0.2", $}', "0+100x19", "0x19",
        "one tick in a hundred of a takes 0.199 s: a callback blocks",
    ),
    "ReactorWorkerHangs": (
        'reactor_worker_up{worker="1", process="7", state="serving", $}', "0x9", "1x9",
        "worker 1 of a, process 7, hangs",
    ),
    "ReactorWorkersFail": (
        'reactor_worker_failures_total{worker="1", $}', "0+1x19", "1x19", "worker 1 of a ends again and again"
    ),
}  # fmt: skip

#: The bucket below, which the quantile needs: one tick in two hundred is longer when it is quiet.
QUICK = 'reactor_loop_lag_seconds_bucket{le="0.1", instance="a"}'


def promtool(folder, *words):
    program = shutil.which("promtool")
    assert program, "promtool is missing: install the package prometheus"
    return subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=DEADLINE)


@pytest.fixture
def folder(tmp_path):
    for name, text in configuration().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_configuration_of_the_readme_is_valid_and_each_of_its_alerts_is_tested(folder):
    done = promtool(folder, "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout
    assert re.findall(r"alert: (\w+)", configuration()["reactor.rules.yml"]) == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
@pytest.mark.parametrize("is_firing", [True, False])
def test_alert(folder, name, is_firing):
    series, firing, quiet, summary = ALERTS[name]
    series = series.replace("$", 'instance="a"')
    inputs = [{"series": series, "values": firing if is_firing else quiet}]
    if name == "ReactorLagging":
        inputs += [
            {"series": QUICK, "values": "0x19" if is_firing else "0+100x19"},
            {"series": series.replace('"0.2"', '"+Inf"'), "values": "0+100x19"},
        ]
        inputs = inputs if is_firing else inputs[1:]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', series))
    if name == "ReactorLagging":
        del labels["le"]
    expected = [{"exp_labels": labels, "exp_annotations": {"summary": summary}}] if is_firing else []
    test = {
        "rule_files": ["reactor.rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": inputs,
                "alert_rule_test": [{"eval_time": "9m", "alertname": name, "exp_alerts": expected}],
            }
        ],
    }
    (folder / "test.yml").write_text(json.dumps(test))
    done = promtool(folder, "test", "rules", "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_are_named_as_prometheus_asks():
    text, _ = exposition(two_workers())
    program = shutil.which("promtool")
    assert program, "promtool is missing: install the package prometheus"
    done = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
