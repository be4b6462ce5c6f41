"""Pooling by hand-sized truth and against XLA's windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from jax import lax

from jaxseg import ops


def test_hand_sized():
    x = jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 6.0]])[None, :, :, None]
    assert ops.max_pool(x, 2).ravel().tolist() == [5, 8]
    assert ops.average_pool(x, 2).ravel().tolist() == [3.25, 4]
    assert ops.max_pool(x, (1, 2)).shape == (1, 2, 2, 1)
    assert ops.max_pool(x, 1) is x


def test_3d_equals_windows_with_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 2, 6, 4, 3))
    window = (1, 3, 2)

    def by_window(x):
        shape = (1, *window, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, shape, shape, "VALID")

    np.testing.assert_array_equal(ops.max_pool(x, window), by_window(x))
    ours, xla = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (lambda x: ops.max_pool(x, window), by_window))
    np.testing.assert_allclose(ours, xla, rtol=1e-6)


def test_average_of_bfloat16_is_summed_in_float32():
    x = jnp.full((1, 32, 32, 1), 1.0, jnp.bfloat16)
    out = ops.average_pool(x, 32)
    assert out.dtype == jnp.bfloat16 and float(out[0, 0, 0, 0]) == 1.0


@pytest.mark.parametrize("window", [3, (2, 2, 2), 0])
def test_window_that_does_not_fit(window):
    with pytest.raises(ValueError, match="divide"):
        ops.max_pool(jnp.zeros((1, 4, 6, 1)), window)


@pytest.mark.parametrize(
    "size, window, strides, padding", [((7, 8), 3, 2, 1), ((5, 6), (2, 3), 1, 0), ((4, 5, 6), 2, (1, 2, 2), (1, 0, 1))]
)
def test_overlapping_windows_equal_xla_with_gradient(size, window, strides, padding):
    x = jax.random.normal(jax.random.key(1), (2, *size, 3))
    wide = [(v,) * len(size) if isinstance(v, int) else v for v in (window, strides, padding)]

    def by_window(x):
        pads = ((0, 0), *((p, p) for p in wide[2]), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *wide[0], 1), (1, *wide[1], 1), pads)

    def ours(x):
        return ops.max_pool(x, window, strides=strides, padding=padding)

    np.testing.assert_array_equal(ours(x), by_window(x))
    found, xla = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (ours, by_window))
    np.testing.assert_allclose(found, xla, rtol=1e-6)


def test_indices_by_hand():
    x = jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 8.0]])[None, :, :, None]
    pooled, indices = ops.max_pool_indices(x, 2)
    assert pooled.ravel().tolist() == [5, 8] and indices.ravel().tolist() == [1, 2]  # the first of two eights
    back = ops.max_unpool(pooled, indices, 2)
    assert back[0, :, :, 0].tolist() == [[0, 5, 0, 0], [0, 0, 8, 0]]


@pytest.mark.parametrize("size, window", [((4, 6), (2, 3)), ((2, 6, 4), (2, 1, 2))])
def test_unpooling_is_the_inverse_of_pooling(size, window):
    x = jnp.round(2 * jax.random.normal(jax.random.key(2), (2, *size, 3)))  # many equal maxima
    pooled, indices = ops.max_pool_indices(x, window)
    np.testing.assert_array_equal(pooled, ops.max_pool(x, window))
    back = ops.max_unpool(pooled + 100, indices, window)
    taken = np.asarray(back) > 0
    np.testing.assert_array_equal(np.asarray(back)[taken] - 100, np.asarray(x)[taken])
    np.testing.assert_array_equal(ops.max_pool(back, window), pooled + 100)
    # one cell a window gets the gradient, ties or not: the one that the index names
    gradient = jax.grad(lambda x: ops.max_pool_indices(x, window)[0].sum())(x)
    np.testing.assert_array_equal(gradient, taken.astype(np.float32))


def test_errors_of_the_longer_forms():
    x = jnp.zeros((1, 4, 6, 1))
    with pytest.raises(ValueError, match="half the window"):
        ops.max_pool(x, 2, strides=1, padding=2)
    with pytest.raises(ValueError, match="fits"):
        ops.max_pool(x, 5, strides=1)
    with pytest.raises(ValueError, match="strides"):
        ops.max_pool(x, 2, strides=(1, 1, 1))
    with pytest.raises(ValueError, match="at most 255"):
        ops.max_pool_indices(jnp.zeros((1, 32, 32, 1)), 16)
    with unchecked(), pytest.raises(ValueError, match="an index a value"):
        ops.max_unpool(x, jnp.zeros((1, 2, 3, 1), jnp.uint8), 2)
