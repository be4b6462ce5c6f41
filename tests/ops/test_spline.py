"""Resampling as a matrix of static shape against scikit-image and the host's own resampling, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.transform import resize

from jaxseg.data import resample
from jaxseg.ops.spline import resample_matrix

matrix_of = jax.jit(resample_matrix, static_argnames=("shape", "smooth"))


def signal(size, seed=0):
    return np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)


@pytest.mark.parametrize("size, new_size", [(17, 29), (29, 11), (1, 5), (6, 1)])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_matrix_resamples_as_the_host_does(size, new_size, order):
    values = signal(size)
    matrix = matrix_of(size, new_size, order, shape=(new_size, size), smooth=order or 3)
    expected = resample.resize_axis(values, 0, new_size, order)
    np.testing.assert_allclose(matrix @ values, expected, atol=2e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_a_matrix_resamples_as_scikit_image_does(order):
    values = signal(23)
    expected = resize(values, (37, 3), order=order, mode="edge", anti_aliasing=False, clip=False)
    matrix = matrix_of(23, 37, order, shape=(37, 23), smooth=order)
    np.testing.assert_allclose(matrix @ values, expected, atol=1e-5)


def test_one_compiled_matrix_serves_all_sizes_that_fit():
    @jax.jit
    def resampled(values, size, new_size, order):
        return resample_matrix(size, new_size, order, shape=(32, 24), smooth=3) @ values

    for size, new_size, order in ((24, 32, 3), (13, 20, 3), (13, 7, 0)):
        values = signal(size)
        found = resampled(jnp.zeros((24, 3)).at[:size].set(values), size, new_size, order)
        np.testing.assert_allclose(found[:new_size], resample.resize_axis(values, 0, new_size, order), atol=2e-6)
        assert not found[new_size:].any()
    assert resampled._cache_size() == 1


def test_samples_may_stand_anywhere_in_the_rows_and_columns():
    plain = matrix_of(5, 9, 1, shape=(9, 5), smooth=1)
    moved = matrix_of(5, 9, 1, shape=(12, 8), smooth=1, row_start=2, column_start=3)
    np.testing.assert_array_equal(moved[2:11, 3:], plain)
    assert not moved[:2].any() and not moved[11:].any() and not moved[:, :3].any()
    cut = matrix_of(5, 9, 1, shape=(4, 5), smooth=1, row_start=-6)
    np.testing.assert_array_equal(cut[:3], plain[6:])
    assert not cut[3:].any()


@pytest.mark.parametrize("order", [1, 3])
def test_constants_stay_constant(order):
    matrix = matrix_of(19, 31, order, shape=(31, 19), smooth=order)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_an_axis_that_keeps_its_size_is_copied():
    np.testing.assert_array_equal(matrix_of(7, 7, 3, shape=(7, 7), smooth=3), np.eye(7))


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="smooth should be 1 or 3, got 2"):
        resample_matrix(5, 6, 2, shape=(6, 5), smooth=2)
