import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import ops


def label(mask, connectivity):
    return ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))[0]


def snake(height, width):
    """One voxel wide and one component: rows joined at alternating ends."""
    mask = np.zeros((height, width), bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


@pytest.mark.parametrize(
    ("shape", "connectivity"),
    [((31,), 1), ((24, 37), 1), ((24, 37), 2), ((9, 13, 11), 1), ((9, 13, 11), 2), ((9, 13, 11), 3)],
)
def test_equals_scipy(shape, connectivity):
    find = jax.jit(lambda mask: ops.connected_components(mask, connectivity=connectivity))
    for density in (0.1, 0.3, 0.5, 0.65):
        mask = np.random.default_rng(int(100 * density)).random(shape) < density
        np.testing.assert_array_equal(find(mask), label(mask, connectivity))


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_snake(flip):
    mask = snake(33, 29)[:: flip[0], :: flip[1]]
    found = np.asarray(ops.connected_components(mask))
    np.testing.assert_array_equal(found, mask.astype(int))


def test_numbers_follow_the_first_voxel():
    # The second part starts later in scan order, though it lies to the left of the first.
    mask = np.array([[0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0]], bool)
    np.testing.assert_array_equal(ops.connected_components(mask), [[0, 0, 0, 1], [2, 0, 0, 1], [2, 2, 0, 0]])


def test_full_and_empty_masks():
    assert (np.asarray(ops.connected_components(np.ones((5, 7), bool))) == 1).all()
    assert (np.asarray(ops.connected_components(np.zeros((5, 7), bool))) == 0).all()
    assert ops.connected_components(np.zeros((0, 4), bool)).shape == (0, 4)


def test_vmap_equals_one_by_one():
    masks = np.stack([snake(9, 11), np.random.default_rng(0).random((9, 11)) < 0.5, np.zeros((9, 11), bool)])
    found = jax.vmap(ops.connected_components)(masks)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.stack([label(mask, 1) for mask in masks]))


@pytest.mark.parametrize("connectivity", [0, 3])
def test_wrong_connectivity_is_refused(connectivity):
    with pytest.raises(ValueError, match=r"1\.\.2"):
        ops.connected_components(np.ones((3, 4), bool), connectivity=connectivity)
