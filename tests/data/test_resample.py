"""Resampling against scikit-image (nnU-Net's own resize), SciPy, and a plain one-hot computation."""

import numpy as np
import pytest
import scipy.ndimage
from skimage.transform import resize as skimage_resize

from jaxseg.data import resample

SHAPES = [((20, 31, 17), (13, 40, 17)), ((5, 7, 9), (11, 3, 20)), ((1, 8, 6), (3, 16, 5)), ((37, 24), (12, 50))]


def reference(array, shape, order):
    return skimage_resize(array.astype(np.float64), shape, order, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_equals_skimage(shapes, order):
    old, new = shapes
    array = np.random.default_rng(0).normal(size=old).astype(np.float32)
    result = resample.resize(array, new, (order,) * len(new))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference(array, new, order), atol=3e-6)


def test_cubic_is_clipped_to_the_range_of_each_channel():
    array = np.zeros((6, 8, 2), np.float32)
    array[3:, :, 0], array[:, 4:, 1] = 1, 50
    result = resample.resize(array, (11, 21), (3, 3))
    for channel in range(2):
        np.testing.assert_allclose(result[..., channel], reference(array[..., channel], (11, 21), 3), atol=5e-5)
    assert result[..., 0].max() == 1 and result[..., 0].min() == 0 and result[..., 1].max() == 50


@pytest.mark.parametrize("depth", [4, 13])
def test_anisotropic_axis_is_nearest_and_planes_are_resized_alone(depth):
    array = np.random.default_rng(1).normal(size=(7, 12, 10)).astype(np.float32)
    planes = np.stack([reference(plane, (17, 9), 3) for plane in array])
    position = (np.arange(depth) + 0.5) * (7 / depth) - 0.5
    index = scipy.ndimage.map_coordinates(np.arange(7.0), [position], order=0, mode="nearest").astype(int)
    result = resample.resize(array, (depth, 17, 9), (0, 3, 3))
    np.testing.assert_allclose(result, planes[index], atol=3e-6)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),  # not more than three times
        ((5.0, 5.0, 1.0), (1.0, 1.0, 1.0), None),  # two axes tie
        ((5.0, 5.0, 1.0), (1.0, 1.0, 9.0), None),  # the current spacing decides, although the target stands out
        ((9.0, 1.0), (1.0, 1.0), None),  # 2D has no planes to keep apart
    ],
)
def test_separate_axis(spacing, target, axis):
    assert resample.separate_axis(spacing, target) == axis
    orders = resample.axis_orders(spacing, target, order=3)
    assert orders == tuple(0 if i == axis else 3 for i in range(len(spacing)))


def test_new_shape_rounds_half_to_even():
    assert resample.new_shape((5, 7, 3), (1.0, 0.5, 0.1), (2.0, 1.0, 9.0)) == (2, 4, 1)  # 2.5 -> 2, 3.5 -> 4, 0.03 -> 1


def test_two_classes_equal_the_threshold_at_one_half():
    rng = np.random.default_rng(2)
    labels = (scipy.ndimage.gaussian_filter(rng.normal(size=(14, 19, 11)), 2) > 0).astype(np.int16)
    shape = (9, 30, 20)
    share = reference(labels, shape, 1)
    result = resample.resize_labels(labels, shape, (1, 1, 1))
    clear = np.abs(share - 0.5) > 1e-5
    assert result.dtype == np.int16 and clear.mean() > 0.9
    np.testing.assert_array_equal(result[clear], (share >= 0.5)[clear])


def test_a_tie_of_two_classes_goes_to_the_higher_id():
    np.testing.assert_array_equal(resample.resize_labels(np.array([[0, 1]]), (1, 3), (1, 1)), [[0, 1, 1]])


@pytest.mark.parametrize("orders", [(1, 1, 1), (0, 1, 1)])
def test_many_classes_equal_the_plain_argmax(orders):
    rng = np.random.default_rng(3)
    labels = rng.choice([-1, 0, 1, 4, 7], size=(6, 9, 8), p=[0.1, 0.5, 0.2, 0.1, 0.1]).astype(np.int16)
    labels[:2, 5:] = 9  # a class in one corner only
    shape = (9, 13, 5)
    values = np.unique(labels)
    shares = np.stack([resample.resize((labels == value).astype(np.float32), shape, orders) for value in values])
    result = resample.resize_labels(labels, shape, orders)
    two = np.sort(shares, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5
    assert set(np.unique(result)) == set(values) and clear.mean() > 0.6
    np.testing.assert_array_equal(result[clear], values[shares.argmax(0)][clear])
    np.testing.assert_array_equal(result[~clear] >= values[shares.argmax(0)][~clear], True)


@pytest.mark.parametrize("limit", [1, 4000, 10**9])
def test_slabs_together_are_the_whole_and_stay_small(limit):
    probs = np.random.default_rng(4).random((5, 8, 7, 3)).astype(np.float32)
    shape, orders = (12, 6, 15), (1, 1, 1)
    parts = list(resample.slabs(probs, shape, orders, limit=limit))
    assert [part[0] for part in parts] == [0, *[part[1] for part in parts[:-1]]] and parts[-1][1] == 12
    assert all(part[2].nbytes <= max(limit, 6 * 15 * 3 * 4) for part in parts)
    np.testing.assert_allclose(
        np.concatenate([part[2] for part in parts]), resample.resize(probs, shape, orders), atol=1e-6
    )


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4), (3,), ()])
@pytest.mark.parametrize("new, orders", [((12, 6, 15), (1, 1, 1)), ((3, 8, 9), (1, 0, 1)), ((2, 9, 7), (0, 1, 1))])
def test_pieces_of_the_first_axis_give_the_same_bits_as_the_whole(new, orders, cuts):
    probs = np.random.default_rng(4).random((5, 8, 7, 3)).astype(np.float32)
    table = [resample.taps(old, size, order) for old, size, order in zip(probs.shape, new, orders)]
    whole = probs
    for axis, rows in enumerate(table):
        whole = resample.gather(whole, axis, rows)
    memory = np.empty_like(probs)

    def pieces():
        for start, stop in zip((0, *cuts), (*cuts, 5)):
            piece = memory[: stop - start]  # used again for the next one
            piece[...] = probs[start:stop]
            yield start, piece

    for limit in (1, 10**9):
        result = np.full(whole.shape, np.nan, np.float32)
        for start, stop, slab in resample.stream(pieces(), table, limit=limit):
            assert np.isnan(result[start:stop]).all()
            result[start:stop] = slab
        np.testing.assert_array_equal(result, whole)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blocks_of_lines_give_the_same_bits_as_all_lines_at_once(axis, order):
    array = np.random.default_rng(6).normal(size=(9, 8, 7, 2)).astype(np.float32)
    whole = resample.resize_axis(array, axis, 13, order)
    for limit in (1, array.nbytes // 3):
        np.testing.assert_array_equal(resample.resize_axis(array, axis, 13, order, limit=limit), whole)


@pytest.mark.parametrize("new", [(1, 8, 7), (3, 8, 11)])
def test_what_is_resized_is_left_as_it_is(new):
    array = np.random.default_rng(7).normal(size=(3, 8, 7)).astype(np.float32)
    before = array.copy()
    resample.resize(array, new, (0, 3, 3))
    np.testing.assert_array_equal(array, before)


def test_same_shape_is_untouched():
    array = np.random.default_rng(5).normal(size=(4, 6, 5)).astype(np.float32)
    np.testing.assert_array_equal(resample.resize(array, (4, 6, 5), (3, 3, 3)), array)
