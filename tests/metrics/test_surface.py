"""Surface distances: hand-sized truth, scipy's distance transform, MONAI's and DeepMind's recorded values."""

import itertools

import numpy as np
import pytest
import scipy.ndimage as ndi
from annotations import unchecked

from jaxseg import metrics
from jaxseg.metrics.elements import element_codes, element_weights
from jaxseg.metrics.surface import border

SPACING = {2: (1.0, 1.0), 3: (2.5, 1.0, 0.8)}


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "losses_metrics.npz")


def blobs(shape, seed):
    smooth = ndi.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return smooth > 0.05


@pytest.mark.parametrize("shape", [(13, 17), (9, 11, 14)])
def test_border_is_the_mask_minus_its_erosion(shape):
    mask = blobs(shape, 1)
    mask[0] = True  # beyond the image is outside
    cross = ndi.generate_binary_structure(mask.ndim, 1)
    np.testing.assert_array_equal(border(mask), mask & ~ndi.binary_erosion(mask, cross, border_value=0))


@pytest.mark.parametrize("shape, spacing", [((13, 17), (0.5, 2.0)), ((9, 11, 14), (3.0, 1.1, 0.7))])
def test_distances_equal_scipy(shape, spacing):
    pred, true = np.zeros((2, *(size + 6 for size in shape)), bool)
    inner = tuple(slice(3, 3 + size) for size in shape)  # the box around both masks is smaller than the image
    pred[inner], true[inner] = blobs(shape, 1), blobs(shape, 2)
    got = metrics.surface_distances(pred, true, spacing)
    to_true = ndi.distance_transform_edt(~border(true), sampling=spacing)[border(pred)]
    to_pred = ndi.distance_transform_edt(~border(pred), sampling=spacing)[border(true)]
    np.testing.assert_allclose(got.pred_to_true, to_true, rtol=1e-6)
    np.testing.assert_allclose(got.true_to_pred, to_pred, rtol=1e-6)
    assert metrics.percentile_distance(got, 70) == pytest.approx(
        max(np.percentile(to_true, 70), np.percentile(to_pred, 70)), rel=1e-6
    )
    joined = np.concatenate([to_true, to_pred])
    assert metrics.mean_distance(got) == pytest.approx(joined.mean(), rel=1e-6)
    assert metrics.mean_distance(got, average="directions") == pytest.approx((to_true.mean() + to_pred.mean()) / 2)
    assert metrics.mean_distance(got, average="pred_to_true") == pytest.approx(to_true.mean())
    assert metrics.mean_distance(got, average="true_to_pred") == pytest.approx(to_pred.mean())


def test_by_hand_in_millimetres():
    pred, true = np.zeros((2, 6, 9), bool)
    pred[2, 1] = true[2, 5] = true[3, 5] = True
    spacing = (3.0, 0.5)
    far = np.hypot(3.0, 2.0)
    assert metrics.hausdorff(pred, true, spacing) == pytest.approx(far)
    assert metrics.hausdorff95(pred, true, spacing) == pytest.approx(2 + 0.95 * (far - 2))
    assert metrics.average_surface_distance(pred, true, spacing) == pytest.approx((2 + 2 + far) / 3)
    assert metrics.surface_dice(pred, true, spacing, tolerance_mm=2.0) == pytest.approx(2 / 3)
    assert metrics.surface_dice(pred, true, spacing, tolerance_mm=1.9) == 0


def test_a_distance_equal_to_the_tolerance_is_within():
    pred, true = np.zeros((2, 8, 8), bool)
    pred[2, 2], true[2, 5] = True, True
    assert metrics.surface_dice(pred, true, (1.0, 0.1), tolerance_mm=0.3) == 1  # 3 * 0.1 rounds above 0.3


def test_the_image_edge_is_a_border():
    full = np.ones((5, 7), bool)
    smaller = full.copy()
    smaller[:, -1] = False
    assert metrics.hausdorff(smaller, full, (1.0, 2.0)) == 2


@pytest.mark.parametrize("convention", ["voxel", "surface_elements"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_empty_masks(convention, ndim):
    empty, dot = np.zeros((2, *(4, 5, 6)[:ndim]), bool)
    dot[(1,) * ndim] = True
    spacing = SPACING[ndim]
    table = {
        (False, False): (np.nan, np.nan),
        (True, False): (np.inf, 0),
        (False, True): (np.inf, 0),
        (True, True): (0, 1),
    }
    for (has_pred, has_true), (distance, share) in table.items():
        pair = (dot if has_pred else empty), (dot if has_true else empty)
        for name in ("hausdorff", "hausdorff95", "average_surface_distance"):
            got = getattr(metrics, name)(*pair, spacing, convention=convention)
            np.testing.assert_equal(got, distance, err_msg=name)
        np.testing.assert_equal(metrics.surface_dice(*pair, spacing, convention=convention), share)


@pytest.mark.parametrize("ndim", [2, 3])
def test_golden_monai(recorded, ndim):
    pred, true = recorded[f"metric_pred_{ndim}d"], recorded[f"metric_true_{ndim}d"]
    compared = 0
    for case, label in itertools.product(range(4), (1, 2)):
        pair = pred[case] == label, true[case] == label
        got = {
            "hd": metrics.hausdorff(*pair, SPACING[ndim]),
            "hd95": metrics.hausdorff95(*pair, SPACING[ndim]),
            "assd": metrics.average_surface_distance(*pair, SPACING[ndim]),
            "nsd_tol_1_2": metrics.surface_dice(*pair, SPACING[ndim], tolerance_mm=float(label)),
        }
        for name, value in got.items():
            theirs = recorded[f"monai_{name}_{ndim}d"][case, label - 1]
            if name == "hd95" and pair[0].any() != pair[1].any():  # MONAI's NaN drops the miss; we count it
                assert np.isnan(theirs) and value == np.inf
            else:
                np.testing.assert_allclose(value, theirs, atol=1e-6 if name == "nsd_tol_1_2" else 1e-5, err_msg=name)
                compared += 1
    assert compared == 4 * 8 - 2


def test_golden_deepmind(recorded):
    """Columns: 95th percentile, maximum, surface Dice at 1 mm, mean of the two directed averages."""
    rows = recorded["deepmind_hd95_hd100_nsd1_asd_rows_case_class_3d"]
    compared = 0
    for case, label in itertools.product(range(4), (1, 2)):
        pair = recorded["metric_pred_3d"][case] == label, recorded["metric_true_3d"][case] == label
        if not (pair[0].any() and pair[1].any()):
            continue
        options = {"spacing_mm": SPACING[3], "convention": "surface_elements"}
        got = (
            metrics.hausdorff95(*pair, **options),
            metrics.hausdorff(*pair, **options),
            metrics.surface_dice(*pair, tolerance_mm=1.0, **options),
            metrics.average_surface_distance(*pair, average="directions", **options),
        )
        np.testing.assert_allclose(got, rows[case, label - 1], atol=1e-6)
        compared += 1
    assert compared == 5


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 0.8)])
def test_element_areas_by_hand(spacing):
    """A box of k voxels a side: its faces, less what the corners and edges of the surface cut off."""
    weights = element_weights(spacing)
    assert weights.shape == (256,) and weights[0] == weights[255] == 0
    np.testing.assert_allclose(weights, weights[::-1], rtol=1e-12)  # a mask and its complement share their surface
    z, y, x = spacing
    flat = {0b00001111: y * x, 0b00110011: z * x, 0b01010101: z * y}  # half of the corners along one axis
    for code, area in flat.items():
        assert weights[code] == pytest.approx(area)
    corner = 0.125 * np.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2)
    np.testing.assert_allclose(weights[[1 << bit for bit in range(8)]], corner)
    assert weights[0b10000001] == pytest.approx(2 * corner) and weights[0b01101001] == pytest.approx(4 * corner)
    slant = 0.5 * x * np.hypot(y, z)  # two neighbours along the last axis are cut off by a rectangle
    assert weights[0b00000011] == pytest.approx(slant)
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 1.0


def test_element_lengths_by_hand():
    y, x = 3.0, 0.5
    half = np.hypot(y, x) / 2
    expected = [0, half, half, x, half, y, 2 * half, half, half, 2 * half, y, half, x, half, half, 0]
    np.testing.assert_allclose(element_weights((y, x)), expected)
    rectangle = np.zeros((6, 8), bool)
    rectangle[1:5, 2:7] = True
    assert element_weights((y, x))[element_codes(rectangle)].sum() == pytest.approx(2 * 3 * y + 2 * 4 * x + 4 * half)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_slabs_are_their_shift_apart_in_both_conventions(axis):
    pred, true = np.zeros((2, 9, 10, 11), bool)
    np.moveaxis(pred, axis, 0)[2:5] = True
    np.moveaxis(true, axis, 0)[4:7] = True
    for convention in ("voxel", "surface_elements"):
        got = metrics.surface_distances(pred, true, (2.5, 1.0, 0.8), convention=convention)
        assert metrics.percentile_distance(got, 100) == pytest.approx(2 * (2.5, 1.0, 0.8)[axis])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"true_mask": np.zeros((3, 4), bool)}, "one shape"),
        ({"spacing_mm": (1.0,)}, "2 positive numbers"),
        ({"spacing_mm": (1.0, 0.0)}, "2 positive numbers"),
        ({"convention": "medpy"}, "surface_elements"),
        ({"pred_mask": np.zeros(5, bool), "true_mask": np.zeros(5, bool), "spacing_mm": (1.0,)}, "not in 1D"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {"pred_mask": np.zeros((3, 5), bool), "true_mask": np.zeros((3, 5), bool), "spacing_mm": (1.0, 1.0)}
    with unchecked(), pytest.raises(ValueError, match=message):
        metrics.surface_distances(**{**arguments, **change})
    distances = metrics.surface_distances(**arguments)
    with pytest.raises(ValueError, match=r"0\.\.100"):
        metrics.percentile_distance(distances, 101)
    with pytest.raises(ValueError, match="joined"):
        metrics.mean_distance(distances, average="median")
    with pytest.raises(ValueError, match="0 or more"):
        metrics.within_tolerance(distances, -1.0)
