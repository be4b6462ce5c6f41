"""Flips and averages by their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import predict


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ramp(image):
    """Not equivariant: depends on the place along the last spatial axis."""
    return image + jnp.arange(image.shape[-2])[:, None]


def test_equivariant_predictor_is_itself():
    image = image_of(2, 5, 6, 7, 1)
    assert_allclose(predict.flip_tta(jnp.tanh, axes=(0, 1, 2))(image), np.tanh(image), rtol=1e-6)


def test_mean_over_flips_by_hand():
    image = image_of(1, 4, 5, 1)
    # The ramp 0 1 2 3 4 and its mirror image average to 2 everywhere.
    assert_allclose(predict.flip_tta(ramp, axes=(1,))(image), image + 2, rtol=1e-6)
    assert_allclose(predict.flip_tta(ramp, axes=(-1,))(image), image + 2, rtol=1e-6)
    assert_allclose(predict.flip_tta(ramp, axes=(0,))(image), ramp(image), rtol=1e-6)


def test_all_combinations_are_seen():
    seen = []

    def record(image):
        seen.append(np.asarray(image))
        return image

    image = image_of(1, 2, 3, 1)
    predict.flip_tta(record, axes=(0, 1))(image)
    assert len(seen) == 4 and len({array.tobytes() for array in seen}) == 4


def test_no_axes_is_the_same_function():
    assert predict.flip_tta(ramp, axes=()) is ramp


def test_pairs_are_exchanged():
    def sides(image):
        """Channel 1 is the left half, channel 2 the right half: a flip exchanges what they mean."""
        place = jnp.arange(image.shape[-2])[:, None]
        left = jnp.broadcast_to((place < image.shape[-2] // 2).astype(jnp.float32), (*image.shape[:-1], 1))
        return jnp.concatenate([jnp.zeros_like(left), left, 1 - left], axis=-1)

    image = image_of(1, 3, 6, 1)
    expected = sides(image)
    assert_array_equal(predict.flip_tta(sides, axes=(0, 1), pairs=((1, 2),))(image), expected)
    mixed = predict.flip_tta(sides, axes=(0, 1))(image)
    assert_allclose(mixed[..., 1:], 0.5)


def test_jit_equals_eager():
    wrapped = predict.flip_tta(ramp, axes=(0, 1))
    assert_allclose(jax.jit(wrapped)(image_of(2, 3, 4, 1)), wrapped(image_of(2, 3, 4, 1)), rtol=1e-6)


def test_wrong_flips():
    image = image_of(1, 3, 4, 1)
    with pytest.raises(ValueError, match="named once"):
        predict.flip_tta(ramp, axes=(0, 0))
    with pytest.raises(ValueError, match="named once"):
        predict.flip_tta(ramp, axes=(1, -1))(image)
    with pytest.raises(ValueError, match="below 2"):
        predict.flip_tta(ramp, axes=(2,))(image)
    with pytest.raises(ValueError, match="one pair at most"):
        predict.flip_tta(ramp, axes=(1,), pairs=((0, 1), (1, 2)))
    with pytest.raises(ValueError, match="names a channel"):
        predict.flip_tta(ramp, axes=(1,), pairs=((0, 1),))(image)


def test_average():
    image = image_of(1, 3, 4, 2)
    assert_allclose(predict.average([jnp.sin])(image), np.sin(image), rtol=1e-6)
    assert_allclose(
        predict.average([jnp.sin, jnp.cos])(image), (np.sin(image) + np.cos(image)) / 2, rtol=1e-5, atol=1e-7
    )
    weighted = predict.average([jnp.sin, jnp.cos], weights=(3, 1))
    assert_allclose(weighted(image), 0.75 * np.sin(image) + 0.25 * np.cos(image), rtol=1e-5, atol=1e-7)
    assert_allclose(jax.jit(weighted)(image), weighted(image), rtol=1e-6)


@pytest.mark.parametrize("weights", [(1,), (-1, 2), (0, 0), (1, float("nan"))])
def test_wrong_weights(weights):
    with pytest.raises(ValueError, match="weights should be"):
        predict.average([jnp.sin, jnp.cos], weights=weights)


def test_average_of_nothing_or_of_different_shapes():
    with pytest.raises(ValueError, match="at least one"):
        predict.average([])
    with pytest.raises(ValueError, match="one shape"):
        predict.average([jnp.sin, lambda image: image[..., :1]])(image_of(1, 3, 4, 2))
