import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import ops
from jaxseg.ops.distance import FAR_AWAY

CASES = [((23,), None), ((17, 26), None), ((17, 26), (2.5, 0.7)), ((9, 14, 11), None), ((9, 14, 11), (2.5, 1.0, 0.8))]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("background", [0.02, 0.4])
def test_equals_scipy(shape, spacing, background):
    mask = np.random.default_rng(0).random(shape) > background
    mask.flat[5] = False
    expected = ndimage.distance_transform_edt(mask, sampling=spacing)
    np.testing.assert_allclose(ops.distance_transform(mask, spacing=spacing), expected, atol=1e-4, rtol=0)


def test_by_hand():
    mask = np.ones((3, 5), bool)
    mask[0, 0] = False
    found = ops.distance_transform(mask, spacing=(2.0, 1.0))
    expected = np.hypot(2.0 * np.arange(3)[:, None], np.arange(5)[None])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == jnp.float32


def test_one_far_corner_of_a_large_image():
    mask = np.ones((300, 41), bool)
    mask[299, 40] = False
    np.testing.assert_allclose(ops.distance_transform(mask), ndimage.distance_transform_edt(mask), atol=1e-4, rtol=0)


def test_without_background_everything_is_far_away():
    assert (np.asarray(ops.distance_transform(np.ones((4, 6, 3), bool), spacing=(3.0, 1.0, 0.5))) == FAR_AWAY).all()
    assert (np.asarray(ops.distance_transform(np.zeros((4, 6), bool))) == 0).all()


def test_jit_and_vmap_equal_eager():
    masks = np.random.default_rng(1).random((3, 7, 10)) > 0.2
    masks[1] = True
    eager = np.stack([ops.distance_transform(mask) for mask in masks])
    mapped = jax.jit(jax.vmap(ops.distance_transform))(masks)
    np.testing.assert_allclose(mapped, eager, rtol=1e-6)


def test_inside_a_gradient():
    def energy(x):
        return jnp.sum(x * ops.distance_transform(x > 0.5))

    x = jnp.asarray(np.random.default_rng(2).random((6, 5)), jnp.float32)
    np.testing.assert_allclose(jax.grad(energy)(x), ops.distance_transform(x > 0.5), rtol=1e-6)


def test_memory_does_not_grow_with_the_axis_length():
    shape = (64, 64, 64)
    compiled = jax.jit(ops.distance_transform).lower(jax.ShapeDtypeStruct(shape, bool)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * 4 * np.prod(shape)


def test_wrong_spacing_is_refused():
    with pytest.raises(ValueError, match="one spacing an axis"):
        ops.distance_transform(np.ones((3, 4), bool), spacing=(1.0, 1.0, 1.0))
