import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import ops

SHAPES = [(19, 26), (8, 11, 13)]


def noise(shape, density=0.7):
    return np.random.default_rng(0).random(shape) < density


@pytest.mark.parametrize(("shape", "iterations"), [(SHAPES[0], 1), (SHAPES[1], 2)])
def test_erode_and_dilate_equal_scipy(shape, iterations):
    mask = noise(shape, 0.9)
    expected = ndimage.binary_erosion(mask, iterations=iterations)
    np.testing.assert_array_equal(ops.erode(mask, iterations=iterations), expected)
    expected = ndimage.binary_dilation(~mask, iterations=iterations)
    np.testing.assert_array_equal(ops.dilate(~mask, iterations=iterations), expected)


@pytest.mark.parametrize(("shape", "iterations"), [(SHAPES[0], 1), (SHAPES[1], 2)])
def test_open_and_close_equal_scipy_on_an_unbounded_grid(shape, iterations):
    mask, inner = noise(shape), tuple(slice(4, -4) for _ in shape)
    wide = np.pad(mask, 4)
    opened, closed = ops.open(mask, iterations=iterations), ops.close(mask, iterations=iterations)
    np.testing.assert_array_equal(opened, ndimage.binary_opening(wide, iterations=iterations)[inner])
    np.testing.assert_array_equal(closed, ndimage.binary_closing(wide, iterations=iterations)[inner])
    assert not (np.asarray(opened) & ~mask).any() and not (mask & ~np.asarray(closed)).any()


def test_close_keeps_objects_at_the_edge():
    mask = np.zeros((5, 6), bool)
    mask[0, :3] = True
    np.testing.assert_array_equal(ops.close(mask), mask)


@pytest.mark.parametrize("shape", SHAPES)
def test_border(shape):
    mask = noise(shape, 0.95)
    np.testing.assert_array_equal(ops.border(mask), mask ^ ndimage.binary_erosion(mask))
    ring = np.ones((4, 5), bool)
    ring[1:-1, 1:-1] = False
    np.testing.assert_array_equal(ops.border(np.ones((4, 5), bool)), ring)


@pytest.mark.parametrize("shape", [(31,), *SHAPES])
def test_fill_holes_equals_scipy(shape):
    mask = noise(shape)
    mask[(slice(-3, None),) * len(shape)] = False  # the outside reaches the last corner
    expected = ndimage.binary_fill_holes(mask)
    assert (expected != mask).any() and not expected.all()
    np.testing.assert_array_equal(ops.fill_holes(mask), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_keep_largest_equals_counting_on_the_host(shape):
    mask = noise(shape, 0.4)
    numbers, _ = ndimage.label(mask)
    np.testing.assert_array_equal(ops.keep_largest(mask), numbers == 1 + np.bincount(numbers.ravel())[1:].argmax())


def test_of_two_largest_parts_the_first_stays():
    mask = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(ops.keep_largest(mask), mask & (np.arange(3) == 0)[:, None])


def test_empty_and_full_masks_stay():
    for function in (ops.fill_holes, ops.keep_largest):
        for mask in (np.zeros((4, 6), bool), np.ones((4, 6), bool), np.zeros((0, 6), bool)):
            np.testing.assert_array_equal(function(mask), mask)


def test_zero_iterations_change_nothing():
    mask = noise((6, 7))
    for function in (ops.erode, ops.dilate, ops.open, ops.close):
        np.testing.assert_array_equal(function(mask, iterations=0), mask)


def test_jit_and_vmap_equal_eager():
    masks = noise((3, 9, 12))
    for function in (ops.erode, ops.dilate, ops.open, ops.close, ops.border, ops.fill_holes, ops.keep_largest):
        found = jax.jit(jax.vmap(function))(masks)
        np.testing.assert_array_equal(found, np.stack([function(mask) for mask in masks]))
