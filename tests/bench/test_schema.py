"""Results in files: what is written is read again, and what is none is refused in one line."""

import json

import pytest
from hypothesis import given

from bench.results.schema import ResultError, load, ratio
from tests.bench.results import measured, results


@given(results())
def test_what_is_written_is_read(tmp_path_factory, result):
    path = tmp_path_factory.mktemp("results") / "result.json"
    result.write(path)
    assert load(path) == result


def test_rounds_of_one_metric_are_one_series():
    (series,) = measured([1.0, 3.0, 2.0]).series
    assert series.rounds == [1.0, 3.0, 2.0]
    assert series.median == 2.0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", '{"schema": 1}', '{"schema": 1, "case": "x", "more": 2}']
)
def test_what_is_no_result_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "no.json"
    path.write_text(text)
    with pytest.raises(ResultError) as caught:
        load(path)
    assert (
        str(caught.value) == f"{path} is no result: give a file that python -m bench NAME --json FILE wrote"
    )


def test_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ResultError, match=r"gone\.json: No such file or directory"):
        load(tmp_path / "gone.json")


def test_other_schema_is_refused(tmp_path):
    path = tmp_path / "new.json"
    path.write_text(json.dumps({**measured([1.0]).to_json(), "schema": 99}))
    with pytest.raises(ResultError, match="its schema is not 1"):
        load(path)


def test_series_without_figures_is_refused(tmp_path):
    path = tmp_path / "empty.json"
    changed = measured([1.0]).to_json()
    changed["series"][0]["rounds"] = []
    path.write_text(json.dumps(changed))
    with pytest.raises(ResultError, match="is no result"):
        load(path)


def test_ratio_is_the_median_of_the_rounds_ratios():
    assert ratio([2, 9, 4], [1, 3, 4]) == 2
    assert ratio([0.0], [0.0]) == 1
