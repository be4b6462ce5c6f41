"""Temperatures are recovered from logits scaled on purpose, decisions stay, and samples stand for whole cases."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from annotations import unchecked

from jaxseg import ensemble, metrics
from jaxseg.ensemble import temperature
from jaxseg.typing import IGNORE


@pytest.fixture(scope="module")
def pixels():
    """Calibrated logits (20000, 4) with labels drawn from their own softmax."""
    generator = np.random.default_rng(6)
    logits = 2 * generator.standard_normal((20_000, 4))
    sums = np.cumsum(scipy.special.softmax(logits, axis=1), axis=1)
    labels = (generator.random((20_000, 1)) > sums).sum(axis=1).clip(0, 3)
    return logits, labels


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.4])
def test_recovers_the_scale(pixels, scale):
    logits, labels = pixels
    assert ensemble.fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.03)


def test_is_the_minimum_of_the_weighted_likelihood(pixels):
    logits, labels = pixels[0][:300], pixels[1][:300]
    weights = np.random.default_rng(0).random(300)

    def loss(value):
        return -(weights * scipy.special.log_softmax(logits / value, axis=1)[np.arange(300), labels]).sum()

    expected = scipy.optimize.minimize_scalar(loss, bracket=(0.8, 1.2), tol=1e-10).x
    got = ensemble.fit_temperature(logits, labels, weights=weights)
    assert got == pytest.approx(expected, rel=1e-4) and got != pytest.approx(ensemble.fit_temperature(logits, labels))
    counts = np.random.default_rng(1).integers(0, 3, size=300)
    repeated = ensemble.fit_temperature(np.repeat(logits, counts, axis=0), np.repeat(labels, counts))
    assert ensemble.fit_temperature(logits, labels, weights=counts) == pytest.approx(repeated, rel=1e-4)


def test_regions_have_a_temperature_too(pixels):
    logits = pixels[0][:, :3]
    targets = np.random.default_rng(2).random(logits.shape) < scipy.special.expit(logits)
    assert ensemble.fit_temperature(2 * logits, targets) == pytest.approx(2, rel=0.03)


def test_ignored_pixels_are_left_out(pixels):
    logits, labels = pixels[0][:200], pixels[1][:200].copy()
    labels[50:] = IGNORE
    assert ensemble.fit_temperature(logits, labels) == ensemble.fit_temperature(logits[:50], labels[:50])


def test_ends_of_the_search():
    logits, labels = np.array([[0.5, 0.0], [0.0, 0.5]]), np.array([0, 1])
    assert ensemble.fit_temperature(logits, labels) == pytest.approx(temperature.LOWEST, rel=0.01)  # all right
    assert ensemble.fit_temperature(logits, 1 - labels) == pytest.approx(temperature.HIGHEST, rel=0.01)  # all wrong
    assert ensemble.fit_temperature(np.zeros((2, 2)), labels) == 1


@pytest.mark.parametrize("value", [1.0, 2.0, 0.3])
def test_apply_equals_softmax_and_sigmoid(pixels, value):
    logits = pixels[0][:60].reshape(3, 4, 5, 4)
    probabilities = scipy.special.softmax(logits, axis=-1).astype(np.float32)
    got = ensemble.apply_temperature(probabilities, value)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, scipy.special.softmax(logits / value, axis=-1), atol=1e-6)
    np.testing.assert_array_equal(got.argmax(-1), probabilities.argmax(-1))
    got = ensemble.apply_temperature(scipy.special.expit(logits).astype(np.float32), value, sigmoid=True)
    np.testing.assert_allclose(got, scipy.special.expit(logits / value), atol=1e-5)


def test_extremes_stay_finite():
    sure = np.array([[1.0, 0.0, 0.0], [1e-30, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(ensemble.apply_temperature(sure, 20.0)[0], [1, 0, 0])
    np.testing.assert_allclose(ensemble.apply_temperature(sure, 0.05), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(ensemble.apply_temperature(np.full((1, 200), 1 / 200), 0.05), 1 / 200, rtol=1e-5)
    np.testing.assert_allclose(ensemble.apply_temperature(sure, 3.0, sigmoid=True)[0], [1, 0, 0])
    assert np.isfinite(ensemble.as_logits(sure)).all() and np.isfinite(ensemble.as_logits(sure, sigmoid=True)).all()


def test_slabs_change_nothing(pixels, monkeypatch):
    probabilities = scipy.special.softmax(pixels[0][:60], axis=-1).reshape(3, 4, 5, 4)
    labels = pixels[1][:60].reshape(3, 4, 5)
    whole = ensemble.apply_temperature(probabilities, 1.7), ensemble.sample_pixels(labels, count=20, seed=0)
    monkeypatch.setattr(temperature, "slabs", lambda shape: (slice(row, row + 1) for row in range(shape[0])))
    np.testing.assert_array_equal(ensemble.apply_temperature(probabilities, 1.7), whole[0])
    for part, other in zip(ensemble.sample_pixels(labels, count=20, seed=0), whole[1]):
        np.testing.assert_array_equal(part, other)


def test_logits_give_the_probabilities_back(pixels):
    probabilities = scipy.special.softmax(pixels[0][:50], axis=-1)
    np.testing.assert_allclose(scipy.special.softmax(ensemble.as_logits(probabilities), axis=-1), probabilities, 1e-5)
    logits = ensemble.as_logits(probabilities, sigmoid=True)
    np.testing.assert_allclose(scipy.special.expit(logits), probabilities, atol=1e-6)


def test_temperature_calibrates_a_whole_volume(pixels):
    """Sample pixels of an overconfident volume, fit, apply: the calibration error falls to almost nothing."""
    probabilities = scipy.special.softmax(2 * pixels[0], axis=1).reshape(20, 25, 40, 4)
    labels = pixels[1].reshape(20, 25, 40)
    sample = ensemble.sample_pixels(labels, count=6000, seed=3)
    logits = ensemble.as_logits(probabilities.reshape(-1, 4)[sample.indices])
    found = ensemble.fit_temperature(logits, labels.reshape(-1)[sample.indices], weights=sample.weights)
    assert found == pytest.approx(2, rel=0.06)
    before = metrics.expected_calibration_error(metrics.calibration_counts(probabilities, labels))
    scaled = ensemble.apply_temperature(probabilities, found)
    after = metrics.expected_calibration_error(metrics.calibration_counts(scaled, labels))
    assert before > 0.1 and after < 0.02


def test_sample_is_stratified_seeded_and_weighted():
    labels = np.zeros((4, 10, 30), np.uint8)
    labels[1, 2:4, :20], labels[3, 9, :3] = 1, 5
    sample = ensemble.sample_pixels(labels, count=99, seed=1)
    drawn = labels.reshape(-1)[sample.indices]
    assert {value: int((drawn == value).sum()) for value in (0, 1, 5)} == {0: 56, 1: 40, 5: 3}  # the rare ones whole
    assert len(np.unique(sample.indices)) == 99 and (np.diff(sample.indices) > 0).all()
    for value in (0, 1, 5):
        assert sample.weights[drawn == value].sum() == pytest.approx((labels == value).sum())
    again, other = (ensemble.sample_pixels(labels, count=99, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(again.indices, sample.indices)
    assert (other.indices != sample.indices).any()


def test_weighted_means_of_samples_are_unbiased():
    generator = np.random.default_rng(0)
    labels = (generator.random((6, 7, 8)) < 0.1).astype(np.int16)
    values = (labels + generator.random(labels.shape)).reshape(-1)
    samples = [ensemble.sample_pixels(labels, count=30, seed=seed) for seed in range(300)]
    means = [np.average(values[indices], weights=weights) for indices, weights in samples]
    assert np.mean(means) == pytest.approx(values.mean(), abs=4 * np.std(means) / np.sqrt(300))
    assert abs(np.mean([values[indices].mean() for indices, _ in samples]) - values.mean()) > 0.2


def test_every_pixel_of_a_class_can_be_drawn():
    labels = np.array([0, IGNORE, 0, 0, IGNORE, 0], np.int16)
    drawn = np.concatenate([ensemble.sample_pixels(labels, count=1, seed=seed).indices for seed in range(200)])
    places, number = np.unique(drawn, return_counts=True)
    assert places.tolist() == [0, 2, 3, 5] and number.min() > 30
    whole = ensemble.sample_pixels(labels, count=50, seed=0)
    assert whole.indices.tolist() == [0, 2, 3, 5] and (whole.weights == 1).all()
    assert ensemble.sample_pixels(np.full((2, 3), IGNORE), count=5, seed=0).indices.shape == (0,)


@pytest.mark.parametrize(
    "logits, labels, options, message",
    [
        (np.zeros((3, 2)), np.zeros(4, int), {}, "one a row"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), {}, r"not 0\.\.2"),
        (np.zeros((3, 2)), np.full((3, 2), 0.5), {}, "0, 1 or IGNORE"),
        (np.zeros((3, 2)), np.full(3, IGNORE), {}, "labelled pixels"),
        (np.full((3, 2), -np.inf), np.zeros(3, int), {}, "finite"),
        (np.zeros((3, 2)), np.zeros(3, int), {"weights": -np.ones(3)}, "non-negative"),
        (np.zeros((3, 2)), np.zeros(3, int), {"weights": np.ones(2)}, "non-negative"),
    ],
)
def test_bad_fits(logits, labels, options, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        ensemble.fit_temperature(logits, labels, **options)


def test_bad_inputs():
    for value in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="positive number"):
            ensemble.apply_temperature(np.full((2, 3), 1 / 3), value)
    with pytest.raises(ValueError, match="after the softmax"):
        ensemble.apply_temperature(np.full((2, 3), 4.0), 2.0)
    with pytest.raises(ValueError, match="at least one a class, 3, not 2"):
        ensemble.sample_pixels(np.arange(3), count=2, seed=0)
    with pytest.raises(ValueError, match="not 0"):
        ensemble.sample_pixels(np.full(3, IGNORE), count=0, seed=0)
