"""Means over cases: nothing is dropped without a count, intervals cover, and a seed fixes the numbers."""

import importlib

import numpy as np
import pytest
import scipy.stats

from jaxseg import metrics

FIELDS = ["mean", "median", "low", "high", "n", "n_excluded", "n_infinite"]


def rows_of(table, metric="dice"):
    return [
        {"case": case, "class": name, metric: value}
        for case, values in table.items()
        for name, value in zip(("a", "b"), values)
    ]


def test_nan_and_infinite_values_are_counted():
    rows = rows_of({"1": (1.0, np.nan), "2": (3.0, np.nan), "3": (np.inf, 5.0), "4": (np.nan, np.nan)}, "hd95_mm")
    got = metrics.aggregate(rows, resamples=50)
    a, b, mean = got["classes"]["a"]["hd95_mm"], got["classes"]["b"]["hd95_mm"], got["mean"]["hd95_mm"]
    assert list(a) == FIELDS
    assert (a["mean"], a["median"], a["n"], a["n_excluded"], a["n_infinite"]) == (2.0, 3.0, 2, 1, 1)
    assert (b["mean"], b["median"], b["n"], b["n_excluded"], b["n_infinite"]) == (5.0, 5.0, 1, 3, 0)
    assert np.isnan(b["low"]) and np.isnan(b["high"])  # one value has no interval
    # Cases: 1, 3, inf (one of its classes is), NaN
    assert (mean["mean"], mean["median"], mean["n"], mean["n_excluded"], mean["n_infinite"]) == (2.0, 3.0, 2, 1, 1)


def test_mean_is_over_classes_first():
    rows = rows_of({"1": (0.2, 0.6), "2": (0.8, np.nan), "3": (0.5, 0.1)})
    got = metrics.aggregate(rows, resamples=50)
    assert got["mean"]["dice"]["mean"] == pytest.approx((0.4 + 0.8 + 0.3) / 3)
    assert got["classes"]["a"]["dice"]["mean"] == pytest.approx(0.5)
    assert got["mean"]["dice"]["median"] == pytest.approx(0.4)
    assert got["mean"]["dice"]["n"] == 3 and got["mean"]["dice"]["n_excluded"] == 0


def test_nothing_left_is_nan_with_n_zero():
    got = metrics.aggregate(rows_of({"1": (np.nan, np.inf)}))
    a, b = got["classes"]["a"]["dice"], got["classes"]["b"]["dice"]
    assert a["n"] == b["n"] == 0 and np.isnan([a["mean"], a["median"], b["mean"]]).all() and b["median"] == np.inf
    assert metrics.aggregate([]) == {"classes": {}, "mean": {}}


def test_metrics_are_the_keys_with_numbers_and_may_be_missing():
    rows = [
        {"case": "1", "class": "a", "dice": 0.5, "note": "x", "fold": "0"},
        {"case": "2", "class": "a", "dice": np.float32(0.7), "nsd": 0.9},
        {"case": "2", "class": "b", "nsd": 0.1},
    ]
    got = metrics.aggregate(rows)
    assert {name: list(found) for name, found in got["classes"].items()} == {"a": ["dice", "nsd"], "b": ["nsd"]}
    assert list(got["mean"]) == ["dice", "nsd"] and got["mean"]["nsd"]["n"] == 1
    assert got["mean"]["nsd"]["mean"] == pytest.approx(0.5)


def test_rows_must_name_case_and_class_once():
    with pytest.raises(ValueError, match="case and a class"):
        metrics.aggregate([{"class": "a", "dice": 1.0}])
    with pytest.raises(ValueError, match="it has two"):
        metrics.aggregate(rows_of({"1": (1.0,)}) * 2)


def test_interval_is_seeded_and_equals_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=40)
    first = metrics.bootstrap_interval(values, resamples=4000, seed=1)
    assert first == metrics.bootstrap_interval(values, resamples=4000, seed=1)
    assert first != metrics.bootstrap_interval(values, resamples=4000, seed=2)
    oracle = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=3).confidence_interval
    np.testing.assert_allclose(first, oracle, rtol=0.03)
    narrow = metrics.bootstrap_interval(values, confidence=0.5, seed=1)
    assert first[0] < narrow[0] < values.mean() < narrow[1] < first[1]


def test_interval_is_the_same_in_chunks(monkeypatch):
    values = np.random.default_rng(0).random(30)
    whole = metrics.bootstrap_interval(values, resamples=100)
    # The package offers the function under the module's name.
    monkeypatch.setattr(importlib.import_module("jaxseg.metrics.aggregate"), "CHUNK", 210)
    assert metrics.bootstrap_interval(values, resamples=100) == whole


def test_interval_covers_the_truth():
    """Of 300 samples of a known mean, about 95 % of the intervals hold it (percentiles: a little less)."""
    generator = np.random.default_rng(11)
    hits = [
        low < 0.8 < high
        for low, high in (
            metrics.bootstrap_interval(generator.beta(8, 2, size=40), resamples=400, seed=s) for s in range(300)
        )
    ]
    assert 0.90 < np.mean(hits) < 0.98


@pytest.mark.parametrize("options, message", [({"confidence": 1.0}, "confidence"), ({"resamples": 0}, "resamples")])
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_interval(np.arange(3.0), **options)
