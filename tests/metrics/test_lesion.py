"""Lesion-wise scores on hand-drawn components."""

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import metrics
from jaxseg.metrics.lesion import components


@pytest.fixture()
def drawn():
    """Three true components: one hit by a voxel, one covered, one missed; predicted: two hits and one invention."""
    pred, true = np.zeros((2, 3, 12, 10), bool)
    true[0, 1:4, 1:4] = True
    pred[0, 3:6, 3:6] = True  # shares one voxel of 17
    true[1, 7:9, 7:9] = pred[1, 7:9, 7:9] = True
    true[2, 1, 8] = True
    pred[2, 10, 1] = True
    return pred, true


def test_counts(drawn):
    got = metrics.lesion_scores(*drawn)
    assert (got.found, got.missed, got.invented, got.number_true, got.number_pred) == (2, 1, 1, 3, 3)
    assert got.recall == got.precision == pytest.approx(2 / 3)
    assert got.f1 == metrics.lesion_f1(*drawn) == pytest.approx(4 / 6)


def test_least_overlap(drawn):
    strict = metrics.lesion_scores(*drawn, min_iou=0.5)
    assert (strict.found, strict.missed, strict.invented) == (1, 2, 2)
    assert metrics.lesion_scores(*drawn, min_iou=1 / 17).found == 2


def test_one_prediction_over_two_lesions():
    pred, true = np.zeros((2, 4, 9), bool)
    true[1:3, 1:3] = true[1:3, 6:8] = True
    pred[1:3, 1:8] = True
    got = metrics.lesion_scores(pred, true)
    assert (got.found, got.invented, got.number_pred, got.f1) == (2, 0, 1, 1.0)


def test_connectivity():
    mask = np.zeros((4, 5), bool)
    mask[1, 1] = mask[2, 2] = True
    assert components(mask)[1] == 1 and components(mask, connectivity=4)[1] == 2
    deep = np.zeros((3, 4, 5), bool)
    deep[0, 1, 1] = deep[1, 2, 2] = True
    assert [components(deep, connectivity=c)[1] for c in (None, 26, 18, 6)] == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="for 3D"):
        components(deep, connectivity=8)
    with pytest.raises(ValueError, match="not in 1D"):
        components(np.zeros(4, bool))


@pytest.mark.parametrize("pred, true, expected", [(0, 0, np.nan), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)])
def test_empty_masks(pred, true, expected):
    masks = np.full((3, 4), bool(pred)), np.full((3, 4), bool(true))
    got = metrics.lesion_scores(*masks)
    np.testing.assert_equal([got.f1, got.precision, got.recall], [expected] * 3)


def test_what_does_not_fit_is_named():
    with unchecked(), pytest.raises(ValueError, match="one shape"):
        metrics.lesion_scores(np.zeros((3, 4), bool), np.zeros((3, 5), bool))
    with pytest.raises(ValueError, match="min_iou"):
        metrics.lesion_scores(np.zeros((3, 4), bool), np.zeros((3, 4), bool), min_iou=2)
