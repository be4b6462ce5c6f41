from functools import partial

import jax
import numpy as np
import pytest

from jaxseg import losses

# Two classes, four pixels in a 1 x 4 image; probability of class 1 in each and the truth.
PROBS = np.array([0.9, 0.6, 0.2, 0.1])
TRUTH = np.array([1, 0, 1, 0])
LOGITS = np.log(np.stack([1 - PROBS, PROBS], axis=-1))[None, None].astype(np.float32)
LABELS = TRUTH[None, None]
FOREGROUND = {"ignore_background": True, "smooth": 0.0}


def test_dice_and_jaccard_by_hand():
    # Class 1: sum p g = 1.1, sum p = 1.8, sum g = 2; class 0: 0.4 + 0.9 = 1.3, 2.2, 2.
    assert losses.dice_loss(LOGITS, LABELS, **FOREGROUND)[0] == pytest.approx(1 - 2.2 / 3.8, rel=1e-6)
    both = 1 - (2.2 / 3.8 + 2.6 / 4.2) / 2
    assert losses.dice_loss(LOGITS, LABELS, smooth=0.0)[0] == pytest.approx(both, rel=1e-6)
    assert losses.jaccard_loss(LOGITS, LABELS, **FOREGROUND)[0] == pytest.approx(1 - 1.1 / 2.7, rel=1e-6)
    squared = losses.dice_loss(LOGITS, LABELS, squared=True, **FOREGROUND)[0]
    assert squared == pytest.approx(1 - 2.2 / (0.81 + 0.36 + 0.04 + 0.01 + 2), rel=1e-6)
    assert losses.dice_loss(LOGITS, LABELS, ignore_background=True, smooth=1.0)[0] == pytest.approx(
        1 - 3.2 / 4.8, rel=1e-6
    )


def test_tversky_by_hand():
    # Class 1: true positives 1.1, false positives 0.7, false negatives 0.9.
    found = losses.tversky_loss(LOGITS, LABELS, alpha=0.3, beta=0.7, **FOREGROUND)[0]
    index = 1.1 / (1.1 + 0.3 * 0.7 + 0.7 * 0.9)
    assert found == pytest.approx(1 - index, rel=1e-6)
    focal = losses.focal_tversky_loss(LOGITS, LABELS, alpha=0.3, beta=0.7, gamma=4 / 3, **FOREGROUND)[0]
    assert focal == pytest.approx((1 - index) ** 0.75, rel=1e-6)
    dice = float(losses.dice_loss(LOGITS, LABELS, smooth=0.0)[0])
    assert losses.tversky_loss(LOGITS, LABELS, alpha=0.5, beta=0.5, smooth=0.0)[0] == pytest.approx(dice, rel=1e-6)


def test_generalized_dice_by_hand():
    labels = np.array([[[1, 0, 0, 0]]])
    # Class 1: sum p g = 0.9, weight 1; class 0: 0.4 + 0.8 + 0.9 = 2.1, weight 1 / 9.
    expected = 1 - 2 * (0.9 + 2.1 / 9) / ((1.8 + 1) + (2.2 + 3) / 9)
    assert losses.generalized_dice_loss(LOGITS, labels, smooth=0.0)[0] == pytest.approx(expected, rel=1e-6)
    # Class 1 absent: it takes the background's weight of 1 / 16, so the weights cancel.
    absent = losses.generalized_dice_loss(LOGITS, np.zeros((1, 1, 4), int), smooth=0.0)[0]
    assert absent == pytest.approx(1 - 2 * 2.2 / (2.2 + 4 + 1.8), rel=1e-6)


def test_sigmoid_regions_are_scored_one_by_one():
    logits = np.array([[2.0, -1.0], [0.5, 3.0], [-2.0, 1.0]], np.float32)[None]
    regions = np.array([[1, 0], [1, 1], [0, 1]], np.float32)[None]
    probs = 1 / (1 + np.exp(-logits))
    dice = [2 * (probs * regions)[..., k].sum() / (probs + regions)[..., k].sum() for k in (0, 1)]
    found = losses.dice_loss(logits, regions, activation="sigmoid", smooth=0.0)
    assert found[0] == pytest.approx(1 - np.mean(dice), rel=1e-5)


def test_an_ignored_pixel_of_a_region_target_needs_one_entry():
    logits, regions = np.ones((1, 5, 2), np.float32), np.ones((1, 5, 2), np.float32)
    regions[0, 4], regions[0, 3, 1] = 0, -1
    found = losses.dice_loss(logits, regions, activation="sigmoid", ignore_label=-1)
    kept = losses.dice_loss(logits[:, [0, 1, 2, 4]], regions[:, [0, 1, 2, 4]], activation="sigmoid")
    np.testing.assert_allclose(found, kept, rtol=1e-6)


def test_batch_dice_is_one_ratio():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 5, 3)).astype(np.float32), rng.integers(0, 3, (2, 3, 5))
    found = jax.jit(partial(losses.dice_loss, batch=True))(logits, labels)
    whole = jax.jit(losses.dice_loss)(logits.reshape(1, 6, 5, 3), labels.reshape(1, 6, 5))
    np.testing.assert_allclose(found, np.repeat(whole, 2), rtol=1e-6)


def test_absent_and_not_predicted_costs_nothing():
    logits = np.array([50.0, -50.0], np.float32) * np.ones((1, 3, 4, 1), np.float32)
    for smooth in (1e-5, 0.0):
        assert losses.dice_loss(logits, np.zeros((1, 3, 4), int), smooth=smooth)[0] == pytest.approx(0, abs=1e-6)


def test_focal_tversky_is_continuous_at_a_perfect_class():
    logits = np.array([[0.0, 13.0], [13.0, 0.0]], np.float32)[None] * np.linspace(0.9, 1.2, 7)[:, None, None]
    loss = jax.jit(partial(losses.focal_tversky_loss, smooth=0.0))
    found = np.asarray(loss(logits.astype(np.float32), np.tile([[1, 0]], (7, 1))))
    assert (np.diff(found) < 0).all() and (found > 0).all()
