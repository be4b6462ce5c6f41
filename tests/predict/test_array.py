"""Whole cases on the host: equal to the pure function, one compilation for all sizes, float32 only."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxseg import predict
from jaxseg.predict.array import whole_window


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def two_classes(image):
    """A local predictor with a context: depends on the place of the window unless blended alike."""
    centre = jnp.tanh(image[..., :1] + image.mean(axis=tuple(range(1, image.ndim)), keepdims=True))
    return jnp.concatenate([centre, 1 - centre], axis=-1)


@pytest.mark.parametrize("shape, window", [((13, 17, 2), (6, 8)), ((7, 12, 9, 1), (8, 5, 4))])
@pytest.mark.parametrize("placement", ["even", "border"])
def test_equals_sliding_window(shape, window, placement):
    image = image_of(*shape)
    options = dict(window=window, overlap=0.4, placement=placement, batch_size=4)
    array = predict.predict_array(jax.jit(two_classes), image, ndim=len(window), **options)
    whole = predict.sliding_window(two_classes, **options)(image[None])[0]
    assert array.shape == (*shape[:-1], 2)
    assert_allclose(array, whole, rtol=1e-5, atol=1e-6)


def test_batch_size_changes_nothing():
    image, fn = image_of(11, 14, 2), jax.jit(two_classes)
    single = predict.predict_array(fn, image, ndim=2, window=(5, 6), batch_size=1)
    for batch_size in (3, 64):
        batched = predict.predict_array(fn, image, ndim=2, window=(5, 6), batch_size=batch_size)
        assert_allclose(batched, single, rtol=1e-5, atol=1e-6)


def test_one_trace_for_cases_of_all_sizes():
    traces = []

    @jax.jit
    def counted(image):
        traces.append(image.shape)
        return two_classes(image)

    for shape in [(9, 10, 11, 1), (4, 20, 6, 1), (5, 5, 5, 1)]:
        probs = predict.predict_array(
            counted, image_of(*shape), ndim=3, window=(6, 6, 6), batch_size=2, flip_axes=(1, 2)
        )
        assert probs.shape == (*shape[:-1], 2)
    assert traces == [(2, 6, 6, 6, 1)]


def test_new_parameters_do_not_compile_again():
    traces = []

    @jax.jit
    def apply(scale, image):
        traces.append(0)
        return scale * image

    image = image_of(5, 6, 1)
    for scale in (1.0, 2.0):
        probs = predict.predict_array(lambda batch, s=scale: apply(s, batch), image, ndim=2, window=(4, 4))
        assert_allclose(probs, scale * image, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1


def test_slices_of_a_volume():
    volume = image_of(5, 9, 7, 1)
    fn = jax.jit(two_classes)
    whole = predict.predict_array(fn, volume, ndim=2, window=(4, 8), batch_size=3)
    for index, plane in enumerate(volume):
        assert_allclose(whole[index], predict.predict_array(fn, plane, ndim=2, window=(4, 8)), rtol=1e-5, atol=1e-6)


def test_whole_image_in_buckets():
    shapes = []

    @jax.jit
    def counted(image):
        shapes.append(image.shape)
        return image

    for shape in [(13, 30, 1), (16, 25, 1), (15, 31, 1)]:
        image = image_of(*shape)
        probs = predict.predict_array(counted, image, ndim=2, window=None, divisor=(16, 8))
        assert_allclose(probs, image, rtol=1e-6)
    assert shapes == [(1, 16, 32, 1)]
    assert whole_window((5, 8, 9), 4) == (8, 8, 12)


def test_flips_are_those_of_flip_tta():
    def lopsided(image):
        return jnp.cumsum(image, axis=2)

    image = image_of(6, 7, 1)
    probs = predict.predict_array(lopsided, image, ndim=2, window=(6, 7), flip_axes=(1,))
    assert_allclose(probs, predict.flip_tta(lopsided, axes=(1,))(image[None])[0], rtol=1e-5, atol=1e-5)
    swapped = predict.predict_array(
        lambda batch: jnp.concatenate([batch, batch**2], -1),
        image,
        ndim=2,
        window=(6, 7),
        flip_axes=(1,),
        flip_pairs=((0, 1),),
    )
    assert_allclose(swapped, np.repeat((image + image**2) / 2, 2, axis=-1), rtol=1e-5, atol=1e-6)


def test_no_float64_and_bounded_memory():
    image, classes = image_of(40, 48, 56, 1), 6

    @jax.jit
    def fn(batch):
        return jnp.broadcast_to(batch, (*batch.shape[:-1], classes))

    predict.predict_array(fn, image, ndim=3, window=(8, 8, 8), overlap=0.0)
    tracemalloc.start()
    probs = predict.predict_array(fn, image, ndim=3, window=(8, 8, 8), overlap=0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert probs.dtype == np.float32
    # (*S, K) and (*S) in float32, and one window.
    assert peak < 1.1 * image[..., 0].size * (classes + 1) * 4


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((8, 9, 1), dict(ndim=3, window=(4, 4, 4)), "axes needs an image"),
        ((8, 0, 1), dict(ndim=2, window=(4, 4)), "not empty"),
        ((8, 9, 1), dict(ndim=2, window=(4, 4, 4)), "window should have 2"),
        ((8, 9, 1), dict(ndim=2, window=None, divisor=(2, 2, 2)), "divisor should be"),
        ((8, 9, 1), dict(ndim=2, window=(4, 4), batch_size=0), "batch_size"),
    ],
)
def test_wrong_options(shape, options, message):
    with pytest.raises(ValueError, match=message):
        predict.predict_array(lambda image: image, np.zeros(shape, np.float32), **options)
