"""Scores that guess Dice without the truth: by hand, against loops, and that they do guess it."""

import itertools

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import ensemble, metrics
from jaxseg.ensemble import quality


@pytest.fixture
def case():
    generator = np.random.default_rng(12)
    probabilities = generator.dirichlet(np.full(4, 0.4), size=(5, 6, 7)).astype(np.float32)
    return probabilities, probabilities.argmax(-1).astype(np.int16)


def test_expected_dice_by_hand():
    probabilities = np.array([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.5, 0.1, 0.4]])
    got = ensemble.expected_dice(probabilities, np.array([1, 0, 0]))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got[0], 2 * 0.8 / (1.3 + 1))
    assert np.isnan(got[1])  # not predicted, 0.4 voxels probable
    probable = np.concatenate([probabilities, [[0.8, 0.0, 0.2]]])
    assert ensemble.expected_dice(probable, np.array([1, 0, 0, 0]))[1] == 0  # 0.6 voxels
    np.testing.assert_allclose(ensemble.expected_dice(probabilities, np.array([1, 0, 2]))[1], 2 * 0.4 / (0.4 + 1))


def test_expected_dice_of_certain_maps_is_dice(case):
    _, labels = case
    other = np.roll(labels, 2, axis=1)
    got = ensemble.expected_dice(np.eye(4)[other], labels)
    np.testing.assert_allclose(got, metrics.dice(labels, other, num_classes=4), rtol=1e-6)
    np.testing.assert_allclose(ensemble.expected_dice(np.eye(4)[labels], labels), 1)


def test_expected_dice_is_the_mean_dice_of_truths_drawn_from_it():
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet([3.0, 0.7, 0.4], size=(12, 13, 14))
    labels = probabilities.argmax(-1)
    sums = np.cumsum(probabilities, axis=-1)
    drawn = [(generator.random((12, 13, 14, 1)) > sums).sum(-1).clip(0, 2) for _ in range(20)]
    dice = [
        [2 * ((labels == k) & (truth == k)).sum() / ((labels == k).sum() + (truth == k).sum()) for k in (1, 2)]
        for truth in drawn
    ]
    np.testing.assert_allclose(ensemble.expected_dice(probabilities, labels), np.mean(dice, axis=0), atol=0.01)


def test_expected_dice_of_regions():
    probabilities = np.array([[0.9, 0.7], [0.6, 0.2], [0.1, 0.0]])
    got = ensemble.expected_dice(probabilities, probabilities > 0.5)
    np.testing.assert_allclose(got, [2 * 1.5 / (1.6 + 2), 2 * 0.7 / (0.9 + 1)])
    nothing = ensemble.expected_dice(np.full((4, 2), [0.1, 0.4]), np.zeros((4, 2), bool))
    assert np.isnan(nothing[0]) and nothing[1] == 0


def test_agreement_by_hand_and_against_metrics(case):
    first = np.array([[1, 1, 0], [2, 2, 0]], np.uint8)
    second = np.array([[1, 0, 0], [2, 0, 0]], np.uint8)
    third = np.array([[1, 0, 0], [0, 0, 0]], np.uint8)
    got = ensemble.agreement([first, second, third, third], num_classes=4)
    # Class 1: 2/3 of the first with each other, else 1. Class 2: 2/3 and four times 0; the last pair has none.
    np.testing.assert_allclose(got, [(3 * 2 / 3 + 3) / 6, 2 / 3 / 5, np.nan])
    maps = [np.roll(case[1], shift, axis=2) for shift in range(3)]
    pairs = [metrics.dice(a, b, num_classes=4) for a, b in itertools.combinations(maps, 2)]
    got = ensemble.agreement(maps, num_classes=4)
    np.testing.assert_allclose(got, np.mean(pairs, axis=0), rtol=1e-6)
    np.testing.assert_allclose(ensemble.agreement(maps[::-1], num_classes=4), got)


def test_agreement_of_same_and_single_maps(case):
    np.testing.assert_allclose(ensemble.agreement([case[1]] * 3, num_classes=4), 1)
    assert np.isnan(ensemble.agreement([case[1]], num_classes=4)).all()
    assert ensemble.agreement([case[1]], num_classes=4).shape == (3,)


def test_mean_entropy_inside():
    entropy = np.array([[0.5, 0.1, 0.9], [0.2, 0.3, 0.7]], np.float32)
    labels = np.array([[1, 0, 2], [0, 0, 1]], np.int16)
    assert ensemble.mean_entropy_inside(entropy, labels) == pytest.approx(0.7)
    assert ensemble.mean_entropy_inside(entropy, labels > 0) == pytest.approx(0.7)
    assert np.isnan(ensemble.mean_entropy_inside(entropy, np.zeros((2, 3), int)))


def test_slabs_change_nothing(case, monkeypatch):
    probabilities, labels = case
    maps = [labels, np.roll(labels, 1, axis=0)]

    def scores():
        regions = ensemble.expected_dice(probabilities, probabilities > 0.3)
        entropy = ensemble.mean_entropy_inside(probabilities[..., 0], labels)
        return [
            *ensemble.expected_dice(probabilities, labels),
            *regions,
            *ensemble.agreement(maps, num_classes=4),
            entropy,
        ]

    whole = scores()
    monkeypatch.setattr(quality, "slabs", lambda shape: (slice(row, row + 1) for row in range(shape[0])))
    np.testing.assert_allclose(scores(), whole, rtol=1e-6)


def test_bad_inputs(case):
    probabilities, labels = case
    with unchecked(), pytest.raises(ValueError, match="one a pixel or a probability"):
        ensemble.expected_dice(probabilities, labels[1:])
    with pytest.raises(ValueError, match=r"0\.\.3, not"):
        ensemble.expected_dice(probabilities, labels + 1)
    with pytest.raises(ValueError, match="after the softmax"):
        ensemble.expected_dice(5 * probabilities, labels)
    with pytest.raises(ValueError, match="one shape"):
        ensemble.agreement([], num_classes=4)
    with unchecked(), pytest.raises(ValueError, match="one shape"):
        ensemble.agreement([labels, labels[1:]], num_classes=4)
    with pytest.raises(ValueError, match=r"0\.\.2, not 0\.\.3"):
        ensemble.agreement([labels, labels], num_classes=3)
    with unchecked(), pytest.raises(ValueError, match="same pixels"):
        ensemble.mean_entropy_inside(probabilities[..., 0], labels[1:])
