"""`python -m bench`: what it lists, runs, reports and compares, and what an interrupt leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.__main__ import benchmarks, main
from bench.results import MARKS
from bench.results.schema import load
from tests.bench.results import measured
from tests.helpers import DEADLINE

ROOT = Path(__file__).parent.parent.parent


def test_lists_every_benchmark_with_a_line(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {path.stem for path in (ROOT / "bench" / "cases").glob("*.py")} - {"__init__"}
    assert {line.split()[0] for line in lines} == names | {"report", "compare"}
    assert [line for line in lines if len(line.split()) < 4] == []


@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_has_help(name, capsys):
    with pytest.raises(SystemExit) as exited:
        main([name, "--help"])
    assert exited.value.code == 0
    assert "--json FILE" in capsys.readouterr().out


def test_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit) as exited:
        main(["nothing"])
    assert exited.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_unknown_peer_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["echo", "--peers", "nginx"])
    assert "no such peer: nginx" in capsys.readouterr().err


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, text=True, timeout=DEADLINE, cwd=ROOT
    )


def test_benchmark_writes_its_result_and_the_report_has_it(tmp_path):
    file = tmp_path / "echo.json"
    words = ("echo", "--rounds", "2", "--seconds", "0.05", "--sizes", "64", "--peers", "asyncio,selectors")
    done = run(*words, "--json", str(file))
    assert done.returncode == 0, done.stderr
    result = load(file)
    assert result.case == "echo"
    assert not result.partial
    assert result.command == f"python -m bench {' '.join(words)}"
    assert {series.subject for series in result.series} == {"reactor", "asyncio", "selectors"}
    assert {len(series.rounds) for series in result.series} == {2}
    reported = run("report", str(file))
    assert "| reactor |" in reported.stdout
    assert run("compare", str(file), str(file)).returncode == 0


def test_interrupt_leaves_a_partial_result_and_no_process(tmp_path):
    file, mark = tmp_path / "echo.json", f"BENCH_TEST_MARK={tmp_path}"
    words = ("echo", "--rounds", "1000", "--seconds", "0.02", "--sizes", "64", "--peers", "selectors")
    environment = {**os.environ, "BENCH_TEST_MARK": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "bench", *words, "--json", file],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    ) as process:  # fmt: skip
        end = time.monotonic() + DEADLINE
        while len(marked(mark)) < 4:  # itself, two servers and a load: rounds are measured
            assert time.monotonic() < end, "the servers did not start"
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert errors.lstrip("\n") == "python -m bench: interrupted; what was measured until now follows\n"
    assert load(file).partial
    assert marked(mark) == []


def marked(mark):
    """The processes with this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def test_compare_fails_when_something_got_slower(tmp_path, capsys):
    measured([1.0] * 5).write(tmp_path / "a.json")
    measured([1.1] * 5).write(tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert capsys.readouterr().out.endswith("\n1 of 1 got slower.\n")
    assert main(["compare", str(tmp_path / "b.json"), str(tmp_path / "a.json")]) == 0


def test_compare_of_different_benchmarks_is_refused(tmp_path, capsys):
    measured([1.0]).write(tmp_path / "a.json")
    measured([1.0], workload="else").write(tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert "no figures of the same kind" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report"], ["compare", "{0}"]])
def test_file_that_is_no_result_is_one_line(command, tmp_path, capsys):
    file = tmp_path / "no.json"
    file.write_text("{}")
    assert main([word.format(file) for word in command] + [str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"python -m bench: {file} is no result")
    assert captured.err.count("\n") == 1


def test_report_puts_its_summary_between_the_marks_of_a_file(tmp_path, capsys):
    measured([1.0]).write(tmp_path / "a.json")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for _ in range(2):
        assert main(["report", str(tmp_path / "a.json"), "--into", str(readme)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{MARKS[0]}\n\n`python -m bench echo`")
    assert text.endswith(f"\n{MARKS[1]}\nafter\n")
    assert "old" not in text
    readme.write_text("no marks")
    assert main(["report", str(tmp_path / "a.json"), "--into", str(readme)]) == 1
    assert "must have the lines" in capsys.readouterr().err


def test_report_writes_its_folder(tmp_path):
    measured([1.0]).write(tmp_path / "a.json")
    assert main(["report", str(tmp_path / "a.json"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# Benchmarks\n")
