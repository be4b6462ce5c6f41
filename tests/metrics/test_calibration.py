"""Calibration, and certainty of cases: by hand, against scikit-learn, scipy and a loop, and laws."""

import importlib

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from annotations import unchecked

from jaxseg import metrics
from jaxseg.typing import IGNORE

BY_HAND = np.array([[0.95, 0.05], [0.85, 0.15], [0.3, 0.7], [0.35, 0.65], [0.5, 0.5]])
TRUTH = np.array([0, 1, 1, 1, 1])


@pytest.fixture
def image():
    generator = np.random.default_rng(3)
    probabilities = generator.dirichlet(np.full(4, 0.6), size=(5, 6, 7)).astype(np.float32)
    labels = generator.integers(0, 4, size=(5, 6, 7)).astype(np.int16)
    labels[generator.random(labels.shape) < 0.1] = IGNORE
    return probabilities, labels


def slow_errors(confidence, right, bins):
    """ECE and MCE from a loop over bins, as Guo et al. write them."""
    error, largest = 0.0, 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error, largest = error + inside.mean() * gap, max(largest, gap)
    return error, largest


def assert_same(a, b):
    for first, second in zip(a, b):
        np.testing.assert_allclose(first, second, rtol=1e-12)


def test_counts_by_hand():
    counts = metrics.calibration_counts(BY_HAND, TRUTH, bins=5)
    # Confidences 0.95 and 0.85 share the last bin; 0.7 and 0.65 the fourth; 0.5, a tie that is wrong, has the third.
    assert counts.pixels.tolist() == [0, 0, 1, 2, 2] and counts.correct.tolist() == [0, 0, 0, 2, 1]
    np.testing.assert_allclose(counts.confidence, [0, 0, 0.5, 1.35, 1.8])
    assert counts.n == 5 and counts.pixels.dtype == counts.correct.dtype == counts.n.dtype == np.int64
    assert metrics.expected_calibration_error(counts) == pytest.approx((0.5 + 0.65 + 0.8) / 5)
    assert metrics.maximum_calibration_error(counts) == pytest.approx(0.5)
    assert metrics.brier_score(counts) == pytest.approx(2 * (0.05**2 + 0.85**2 + 0.3**2 + 0.35**2 + 0.5**2) / 5)
    expected = -np.log([0.95, 0.15, 0.7, 0.65, 0.5]).mean()
    assert metrics.negative_log_likelihood(counts) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_closed_on_the_right(dtype):
    confidence = np.array([0.6, 0.7, 0.8, 0.9, 1.0], dtype)
    probabilities = np.stack([confidence, 1 - confidence], axis=-1)
    counts = metrics.calibration_counts(probabilities, np.zeros(5, int), bins=10)
    assert counts.pixels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    above = np.nextafter(confidence[:1], dtype(1))
    counts = metrics.calibration_counts(np.stack([above, 1 - above], axis=-1), np.zeros(1, int), bins=10)
    assert counts.pixels[6] == 1


def test_equals_sklearn_and_a_loop(image):
    probabilities, labels = image
    counts = metrics.calibration_counts(probabilities, labels, bins=11)
    known = labels != IGNORE
    flat, truth = probabilities[known].astype(float), labels[known]
    assert counts.n == known.sum() == counts.pixels.sum()
    onehot = np.eye(4)[truth]
    by_class = [sklearn.metrics.brier_score_loss(onehot[:, k], np.clip(flat[:, k], 0, 1)) for k in range(4)]
    assert metrics.brier_score(counts) == pytest.approx(sum(by_class))
    expected = sklearn.metrics.log_loss(truth, flat / flat.sum(1, keepdims=True), labels=range(4))
    assert metrics.negative_log_likelihood(counts) == pytest.approx(expected, rel=1e-5)
    slow = slow_errors(flat.max(1), flat.argmax(1) == truth, 11)
    assert metrics.expected_calibration_error(counts) == pytest.approx(slow[0])
    assert metrics.maximum_calibration_error(counts) == pytest.approx(slow[1])


def test_regions_are_binary_problems(image):
    probabilities, _ = image
    generator = np.random.default_rng(5)
    targets = (generator.random(probabilities.shape) < 0.4).astype(np.int8)
    targets[0, 1, :, 2] = IGNORE
    counts = metrics.calibration_counts(probabilities, targets, bins=7)
    known = targets != IGNORE
    flat, truth = probabilities[known].astype(float), targets[known]
    assert counts.n == known.sum() == targets.size - 7
    assert metrics.brier_score(counts) == pytest.approx(sklearn.metrics.brier_score_loss(truth, flat))
    inside = np.clip(flat, metrics.calibration.FLOOR, 1 - metrics.calibration.FLOOR)
    assert metrics.negative_log_likelihood(counts) == pytest.approx(sklearn.metrics.log_loss(truth, inside))
    slow = slow_errors(np.maximum(flat, 1 - flat), (flat > 0.5) == truth, 7)
    assert metrics.expected_calibration_error(counts) == pytest.approx(slow[0])
    assert metrics.maximum_calibration_error(counts) == pytest.approx(slow[1])
    as_float = metrics.calibration_counts(probabilities, targets.astype(np.float32), bins=7)  # as tasks make them
    assert_same(as_float, counts)


def test_calibrated_and_shifted():
    generator = np.random.default_rng(1)
    truth_rate = generator.uniform(0.5, 1, size=40_000)
    labels = (generator.random(truth_rate.shape) > truth_rate).astype(int)  # class 0 with chance truth_rate
    counts = metrics.calibration_counts(np.stack([truth_rate, 1 - truth_rate], axis=-1), labels)
    assert metrics.expected_calibration_error(counts) < 0.01
    # Says 0.9 everywhere and is right in 600 of 1000: off by 0.3.
    labels = np.repeat([0, 1], [600, 400])
    counts = metrics.calibration_counts(np.tile([0.9, 0.1], (1000, 1)), labels)
    assert metrics.expected_calibration_error(counts) == pytest.approx(0.3)
    assert metrics.maximum_calibration_error(counts) == pytest.approx(0.3)


def test_counts_add_up_and_slabs_change_nothing(image, monkeypatch):
    probabilities, labels = image
    whole = metrics.calibration_counts(probabilities, labels)
    parts = [metrics.calibration_counts(probabilities[rows], labels[rows]) for rows in (slice(0, 2), slice(2, 5))]
    assert_same(metrics.add_calibration(*parts), whole)
    order = np.random.default_rng(0).permutation(labels.size)
    assert_same(metrics.calibration_counts(probabilities.reshape(-1, 4)[order], labels.reshape(-1)[order]), whole)
    module = importlib.import_module("jaxseg.metrics.calibration")
    assert [*module.slabs((5, 6, 7, 4), limit=2 * 6 * 7 * 4)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert [*module.slabs((2, 9), limit=3)] == [slice(0, 1), slice(1, 2)] and not [*module.slabs((0, 4))]
    monkeypatch.setattr(module, "slabs", lambda shape: (slice(row, row + 1) for row in range(shape[0])))
    assert_same(metrics.calibration_counts(probabilities, labels), whole)


def test_mask_keeps_pixels_in(image):
    probabilities, labels = image
    mask = np.zeros(labels.shape, bool)
    mask[1:4, 2:, :5] = True
    expected = metrics.calibration_counts(probabilities[1:4, 2:, :5], labels[1:4, 2:, :5])
    assert_same(metrics.calibration_counts(probabilities, labels, mask=mask), expected)
    targets = probabilities > 0.3
    expected = metrics.calibration_counts(probabilities[1:4, 2:, :5], targets[1:4, 2:, :5])
    assert_same(metrics.calibration_counts(probabilities, targets, mask=mask), expected)


def test_nothing_counted_is_nan_and_a_sure_error_is_finite():
    nothing = metrics.calibration_counts(np.full((3, 2), 0.5), np.full(3, IGNORE))
    assert nothing.n == 0
    figures = (metrics.expected_calibration_error, metrics.maximum_calibration_error, metrics.brier_score)
    assert np.isnan([figure(nothing) for figure in (*figures, metrics.negative_log_likelihood)]).all()
    wrong = metrics.calibration_counts(np.array([[1.0, 0.0]]), np.array([1]))
    assert metrics.brier_score(wrong) == 2 and metrics.expected_calibration_error(wrong) == 1
    assert metrics.negative_log_likelihood(wrong) == pytest.approx(15.942385, abs=1e-5)


@pytest.mark.parametrize(
    "probabilities, labels, options, message",
    [
        (np.full((4, 2), 0.5), np.zeros(3, int), {}, "one a pixel or a probability"),
        (np.full((4, 5, 2), 0.5), np.zeros(4, int), {}, "one a pixel or a probability"),
        (np.full((4, 2), 0.5), np.full(4, 2), {}, r"0\.\.1 or ignored, not 2\.\.2"),
        (np.full((4, 2), 0.5), np.full((4, 2), 3), {}, "0, 1 or ignored"),
        (np.full((4, 2), 0.3), np.zeros(4, int), {}, "sum to 1"),
        (np.full((4, 2), 3.0), np.zeros(4, int), {}, "after the softmax"),
        (np.full((4, 2), np.nan), np.zeros(4, int), {}, "after the softmax"),
        (np.full((4, 2), 0.5), np.zeros(4, int), {"bins": 0}, "bins"),
        (np.full((4, 2), 0.5), np.zeros(4, int), {"mask": np.ones(3, bool)}, "mask"),
    ],
)
def test_bad_counts(probabilities, labels, options, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        metrics.calibration_counts(probabilities, labels, **options)


def test_different_bins_do_not_add():
    counts = [metrics.calibration_counts(BY_HAND, TRUTH, bins=bins) for bins in (3, 4)]
    with pytest.raises(ValueError, match="not 3 and 4"):
        metrics.add_calibration(*counts)


def test_risk_coverage_by_hand():
    got = metrics.risk_coverage([0.9, 0.2, 0.7, 0.5], [0.1, 0.3, 0.0, 0.4])
    assert got.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(got.risk, [0.1, 0.05, 0.5 / 3, 0.2])
    assert got.area == pytest.approx((0.1 + 0.05 + 0.5 / 3 + 0.2) / 4)
    assert got.area_best == pytest.approx((0 + 0.05 + 0.4 / 3 + 0.2) / 4) and got.area_random == pytest.approx(0.2)


def test_risk_coverage_of_ties_is_the_mean_over_orders():
    confidence, risk = np.array([0.5, 0.9, 0.5, 0.1, 0.5]), np.array([0.0, 0.2, 0.9, 0.4, 0.3])
    got = metrics.risk_coverage(confidence, risk)
    generator = np.random.default_rng(0)
    broken = [metrics.risk_coverage(confidence + 1e-6 * generator.random(5), risk).risk for _ in range(3000)]
    np.testing.assert_allclose(got.risk, np.mean(broken, axis=0), atol=0.01)
    for _ in range(3):
        order = generator.permutation(5)
        np.testing.assert_allclose(metrics.risk_coverage(confidence[order], risk[order]).risk, got.risk)
    same = metrics.risk_coverage(np.ones(5), risk)
    assert same.area == pytest.approx(same.area_random)


def test_risk_coverage_bounds():
    generator = np.random.default_rng(4)
    risk = generator.random(23)
    best, worst = metrics.risk_coverage(-risk, risk), metrics.risk_coverage(risk, risk)
    any_other = metrics.risk_coverage(generator.random(23), risk)
    assert best.area == pytest.approx(best.area_best) and best.area < any_other.area < worst.area
    assert best.area < best.area_random < worst.area
    nothing = metrics.risk_coverage([], [])
    assert nothing.risk.shape == (0,) and np.isnan(nothing[2:]).all()


@pytest.mark.parametrize(
    "confidence, risk", [([1.0], [1.0, 2.0]), ([np.nan, 1.0], [0.1, 0.2]), ([0.5, 1.0], [0.1, np.nan])]
)
def test_bad_risk_coverage(confidence, risk):
    with unchecked(), pytest.raises(ValueError, match=r"confidence and risk|leave out"):
        metrics.risk_coverage(confidence, risk)


@pytest.mark.parametrize("kind, oracle", [("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)])
def test_correlation_equals_scipy(kind, oracle):
    generator = np.random.default_rng(9)
    a = generator.standard_normal(31).round(1)  # rounded: ties
    b = np.exp(a) + generator.standard_normal(31).round(1)
    assert len(np.unique(a)) < 31
    expected = oracle(a, b).statistic
    assert metrics.correlation(a, b, kind=kind) == pytest.approx(expected, abs=1e-12)
    assert metrics.correlation(-1e-200 * a, b, kind=kind) == pytest.approx(-expected, abs=1e-12)
    with_gaps = np.append(a, [np.nan, 5.0]), np.append(b, [7.0, np.nan])
    assert metrics.correlation(*with_gaps, kind=kind) == pytest.approx(expected, abs=1e-12)


def test_correlation_without_meaning_is_nan():
    for kind in ("pearson", "spearman"):
        assert np.isnan(metrics.correlation([1.0, 2.0], [3.0, 4.0], kind=kind))
        assert np.isnan(metrics.correlation([1.0, 2.0, np.nan], [3.0, 4.0, 5.0], kind=kind))
        assert np.isnan(metrics.correlation([0.1, 0.1, 0.1], [3.0, 4.0, 5.0], kind=kind))
    infinite = [1.0, 2.0, np.inf, 0.5]
    assert np.isnan(metrics.correlation(infinite, [2.0, 3.0, 4.0, 1.0]))
    assert metrics.correlation(infinite, [2.0, 3.0, 4.0, 1.0], kind="spearman") == pytest.approx(1)


def test_correlation_interval_is_seeded_and_equals_scipy():
    generator = np.random.default_rng(2)
    a = generator.standard_normal(40)
    b = a + generator.standard_normal(40)
    got = metrics.correlation_interval(np.append(a, np.nan), np.append(b, 1.0), seed=1)
    assert got == metrics.correlation_interval(np.append(a, np.nan), np.append(b, 1.0), seed=1)
    assert (got.n, got.n_excluded) == (40, 1) and got.value == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert metrics.correlation_interval(a, b, seed=2).low != got.low < got.value < got.high

    def statistic(first, second):
        return np.corrcoef(first, second)[0, 1]

    oracle = scipy.stats.bootstrap(
        (a, b), statistic, paired=True, n_resamples=2000, method="percentile", vectorized=False, rng=3
    ).confidence_interval
    np.testing.assert_allclose(got[1:3], oracle, atol=0.03)
    ranks = metrics.correlation_interval(a, b, kind="spearman", confidence=0.5, resamples=300)
    assert got.low < ranks.low < ranks.value < ranks.high < got.high


def test_correlation_interval_of_few_cases():
    assert np.isnan(metrics.correlation_interval([1.0, 2.0], [1.0, 2.0])[:3]).all()
    got = metrics.correlation_interval([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], resamples=200)  # some resamples are constant
    assert -1 <= got.low <= got.high <= 1 and got.n == 3


@pytest.mark.parametrize(
    "options, message", [({"kind": "kendall"}, "kind"), ({"confidence": 1.5}, "confidence"), ({"resamples": 0}, "res")]
)
def test_bad_correlation(options, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        metrics.correlation_interval([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], **options)
    with unchecked(), pytest.raises(ValueError, match="one length"):
        metrics.correlation([1.0, 2.0, 3.0], [1.0, 2.0])
