"""Enlarging by windows: the whole image's own enlargement, whatever the windows, with one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import predict


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def repeated(array, factors, *, first=0):
    for axis, factor in enumerate(factors, start=first):
        array = array.repeat(factor, axis)
    return array


def nearest(factors):
    return jax.jit(lambda batch: repeated(batch, factors, first=1))


def linear(factor):
    """Enlarges the last spatial axis by linear interpolation between half-pixel centres; the rim is held."""

    @jax.jit
    def enlarge(batch):
        size = batch.shape[-2]
        place = (jnp.arange(size * factor) + 0.5) / factor - 0.5
        low = jnp.floor(place).astype(int)
        part = (place - low)[:, None]
        left, right = (jnp.take(batch, jnp.clip(low + step, 0, size - 1), axis=-2) for step in (0, 1))
        return left * (1 - part) + right * part

    return enlarge


@pytest.mark.parametrize(
    "shape, window, factors",
    [
        ((13, 17, 2), (6, 8), (2, 3)),
        ((5, 4, 1), (8, 7), (4, 2)),  # smaller than the window
        ((3, 19, 1), (5, 6), (1, 2)),  # smaller along one axis only
        ((7, 12, 9, 1), (3, 5, 4), (4, 1, 1)),
    ],
)
@pytest.mark.parametrize("overlap, weight, batch_size", [(0.5, "gaussian", 1), (0.2, "constant", 4)])
def test_repeating_voxels_in_windows_repeats_those_of_the_image(shape, window, factors, overlap, weight, batch_size):
    image, fn = image_of(*shape), nearest(factors)
    options = dict(ndim=len(window), window=window, overlap=overlap, weight=weight, batch_size=batch_size)
    large = predict.predict_array(fn, image, factors=factors, **options)
    assert large.dtype == np.float32 and large.flags.c_contiguous
    assert_allclose(large, repeated(image, factors), rtol=1e-6, atol=1e-6)


def test_blended_by_the_importance_of_the_enlarged_window():
    def place(batch):  # the place within the output: nothing but the blend decides
        return jnp.broadcast_to(jnp.arange(8.0)[:, None], (len(batch), 8, 1))

    large = predict.predict_array(place, image_of(6, 1), ndim=1, window=(4,), factors=(2,))
    weights = np.exp(-0.5 * ((np.arange(8) - 3.5) / (8 / 8)) ** 2).clip(1e-3)
    weights = np.maximum(weights, weights.min())
    total, norm = np.zeros(12), np.zeros(12)
    for start in (0, 4):
        total[start : start + 8] += weights * np.arange(8)
        norm[start : start + 8] += weights
    assert_allclose(large[:, 0], total / norm, rtol=1e-5)


def test_an_interpolation_is_that_of_the_whole_image_but_for_the_rims_of_windows():
    image = image_of(3, 40, 1)
    whole = np.asarray(linear(4)(image[None]))[0]
    options = dict(ndim=2, factors=(1, 4), weight="constant")
    alone = predict.predict_array(linear(4), image, window=(3, 40), **options)
    assert_allclose(alone, whole, rtol=1e-6, atol=1e-6)
    side_by_side = predict.predict_array(linear(4), image, window=(3, 10), overlap=0.0, **options)
    inside = np.abs(np.arange(160) % 40 - 19.5) < 18  # two output voxels at either end of a window hold its rim
    assert_allclose(side_by_side[:, inside], whole[:, inside], rtol=1e-6, atol=1e-6)
    assert (np.abs(side_by_side - whole)[0, ~inside, 0] > 1e-4).sum() == 12  # the ends that are not the image's


def test_slices_of_a_volume_keep_their_number():
    volume, fn = image_of(5, 9, 7, 1), nearest((2, 3))
    large = predict.predict_array(fn, volume, ndim=2, window=(4, 8), factors=(2, 3), batch_size=3)
    assert large.shape == (5, 18, 21, 1)
    assert_allclose(large, repeated(volume, (2, 3), first=1), rtol=1e-6, atol=1e-6)


def test_one_trace_for_cases_of_all_sizes():
    traces = []

    @jax.jit
    def counted(batch):
        traces.append(batch.shape)
        return repeated(batch, (1, 2), first=1)

    for shape in [(9, 10, 1), (4, 20, 1), (5, 5, 1)]:
        large = predict.predict_array(counted, image_of(*shape), ndim=2, window=(6, 5), factors=(1, 2), flip_axes=(1,))
        assert_allclose(large, repeated(image_of(*shape), (1, 2)), rtol=1e-6, atol=1e-6)
    assert traces == [(1, 6, 5, 1)]


def test_the_whole_image_as_one_window():
    image = image_of(5, 6, 1)
    large = predict.predict_array(nearest((2, 2)), image, ndim=2, window=None, factors=(2, 2), divisor=4)
    assert_array_equal(large, repeated(image, (2, 2)))


def test_factors_of_one_are_predict_array_itself():
    image, fn = image_of(11, 14, 2), jax.jit(lambda batch: jnp.tanh(batch + batch.mean((1, 2), keepdims=True)))
    options = dict(ndim=2, window=(5, 6), batch_size=3)
    same = predict.predict_array(fn, image, factors=(1, 1), **options)
    assert_array_equal(same, predict.predict_array(fn, image, **options))


@pytest.mark.parametrize("factors", [(2,), (2, 0), (2, 2, 2)])
def test_wrong_factors(factors):
    with pytest.raises(ValueError, match="factors should be 2 whole numbers"):
        predict.predict_array(lambda batch: batch, image_of(4, 5, 1), ndim=2, window=(4, 4), factors=factors)


def test_a_network_that_enlarges_otherwise():
    with pytest.raises(ValueError, match=r"should map \(1, 4, 4, 1\) to \(1, 8, 4, K\), but gave \(1, 4, 4, 1\)"):
        predict.predict_array(lambda batch: batch, image_of(4, 5, 1), ndim=2, window=(4, 4), factors=(2, 1))
