"""Intervals, paired comparison, summary, record files and the table's average."""

import json
import math

import numpy as np
import pytest

from visurf.metrics import (
    VISURF_TABLE_COLUMNS,
    bootstrap_interval,
    bootstrap_statistic,
    paired_bootstrap,
    read_record_values,
    roc_auc,
    summarise,
    visurf_average,
    wilson_interval,
)


def test_the_interval_is_that_of_a_plain_bootstrap():
    values = np.array([0.0, 1.0, 1.0, 0.0, 0.5, 1.0, 0.25])
    generator = np.random.default_rng(3)
    means = [values[row].mean() for row in generator.integers(7, size=(1000, 7))]
    interval = bootstrap_interval(values, seed=3)
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert (interval.n, interval.resamples, interval.level) == (7, 1000, 0.95)


def test_the_interval_covers_the_normal_one():
    values = np.random.default_rng(0).normal(size=2000)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.005)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.005)


def test_the_seed_decides_and_chunks_do_not(monkeypatch):
    values = np.arange(50.0)
    first = bootstrap_interval(values, seed=1)
    assert first == bootstrap_interval(values, seed=1)
    assert first != bootstrap_interval(values, seed=2)
    monkeypatch.setattr("visurf.metrics.intervals._CHUNK", 170)
    assert bootstrap_interval(values, seed=1) == first


def test_a_ratio_of_sums_is_no_mean_of_ratios():
    interval = bootstrap_interval([1.0, 90.0], denominators=[10.0, 100.0])
    assert interval.value == pytest.approx(91 / 110)
    assert (interval.low, interval.high) == pytest.approx((0.1, 0.9))
    empty = bootstrap_interval([0.0], denominators=[0.0])
    assert math.isnan(empty.value)
    assert empty.resamples == 0


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf], [[1.0], [2.0]]])
def test_an_interval_needs_finite_values(values):
    with pytest.raises(ValueError, match=r"."):
        bootstrap_interval(values)


def test_level():
    values = np.arange(20.0)
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(values, level=95)


def test_statistic_leaves_out_undefined_resamples():
    labels, scores = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.4, 0.5])
    interval = bootstrap_statistic(lambda rows: roc_auc(labels[rows], scores[rows]), 4, resamples=200)
    assert interval.value == 0.75
    assert 0 <= interval.low <= interval.high <= 1
    assert 0 < interval.resamples < 200
    with pytest.raises(ValueError, match="no samples"):
        bootstrap_statistic(lambda rows: 0.0, 0)


def test_wilson_by_hand():
    # (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) for 8 of 10 and z = 1.96.
    interval = wilson_interval(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10).high == 1.0
    assert wilson_interval(0, 10).low == 0.0
    for successes, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(successes, n)


def test_paired_comparison_uses_the_pairs():
    generator = np.random.default_rng(5)
    base = generator.normal(size=200)
    first = {f"s{i}": float(v) for i, v in enumerate(base)}
    second = {key: first[key] + 0.1 for key in reversed(first)}
    comparison = paired_bootstrap(first, second)
    # The values vary by far more than the difference, which is the same in every pair.
    assert comparison.difference.value == pytest.approx(0.1)
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((0.1, 0.1))
    assert comparison.second - comparison.first == pytest.approx(0.1)
    assert comparison.p_value == pytest.approx(2 / 1001)
    same = paired_bootstrap(first, first)
    assert same.p_value == 1.0
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)


def test_paired_comparison_p_value_of_noise_is_large():
    generator = np.random.default_rng(6)
    first = {str(i): float(v) for i, v in enumerate(generator.normal(size=100))}
    second = {str(i): float(v) for i, v in enumerate(generator.normal(size=100))}
    assert paired_bootstrap(first, second).p_value > 0.05


def test_paired_ratio():
    sides = ({"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 1.0})
    comparison = paired_bootstrap(*sides, denominators=({"a": 2.0, "b": 8.0}, {"a": 2.0, "b": 8.0}))
    assert (comparison.first, comparison.second) == pytest.approx((0.1, 0.3))
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((0.125, 0.5))
    comparison = paired_bootstrap(*sides, denominators=({"a": 2.0, "b": 8.0}, {"a": 4.0, "b": 8.0}))
    assert (comparison.first, comparison.second) == pytest.approx((0.1, 0.25))


def test_missing_ids_are_an_error():
    with pytest.raises(ValueError, match="1 ids are in one run only, first 'b'"):
        paired_bootstrap({"a": 1.0, "b": 0.0}, {"a": 1.0})
    with pytest.raises(ValueError, match="have a value in one run only, first 'b'"):
        paired_bootstrap({"a": 1.0, "b": None}, {"a": 1.0, "b": 0.0})
    assert paired_bootstrap({"a": 1.0, "b": None}, {"a": 0.0, "b": None}).difference.value == -1.0
    for empty in ({}, {"a": None}):
        with pytest.raises(ValueError, match="no samples"):
            paired_bootstrap(empty, empty)


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_record_files(tmp_path):
    rows = [{"id": "a", "metrics": {"iou": 0.5}, "text": "x\u2028y"}, {"id": "b", "iou": True}, {"id": "c", "iou": None}]
    assert read_record_values(write(tmp_path / "r.jsonl", rows), "iou") == {"a": 0.5, "b": 1.0, "c": None}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "iou": 1}, {"id": "a", "iou": 0}], "line 2: id 'a' appears twice"),
        ([{"id": "a"}], "line 1: expected an object"),
        ([{"iou": 1}], "line 1: expected an object"),
        ([[1]], "line 1: expected an object"),
        ([{"id": "a", "iou": "0.5"}], "finite number, got '0.5'"),
        ([{"id": "a", "iou": math.nan}], "finite number, got nan"),
    ],
)
def test_bad_record_files(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_record_values(write(tmp_path / "r.jsonl", rows), "iou")


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "iou": 1}\n{"id"', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_record_values(path, "iou")


def test_summary_always_names_failures():
    summary = summarise(
        {"iou": [1.0, 0.0, 0.5, 0.5], "N_acc": [None, 0.0, None, 1.0], "never": [None] * 4},
        parse_errors=[None, "no_json", "no_json", "no_answer_tag"],
        truncated=[False, True, False, False],
    )
    assert summary.n == 4
    assert summary.metrics["iou"].value == 0.5
    assert (summary.metrics["N_acc"].value, summary.metrics["N_acc"].n) == (0.5, 2)
    assert math.isnan(summary.metrics["never"].value)
    assert summary.parse_failure_rate.value == 0.75
    assert summary.truncation_rate.value == 0.25
    assert summary.parse_errors == {"no_json": 2, "no_answer_tag": 1}


def test_a_summary_takes_one_record_per_sample():
    with pytest.raises(ValueError, match="iou: 1 values for 2 samples"):
        summarise({"iou": [1.0]}, parse_errors=[None, None], truncated=[False, False])
    with pytest.raises(ValueError, match="truncated: 1 values"):
        summarise({}, parse_errors=[None, None], truncated=[False])
    with pytest.raises(ValueError, match="iou, sample 1"):
        summarise({"iou": [1.0, math.nan]}, parse_errors=[None, None], truncated=[False, False])
    with pytest.raises(ValueError, match="no samples"):
        summarise({}, parse_errors=[], truncated=[])


@pytest.mark.parametrize(
    ("row", "average"),
    [
        ("33.4 1.8 56.9 52.1 60.4 50.1 78.8 68.2", 50.2),
        ("41.6 3.3 63.8 60.3 55.4 65.5 91.7 68.3", 56.2),
        ("42.8 0.0 66.0 63.2 65.5 50.0 90.3 71.2", 56.1),
        ("65.0 52.1 57.2 55.2 64.5 66.9 93.6 68.5", 65.4),
        ("66.6 57.1 66.5 65.0 65.6 69.3 94.7 71.6", 69.6),
    ],
)
def test_the_average_of_the_main_table(row, average):
    columns = dict(zip(VISURF_TABLE_COLUMNS, map(float, row.split()), strict=True))
    assert visurf_average(columns) == pytest.approx(average, abs=0.0501)


def test_the_average_needs_all_columns_in_percent():
    columns = dict.fromkeys(VISURF_TABLE_COLUMNS, 50.0)
    assert visurf_average(columns) == 50.0
    for wrong in (
        columns | {"another": 1.0},
        {key: 50.0 for key in VISURF_TABLE_COLUMNS[1:]},
        columns | {"MathVista Acc": 101.0},
        columns | {"MathVista Acc": math.nan},
        dict.fromkeys(columns, 0.5),
    ):
        with pytest.raises(ValueError, match="column"):
            visurf_average(wrong)
