"""One row a class of one case: keys, units, ignored pixels, regions, and the truth table of empty masks."""

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import metrics
from jaxseg.typing import IGNORE, UserError

KEYS = [
    "class",
    "dice",
    "iou",
    "precision",
    "recall",
    "specificity",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "lesion_f1",
    "volume_true_ml",
    "volume_pred_ml",
]
CLASSES = ("background", "liver", "tumour")


@pytest.fixture()
def maps():
    pred, true = np.random.default_rng(5).integers(0, 3, (2, 7, 8, 9)).astype(np.int16)
    return pred, true


def test_keys_and_values_are_those_of_the_single_functions(maps):
    pred, true = maps
    spacing = (2.0, 1.0, 0.5)
    rows = metrics.case_rows(pred, true, classes=CLASSES, spacing_mm=spacing, tolerance_mm=(0.5, 1.0))
    assert [row["class"] for row in rows] == ["liver", "tumour"]
    for label, (row, tolerance) in enumerate(zip(rows, (0.5, 1.0)), start=1):
        assert list(row) == KEYS and all(type(row[key]) is float for key in KEYS[1:])
        pair = pred == label, true == label
        for name in ("dice", "iou", "precision", "recall", "specificity"):
            expected = getattr(metrics, name)(pred, true, num_classes=3)[label - 1]
            assert row[name] == pytest.approx(float(expected), rel=1e-6)
        assert row["hd95_mm"] == metrics.hausdorff95(*pair, spacing)
        assert row["assd_mm"] == metrics.average_surface_distance(*pair, spacing)
        assert row["nsd"] == metrics.surface_dice(*pair, spacing, tolerance_mm=tolerance)
        assert row["lesion_f1"] == metrics.lesion_f1(*pair)
        assert row["volume_pred_ml"] == pytest.approx(pair[0].sum() / 1000)
        assert row["volume_true_ml"] == pytest.approx(pair[1].sum() / 1000)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, bool])
def test_any_integer_type(dtype):
    pred, true = (np.arange(42).reshape(6, 7) % n == 0 for n in (2, 3))
    row = metrics.case_rows(pred.astype(dtype), true.astype(dtype), classes=("a", "b"), spacing_mm=(1, 1))[0]
    assert row["dice"] == pytest.approx(2 * 7 / (21 + 14)) and row["volume_true_ml"] == pytest.approx(0.014)


def test_skipping_surfaces_leaves_their_keys_out(maps):
    rows = metrics.case_rows(*maps, classes=CLASSES, spacing_mm=(1, 1, 1), skip_surface=True)
    assert list(rows[0]) == [key for key in KEYS if key not in ("hd95_mm", "assd_mm", "nsd")]


# pred, true -> overlap, distance, surface Dice, lesion F1
TABLE = {
    "both empty": (0, 0, np.nan, np.nan, np.nan, np.nan, np.nan),
    "invented": (1, 0, 0.0, np.inf, 0.0, 0.0, 1 - 2 / 20),
    "missed": (0, 1, 0.0, np.inf, 0.0, 0.0, 1.0),
    "right": (1, 1, 1.0, 0.0, 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("name", TABLE)
def test_truth_table_of_empty_masks(name):
    has_pred, has_true, overlap, distance, nsd, f1, specificity = TABLE[name]
    pred, true = np.zeros((2, 4, 5), int)
    pred[1, 1:3], true[1, 1:3] = has_pred, has_true
    row = metrics.case_rows(pred, true, classes=("background", "lesion"), spacing_mm=(1.0, 2.0))[0]
    for key in ("dice", "iou", "precision", "recall"):
        np.testing.assert_equal(row[key], overlap, err_msg=key)
    for key in ("hd95_mm", "assd_mm"):
        np.testing.assert_equal(row[key], distance, err_msg=key)
    np.testing.assert_equal([row["nsd"], row["lesion_f1"], row["specificity"]], [nsd, f1, specificity])


def test_ignored_pixels_and_the_outside_of_the_roi_do_not_count(maps):
    pred, true = maps
    roi = np.zeros(true.shape, bool)
    roi[:, 2:6] = True
    options = {"classes": CLASSES, "spacing_mm": (2.0, 1.0, 0.5)}
    inside = metrics.case_rows(pred[:, 2:6], true[:, 2:6], **options)
    assert metrics.case_rows(pred, true, roi=roi, **options) == inside
    ignored = np.where(roi, true, IGNORE)
    assert metrics.case_rows(pred, ignored, **options) == inside
    ignored[0], half = IGNORE, roi & (np.arange(7) > 0)[:, None, None]
    assert metrics.case_rows(pred, ignored, roi=roi, **options) == metrics.case_rows(pred, true, roi=half, **options)
    nothing = metrics.case_rows(pred, np.full_like(true, IGNORE), **options)
    assert all(np.isnan(row["dice"]) and row["volume_true_ml"] == 0 for row in nothing)


def test_regions_are_unions_of_classes(maps):
    pred, true = maps
    regions = {"organ": (1, 2), "tumour": (2,)}
    rows = metrics.case_rows(pred, true, classes=CLASSES, spacing_mm=(1, 1, 1), regions=regions)
    plain = metrics.case_rows(pred, true, classes=CLASSES, spacing_mm=(1, 1, 1))
    joined = metrics.case_rows(pred > 0, true > 0, classes=("background", "organ"), spacing_mm=(1, 1, 1))
    assert rows == [joined[0], plain[1]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pred": np.zeros((3, 4), int)}, r"label's shape \(3, 5\)"),
        ({"pred": np.full((3, 5), 2)}, r"prediction should hold class ids 0\.\.1, and it holds 2\.\.2"),
        ({"pred": np.full((3, 5), -1)}, "prediction should hold class ids"),
        ({"true": np.full((3, 5), 255)}, r"label map should hold class ids -1\.\.1"),
        ({"true": np.zeros((3, 5))}, "not float64"),
        ({"roi": np.ones((5, 3), bool)}, "roi mask"),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, "2 positive numbers"),
        ({"tolerance_mm": (1.0, 2.0)}, r"one for each of \['lesion'\]"),
        ({"tolerance_mm": -1.0}, "tolerance_mm"),
        ({"classes": ("a", "a")}, "two share one"),
        ({"regions": {"all": (1, 2)}}, "Region 'all'"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {"pred": np.zeros((3, 5), int), "true": np.zeros((3, 5), int), "spacing_mm": (1.0, 1.0)}
    arguments |= {"classes": ("background", "lesion"), **change}
    pred, true = arguments.pop("pred"), arguments.pop("true")
    with unchecked(), pytest.raises(UserError, match=message):
        metrics.case_rows(pred, true, **arguments)
