"""Overlap on device: hand-sized truth, MONAI's recorded values, and the laws of additive counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

from jaxseg import metrics
from jaxseg.metrics.overlap import _count_by_product, _count_by_scatter
from jaxseg.typing import IGNORE

RATIOS = ("dice", "iou", "precision", "recall", "specificity")


def counts_of(pred, true, number):
    return np.array([[np.sum((true == i) & (pred == j)) for j in range(number)] for i in range(number)])


@pytest.fixture(scope="module")
def maps():
    generator = np.random.default_rng(3)
    pred, true = generator.integers(0, 4, (2, 5, 6, 7))
    true[:, 1, 2:4] = IGNORE
    return pred, true


def test_counts_by_hand():
    pred, true = np.array([[0, 1, 1], [2, 2, 0]]), np.array([[0, 1, 2], [2, 1, IGNORE]])
    expected = [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert metrics.confusion(pred, true, num_classes=3).tolist() == expected


def test_counts_equal_numpy_and_leave_out_ignored(maps):
    pred, true = maps
    expected = counts_of(pred, true, 4)
    assert expected.sum() == (true != IGNORE).sum() < true.size
    np.testing.assert_array_equal(metrics.confusion(pred, true, num_classes=4), expected)
    changed = np.where(true == IGNORE, (pred + 1) % 4, pred)  # what is predicted there makes no difference
    np.testing.assert_array_equal(metrics.confusion(changed, true, num_classes=4), expected)


def test_both_ways_of_counting_agree(maps):
    pred, true = (jnp.asarray(labels).reshape(-1) for labels in maps)
    counted = true != IGNORE
    pred, true = jnp.where(counted, pred, 4), jnp.where(counted, true, 4)
    np.testing.assert_array_equal(_count_by_product(4)(pred, true), _count_by_scatter(4)(pred, true))


def test_counts_add_over_a_split(maps):
    pred, true = maps
    parts = [metrics.confusion(pred[i : i + 2], true[i : i + 2], num_classes=4) for i in range(0, len(pred), 2)]
    np.testing.assert_array_equal(sum(parts), metrics.confusion(pred, true, num_classes=4))


@pytest.mark.parametrize("name", RATIOS)
def test_jit_vmap_eager_and_numpy_agree(maps, name):
    pred, true = maps
    function = getattr(metrics, name)
    ratio = getattr(metrics, f"counts_to_{name}")

    def score(pred, true):
        return function(pred, true, num_classes=4)

    eager = np.stack([score(p, t) for p, t in zip(pred, true)])
    host = np.stack([ratio(counts_of(p, t, 4)) for p, t in zip(pred, true)])
    assert eager.dtype == np.float32 and host.dtype == np.float64 and eager.shape == (len(pred), 3)
    np.testing.assert_allclose(jax.jit(jax.vmap(score))(pred, true), eager, rtol=1e-7)
    np.testing.assert_allclose(eager, host, rtol=1e-6)


def test_definitions_from_a_two_class_table():
    counts = np.array([[50, 7], [5, 11]])  # TN FP / FN TP
    assert metrics.counts_to_dice(counts) == pytest.approx(22 / 34)
    assert metrics.counts_to_iou(counts) == pytest.approx(11 / 23)
    assert metrics.counts_to_precision(counts) == pytest.approx(11 / 18)
    assert metrics.counts_to_recall(counts) == pytest.approx(11 / 16)
    assert metrics.counts_to_specificity(counts) == pytest.approx(50 / 57)
    assert metrics.counts_to_accuracy(counts) == pytest.approx(61 / 73)


@pytest.mark.parametrize(
    "pred, true, expected",
    [
        ([0, 0], [0, 0], {"dice": np.nan, "iou": np.nan, "precision": np.nan, "recall": np.nan, "specificity": np.nan}),
        ([1, 0], [0, 0], {"dice": 0.0, "iou": 0.0, "precision": 0.0, "recall": 0.0, "specificity": 0.5}),
        ([0, 0], [1, 0], {"dice": 0.0, "iou": 0.0, "precision": 0.0, "recall": 0.0, "specificity": 1.0}),
        ([1, 0], [1, 0], {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0, "specificity": 1.0}),
        ([1, 0], [1, 1], {"dice": 2 / 3, "iou": 0.5, "precision": 1.0, "recall": 0.5, "specificity": 1.0}),
    ],
)
def test_empty_masks(pred, true, expected):
    pred, true = np.array(pred), np.array(true)
    for name, value in expected.items():
        got = getattr(metrics, name)(pred, true, num_classes=2)
        np.testing.assert_allclose(got, [value], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("ndim", [2, 3])
def test_golden(golden, ndim):
    data = np.load(golden / "losses_metrics.npz")
    pred, true = data[f"metric_pred_{ndim}d"], data[f"metric_true_{ndim}d"]
    names = {"dice": "dice_empty_is_one", "iou": "iou", "precision": "precision", "recall": "sensitivity"}
    names |= {"specificity": "specificity", "accuracy": "accuracy"}
    present = np.array([[(t == k).any() and (p == k).any() for k in (1, 2)] for p, t in zip(pred, true)])
    assert present.sum() == 5
    counts = jax.vmap(lambda p, t: metrics.confusion(p, t, num_classes=3))(pred, true)
    for name, recorded in names.items():
        got = np.asarray(getattr(metrics, f"counts_to_{name}")(counts))
        np.testing.assert_allclose(got[present], data[f"monai_{recorded}_{ndim}d"][present], rtol=1e-6, err_msg=name)
    # Absent from one map: our 0 is MONAI's with ignore_empty=False; absent from both: NaN where MONAI then says 1.
    ours, theirs = metrics.counts_to_dice(np.asarray(counts)), data[f"monai_dice_empty_is_one_{ndim}d"]
    np.testing.assert_allclose(np.nan_to_num(ours, nan=1.0), theirs, atol=1e-6)
    assert np.isnan(ours).tolist() == [[False, False], [False, False], [False, False], [False, True]]


def test_regions_may_overlap():
    generator = np.random.default_rng(0)
    pred, true = generator.random((2, 4, 5, 6, 3)) > 0.4
    counted = generator.random((4, 5, 6)) > 0.3
    counts = metrics.region_confusion(pred, true, counted=counted)
    for region in range(3):
        expected = counts_of(pred[..., region][counted], true[..., region][counted], 2)
        np.testing.assert_array_equal(counts[region], expected)
    assert metrics.counts_to_dice(counts).shape == (3, 1)
    np.testing.assert_allclose(metrics.counts_to_dice(counts)[:, 0], [metrics.counts_to_dice(c)[0] for c in counts])


def test_sizes_must_fit():
    with unchecked(), pytest.raises(ValueError, match="not 6 and 4"):
        metrics.confusion(np.zeros((2, 3), int), np.zeros((2, 2), int), num_classes=2)
    with unchecked(), pytest.raises(ValueError, match="same shape"):
        metrics.region_confusion(np.zeros((2, 3), bool), np.zeros((2, 2), bool))


def test_names_and_strings():
    assert {"dice", "surface_dice", "coco_average_precision"} <= set(metrics.names())
    for name in metrics.names():
        assert metrics.from_string(name).func is getattr(metrics, name)
    assert metrics.from_string("surface_dice(tolerance_mm=2.0)").keywords == {"tolerance_mm": 2.0}
    with pytest.raises(ValueError, match="did you mean dice"):
        metrics.from_string("dise")
