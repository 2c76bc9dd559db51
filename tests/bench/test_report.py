"""Reports: the tables with their commands, and plots of the same figures that are the same files."""

import xml.etree.ElementTree as ET
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hypothesis import given

from bench.results.plots import plots
from bench.results.report import report, summary_of
from bench.results.schema import Histogram, Metric, Result, load
from tests.bench.results import measured, results

BENCH = Path(__file__).parent.parent.parent / "bench"


def test_tables_of_the_readme_are_those_of_the_results_beside_it():
    found = [load(path) for path in sorted((BENCH / "measured").glob("*/*.json"))]
    assert {result.machine["python"][:4] for result in found} == {"3.11", "3.13"}
    assert summary_of(found) in (BENCH / "README.md").read_text(encoding="utf-8")


@given(results())
def test_report_has_the_command_and_every_workload(result):
    text = report([result])
    assert f"`{result.command}`" in text
    assert [workload for workload in result.workloads() if f"### {workload}\n" not in text] == []


def test_failures_are_in_the_report():
    result = measured([1.0])
    result.failures.append("memory did not come back")
    assert "Failed: memory did not come back" in report([result])


def idle():
    result = Result("idle", "python -m bench idle", machine={"python": "3.11.7"})
    for number, cost in (("100", 1.0), ("15,000", 1.02)):
        for subject in ("reactor", "uvloop"):
            figures = {Metric("memory", "B", "lower"): 353.0, Metric("beside / alone", "1", "lower"): cost}
            result.record(f"{number} idle connections", subject, figures)
    return result


def latency():
    result = Result("latency", machine={"python": "3.11.7"})
    histogram = HdrHistogram(1, 3600 * 10**9, 3)
    for nanoseconds in range(1000, 100_000, 1000):
        histogram.record_value(nanoseconds)
    result.histograms.append(Histogram("64 B", "reactor", histogram.encode().decode()))
    return result


def test_plots_are_svg_and_linked_from_the_report(tmp_path):
    echo = measured([1.0, 2.0], name="rate", unit="messages/s", better="higher")
    found = [echo, idle(), latency()]
    drawn = plots(found, tmp_path)
    assert sorted(path.name for path in drawn.values()) == [
        "echo-throughput-.svg",
        "idle-cost-3.11.7.svg",
        "idle-memory-3.11.7.svg",
        "latency-latency-3.11.7.svg",
    ]
    for caption, path in drawn.items():
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert f"![{caption}]({path.name})" in report(found, drawn)


def test_same_figures_make_the_same_plot(tmp_path):
    (tmp_path / "again").mkdir()
    first, second = plots([idle()], tmp_path), plots([idle()], tmp_path / "again")
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]
